"""Budgets through the real client: never over, nothing sent when refused, and a book that adds up."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from opentelemetry.context import attach, detach, get_current

import rlm_obs
from rlm_obs import BudgetExceeded, ConfigError, CostTracker, UnknownPrice
from rlm_obs.testing import Answer, FakeOpenAI, fake_openai
from rlm_obs.testing import collect as collecting

#: US dollars per million tokens: round ones, so that a reader can check each sum.
PRICES = {
    "chatty": {"input": 10, "output": 100},
    "pricey": {"input": 1000, "output": 10_000},
    "embed": {"input": 10, "output": 0},
}
SETTINGS = {"prices": PRICES}
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@contextmanager
def connected(server: FakeOpenAI, **options: Any) -> Iterator[OpenAI]:
    plain = openai.DefaultHttpxClient(verify=False)
    with OpenAI(api_key="test", base_url=server.base_url, http_client=plain, **{"max_retries": 0, **options}) as client:
        yield client


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with fake_openai(usage={"prompt_tokens": 10, "completion_tokens": 9}) as running:  # $0.001 on "chatty"
        yield running


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[OpenAI]:
    with connected(server) as made:
        yield made


@pytest.fixture(autouse=True)
def priced() -> Iterator[None]:
    """The prices above, and no exporter."""
    with rlm_obs.instrument(exporters=[], settings=SETTINGS):
        yield


def chat(client: OpenAI, model: str = "chatty", **params: Any) -> Any:
    return client.chat.completions.create(**{"model": model, "messages": HELLO, "max_tokens": 9, **params})


def billed(server: FakeOpenAI) -> Decimal:
    """What the provider will charge, by the bills of the server and by hand."""
    total = Decimal(0)
    for _, model, usage in server.billed:
        rates = PRICES[model]
        total += Decimal(usage["prompt_tokens"]) * rates["input"] / 1_000_000
        total += Decimal(usage.get("completion_tokens", 0)) * rates["output"] / 1_000_000
    return total


# Never over


def test_64_threads_never_pass_one_budget() -> None:
    """Whatever the answers cost, up to the limit that each call set, the provider's bill stays within the budget."""
    with (
        fake_openai(usage=lambda seen: {"prompt_tokens": 10, "completion_tokens": 1 + len(seen.body) % 90}) as server,
        connected(server) as client,
    ):
        tracker = CostTracker("0.10", name="shared", wait_s=20)
        refused: list[BudgetExceeded] = []

        def work(number: int) -> None:
            with tracker:
                for n in range(6):
                    try:
                        chat(client, messages=[{"role": "user", "content": "x" * (number + n)}], max_tokens=90)
                    except BudgetExceeded as refusal:
                        refused.append(refusal)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert billed(server) <= Decimal("0.10")
        assert tracker.spent == billed(server)
        assert tracker.held == 0
        assert server.calls + len(refused) == 64 * 6
        assert billed(server) > Decimal("0.085"), "what would have fitted was refused"
        for refusal in refused:
            assert (refusal.budget, refusal.limit) == ("shared", Decimal("0.10"))
            assert refusal.spent + refusal.held <= refusal.limit
            assert refusal.spent + refusal.needed > refusal.limit
        report = tracker.get_report()
        assert (report.calls, report.refused_calls) == (server.calls, len(refused))


async def test_200_tasks_never_pass_one_budget() -> None:
    """The same among asyncio tasks: they wait for one another, and the event loop goes on."""
    with fake_openai(usage={"prompt_tokens": 10, "completion_tokens": 9}, latency_s=0.01) as server:
        plain = openai.DefaultAsyncHttpxClient(verify=False)
        async with AsyncOpenAI(api_key="test", base_url=server.base_url, max_retries=0, http_client=plain) as client:
            tracker = CostTracker("0.05", wait_s=20)

            async def work() -> bool:
                try:
                    await client.chat.completions.create(model="chatty", messages=HELLO, max_tokens=90)
                except BudgetExceeded:
                    return False
                return True

            with tracker:
                went = await asyncio.gather(*[work() for _ in range(200)])
        assert billed(server) == tracker.spent <= Decimal("0.05")
        assert sum(went) == server.calls
        assert 40 <= server.calls < 200
        assert tracker.held == 0


