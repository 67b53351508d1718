"""A call ends exactly once: one record, one end of its span, one settlement, each hook called once, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import rlm_obs
from rlm_obs import BudgetExceeded, CallRefused, CostTracker, Record, Request, Tracer, Usage
from rlm_obs._budgets.bound import Bound
from rlm_obs._call import Answer, Call, Needs
from rlm_obs._runtime import InForce, runtime
from rlm_obs.testing import SpanList

PRICED = {"prices": {"chatty": {"input": 10, "output": 100}}}
ENDS: dict[str, Callable[[Call], None]] = {
    "finish": Call.finish,
    "abort": Call.abort,
    "fail": lambda call: call.fail(ValueError("the user's")),
    "cancel": lambda call: call.fail(KeyboardInterrupt()),
    "leave": lambda call: call.fail(GeneratorExit()),
}
STATUS = {"finish": "ok", "abort": "aborted", "fail": "error", "cancel": "error", "leave": "aborted"}


class Counting:
    """A plugin that counts what it is told."""

    def __init__(self) -> None:
        self.starting: list[Request] = []
        self.finished: list[Record] = []
        self.refuses = False

    @rlm_obs.hookimpl
    def call_starting(self, request: Request) -> None:
        self.starting.append(request)
        if self.refuses:
            raise CallRefused("not on Sundays")

    @rlm_obs.hookimpl
    def call_finished(self, record: Record) -> None:
        self.finished.append(record)


@pytest.fixture
def counting() -> Iterator[Counting]:
    plugin = Counting()
    rlm_obs.register_plugin(plugin)
    yield plugin
    rlm_obs.unregister_plugin(plugin)


def made(tracer: Tracer | None, *trackers: CostTracker, streamed: bool = False, model: str = "chatty") -> Call:
    request = Request(
        provider="openai",
        endpoint="/chat/completions",
        operation="chat",
        model=model,
        streamed=streamed,
        attributes={"user.id": "u"},
    )
    return InForce(runtime(), tracer, trackers, ("op",), request.attributes).call(
        request, Needs(lambda _: Bound(100, 900))
    )


class CallMachine(RuleBasedStateMachine):
    """Through every order of admit, start, chunks, answers and ends, also by two threads at once."""

    @initialize(
        budget=st.sampled_from([None, "0.01", "10"]),
        streamed=st.booleans(),
        policy=st.sampled_from(["estimate", "hold"]),
    )
    def begin(self, budget: str | None, streamed: bool, policy: str) -> None:
        rlm_obs.instrument(exporters=[], settings=PRICED)
        self.plugin = Counting()
        rlm_obs.register_plugin(self.plugin)
        self.spans = SpanList()
        self.tracer = Tracer("machine", exporter=self.spans)
        self.tracker = CostTracker(budget, unseen_usage=policy, min_output_tokens=1)
        self.outer = CostTracker()
        self.call = made(self.tracer, self.outer, self.tracker, streamed=streamed)
        self.admitted = self.started = self.refused = False
        self.ended: set[str] = set()

    @precondition(lambda self: not self.admitted and not self.ended)
    @rule()
    def admit(self) -> None:
        self.admitted = True
        try:
            assert self.call.admit() is None
        except BudgetExceeded as refusal:
            self.refused = True
            self.call.fail(refusal)
            self.ended.add("refusal")

    @precondition(lambda self: not self.started and not self.ended)
    @rule()
    def start(self) -> None:
        assert self.call.start() is not None
        self.started = True

    @rule()
    def first_chunk(self) -> None:
        self.call.first_chunk()

    @precondition(lambda self: not self.ended)
    @rule(
        usage=st.sampled_from(
            [None, Usage(input_tokens=10, output_tokens=9), Usage(input_tokens=10_000, output_tokens=9)]
        ),
        counted=st.booleans(),
    )
    def answer(self, usage: Usage | None, counted: bool) -> None:
        if counted and usage is not None:
            self.call.answer.counts = usage.to_dict()
        else:
            self.call.answer.usage = usage
        self.call.answer.http_status = 200

    @rule(how=st.sampled_from(sorted(ENDS)))
    def end(self, how: str) -> None:
        ENDS[how](self.call)
        self.ended.add(how)

    @rule(one=st.sampled_from(sorted(ENDS)), other=st.sampled_from(sorted(ENDS)))
    def end_twice_at_once(self, one: str, other: str) -> None:
        together = threading.Barrier(2)

        def end(how: str) -> None:
            together.wait()
            ENDS[how](self.call)

        threads = [threading.Thread(target=end, args=(how,)) for how in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.ended |= {one, other}

    @invariant()
    def exactly_once(self) -> None:
        report = self.tracker.get_report()
        if not self.ended:
            assert self.call.record is None
            assert not self.plugin.finished
            assert report.calls == report.refused_calls == 0
            return
        record = self.call.record
        assert record is not None
        assert self.plugin.finished == [record]
        assert len(self.plugin.starting) == self.admitted
        assert report.calls + report.refused_calls == 1
        assert report.refused_calls == self.refused == (record.status == "refused")
        assert self.tracker.held == self.outer.held == 0
        assert self.tracker.spent == self.outer.spent == report.total_cost
        if not self.refused:
            assert record.status in {STATUS[how] for how in self.ended if how in STATUS}

    def teardown(self) -> None:
        if hasattr(self, "call"):
            self.call.abort()
            assert self.tracer.flush()
            assert len(self.spans.spans) == (self.started or self.refused)
            self.tracer.shutdown()
            rlm_obs.unregister_plugin(self.plugin)


TestCall = CallMachine.TestCase
TestCall.settings = settings(max_examples=60, stateful_step_count=8, deadline=None)


@pytest.fixture(autouse=True)
def priced() -> None:
    rlm_obs.instrument(exporters=[], settings=PRICED)


def test_a_plugin_may_refuse_a_call(counting: Counting) -> None:
    """`call_starting` may raise CallRefused: nothing is held, the record says "refused" and costs 0."""
    counting.refuses = True
    tracker = CostTracker("1")
    call = made(None, tracker)
    with pytest.raises(CallRefused) as refused:
        call.admit()
    call.fail(refused.value)
    (record,) = counting.finished
    assert (record.status, record.error, record.cost_usd) == ("refused", "CallRefused", 0)
    assert (tracker.held, tracker.get_report().refused_calls, tracker.get_report().calls) == (0, 1, 0)


@pytest.mark.swallows
@pytest.mark.parametrize("broken", ["call_finished", "book", "price"])
def test_no_hold_outlives_its_call(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of ours fails at the end, the money is no longer held, and the failure is counted."""
    tracker, spans = CostTracker("1"), SpanList()
    tracer = Tracer("t", exporter=spans)
    call = made(tracer, tracker)
    call.admit()
    call.start()
    assert tracker.held > 0
    call.answer.usage = Usage(input_tokens=10, output_tokens=9)

    def explode(*_: object, **__: object) -> Any:
        raise RuntimeError("ours")

    if broken == "call_finished":

        class Broken:
            @rlm_obs.hookimpl
            def call_finished(self, record: Record) -> None:
                explode()

        plugin = Broken()
        rlm_obs.register_plugin(plugin)
    elif broken == "price":
        call._price = explode  # type: ignore[method-assign]
    else:
        monkeypatch.setattr(tracker, "book", explode)
    call.finish()
    if broken == "call_finished":
        rlm_obs.unregister_plugin(plugin)
    assert call.ended
    assert tracker.held == 0
    assert sum(rlm_obs.stats()["failures"].values()) == 1
    assert tracer.flush()
    assert len(spans.spans) == 1
    tracer.shutdown()


