"""A streamed chat is asked for its usage where that is known to work; the user never sees the chunk we asked for."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

import rlm_obs
from rlm_obs import CostTracker
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
STREAM: dict[str, Any] = {"model": "gpt-4o", "messages": HELLO, "stream": True}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}
OPENAI = {"hosts": {"127.0.0.1": "openai"}}


async def asked(caller: Any, server: FakeOpenAI, settings: dict[str, Any], kind: str = "OpenAI", **more: Any) -> Any:
    """Return the `stream_options` that reach the server when a streamed chat is read under `settings`."""
    options: dict[str, Any] = {}
    if kind == "AzureOpenAI":
        options = {"base_url": None, "azure_endpoint": server.base_url.removesuffix("/v1"), "api_version": "1"}
    client = caller.client(server, kind, **options)
    with rlm_obs.instrument(exporters=[], settings=settings):
        await caller.all(await caller(client.chat.completions.create(**{**STREAM, **more})))
    return server.requests[-1].json.get("stream_options", "not sent")


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, "not sent"),
        (OPENAI, {"include_usage": True}),
        ({"hosts": {"127.0.0.1": "azure"}}, {"include_usage": True}),
        ({"hosts": {"127.0.0.1": "free"}}, "not sent"),
        ({"hosts": {"127.0.0.1": "groq"}}, "not sent"),
        ({"stream_usage": "always"}, {"include_usage": True}),
        ({**OPENAI, "stream_usage": "never"}, "not sent"),
    ],
)
async def test_only_known_hosts_are_asked(settings: Any, options: Any, caller: Any, server: FakeOpenAI) -> None:
    """An unknown host may answer 400 to `stream_options`: it is asked only where known, declared or forced."""
    assert await asked(caller, server, settings) == options


async def test_azure_is_asked(caller: Any, server: FakeOpenAI) -> None:
    """Azure's client is asked, whatever its address."""
    assert await asked(caller, server, {}, "AzureOpenAI") == {"include_usage": True}


@pytest.mark.parametrize("said", [True, False])
async def test_what_the_user_has_said_stands(said: bool, caller: Any, server: FakeOpenAI) -> None:
    """A user who says `include_usage` himself, either way, is never overruled, nor is anything kept from him."""
    mine = {"include_usage": said}
    assert await asked(caller, server, OPENAI, stream_options=mine) == {"include_usage": said}
    assert await asked(caller, server, OPENAI, extra_body={"stream_options": mine}) == {"include_usage": said}
    assert mine == {"include_usage": said}


@pytest.mark.parametrize("where", ["stream_options", "extra_body"])
async def test_the_users_other_stream_options_are_kept(where: str, caller: Any, server: FakeOpenAI) -> None:
    """Stream options that say nothing of usage go out as they were, with the usage asked for beside them."""
    mine = {"include_obfuscation": False}
    more: dict[str, Any] = (
        {"stream_options": mine} if where == "stream_options" else {"extra_body": {"stream_options": mine}}
    )
    assert await asked(caller, server, OPENAI, **more) == {"include_obfuscation": False, "include_usage": True}
    assert mine == {"include_obfuscation": False}


@pytest.mark.parametrize("settings", [OPENAI, {"stream_usage": "always"}])
async def test_responses_are_never_asked(settings: Any, caller: Any, server: FakeOpenAI) -> None:
    """The responses API answers 400 to `include_usage`, and tells its usage anyway."""
    client = caller.client(server)
    with rlm_obs.instrument(exporters=[], settings=settings) as made:
        await caller.all(await caller(client.responses.create(model="gpt-4o", input="Hello", stream=True)))
        await caller(client.chat.completions.create(model="gpt-4o", messages=HELLO))
        assert made.report().total_cost == 2 * Decimal("0.0035")
    assert all("stream_options" not in seen.json for seen in server.requests)


async def seen_by_the_user(caller: Any, client: Any, how: str) -> list[str]:
    """Read a streamed chat in one of the ways there are, and return the JSON of each event, as the user got it."""
    create = client.chat.completions
    if how == "stream":
        return [c.to_json(indent=None) for c in await caller.all(await caller(create.create(**STREAM)))]
    if how == "raw":
        raw = await caller(create.with_raw_response.create(**STREAM))
        return [c.to_json(indent=None) for c in await caller.all(await caller(raw.parse()))]
    async with caller.entered(create.with_streaming_response.create(**STREAM)) as response:
        if how == "lines":
            lines = await caller.all(response.iter_lines())
        elif how == "bytes":
            lines = b"".join(await caller.all(response.iter_bytes())).decode().splitlines()
        elif how == "read":
            lines = (await caller(response.read())).decode().splitlines()
        else:
            lines = "".join(await caller.all(response.iter_text())).splitlines()
    return [line.removeprefix("data: ") for line in lines if line and line != "data: [DONE]"]


@pytest.mark.parametrize("how", ["stream", "raw", "lines", "bytes", "text", "read"])
async def test_the_chunk_that_we_asked_for_is_ours(
    how: str, caller: Any, server: FakeOpenAI, collect: Collected
) -> None:
    """Whatever way a stream is read, a user who did not ask for usage gets the chunks of one who never heard of us."""
    client = caller.client(server)
    with rlm_obs.instrument(exporters=[], settings=OPENAI):
        got = [json.loads(event) for event in await seen_by_the_user(caller, client, how)]
    assert server.requests[-1].json["stream_options"] == {"include_usage": True}
    assert all(chunk["choices"] and not chunk.get("usage") for chunk in got)
    assert got[-1]["choices"][0]["finish_reason"] == "stop"
    (record,) = collect.records
    assert record.usage is not None
    assert (record.usage.input_tokens, record.usage.output_tokens) == (1000, 100)
    assert (record.status, record.cost_usd) == ("ok", Decimal("0.0035"))