def test_a_refused_call_sends_nothing(server: FakeOpenAI, client: OpenAI) -> None:
    """Not a byte leaves, and the error carries the figures and says what to do."""
    with CostTracker("0.0001", name="tiny"), pytest.raises(BudgetExceeded) as refused:
        chat(client)
    assert not server.requests
    error = refused.value
    assert (error.budget, error.spent, error.held, error.limit) == ("tiny", 0, 0, Decimal("0.0001"))
    assert error.needed > error.limit
    for part in (
        "budget 'tiny'",
        "$0.0001",
        "Nothing was sent",
        "To go on: raise budget_usd, or lower the call's output limit",
    ):
        assert part in str(error)


def test_a_refusal_survives_pickle(client: OpenAI) -> None:
    """It may cross processes: figures and text are the same, and nothing of this process goes with it."""
    with CostTracker("0.0001", name="tiny"), pytest.raises(BudgetExceeded) as refused:
        chat(client)
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (type(copy), copy.args, str(copy)) == (BudgetExceeded, refused.value.args, str(refused.value))
    assert copy.needed == refused.value.needed
    assert copy.account is None
    unknown = UnknownPrice("m", "openai", "b")
    assert str(pickle.loads(pickle.dumps(unknown))) == str(unknown)


def test_the_end_of_a_budget_is_used(server: FakeOpenAI, client: OpenAI) -> None:
    """Sequential calls go out as long as each may still fit, and not one more."""
    with CostTracker("0.0105") as tracker, pytest.raises(BudgetExceeded):
        for _ in range(100):
            chat(client)
    assert server.calls == 10
    assert tracker.spent == Decimal("0.010") == billed(server)
    assert tracker.remaining == Decimal("0.0005")


# Which budgets a call falls under


def test_a_call_must_fit_in_every_budget_around_it(server: FakeOpenAI, client: OpenAI) -> None:
    """Nested trackers: the refusal names the one without room, and both count what went out."""
    with CostTracker("1", name="day") as day, CostTracker("0.0015", name="run") as run:
        chat(client)
        with pytest.raises(BudgetExceeded) as refused:
            chat(client)
    assert refused.value.budget == "run"
    assert day.spent == run.spent == Decimal("0.001")
    with CostTracker("0.0001", name="day"), CostTracker("1", name="run"), pytest.raises(BudgetExceeded) as refused:
        chat(client)
    assert refused.value.budget == "day"
    assert server.calls == 1


def test_a_tracker_and_the_programs_budget_hold_together(server: FakeOpenAI, client: OpenAI) -> None:
    """`with tracker:` adds to `instrument(budget_usd=...)`: whichever has no room refuses, and both count."""
    with rlm_obs.instrument(exporters=[], budget_usd="0.0025", settings=SETTINGS) as program:
        with CostTracker("0.0015", name="inner") as inner:
            chat(client)
            with pytest.raises(BudgetExceeded, match="budget 'inner'"):
                chat(client)
        chat(client)
        with CostTracker("1"), pytest.raises(BudgetExceeded, match="budget 'program'"):
            chat(client)
        assert inner.spent == Decimal("0.001")
        assert program.report().total_cost == rlm_obs.report().total_cost == Decimal("0.002")
        assert program.report().refused_calls == 2
    assert server.calls == 2


def test_a_tracker_entered_twice_counts_once(client: OpenAI) -> None:
    """Re-entering a tracker adds nothing to a call's cost."""
    tracker = CostTracker("1")
    with tracker, tracker, tracker.track("step"):
        chat(client)
    assert tracker.spent == Decimal("0.001")
    assert tracker.get_report().calls == 1
    chat(client)
    assert tracker.get_report().calls == 1, "it is left as often as it was entered"


def test_two_budgets_of_one_name_are_two(client: OpenAI) -> None:
    """Only the budget without room is told that it refused, whatever the others are called."""
    told: list[str] = []
    outer = CostTracker("1", on_budget_exceeded=lambda _: told.append("outer"))
    inner = CostTracker("0.0001", on_budget_exceeded=lambda _: told.append("inner"))
    with outer, inner, pytest.raises(BudgetExceeded):
        chat(client)
    assert told == ["inner"]


def test_a_tracker_left_in_another_context_raises_nothing(client: OpenAI) -> None:
    """A framework may enter a block in one context and leave it in a copy of another: the user sees no error of ours."""
    import contextvars

    tracker = CostTracker("1")
    contextvars.copy_context().run(tracker.__enter__)
    contextvars.copy_context().run(tracker.__exit__)
    chat(client)
    assert tracker.get_report().calls == 0


