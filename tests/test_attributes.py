"""A record is read back from its span digit for digit, whatever became of the call, on our provider and on anybody's."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import rlm_obs
from rlm_obs import BudgetExceeded, Cost, CostTracker, Record, Request, Tracer, Usage, _attributes
from rlm_obs._attributes import record_of
from rlm_obs._call import Call, Needs
from rlm_obs._runtime import runtime
from rlm_obs.testing import Answer, SpanList, fake_openai

COUNTS = st.none() | st.integers(0, 10**12)
AMOUNTS = st.none() | st.decimals(0, 10**6, allow_nan=False)
TEXTS = st.none() | st.text(min_size=1, max_size=20)
OTHERS = ("tool_calls", "seconds", "also", "charged_usd")
PARTS: dict[str, Any] = {
    **{f.name: COUNTS for f in dataclasses.fields(Usage) if f.name not in OTHERS},
    "seconds": st.none() | st.floats(0, 1e9),
    "tool_calls": st.dictionaries(st.text(min_size=1, max_size=10), st.integers(1, 1000), max_size=3),
    "charged_usd": st.none() | st.decimals(0, 10**6, allow_nan=False),
}
ALSO = st.dictionaries(st.text(max_size=10), st.builds(Usage, **PARTS), max_size=2)
USAGES = st.none() | st.builds(Usage, **PARTS, also=ALSO).filter(lambda usage: usage.to_dict())
COSTS = st.none() | st.builds(
    Cost,
    total=st.decimals(0, 10**6, allow_nan=False),
    source=st.text(max_size=20),
    **dict.fromkeys(("input", "cached_input", "cache_write", "output", "tools"), AMOUNTS),
    caveats=st.lists(st.text(max_size=20), max_size=2).map(tuple),
)
#: The user's own attributes: any name but those that the conventions and we spell.
USERS = st.dictionaries(
    st.text(min_size=1, max_size=20).map(lambda name: f"user.{name}"),
    st.text(max_size=20) | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    max_size=3,
)


def same(record: Record, other: Record | None, within_s: float = 1.0) -> None:
    """Compare two records; a span has clocks of its own, so times are compared loosely, for a busy machine."""
    assert other is not None
    assert abs((record.started_at - other.started_at).total_seconds()) < within_s
    assert abs(record.duration_s - other.duration_s) < within_s
    times = {"started_at": record.started_at, "duration_s": record.duration_s}
    assert dataclasses.replace(other, **times) == record


PROVIDER = TracerProvider(shutdown_on_exit=False)
SEEN = SpanList()
PROVIDER.add_span_processor(SimpleSpanProcessor(SEEN))


@pytest.mark.parametrize("provider", [None, PROVIDER], ids=["our provider", "the user's provider"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    usage=USAGES,
    cost=COSTS,
    attributes=USERS,
    tier=TEXTS,
    model=TEXTS,
    asked=TEXTS,
    request_id=TEXTS,
    response_id=TEXTS,
    reasons=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
    operations=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
    streamed=st.booleans(),
    end=st.sampled_from(["finish", "abort", "fail"]),
    http_status=st.sampled_from([None, 200, 500]),
)
def test_a_record_comes_back_from_its_span(provider: TracerProvider | None, **facts: Any) -> None:
    """Whatever a call said: usage, cost, tier, ids, the user's own attributes."""
    shared = SpanList()
    tracer = TRACERS.get(provider is None)
    if tracer is None:
        tracer = TRACERS[provider is None] = Tracer(
            "t", exporters=[shared] if provider is None else [], tracer_provider=provider
        )
        LISTS[provider is None] = shared if provider is None else SEEN
    request = Request(
        provider="openai",
        endpoint="/chat/completions",
        operation="chat",
        model=facts["asked"],
        params={"temperature": 0.5, "max_tokens": 9},
        streamed=facts["streamed"],
        attributes=facts["attributes"],
    )
    call = Call(
        request,
        Needs(None),
        tracer=tracer,
        trackers=(),
        operations=facts["operations"],
        plugins=runtime().plugins,
        price=lambda *_: facts["cost"],
        most=lambda *_: None,
    )
    call.start()
    answer = call.answer
    answer.usage, answer.service_tier, answer.model = facts["usage"], facts["tier"], facts["model"]
    answer.request_id, answer.response_id, answer.finish_reasons = (
        facts["request_id"],
        facts["response_id"],
        facts["reasons"],
    )
    answer.http_status = facts["http_status"]
    call.first_chunk()
    call.fail(ValueError("no")) if facts["end"] == "fail" else getattr(call, facts["end"])()
    assert call.record is not None
    if provider is None:
        assert tracer.flush()
    span = LISTS[provider is None].spans[-1]
    same(call.record, record_of(span))


TRACERS: dict[bool, Tracer] = {}
LISTS: dict[bool, SpanList] = {}


@pytest.fixture(autouse=True, scope="module")
def _closing() -> Iterator[None]:
    yield
    for tracer in TRACERS.values():
        tracer.shutdown()
    TRACERS.clear()


# Real calls


class Finished:
    def __init__(self) -> None:
        self.records: list[Record] = []

    @rlm_obs.hookimpl
    def call_finished(self, record: Record) -> None:
        self.records.append(record)


