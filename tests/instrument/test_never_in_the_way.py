"""Whatever fails on our side, the user's result, exception and count of requests are those of the bare client."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs import CostTracker, Tracer, _guard
from rlm_obs._admission import Admission
from rlm_obs._budgets.desk import Desk
from rlm_obs._call import Call
from rlm_obs._instrument.openai import OpenAIReader
from rlm_obs._instrument.watch import Watch
from rlm_obs._pricing import Chain
from rlm_obs._pricing.slopes import Slopes
from rlm_obs.testing import Collected, FakeOpenAI

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there"}]}
OPENAI = {"hosts": {"127.0.0.1": "openai"}}


class BrokenError(Exception):
    """A failure of ours."""


def breaks(*_: Any, **__: Any) -> Any:
    raise BrokenError("xq-secret-7")


async def some_calls(caller: Any, server: FakeOpenAI) -> list[Any]:
    """Call plainly, with a parser, as streams, as raw bytes and with a bad limit; return what user and server see."""
    client = caller.client(server)
    server.clear()
    plain = await caller(client.chat.completions.create(**CHAT))
    parsed = await caller(client.chat.completions.parse(**CHAT))
    chunks = await caller.all(await caller(client.chat.completions.create(**CHAT, stream=True)))
    async with caller.entered(client.chat.completions.with_streaming_response.create(**CHAT, stream=True)) as raw:
        text = await caller(raw.text())
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    usage = (await caller.all(await caller(client.chat.completions.create(**asked))))[-1].usage
    events = await caller.all(await caller(client.responses.create(model="gpt-4o", input="Hello", stream=True)))
    with pytest.raises(openai.BadRequestError) as caught:
        await caller(client.chat.completions.create(**CHAT, max_completion_tokens=0))
    return [
        usage,
        [event.type for event in events],
        plain.choices,
        parsed.choices,
        text.count('"content"'),
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        type(caught.value),
        caught.value.status_code,
        len(server.requests),
    ]


BROKEN = {
    "gate": [
        (OpenAIReader, "read"),
        (OpenAIReader, "answered"),
        (OpenAIReader, "change"),
        (OpenAIReader, "overhear"),
        (Watch, "over"),
    ],
    "stream": [
        (OpenAIReader, "event"),
        (OpenAIReader, "only_usage"),
        (OpenAIReader, "mere_text"),
        (OpenAIReader, "at_once"),
        (Watch, "listen"),
        (Watch, "_hears"),
        (Watch, "_look"),
        (Watch, "_said"),
        (Watch, "_read_rest"),
    ],
    "call": [(Call, "_price_and_settle"), (Call, "_settle"), (Call, "_end_span")],
    "price": [(Call, "_priced"), (Chain, "total"), (Slopes, "most")],
    "budget": [(Desk, "hold_at_once"), (Admission, "ask"), (CostTracker, "book")],
    "span": [(Tracer, "start_call")],
}
PLACES = [(kind, *place) for kind, places in BROKEN.items() for place in places]


@pytest.mark.swallows
@pytest.mark.parametrize(("kind", "owner", "name"), PLACES, ids=[f"{o.__name__}.{n}" for _, o, n in PLACES])
async def test_our_own_failure_touches_nothing(
    kind: str, owner: Any, name: str, caller: Any, server: FakeOpenAI, monkeypatch: Any, caplog: Any
) -> None:
    """A failure anywhere in our part of a call is one log line a kind and a counter; the call is as without us."""
    bare = await some_calls(caller, server)
    monkeypatch.setattr(owner, name, breaks)
    with rlm_obs.instrument(exporters=[], budget_usd=10, settings=OPENAI) as made:
        assert await some_calls(caller, server) == bare
        assert await some_calls(caller, server) == bare
        assert made.tracker.held == 0
    failed = {k: n for k, n in rlm_obs.stats()["failures"].items() if n}
    assert failed[kind] >= 2
    lines = [r.getMessage() for r in caplog.records if r.name == "rlm_obs" and r.levelno >= logging.WARNING]
    assert len([line for line in lines if "failed and was skipped" in line]) == len(failed)
    assert "xq-secret-7" not in "".join(lines)


class Plugin:
    """Raises from one hook."""

    def __init__(self, hook: str, error: Exception) -> None:
        self.hook, self.error = hook, error

    def _raise(self, hook: str) -> None:
        if hook == self.hook:
            raise self.error

    @rlm_obs.hookimpl
    def call_starting(self) -> None:
        self._raise("call_starting")

    @rlm_obs.hookimpl
    def price(self) -> None:
        self._raise("price")

    @rlm_obs.hookimpl
    def call_finished(self) -> None:
        self._raise("call_finished")


@pytest.fixture
def registered() -> Iterator[Any]:
    """Register a plugin for the test."""
    added: list[Any] = []

    def register(plugin: Any) -> Any:
        rlm_obs.register_plugin(plugin, "broken")
        added.append(plugin)
        return plugin

    yield register
    for plugin in added:
        rlm_obs.unregister_plugin(plugin)


@pytest.mark.swallows
@pytest.mark.parametrize("hook", ["call_starting", "price", "call_finished"])
async def test_a_plugin_that_raises_touches_nothing(
    hook: str, caller: Any, server: FakeOpenAI, collect: Collected, registered: Any, caplog: Any
) -> None:
    """A plugin's own failure costs one log line that names it, and a counter; calls and prices are as without it."""
    bare = await some_calls(caller, server)
    registered(Plugin(hook, BrokenError()))
    with rlm_obs.instrument(exporters=[], settings=OPENAI) as made:
        assert await some_calls(caller, server) == bare
        assert made.report().total_cost == 6 * Decimal("0.0035")
    assert _guard.failures[f"broken.{hook}"] >= 2
    assert len([r for r in caplog.records if f"broken.{hook} failed" in r.getMessage()]) == 1
    assert len(collect.records) == 14