def test_a_context_that_is_carried_carries_the_budget(client: OpenAI) -> None:
    """Whatever carries the OpenTelemetry context into a thread carries the budget and the operation too."""
    tracker = CostTracker("1")
    with tracker.track("pool"):
        context = get_current()

    def work() -> None:
        token = attach(context)
        try:
            chat(client)
        finally:
            detach(token)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert tracker.get_operation_cost("pool") == Decimal("0.001")


def test_threads_started_inside_carry_the_budget(server: FakeOpenAI, client: OpenAI) -> None:
    """A thread, and a thread pool's work, fall under the trackers that were in force where they were started."""
    tracker = CostTracker("0.0015")
    with tracker:
        thread = threading.Thread(target=chat, args=(client,))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(2) as pool:
            assert isinstance(pool.submit(chat, client).exception(), BudgetExceeded)
    assert (server.calls, tracker.spent) == (1, Decimal("0.001"))


# What a call may be changed by, and what it costs when it fails


@pytest.mark.parametrize(
    ("host", "spelled"),
    [("openai", "max_completion_tokens"), ("other", "max_tokens"), ("responses", "max_output_tokens")],
)
def test_a_call_without_a_limit_is_lowered_to_what_is_left(server: FakeOpenAI, host: str, spelled: str) -> None:
    """The server sees a limit as the endpoint spells it, and the span says how low it was set."""
    bills = {"hosts": {"127.0.0.1": "groq" if host == "other" else "openai"}}
    with (
        rlm_obs.instrument(exporters=[], settings={**SETTINGS, **bills}),
        connected(server) as client,
        collecting() as seen,
    ):
        with CostTracker("0.10") as tracker:
            if host == "responses":
                client.responses.create(model="chatty", input="Hello")
            else:
                client.chat.completions.create(model="chatty", messages=HELLO)
        (request,) = server.requests
        limit = request.json[spelled]
        assert 900 < limit < 1000  # $0.10 is 1,000 tokens of output, less the input
        assert seen.records[0].attributes["rlm_obs.clamped_output_tokens"] == limit
        assert (seen.spans[0].attributes or {})["rlm_obs.clamped_output_tokens"] == limit
        assert tracker.held == 0


def test_each_of_n_choices_is_lowered(server: FakeOpenAI, client: OpenAI) -> None:
    """The limit is per choice, so n=4 gets a quarter."""
    with CostTracker("0.10"):
        client.chat.completions.create(model="chatty", messages=HELLO, n=4)
    assert 220 < server.requests[0].json["max_completion_tokens"] < 250


def test_the_users_own_limit_is_never_touched(server: FakeOpenAI, client: OpenAI) -> None:
    """It is sent as it is, or the call is refused."""
    with CostTracker("0.10"):
        chat(client, max_tokens=700)
        with pytest.raises(BudgetExceeded, match="this call alone could cost more"):
            chat(client, max_tokens=2000)
    assert [seen.json["max_tokens"] for seen in server.requests] == [700]


def test_a_call_that_fits_is_not_changed(server: FakeOpenAI, client: OpenAI) -> None:
    """With room for all that the model may write, the request goes out as the user made it."""
    with CostTracker("1000"):
        client.chat.completions.create(model="chatty", messages=HELLO)
    assert set(server.requests[0].json) == {"model", "messages"}


def test_min_output_tokens_and_clamp_are_the_users_to_choose(server: FakeOpenAI, client: OpenAI) -> None:
    """Too little room for a useful answer refuses, and `clamp=False` lowers nothing."""
    with CostTracker("0.02"), pytest.raises(BudgetExceeded, match="fewer than 256 tokens"):
        client.chat.completions.create(model="chatty", messages=HELLO)
    with CostTracker("0.10", clamp=False), pytest.raises(BudgetExceeded, match="clamp=False"):
        client.chat.completions.create(model="chatty", messages=HELLO)
    assert not server.calls
    with CostTracker("0.02", min_output_tokens=100):
        client.chat.completions.create(model="chatty", messages=HELLO)
    assert server.calls == 1