@contextmanager
def watching() -> Iterator[tuple[list[Record], SpanList]]:
    """What `call_finished` got, and the spans."""
    plugin, spans = Finished(), SpanList()
    rlm_obs.register_plugin(plugin)
    try:
        with rlm_obs.instrument(exporters=[spans], settings={"prices": {"chatty": {"input": 10, "output": 100}}}):
            yield plugin.records, spans
            assert rlm_obs.flush()
    finally:
        rlm_obs.unregister_plugin(plugin)


def ask(client: openai.OpenAI, **params: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    return client.chat.completions.create(**{"model": "chatty", "messages": messages, "temperature": 0.5, **params})


def plain(client: openai.OpenAI) -> None:
    ask(client)


def streamed(client: openai.OpenAI) -> None:
    for _ in ask(client, stream=True, stream_options={"include_usage": True}):
        pass


def left(client: openai.OpenAI) -> None:
    with ask(client, stream=True) as stream:
        next(iter(stream))


def refused(client: openai.OpenAI) -> None:
    with CostTracker("0.00001"), pytest.raises(BudgetExceeded):
        ask(client)


def failed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.post(
            "/chat/completions",
            cast_to=object,
            body={"model": "chatty", "messages": []},
            options={"headers": {"x-fail": "1"}},
        )


def embedded(client: openai.OpenAI) -> None:
    client.embeddings.create(model="chatty", input="Hello", dimensions=8)


def unpriced(client: openai.OpenAI) -> None:
    ask(client, model="nobody-knows")


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (plain, "ok"),
        (streamed, "ok"),
        (left, "aborted"),
        (refused, "refused"),
        (failed, "error"),
        (embedded, "ok"),
        (unpriced, "ok"),
    ],
)
def test_a_span_gives_the_record_that_call_finished_got(what: Any, status: str) -> None:
    """For a plain answer, a stream, one left early, a refusal, an error, an embedding, a model without a price."""

    def answer(seen: Any) -> Any:
        return Answer(status=404) if "x-fail" in seen.headers else None

    with watching() as (records, spans), fake_openai(answer) as server:
        client = openai.OpenAI(
            api_key="k", base_url=server.base_url, max_retries=0, http_client=openai.DefaultHttpxClient(verify=False)
        )
        with client, CostTracker().track("step"):
            what(client)
    (record,), (span,) = records, spans.spans
    assert record.status == status
    same(record, record_of(span))
    assert record.attributes["rlm_obs.operations"] == ("step",)
    if status == "refused":
        assert (record.error, record.cost_usd) == ("BudgetExceeded", 0)
        assert not server.requests
    if status == "error":
        assert (record.error, record.attributes["http.response.status_code"], record.cost_usd) == (
            "NotFoundError",
            404,
            0,
        )
    if what is unpriced:
        assert record.cost is None


def test_a_call_that_waited_started_when_it_went() -> None:
    """The wait for room is told apart, in the record as in its span."""
    with watching() as (records, spans), fake_openai(script=[Answer("slow", delay_s=0.5)]) as server:
        tracker = CostTracker("0.016", wait_s=5)
        client = openai.OpenAI(
            api_key="k", base_url=server.base_url, max_retries=0, http_client=openai.DefaultHttpxClient(verify=False)
        )

        def work() -> None:
            with tracker:
                ask(client, max_tokens=90)

        with client:
            thread = threading.Thread(target=work)
            thread.start()
            while not server.calls:
                time.sleep(0.001)
            work()
            thread.join()
    waited = next(r for r in records if "rlm_obs.budget.waited_s" in r.attributes)
    same(waited, next(record_of(s) for s in spans.spans if (s.attributes or {})["rlm_obs.record.id"] == waited.id), 0.3)


def test_a_span_of_the_users_own_is_no_record() -> None:
    """Only calls are."""
    spans = SpanList()
    tracer = Tracer("t", exporter=spans)
    with tracer.span("mine", {"gen_ai.operation.name": "chat"}):
        pass
    tracer.shutdown()
    assert record_of(spans.spans[0]) is None


def test_a_cost_is_a_number_for_others_and_exact_for_us() -> None:
    """`gen_ai.usage.cost` is a float, `rlm_obs.cost.total` every digit of it."""
    into: dict[str, Any] = {}
    _attributes.of_cost(Cost(total=Decimal("0.000000123456789012345678"), source="x"), into)
    assert into["gen_ai.usage.cost"] == pytest.approx(1.23456789e-7)
    assert Decimal(into["rlm_obs.cost.total"]) == Decimal("0.000000123456789012345678")


def test_each_attribute_of_ours_is_spelled_once() -> None:
    """No two facts share a name, so that none overwrites another."""
    spelled = [*_attributes.USAGE.values()]
    assert len(set(spelled)) == len(spelled)
    constants = [v for k, v in vars(_attributes).items() if k.isupper() and isinstance(v, str)]
    assert len(set(constants)) == len(constants)


def test_a_call_span_is_whole() -> None:
    """Our lighter span has all that the SDK's has, so that any exporter can read it, also one that writes JSON itself."""
    with watching() as (_, spans), fake_openai("hi") as server:
        with openai.OpenAI(api_key="k", base_url=server.base_url, max_retries=0) as client:
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hello"}])
    (span,) = spans.spans
    assert [name for name in vars(ReadableSpan("any")) if not hasattr(span, name)] == []
    said = json.loads(span.to_json())
    assert said["attributes"]["gen_ai.usage.output_tokens"] == 1
    assert (said["name"], said["kind"], said["parent_id"]) == ("chat gpt-4o", "SpanKind.CLIENT", None)