def test_ending_a_call_again_changes_nothing(counting: Counting) -> None:
    """The first end counts: a later failure is not told, and a later refusal reaches no `on_budget_exceeded`."""
    told: list[Any] = []
    tracker = CostTracker("1", on_budget_exceeded=told.append)
    call = made(None, tracker)
    call.admit()
    call.answer.usage = Usage(input_tokens=10, output_tokens=9)
    call.finish()
    spent = tracker.spent
    refusal = BudgetExceeded("default", Decimal(0), Decimal(0), Decimal(1), Decimal(2))
    refusal.account = tracker._account
    call.fail(refusal)
    call.abort()
    assert (tracker.spent, len(counting.finished), told) == (spent, 1, [])
    assert call.record is counting.finished[0]
    assert call.record.status == "ok"


def test_what_is_done_before_a_call_is_no_time_of_it(counting: Counting) -> None:
    """Its times are those of its span: they begin when it is sent, however long a price table took to load before."""
    tracer = Tracer("times", exporters=[])
    call = made(tracer, streamed=True)
    call.admit()
    time.sleep(1.0)
    before = datetime.now(UTC)
    call.start()
    call.first_chunk()
    call.finish()
    record = call.record
    assert record is not None and record.time_to_first_chunk_s is not None
    assert record.time_to_first_chunk_s <= record.duration_s < 0.9
    assert before <= record.started_at