@pytest.mark.parametrize(("status", "error"), [(401, openai.AuthenticationError), (500, openai.InternalServerError)])
def test_a_call_that_failed_costs_nothing(status: int, error: type[Exception]) -> None:
    """An error of the provider releases the hold; the user gets the client's own exception."""
    with fake_openai(status=status) as server, connected(server) as client, CostTracker("0.10") as tracker:
        with pytest.raises(error):
            chat(client)
        assert (tracker.spent, tracker.held) == (0, 0)
        report = tracker.get_report()
        assert (report.calls, report.failed_calls, report.unpriced_calls) == (1, 1, 0)


def test_a_call_that_never_arrived_costs_nothing() -> None:
    """Connection refused: nothing was sent, so nothing is held and nothing is spent."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    plain = openai.DefaultHttpxClient(verify=False)
    url = f"http://127.0.0.1:{port}/v1"
    with OpenAI(api_key="k", base_url=url, max_retries=0, http_client=plain) as client, CostTracker("0.10") as tracker:
        with pytest.raises(openai.APIConnectionError):
            chat(client)
        assert (tracker.spent, tracker.held, tracker.get_report().failed_calls) == (0, 0, 1)


@contextmanager
def working(tracker: CostTracker, client: OpenAI, server: FakeOpenAI) -> Iterator[None]:
    """Have another thread at a call that holds nearly a cent, for a block."""

    def work() -> None:
        with tracker:
            chat(client, max_tokens=90)

    thread = threading.Thread(target=work)
    thread.start()
    while not server.calls:
        time.sleep(0.001)
    try:
        yield
    finally:
        thread.join()


def test_a_call_that_waited_says_how_long() -> None:
    """Held money is waited for: the second call goes once the first is settled; the wait is told, and is no duration."""
    script = [Answer("slow", delay_s=0.3), Answer("quick")]
    with (
        fake_openai(script=script, usage={"prompt_tokens": 10, "completion_tokens": 9}) as slow,
        connected(slow) as client,
    ):
        tracker = CostTracker("0.016", wait_s=5)
        with working(tracker, client, slow), collecting() as seen, tracker:
            chat(client, max_tokens=90)
        assert slow.calls == 2
        assert tracker.get_report().calls == 2
    (record,) = seen.records
    assert 0.1 < record.attributes["rlm_obs.budget.waited_s"] < 1
    assert record.duration_s < 0.2


def test_wait_s_0_refuses_what_would_have_to_wait() -> None:
    """Who asked not to wait is told that the money is only held, and by how much."""
    with fake_openai(Answer("slow", delay_s=0.3)) as slow, connected(slow) as client:
        tracker = CostTracker("0.016", wait_s=0)
        with working(tracker, client, slow), tracker:
            with pytest.raises(BudgetExceeded, match="held by") as refused:
                chat(client, max_tokens=90)
            assert refused.value.held > Decimal("0.009")
            assert "event loop" not in str(refused.value)
        assert slow.calls == 1


def test_a_stream_further_up_is_not_waited_for(server: FakeOpenAI, client: OpenAI) -> None:
    """A call inside the loop over one's own stream is refused at once where it does not fit, and told why."""
    with CostTracker("0.016") as tracker:
        stream = chat(client, stream=True, max_tokens=90)
        for _ in stream:
            with pytest.raises(BudgetExceeded, match="held by an open call of this very thread or task"):
                chat(client, max_tokens=90)
            break
        stream.close()
        chat(client, max_tokens=90)
    assert tracker.held == 0


async def test_a_blocking_call_inside_a_loop_is_refused_not_waited(server: FakeOpenAI) -> None:
    """A sync client inside a coroutine must not stop the loop: it is refused, with the way out."""
    with fake_openai(Answer("slow", delay_s=0.3)) as slow, connected(slow) as client:
        tracker = CostTracker("0.016")
        with working(tracker, client, slow), tracker, pytest.raises(BudgetExceeded, match=r"asyncio\.to_thread"):
            chat(client, max_tokens=90)
        assert slow.calls == 1


async def test_a_cancelled_call_holds_nothing() -> None:
    """Cancelled while it waits for room, or for its answer, a task leaves no hold behind."""
    with fake_openai(Answer("slow", delay_s=0.5)) as slow:
        plain = openai.DefaultAsyncHttpxClient(verify=False)
        async with AsyncOpenAI(api_key="k", base_url=slow.base_url, max_retries=0, http_client=plain) as client:
            tracker = CostTracker("0.016", wait_s=5)

            async def work() -> None:
                with tracker:
                    await client.chat.completions.create(model="chatty", messages=HELLO, max_tokens=90)

            tasks = [asyncio.create_task(work()) for _ in range(3)]
            while not slow.calls:
                await asyncio.sleep(0.005)
            for task in reversed(tasks):
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(o, asyncio.CancelledError) for o in outcomes)
        assert tracker.held == 0
        assert slow.calls == 1


