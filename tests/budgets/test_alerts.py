"""Alerts: once per threshold and window, to functions, coroutines, hooks and webhooks, and never in the call's way."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import time_machine
from openai import AsyncOpenAI, OpenAI

import rlm_obs
from rlm_obs import Alert, BudgetExceeded, CostTracker
from rlm_obs._budgets.alerts import messenger
from rlm_obs.testing import FakeOpenAI
from tests.budgets.conftest import EACH, HELLO, connected

Chat = Callable[..., Any]
MORNING = datetime(2026, 11, 25, 6, 0, tzinfo=UTC)


class Receiver:
    """A web server that keeps the alerts that are posted to it, and answers as it is told."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.threads: list[int] = []
        self.came = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()
                outer.came.set()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=s3cr3t"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_several_thresholds(chat: Chat) -> None:
    """Each of them alerts once, in their order."""
    alerts: list[Alert] = []
    with CostTracker(10 * EACH, alert_threshold=[0.9, 0.5, 0.8], on_alert=alerts.append):
        for _ in range(9):
            chat()
    assert [(a.threshold, a.spent) for a in alerts] == [(0.5, 5 * EACH), (0.8, 8 * EACH), (0.9, 9 * EACH)]
    assert {a.kind for a in alerts} == {"threshold"}


def test_each_window_and_each_key_alerts(chat: Chat) -> None:
    """A threshold is crossed once per window and key."""
    alerts: list[Alert] = []
    with time_machine.travel(MORNING, tick=False) as clock:
        tracker = CostTracker(4 * EACH, alert_threshold=0.5, window="day", per="user.id", on_alert=alerts.append)
        with tracker:
            for days in range(2):
                clock.move_to(MORNING + timedelta(days=days, hours=17))  # late enough for the pace to be no alert
                for user in ("ann", "bob"):
                    with rlm_obs.context(user_id=user):
                        for _ in range(3):
                            chat()
    assert [a.key for a in alerts if a.kind == "threshold"] == ["ann", "bob", "ann", "bob"]


def test_a_pace_that_will_not_last(chat: Chat) -> None:
    """A quarter of the day's budget gone after an hour: it says when the budget ends, once."""
    alerts: list[Alert] = []
    with time_machine.travel(datetime(2026, 11, 25, 1, 0, tzinfo=UTC), tick=False):
        tracker = CostTracker(8 * EACH, alert_threshold=0.9, window="day", on_alert=alerts.append, name="day")
        with tracker:
            for _ in range(4):
                chat()
    (alert,) = alerts
    assert alert.kind == "pace"
    assert alert.ends_at == datetime(2026, 11, 25, 4, 0, tzinfo=UTC)
    assert alert.reset_at == datetime(2026, 11, 26, tzinfo=UTC)
    assert "at this pace it ends at 2026-11-25 04:00 UTC" in str(alert)


def test_a_pace_that_lasts_says_nothing(chat: Chat) -> None:
    """Half the budget at the day's end is no alert."""
    alerts: list[Alert] = []
    with time_machine.travel(datetime(2026, 11, 25, 23, 0, tzinfo=UTC), tick=False):
        tracker = CostTracker(8 * EACH, alert_threshold=0.9, window="day", on_alert=alerts.append)
        with tracker:
            for _ in range(4):
                chat()
    assert alerts == []


def test_budgets_in_tokens_alert_too(chat: Chat) -> None:
    """The alert says its unit."""
    alerts: list[Alert] = []
    with CostTracker(budget_tokens=400, alert_threshold=0.5, on_alert=alerts.append):
        for _ in range(11):
            chat(model="local")
    assert [(a.unit, a.spent) for a in alerts] == [("tokens", 209)]
    assert "209 tokens of 400 tokens" in str(alerts[0])


def test_a_webhook(chat: Chat, receiver: Receiver) -> None:
    """`on_alert="https://…"` posts the alert as JSON with a text that chat services show; the tracker's repr hides the address."""
    tracker = CostTracker(4 * EACH, alert_threshold=0.5, on_alert=receiver.url, name="day")
    with tracker:
        for _ in range(3):
            chat()
    messenger.wait(10)
    (body,) = receiver.bodies
    assert (body["kind"], body["budget"]) == ("threshold", "day")
    assert (Decimal(body["spent"]), Decimal(body["limit"])) == (2 * EACH, 4 * EACH)
    assert "reached 50%" in body["text"]
    assert "s3cr3t" not in repr(tracker)


@pytest.mark.swallows
def test_a_webhook_that_fails_hurts_nobody(chat: Chat, caplog: pytest.LogCaptureFixture) -> None:
    """Its failure is one log line and a counter, without the address."""
    broken = Receiver(500)
    try:
        with CostTracker(4 * EACH, alert_threshold=0.5, on_alert=broken.url):
            for _ in range(3):
                chat()
        messenger.wait(10)
    finally:
        broken.close()
    assert rlm_obs.stats()["failures"]["on_alert"] >= 1
    assert "on_alert failed and was skipped" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_slow_webhook_delays_no_call(chat: Chat) -> None:
    """The alert is sent by another thread: the call has come back before the receiver is asked."""
    gate, order = threading.Event(), []

    async def slow(alert: Alert) -> None:
        await asyncio.to_thread(gate.wait, 10)
        order.append("told")

    with CostTracker(4 * EACH, alert_threshold=0.5, on_alert=slow):
        for _ in range(3):
            chat()
    order.append("called")
    gate.set()
    messenger.wait(10)
    assert order == ["called", "told"]


