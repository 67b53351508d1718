"""Each mechanism by which an instrumentation of this client was seen to break a program: none of them happens here."""

from __future__ import annotations

import ast
import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import rlm_obs
from rlm_obs._instrument.heard import leaving
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": HELLO}
RESPONSE: dict[str, Any] = {"model": "gpt-4o", "input": "Hello there"}
T = TypeVar("T")


async def test_one_every_way_in_is_seen(caller: Any, server: FakeOpenAI, collect: Collected) -> None:
    """Mechanism one, patches per method miss calls: a kept `create`, `post` and `responses` all pass the one gate."""
    client = caller.client(server)
    rlm_obs.uninstrument()
    create = client.chat.completions.create
    with rlm_obs.instrument(exporters=[]):
        await caller(create(**CHAT))
        await caller(client.post("/embeddings", cast_to=object, body={"model": "text-embedding-3-small", "input": "x"}))
        await caller(client.responses.create(**RESPONSE))
    assert [r.endpoint for r in collect.records] == ["/chat/completions", "/embeddings", "/responses"]


async def test_two_a_stream_has_one_colour(caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """Mechanism two, a proxy that can be iterated both ways: ours has the colour of its client, and that alone."""
    stream = await caller(caller.client(server).chat.completions.create(**CHAT, stream=True))
    assert isinstance(stream, AsyncIterator) is caller.awaits
    assert isinstance(stream, Iterator) is not caller.awaits
    await caller.all(stream)


async def test_three_a_stream_keeps_all_that_it_is(caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """Mechanism three, a wrapper in the stream's place: type, response and closing are the client's own."""
    client = caller.client(server)
    for create, given in (
        (client.chat.completions.create, CHAT),
        (client.responses.create, RESPONSE),
        (client.completions.create, {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello"}),
    ):
        stream = await caller(create(**given, stream=True))
        assert isinstance(stream, caller.stream_type)
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.request.url.path.startswith("/v1/")
        async with caller.entered(stream):
            await caller.first(stream)
        assert stream.response.is_closed
        await caller(stream.close())
    raw = await caller(client.chat.completions.with_raw_response.create(**CHAT, stream=True))
    assert (raw.is_closed, raw.http_request.method) == (False, "POST")
    await caller.all(raw.parse())
    assert raw.is_closed


class SyncMine(openai.Stream[T], Generic[T]):
    """A stream of the user's own, of any chunks."""


class AsyncMine(openai.AsyncStream[T], Generic[T]):
    """A stream of the user's own, of any chunks."""


class SyncOfChunks(openai.Stream[ChatCompletionChunk]):
    """A stream of the user's own, of these chunks."""


class AsyncOfChunks(openai.AsyncStream[ChatCompletionChunk]):
    """A stream of the user's own, of these chunks."""


@pytest.mark.parametrize("own", ["", "Mine", "OfChunks"])
async def test_four_the_users_own_stream_class(own: str, caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """Mechanism four, `stream_cls` is an alias such as `Stream[X]`: the user's own class works, its chunks too."""
    base: Any = globals()["Async" * caller.awaits + "Sync" * (not caller.awaits) + own] if own else caller.stream_type
    stream_cls = base if own == "OfChunks" else base[ChatCompletionChunk]
    stream = await caller(
        caller.client(server).post(
            "/chat/completions",
            cast_to=ChatCompletion,
            body={**CHAT, "stream": True},
            stream=True,
            stream_cls=stream_cls,
        )
    )
    assert isinstance(stream, base)
    assert {type(chunk) for chunk in await caller.all(stream)} == {ChatCompletionChunk}
    assert leaving(stream_cls) is leaving(stream_cls)
    assert as_openai.report().calls == 1


async def test_five_closed_before_the_first_read(
    caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """Mechanism five, a `finally` in a generator that was never started: the end does not hang on the generator."""
    client = caller.client(server)
    stream = await caller(client.chat.completions.create(**CHAT, stream=True))
    await caller(stream.close())
    assert as_openai.report().calls == 1
    del stream
    async with caller.entered(client.chat.completions.with_streaming_response.create(**CHAT, stream=True)):
        pass
    assert as_openai.report().calls == 2
    raw = await caller(client.chat.completions.with_raw_response.create(**CHAT, stream=True))
    await caller(raw.http_response.aclose() if caller.awaits else raw.http_response.close())
    assert [r.status for r in collect.records] == ["aborted"] * 3


async def test_six_raw_bytes_pass_as_they_come(caller: Any, as_openai: Any, collect: Collected) -> None:
    """Mechanism six, streams read as bytes never pass the `Stream`: each piece comes in its time, and usage is read."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    with fake_openai(Answer("one two three", chunk_delay_s=0.02), usage=usage) as server:
        manager = caller.client(server).chat.completions.with_streaming_response.create(**CHAT, stream=True)
        async with caller.entered(manager) as response:
            assert not response.is_closed
            pieces, billed = [], []
            source = response.iter_bytes()
            if caller.awaits:
                async for piece in source:
                    pieces.append(piece)
                    billed.append(len(server.billed))
            else:
                for piece in source:
                    pieces.append(piece)
                    billed.append(len(server.billed))
    assert len(pieces) >= 5
    assert billed[0] == 0  # the first piece was handed over while the server was still at work
    (record,) = collect.records
    assert record.usage is not None
    assert (record.status, record.usage.output_tokens) == ("ok", 100)


async def test_seven_nothing_is_read_before_the_user_reads(caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """Mechanism seven, early reading: the response is open and unread when the user gets it, and is read once."""
    client = caller.client(server)
    async with caller.entered(client.chat.completions.with_streaming_response.create(**CHAT)) as response:
        assert not response.is_closed
        http = response.http_response
        assert (http.is_stream_consumed, http.num_bytes_downloaded) == (False, 0)
        parsed = await caller(response.parse())
        assert isinstance(parsed, ChatCompletion)
    stream = await caller(client.chat.completions.create(**CHAT, stream=True))
    await caller.all(stream)
    with pytest.raises(Exception, match=r"already been streamed|already streamed|content has been closed") as caught:
        await caller(stream.response.aread() if caller.awaits else stream.response.read())
    assert type(caught.value).__name__ in ("StreamConsumed", "StreamClosed", "ResponseNotRead")


async def test_eight_the_usage_is_taken_when_it_passes(
    caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """Mechanism eight, a reader that stops at `response.completed`: that event holds the usage, and is the end."""
    manager = caller.client(server).responses.with_streaming_response.create(**RESPONSE, stream=True)
    async with caller.entered(manager) as response:
        stream = await caller(response.parse())
        kind = ""
        while kind != "response.completed":
            kind = (await caller(stream.__anext__() if caller.awaits else next(stream))).type
        assert as_openai.report().calls == 1
    (record,) = collect.records
    assert record.usage is not None
    assert (record.status, record.usage.input_tokens) == ("ok", 1000)


async def test_nine_nothing_is_raised_after_the_paid_request(
    caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """Mechanism nine, raising over an answer of an unexpected shape: raw embeddings, unknown bodies, thread runs."""
    client = caller.client(server)
    raw = await caller(client.embeddings.with_raw_response.create(model="text-embedding-3-small", input="Hello"))
    assert (await caller(raw.parse())).data
    for body in (b"[]", b'"text"', b"null", b"{}", b'{"usage": 7, "choices": 3, "model": []}', b'{"choices": [null]}'):
        with fake_openai(Answer(body=body, content_type="application/json")) as odd:
            given = {"cast_to": object, "body": CHAT}
            assert await caller(caller.client(odd).post("/chat/completions", **given)) == json.loads(body)
    event = b'event: thread.run.created\ndata: {"id": "run_1"}\n\ndata: [DONE]\n\n'
    with fake_openai(Answer(body=event, content_type="text/event-stream")) as odd, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the client's own word on its old endpoint
        runs = caller.client(odd).beta.threads.runs
        assert len(await caller.all(await caller(runs.create(thread_id="t", assistant_id="a", stream=True)))) == 1
    assert len(collect.records) == 8
    assert all(record.status == "ok" for record in collect.records)


async def test_nine_odd_events_pass(caller: Any, as_openai: Any, collect: Collected) -> None:
    """Mechanism nine in a stream: events of any shape reach whoever reads the bytes, and cost nothing but facts."""
    odd = [b"null", b"[]", b"7", b'"usage":{', b'{"usage":{}}', b'{"choices":[null],"usage":{"a":1}}', b"not json"]
    body = b"".join(b"data: %b\n\n" % one for one in odd)
    with fake_openai(Answer(body=body, content_type="text/event-stream")) as server:
        manager = caller.client(server).chat.completions.with_streaming_response.create(**CHAT, stream=True)
        async with caller.entered(manager) as response:
            assert await caller(response.read()) == body
    (record,) = collect.records
    assert record.status == "ok"


async def test_ten_arguments_that_can_be_read_once(caller: Any, server: FakeOpenAI) -> None:
    """Mechanism ten, using up an iterable or adding keys to the user's dicts: the request is the bare client's."""
    client = caller.client(server)
    item = {"role": "user", "content": "Hello there"}
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": False}

    async def called() -> bytes:
        await caller(client.responses.create(model="gpt-4o", input=[item], tools=iter([tool])))
        return server.requests[-1].body

    bare = await called()
    with rlm_obs.instrument(exporters=[], budget_usd=1, capture_content=True):
        await called()
        assert server.requests[-1].json["tools"] == json.loads(bare)["tools"] == [tool]
    assert item == {"role": "user", "content": "Hello there"}
    assert tool.keys() == {"type", "name", "parameters", "strict"}


async def test_eleven_no_warnings(caller: Any, server: FakeOpenAI, as_openai: Any, recwarn: Any) -> None:
    """Mechanism eleven, a warning inside the call kills it under `-W error`: there is none."""
    warnings.simplefilter("always")
    client = caller.client(server)
    await caller(client.chat.completions.create(**CHAT, service_tier="flex"))
    await caller(client.chat.completions.create(model="a-model-of-mine", messages=HELLO))
    await caller.all(await caller(client.chat.completions.create(**CHAT, stream=True)))
    gc.collect()
    assert not [str(w.message) for w in recwarn.list]


USAGES: dict[str, tuple[Any, tuple[int | None, int | None] | None]] = {
    "zero": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (0, 0)),
    "no details": ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}, (9, 2)),
    "fields of its own": ({"prompt_tokens": 9, "completion_tokens": 2, "queue_time": 0.1, "x": {"y": []}}, (9, 2)),
    "other types": ({"prompt_tokens": "9", "completion_tokens": None, "prompt_tokens_details": 3}, None),
    "null": (None, None),
}


@pytest.mark.parametrize("name", USAGES)
@pytest.mark.parametrize("with_choices", [False, True])
async def test_twelve_usage_as_servers_really_send_it(
    name: str, with_choices: bool, caller: Any, as_openai: Any, collect: Collected
) -> None:
    """Mechanism twelve, servers that send usage in shapes of their own: it is read where it can be."""
    usage, expected = USAGES[name]
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    said: dict[str, Any] = {**head, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    chunks = [{**said, "usage": usage}] if with_choices else [said, {**head, "choices": [], "usage": usage}]
    with fake_openai(Answer(chunks=chunks)) as server:
        got = await caller.all(await caller(caller.client(server).chat.completions.create(**CHAT, stream=True)))
    assert len([chunk for chunk in got if chunk.choices]) == 1
    (record,) = collect.records
    used = record.usage
    assert (None if used is None else (used.input_tokens, used.output_tokens)) == expected
    assert record.status == "ok"


async def test_thirteen_a_websocket_manager_is_untouched(caller: Any, server: FakeOpenAI, as_openai: Any) -> None:
    """Mechanism thirteen, wrapped WebSocket managers: realtime is not ours, its manager is what the client made."""
    manager = caller.client(server).realtime.connect(model="gpt-realtime")
    assert type(manager).__module__.startswith("openai.")
    assert callable(manager._prepare_url)
    assert hasattr(manager, "__aenter__" if caller.awaits else "__enter__")


def test_fourteen_no_http_library_is_imported_by_name() -> None:
    """Mechanism fourteen, openai 2 is built on httpx and openai 3 on httpx2: the package imports neither."""
    found = set()
    for path in Path(rlm_obs.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    assert not found & {"httpx", "httpx2", "httpcore"}


async def test_a_break_in_an_awaited_loop_logs_nothing_of_ours(server: FakeOpenAI, as_openai: Any, caplog: Any) -> None:
    """An awaited stream left in a task that ends logs nothing that it would not log without us."""
    async with openai.AsyncOpenAI(api_key="test", base_url=server.base_url) as client:

        async def leave() -> None:
            async for _ in await client.chat.completions.create(**CHAT, stream=True):
                break

        await asyncio.gather(*(leave() for _ in range(5)))
        for _ in range(5):
            gc.collect()
            await asyncio.sleep(0)
        rlm_obs.flush()
    assert as_openai.report().calls == 5
    assert not [r for r in caplog.records if "rlm_obs" in r.getMessage() or "rlm_obs" in r.name]