# What nobody knows the price of


def test_an_unknown_price_blocks_under_a_budget(server: FakeOpenAI, client: OpenAI) -> None:
    """Nothing is sent, and the error gives the lines that would price the model."""
    with CostTracker("1", name="day"), pytest.raises(UnknownPrice) as refused:
        chat(client, model="nobody-knows")
    assert not server.requests
    text = str(refused.value)
    assert 'instrument(settings={"prices": {"nobody-knows": {"input": 1.0, "output": 4.0}}})' in text
    assert "RLM_OBS_PRICES=prices.toml" in text
    assert "'day'" in text
    with (
        rlm_obs.instrument(exporters=[], settings={"prices": {"nobody-knows": {"input": 1.0, "output": 4.0}}}),
        CostTracker("1"),
    ):
        chat(client, model="nobody-knows")
    assert server.calls == 1


def test_an_unknown_price_passes_without_a_budget(server: FakeOpenAI, client: OpenAI) -> None:
    """A tracker without a budget stops nothing: the call is counted as unpriced, and its cost is not 0 but unknown."""
    with CostTracker() as tracker, collecting() as seen:
        chat(client, model="nobody-knows")
    assert seen.records[0].cost is None
    assert tracker.get_report().unpriced_calls == 1
    assert tracker.remaining is None


def test_unknown_price_warn_lets_it_through(server: FakeOpenAI, client: OpenAI) -> None:
    """ "warn" counts the call as unpriced."""
    with CostTracker("1", unknown_price="warn") as tracker:
        chat(client, model="nobody-knows")
        chat(client)
    report = tracker.get_report()
    assert (report.calls, report.unpriced_calls, report.total_cost) == (2, 1, Decimal("0.001"))


def test_a_number_prices_what_nobody_knows(server: FakeOpenAI, client: OpenAI) -> None:
    """`unknown_price=50`: dollars per million tokens, for the hold and for the bill of this budget; the record stays unknown."""
    with CostTracker("1", unknown_price=50) as tracker, collecting() as seen:
        chat(client, model="nobody-knows")
    assert tracker.spent == Decimal("0.00095")  # 19 tokens
    assert tracker.get_report().inexact_cost == Decimal("0.00095")
    assert seen.records[0].cost is None
    with CostTracker("0.0001", unknown_price=50), pytest.raises(BudgetExceeded):
        chat(client, model="nobody-knows")


def test_embeddings_fall_under_the_budget(server: FakeOpenAI, client: OpenAI) -> None:
    """They have no output; their input is held and billed."""
    with CostTracker("0.001") as tracker:
        client.embeddings.create(model="embed", input="Hello there")
        with pytest.raises(BudgetExceeded, match="shorten the input"):
            client.embeddings.create(model="embed", input="Hello" * 100)
    assert tracker.spent == Decimal("0.0001") == tracker.get_report().by_operation["embeddings"]
    assert server.calls == 1


# Alerts


class Watching:
    """A plugin that keeps the alerts it is told."""

    def __init__(self) -> None:
        self.alerts: list[Any] = []

    @rlm_obs.hookimpl
    def budget_alert(self, alert: Any) -> None:
        self.alerts.append(alert)


@pytest.fixture
def watching() -> Iterator[Watching]:
    plugin = Watching()
    rlm_obs.register_plugin(plugin)
    yield plugin
    rlm_obs.unregister_plugin(plugin)


def test_an_alert_comes_once(client: OpenAI, watching: Watching, caplog: pytest.LogCaptureFixture) -> None:
    """Crossing the threshold calls `on_alert`, the hook and the log, once each; being used up does so once more."""
    alerts: list[Any] = []
    exceeded: list[BudgetExceeded] = []
    tracker = CostTracker("0.0105", 0.5, "day", on_alert=alerts.append, on_budget_exceeded=exceeded.append)
    near: list[bool] = []
    with tracker:
        for _ in range(10):
            chat(client)
            near.append(tracker.is_near_limit())
        for _ in range(3):
            with pytest.raises(BudgetExceeded):
                chat(client)
    assert near == [False] * 5 + [True] * 5
    assert alerts == watching.alerts
    assert [(a.budget, a.threshold, a.spent, a.limit, a.exhausted) for a in alerts] == [
        ("day", 0.5, Decimal("0.006"), Decimal("0.0105"), False),
        ("day", 1.0, Decimal("0.010"), Decimal("0.0105"), True),
    ]
    assert len(exceeded) == 3
    assert [r.getMessage() for r in caplog.records if "budget" in r.getMessage()] == [str(a) for a in alerts]
    assert str(alerts[0]) == "budget 'day' has reached 50%: $0.006 of $0.0105"


