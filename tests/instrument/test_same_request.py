"""The request that goes out and the errors that come back are those of the bare client, byte for byte."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs import CostTracker
from rlm_obs._instrument.openai import OpenAIReader
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai
from rlm_obs.testing import collect as collecting

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there"}]}
OPENAI = {"hosts": {"127.0.0.1": "openai"}}
OWN = ("idempotency-key", "host")


def sent(server: FakeOpenAI) -> list[Any]:
    """Return what arrived, without what is drawn anew for each call."""
    return [
        (seen.method, seen.path, seen.query, {k: v for k, v in seen.headers.items() if k not in OWN}, seen.body)
        for seen in server.requests
    ]


async def test_a_call_with_retries_is_one_call(caller: Any) -> None:
    """A 500 and a 429 before the answer: three requests as without us, one record, one span, one price."""
    soon = {"retry-after-ms": "1"}

    async def called() -> list[Any]:
        script = [Answer(status=500, headers=soon), Answer(status=429, headers=soon)]
        with fake_openai(script=script, usage={"prompt_tokens": 1000, "completion_tokens": 100}) as server:
            client = caller.client(server, max_retries=2)
            assert (await caller(client.chat.completions.create(**CHAT, extra_headers={"x-mine": "1"}))).choices
            return sent(server)

    bare = await called()
    with rlm_obs.instrument(exporters=[], settings=OPENAI), collecting() as collect:
        seen = await called()
        (record,) = collect.records
        assert len(collect.spans) == 1
    assert (record.status, record.cost_usd, record.request_id) == ("ok", Decimal("0.0035"), f"req_{3:032x}")
    assert len(seen) == 3
    assert seen == bare


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_sent_is_what_the_bare_client_sends(streamed: bool, caller: Any, server: FakeOpenAI) -> None:
    """Headers and body, byte for byte; a stream that is asked for its usage differs by that option alone."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]

    async def called() -> list[Any]:
        server.clear()
        client = caller.client(server, default_headers={"x-own": "mine"})
        messages = ({"role": "user", "content": text} for text in ("Grüße", "there"))  # can be read only once
        answer = await caller(
            client.chat.completions.create(
                model="gpt-4o",
                messages=messages,
                tools=iter(tools),
                stream=streamed,
                extra_body={"x": 1},
                extra_query={"q": "2"},
                timeout=7.0,
            )
        )
        await caller.all(answer)
        return sent(server)

    bare = await called()
    with rlm_obs.instrument(exporters=[], budget_usd=1):
        assert await called() == bare
    if streamed:
        with rlm_obs.instrument(exporters=[], settings=OPENAI):
            ((*head, headers, body),) = await called()
        ((*bare_head, bare_headers, bare_body),) = bare
        assert head == bare_head
        assert {**headers, "content-length": ""} == {**bare_headers, "content-length": ""}
        assert body.replace(b',"stream_options":{"include_usage":true}', b"") == bare_body


async def test_the_users_arguments_are_not_changed(caller: Any, server: FakeOpenAI) -> None:
    """None of the user's lists and dicts is touched, even where the output limit is lowered or usage is asked for."""
    given: dict[str, Any] = {
        **copy.deepcopy(CHAT),
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "stream_options": {"include_obfuscation": False},
        "extra_body": {"metadata": {"a": "b"}},
        "extra_headers": {"x-mine": "1"},
    }
    before = copy.deepcopy(given)
    with rlm_obs.instrument(exporters=[], budget_usd="0.01", settings=OPENAI):
        await caller.all(await caller(caller.client(server).chat.completions.create(**given, stream=True)))
    assert given == before
    body = server.requests[-1].json
    assert 256 <= body["max_completion_tokens"] <= 1000
    assert body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


# -- errors are the user's -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_error_is_the_clients_own(status: int, streamed: bool, caller: Any, collect: Collected) -> None:
    """The exception is the bare client's; the record has its class, the HTTP status, the request's id, and cost 0."""
    with fake_openai(Answer("No", status=status)) as server:
        client = caller.client(server)
        with pytest.raises(openai.APIStatusError) as caught:
            await caller(client.chat.completions.create(**CHAT, stream=streamed))
    error = caught.value
    assert (error.status_code, error.__cause__) == (status, None)
    (record,) = collect.records
    assert (record.status, record.error, record.usage, record.cost_usd) == ("error", type(error).__name__, None, 0)
    assert record.attributes["http.response.status_code"] == status
    assert record.request_id == error.request_id == f"req_{1:032x}"


async def test_a_server_that_is_not_there(caller: Any, collect: Collected) -> None:
    """Nothing was sent and nothing is owed: an error that costs 0."""
    with fake_openai() as server:
        url = server.base_url
    with pytest.raises(openai.APIConnectionError), CostTracker(1) as budget:
        await caller(caller.client(url).chat.completions.create(**CHAT))
    (record,) = collect.records
    assert (record.status, record.error, record.cost_usd) == ("error", "APIConnectionError", 0)
    assert (budget.held, budget.spent) == (0, 0)


async def test_a_timeout_may_be_billed(caller: Any, collect: Collected) -> None:
    """After a timeout nobody knows whether the provider worked: the cost is unknown, and not 0."""
    with fake_openai(latency_s=1) as server, pytest.raises(openai.APITimeoutError):
        await caller(caller.client(server, timeout=0.05).chat.completions.create(**CHAT))
    (record,) = collect.records
    assert (record.status, record.error, record.cost) == ("error", "APITimeoutError", None)


@pytest.mark.parametrize("place", ["send", "_process_response"])
async def test_an_interrupt_ends_the_call_once(place: str, caller: Any, server: FakeOpenAI, collect: Collected) -> None:
    """Ctrl-C inside the call goes up as it is, and the call has ended: one record, and nothing is held."""
    client = caller.client(server)

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    setattr(client._client if place == "send" else client, place, interrupt)  # in HTTP's client, or in the SDK
    with CostTracker(1) as budget, pytest.raises(KeyboardInterrupt):
        await caller(client.chat.completions.create(**CHAT))
    (record,) = collect.records
    assert (record.status, record.error, budget.held) == ("error", "KeyboardInterrupt", 0)


async def test_an_interrupt_while_we_read_the_answer_ends_the_call(
    caller: Any, server: FakeOpenAI, collect: Collected, monkeypatch: Any
) -> None:
    """Ctrl-C that strikes in our own part of the call ends it as well, or its hold would stay for ever."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OpenAIReader, "answered", interrupt)
    with CostTracker(1) as budget, pytest.raises(KeyboardInterrupt):
        await caller(caller.client(server).chat.completions.create(**CHAT))
    (record,) = collect.records
    assert (record.error, budget.held) == ("KeyboardInterrupt", 0)