async def test_a_coroutine_is_awaited_in_the_loop(server: FakeOpenAI, priced: None) -> None:
    """An async `on_alert` runs in the loop of the call that crossed the threshold."""
    told: list[asyncio.AbstractEventLoop] = []

    async def on_alert(alert: Alert) -> None:
        told.append(asyncio.get_running_loop())

    async with AsyncOpenAI(api_key="x", base_url=server.base_url, max_retries=0) as client:
        with CostTracker(4 * EACH, alert_threshold=0.5, on_alert=on_alert):
            for _ in range(3):
                await client.chat.completions.create(model="chatty", messages=HELLO, max_tokens=9)
        await asyncio.sleep(0)
    assert told == [asyncio.get_running_loop()]


# on_budget_exceeded: somebody is in charge


def test_somebody_may_raise_the_budget(chat: Chat, server: FakeOpenAI) -> None:
    """A number that `on_budget_exceeded` returns is the new limit, and the call goes out; None gives up."""
    asked: list[BudgetExceeded] = []

    def decide(refusal: BudgetExceeded) -> Decimal | None:
        asked.append(refusal)
        return 4 * EACH if len(asked) == 1 else None

    with CostTracker(2 * EACH, on_budget_exceeded=decide) as tracker:
        for _ in range(3):
            chat()
        with pytest.raises(BudgetExceeded):
            chat()
    assert len(server.billed) == 3
    assert tracker.budget_usd == 4 * EACH
    assert len(asked) == 2


@pytest.mark.parametrize("answer", [EACH, 0, True, "much", -1, object()])
@pytest.mark.swallows
def test_an_answer_that_raises_nothing_is_a_no(answer: object, chat: Chat) -> None:
    """A limit that is no higher, or no amount at all, gives up; it never loops."""
    with CostTracker(2 * EACH, on_budget_exceeded=lambda _: answer):
        chat()
        with pytest.raises(BudgetExceeded):
            chat()


def test_a_waiting_call_may_be_helped_too(server: FakeOpenAI, priced: None) -> None:
    """A call that has waited in vain asks as well, before it gives up."""
    with (
        connected(server) as client,
        CostTracker(2 * EACH, wait_s=0.05, on_budget_exceeded=lambda _: 5 * EACH) as tracker,
    ):
        stream: Any = []

        def hold() -> None:
            stream.append(client.chat.completions.create(model="chatty", messages=HELLO, max_tokens=9, stream=True))

        thread = threading.Thread(target=hold)
        thread.start()
        thread.join()
        client.chat.completions.create(model="chatty", messages=HELLO, max_tokens=9)
        stream[0].close()
    assert tracker.budget_usd == 5 * EACH


# on_low: a cheaper model


def test_a_budget_that_runs_low_switches_the_model(chat: Chat, server: FakeOpenAI) -> None:
    """From the threshold on calls get the cheaper model; record and report say so."""
    with rlm_obs.testing.collect() as seen, CostTracker(10 * EACH, alert_threshold=0.5, on_low="cheap"):
        for _ in range(7):
            chat()
    sent = [request.json["model"] for request in server.requests]
    assert sent == ["chatty"] * 5 + ["cheap"] * 2
    last = seen.records[-1]
    assert last.attributes["rlm_obs.switched_from_model"] == "chatty"
    assert last.requested_model == "cheap"
    assert seen.spans[-1].attributes["rlm_obs.switched_from_model"] == "chatty"
    assert "rlm_obs.switched_from_model" not in seen.records[0].attributes
    assert last.cost_usd == EACH / 10


def test_a_function_chooses_the_model(chat: Chat, server: FakeOpenAI) -> None:
    """`on_low` may be a function of the request; None keeps the model."""
    with CostTracker(10 * EACH, alert_threshold=0.1, on_low=lambda r: "cheap" if r.streamed else None):
        chat()
        chat()
        list(chat(stream=True))
    assert [request.json["model"] for request in server.requests] == ["chatty", "chatty", "cheap"]


def test_a_switched_call_keeps_all_else(client: OpenAI, server: FakeOpenAI, priced: None) -> None:
    """Only the model is changed, in `extra_body` too; the user's own arguments are not touched."""
    messages = [{"role": "user", "content": "Hello"}]
    with CostTracker(10 * EACH, alert_threshold=0.05, on_low="cheap"):
        for _ in range(2):
            client.chat.completions.create(
                model="chatty",
                messages=messages,
                max_tokens=9,
                temperature=0.5,
                extra_body={"model": "chatty", "top_k": 3},
            )
    first, second = (request.json for request in server.requests)
    assert {**first, "model": "cheap"} == second
    assert messages == [{"role": "user", "content": "Hello"}]