def test_threads_get_one_alert(client: OpenAI) -> None:
    """Thirty-two calls that cross the threshold at once give one alert."""
    alerts: list[Any] = []
    tracker = CostTracker("1", 0.001, on_alert=alerts.append)

    def work(_: int) -> None:
        with tracker:
            chat(client)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(32)))
    assert len(alerts) == 1


def test_a_raised_budget_alerts_anew(client: OpenAI) -> None:
    """`tracker.budget_usd = ...` gives the running program more, and its new threshold is watched too."""
    alerts: list[Any] = []
    tracker = CostTracker("0.0015", 0.5, on_alert=alerts.append)
    with tracker:
        chat(client)
        with pytest.raises(BudgetExceeded):
            chat(client)
        tracker.budget_usd = "0.0045"
        chat(client)
        chat(client)
    assert [(a.exhausted, a.limit) for a in alerts] == [
        (False, Decimal("0.0015")),
        (True, Decimal("0.0015")),
        (False, Decimal("0.0045")),
    ]


@pytest.mark.swallows
def test_an_alert_that_raises_hurts_nobody(client: OpenAI) -> None:
    """Functions of the user's that fail are logged and counted; the call goes on, and a refusal is a refusal."""

    def explode(_: object) -> None:
        raise RuntimeError("in the user's function")

    with CostTracker("0.0015", 0.1, on_alert=explode, on_budget_exceeded=explode):
        chat(client)
        with pytest.raises(BudgetExceeded):
            chat(client)
    assert rlm_obs.stats()["failures"] == {"on_alert": 2, "on_budget_exceeded": 1}


# The book


def test_operations_count_what_is_inside_them(client: OpenAI) -> None:
    """`track` counts nested operations in each of those around, and a call outside of any by its kind."""
    tracker = CostTracker()
    with tracker.track("report"):
        chat(client)
        with tracker.track("summary"):
            chat(client)
            chat(client, model="pricey")
    with tracker:
        chat(client)
    assert tracker.get_operation_cost("report") == Decimal("0.102")
    assert tracker.get_operation_cost("summary") == Decimal("0.101")
    assert tracker.get_operation_cost("chat") == Decimal("0.001")
    assert tracker.get_operation_cost("never heard of") == 0
    report = tracker.get_report()
    assert report.by_operation == {"report": Decimal("0.102"), "summary": Decimal("0.101"), "chat": Decimal("0.001")}
    assert report.by_model == {"chatty": Decimal("0.003"), "pricey": Decimal("0.1")}
    assert sum(report.by_model.values()) == report.total_cost == tracker.spent


def test_an_operation_inside_itself_counts_once(client: OpenAI) -> None:
    """A recursive function under one name does not count its calls twice."""
    tracker = CostTracker()
    with tracker.track("step"), tracker.track("step"):
        chat(client)
    assert tracker.get_operation_cost("step") == Decimal("0.001")


def test_a_report_is_a_snapshot_and_json_ready(client: OpenAI) -> None:
    """It does not change afterwards; amounts are exact strings in `to_dict`."""
    with CostTracker("0.0040", name="run") as tracker:
        chat(client)
        report = tracker.get_report()
        chat(client)
    assert (report.calls, report.total_cost, report.remaining) == (1, Decimal("0.001"), Decimal("0.0030"))
    assert report.remaining_percent == 75.0
    said = json.loads(json.dumps(report.to_dict()))
    amounts = ("total_cost", "inexact_cost", "budget_usd", "spent", "held", "remaining")
    assert {name: Decimal(said.pop(name)) for name in amounts} == {
        "total_cost": Decimal("0.001"),
        "inexact_cost": 0,
        "budget_usd": Decimal("0.004"),
        "spent": Decimal("0.001"),
        "held": 0,
        "remaining": Decimal("0.003"),
    }
    by_model, by_operation = said.pop("by_model"), said.pop("by_operation")
    assert (Decimal(by_model["chatty"]), Decimal(by_operation["chat"])) == (Decimal("0.001"), Decimal("0.001"))
    counts = {"calls": 1, "unpriced_calls": 0, "refused_calls": 0, "failed_calls": 0, "tokens": 19}
    assert said == {"name": "run", "remaining_percent": 75.0, "reset_at": None, "by_key": {}, **counts}
    free = CostTracker().get_report()
    assert (free.remaining, free.remaining_percent) == (None, None)
    assert CostTracker(0).get_report().remaining_percent == 0.0