def test_a_record_has_an_id_of_its_own() -> None:
    """Ids are unique, over threads too."""
    calls = [made(None, CostTracker()) for _ in range(200)]
    threads = [threading.Thread(target=call.finish) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({call.record.id for call in calls if call.record}) == 200


def test_what_a_record_says_of_a_cost_is_what_was_charged() -> None:
    """The parts of a cost are found when somebody asks for them: by the prices of its call, whatever they are by then."""
    counts = {"input_tokens": 100, "output_tokens": 30, "cached_input_tokens": 40, "reasoning_tokens": 7}
    with rlm_obs.instrument(exporters=[], settings=PRICED):
        tracker = CostTracker("1")
        call = made(None, tracker)
        call.admit()
        call.start()
        call.answer.counts = counts
        call.finish()
    with rlm_obs.instrument(exporters=[], settings={"prices": {"chatty": {"input": 1, "output": 1}}}):
        record = call.record
    assert record is not None and record.cost is not None
    assert record.cost.total == tracker.spent == Decimal("0.004")  # 100 and 30 tokens at 10 and 100 dollars a million
    assert record.cost.input == Decimal("0.0006") and record.cost.cached_input == Decimal("0.0004")
    assert record.usage == Usage(**counts)
    assert tracker.get_report().inexact_cost == 0 and tracker.get_report().unpriced_calls == 0


def test_the_last_word_of_an_answer_counts() -> None:
    """Counts of text and a usage of any kind replace each other, as a stream tells them."""
    answer = Answer()
    answer.counts = {"input_tokens": 1, "output_tokens": 2}
    assert answer.usage == Usage(input_tokens=1, output_tokens=2)
    answer.usage = Usage(input_tokens=3, output_audio_tokens=4)
    assert (answer.counts, answer.usage) == (None, Usage(input_tokens=3, output_audio_tokens=4))
    answer.counts = {"input_tokens": 5, "output_tokens": 6}
    assert answer.usage == Usage(input_tokens=5, output_tokens=6)


def test_a_record_made_later_says_that_the_output_was_lowered() -> None:
    """The hold is let go of when the call ends; the limit that it has set stays in the record."""
    with rlm_obs.instrument(exporters=[], settings=PRICED):
        call = made(None, CostTracker("0.05", min_output_tokens=1))
        assert call.admit() is None
        call.start()
        limit = call.output_limit
        call.answer.counts = {"input_tokens": 100, "output_tokens": 30}
        call.finish()
    assert limit is not None and 0 < limit < 900
    assert call.record is not None and call.record.attributes["rlm_obs.clamped_output_tokens"] == limit