async def test_the_chunk_that_the_user_asked_for_is_his(caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """Who asks for usage gets the chunk that brings it."""
    stream = await caller(
        caller.client(server).chat.completions.create(**STREAM, stream_options={"include_usage": True})
    )
    *_, last = await caller.all(stream)
    assert (last.choices, last.usage.prompt_tokens) == ([], 1000)


async def test_usage_in_a_chunk_with_choices_reaches_the_user(caller: Any, as_openai: Any, collect: Collected) -> None:
    """Some gateways put usage into the last chunk with choices: that chunk is the user's, and is read all the same."""
    with fake_openai("Hello you", usage=USAGE, stream_usage="always") as server:
        *_, last = await caller.all(await caller(caller.client(server).chat.completions.create(**STREAM)))
    assert last.choices
    assert last.usage.completion_tokens == 100
    (record,) = collect.records
    assert record.cost_usd == Decimal("0.0035")


async def test_an_empty_first_chunk_is_the_users(caller: Any, as_openai: Any) -> None:
    """A chunk without choices that brings no usage, as Azure sends one with its filter's results, reaches the user."""
    filtered = {"id": "", "choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}], "usage": None}
    said = {"id": "c", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}], "model": "gpt-4o"}
    with fake_openai(Answer(chunks=[filtered, said])) as server:
        chunks = await caller.all(await caller(caller.client(server).chat.completions.create(**STREAM)))
    assert [len(chunk.choices) for chunk in chunks] == [0, 1]
    assert chunks[0].prompt_filter_results == [{"prompt_index": 0}]


@pytest.mark.parametrize("how", ["stream", "raw", "lines"])
@pytest.mark.parametrize("report", [None, {"output": {"type": "error", "code": "a", "message": "b"}}])
async def test_what_a_moderated_stream_says_reaches_the_user(
    report: Any, how: str, caller: Any, as_openai: Any
) -> None:
    """A last chunk that speaks of moderation beside the usage is the user's, and its usage is read all the same."""
    said = {"id": "c", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}], "model": "gpt-4o"}
    last = {"id": "c", "choices": [], "model": "gpt-4o", "usage": {**USAGE, "total_tokens": 1100}, "moderation": report}
    with fake_openai(Answer(chunks=[said, last])) as server:
        *_, got = await seen_by_the_user(caller, caller.client(server), how)
    assert json.loads(got)["moderation"] == report
    assert as_openai.report().total_cost == Decimal("0.0035")


async def test_the_helper_gives_no_usage_that_was_not_asked_for(
    caller: Any, server: FakeOpenAI, as_openai: Any
) -> None:
    """The final completion of `.stream()` has the usage only if the user asked for it."""
    client = caller.client(server)
    for options, said in (({}, False), ({"stream_options": {"include_usage": True}}, True)):
        async with caller.entered(client.chat.completions.stream(model="gpt-4o", messages=HELLO, **options)) as stream:
            final = await caller(stream.get_final_completion())
        assert (final.usage is not None) is said
    assert as_openai.report().total_cost == 2 * Decimal("0.0035")


async def test_legacy_completions_are_asked_too(caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """The legacy endpoint takes `stream_options` as chat does, and its extra chunk is kept back as well."""
    stream = await caller(
        caller.client(server).completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello", stream=True)
    )
    assert all(chunk.choices for chunk in await caller.all(stream))
    assert as_openai.report().total_cost == Decimal("0.0017")


async def test_a_stream_without_usage_is_estimated(caller: Any, collect: Collected) -> None:
    """Where no usage comes, the cost is an estimate and says so: output by its chunks, input by its bytes."""
    words = "one two three four five six seven eight nine ten"
    with fake_openai(words, stream_usage=False) as server, CostTracker(1) as budget:
        await caller.all(await caller(caller.client(server).chat.completions.create(**STREAM)))
    (record,) = collect.records
    assert (record.status, record.usage) == ("ok", None)
    assert record.cost is not None
    assert {"output counted from the stream", "input estimated from its bytes"} <= set(record.cost.caveats)
    assert Decimal("0.0001") < record.cost.total < Decimal("0.0003")  # ten tokens out are 0.0001 dollars
    assert (budget.spent, budget.held) == (record.cost.total, 0)


async def test_comments_do_not_make_an_estimate_dear(caller: Any, collect: Collected) -> None:
    """Comment lines that keep a connection alive are no output, even where they come with the first chunk."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "gpt-4o", "service_tier": "default"}
    events = [{**chunk, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]} for _ in range(10)]
    lines = b": WAIT\n\n: WAIT\n\n" + b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    body = lines + b"data: [DONE]\n\n"
    with fake_openai(Answer(body=body, content_type="text/event-stream")) as server:
        chunks = await caller.all(await caller(caller.client(server).chat.completions.create(**STREAM)))
    assert len(chunks) == 10
    (record,) = collect.records
    assert record.cost is not None
    assert record.model == "gpt-4o"
    assert record.cost.output == Decimal("0.0001")