def test_a_million_names_do_not_fill_the_memory(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations are the user's strings: past a bound the rest is counted as "other", and the sum still holds."""
    monkeypatch.setattr("rlm_obs._report.MOST_NAMES", 3)
    tracker = CostTracker()
    for n in range(6):
        with tracker.track(f"user {n}"):
            chat(client)
    by_operation = tracker.get_report().by_operation
    assert list(by_operation) == ["user 0", "user 1", "user 2", "other"]
    assert sum(by_operation.values()) == tracker.spent


def test_a_decorated_function_is_counted(client: OpenAI) -> None:
    """A tracker decorates a function: its calls fall under it."""
    tracker = CostTracker("1")

    @tracker
    def ask() -> None:
        chat(client)

    ask()
    assert tracker.spent == Decimal("0.001")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"budget_usd": -1}, "budget_usd=-1"),
        ({"budget_usd": float("nan")}, "budget_usd=nan"),
        ({"budget_usd": "lots"}, "budget_usd='lots'"),
        ({"budget_usd": True}, "budget_usd=True"),
        ({"budget_usd": "1e13"}, "budget_usd='1e13'"),
        ({"alert_threshold": 0}, "alert_threshold=0"),
        ({"alert_threshold": 1.5}, "alert_threshold=1.5"),
        ({"alert_threshold": "high"}, "alert_threshold='high'"),
        ({"alert_threshold": None}, "alert_threshold=None"),
        ({"enforcement": "strict"}, "enforcement='strict'"),
        ({"wait_s": -1}, "wait_s=-1"),
        ({"wait_s": "5"}, "wait_s='5'"),
        ({"wait_s": float("nan")}, "wait_s=nan"),
        ({"min_output_tokens": 0}, "min_output_tokens=0"),
        ({"min_output_tokens": 1.5}, "min_output_tokens=1.5"),
        ({"unknown_price": "guess"}, "unknown_price='guess'"),
        ({"unknown_price": -1}, "unknown_price=-1"),
        ({"unseen_usage": "free"}, "unseen_usage='free'"),
        ({"on_alert": "call me"}, "on_alert: a text that is no address"),
        ({"on_budget_exceeded": 5}, "on_budget_exceeded=5"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    """A ConfigError where the mistake is, with the argument and its value."""
    with pytest.raises(ConfigError) as wrong:
        CostTracker(**arguments)
    assert named in str(wrong.value)


def test_a_bad_new_budget_changes_nothing() -> None:
    """`tracker.budget_usd = ...` is checked as the argument is."""
    tracker = CostTracker("1")
    with pytest.raises(ConfigError, match="budget_usd='much'"):
        tracker.budget_usd = "much"
    assert tracker.budget_usd == 1


@pytest.mark.parametrize("policy", ["estimate", "hold"])
def test_a_stream_left_early_is_settled_by_the_policy(policy: str, server: FakeOpenAI, client: OpenAI) -> None:
    """`unseen_usage`: an estimate of what came, marked as inexact; or all that was held."""
    with CostTracker("1", unseen_usage=policy) as tracker:
        with chat(client, stream=True, max_tokens=90) as stream:
            next(iter(stream))
        report = tracker.get_report()
    assert tracker.held == 0
    assert report.calls == 1
    assert report.inexact_cost == report.total_cost
    if policy == "hold":
        assert report.total_cost > Decimal("0.009")
    else:
        assert report.total_cost < Decimal("0.002")


def test_a_trackers_repr_says_what_is_left() -> None:
    """For a person at a prompt."""
    assert repr(CostTracker("2", name="day")) == "<CostTracker 'day': $0.00 of $2.00 spent>"
    assert repr(CostTracker(name="day")) == "<CostTracker 'day': $0.00 spent>"