async def test_a_plugins_refusal_reaches_the_user(
    caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected, registered: Any
) -> None:
    """`CallRefused` from `call_starting` is raised at the call, nothing is sent, and the record says "refused"."""
    refusal = rlm_obs.CallRefused("not on Sundays")
    registered(Plugin("call_starting", refusal))
    with pytest.raises(rlm_obs.CallRefused) as caught:
        await caller(caller.client(server, max_retries=2).chat.completions.create(**CHAT))
    assert caught.value is refusal
    assert not server.requests
    (record,) = collect.records
    assert (record.status, record.error, record.cost_usd) == ("refused", "CallRefused", 0)
    (span,) = collect.spans
    assert not span.status.is_ok


@pytest.mark.swallows
@pytest.mark.parametrize("where", ["price", "call_finished"])
async def test_a_refusal_after_the_call_is_a_failure_like_any_other(
    where: str, caller: Any, server: FakeOpenAI, as_openai: Any, registered: Any, collect: Collected
) -> None:
    """The call was made and is paid for: a `CallRefused` from a later hook takes no answer from the user."""
    registered(Plugin(where, rlm_obs.CallRefused("too late")))
    answer = await caller(caller.client(server).chat.completions.create(**CHAT))
    assert answer.choices
    (record,) = collect.records
    assert record.status == "ok"
    assert len(collect.spans) == 1


@pytest.mark.swallows
async def test_a_callback_that_raises_touches_nothing(caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """`on_alert` may raise what it likes, a refusal too: the call that crossed the threshold keeps its answer."""

    def stop(alert: Any) -> None:
        raise rlm_obs.CallRefused("stop")

    with CostTracker("0.5", alert_threshold=0.001, on_alert=stop) as budget:
        assert (await caller(caller.client(server).chat.completions.create(**CHAT, max_tokens=200))).choices
    assert (budget.spent, budget.held) == (Decimal("0.0035"), 0)


@pytest.mark.swallows
async def test_a_refusal_told_twice_is_still_one_record(caller: Any, server: FakeOpenAI, collect: Collected) -> None:
    """`on_budget_exceeded` may raise the refusal again: the user gets it, once, and the record is written."""

    def again(error: Exception) -> None:
        raise error

    with CostTracker(0, on_budget_exceeded=again), pytest.raises(rlm_obs.BudgetExceeded):
        await caller(caller.client(server).chat.completions.create(**CHAT))
    (record,) = collect.records
    assert record.status == "refused"
    assert not server.requests


async def test_no_warning_is_raised_inside_the_call(caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """Under `-W error` a call goes through, with an unknown model, a stream and an error too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await some_calls(caller, server)
        await caller(caller.client(server).chat.completions.create(**{**CHAT, "model": "nobody-knows-it"}))
