"""Every shape of call passes the gate exactly once, and the record says what was asked, answered, used and paid."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from rlm_obs import Record
from rlm_obs.testing import Collected, FakeOpenAI

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": HELLO}
RESPONSE: dict[str, Any] = {"model": "gpt-4o", "input": "Hello there"}
LEGACY: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello there"}
EMBEDDING: dict[str, Any] = {"model": "text-embedding-3-small", "input": "Hello there"}


class Weather(BaseModel):
    city: str
    celsius: int


def sound() -> tuple[str, io.BytesIO]:
    return "said.wav", io.BytesIO(bytes(32_000))


class Shape(NamedTuple):
    """One way to call, and what its record says; a `usage` of None is not checked."""

    call: Callable[[Any, Any], Awaitable[Any]]
    endpoint: str = "/chat/completions"
    operation: str = "chat"
    asked: str = "gpt-4o"
    answered: str = "gpt-4o-2024-08-06"
    cost: str | None = "0.0035"
    usage: tuple[int | None, int | None] = (1000, 100)
    streamed: bool = False


async def read(caller: Any, stream: Any) -> list[Any]:
    return await caller.all(await caller(stream))


async def helped(caller: Any, manager: Any) -> Any:
    async with caller.entered(manager) as stream:
        return await caller.all(stream)


async def raw_parsed(caller: Any, raw: Any) -> Any:
    parsed = await caller((await caller(raw)).parse())
    if isinstance(parsed, caller.stream_type):
        await caller.all(parsed)
    return parsed


async def within(caller: Any, manager: Any, how: str) -> Any:
    async with caller.entered(manager) as response:
        got = getattr(response, how)()
        if hasattr(got, "__aiter__") or how.startswith("iter"):
            return await caller.all(got)
        got = await caller(got)
        return await caller.all(got) if isinstance(got, caller.stream_type) else got


chat = Shape(lambda c, _: c.chat.completions.create(**CHAT))
streamed = {"streamed": True}
response = {"endpoint": "/responses"}
legacy = {
    "endpoint": "/completions",
    "operation": "text_completion",
    "asked": "gpt-3.5-turbo-instruct",
    "answered": "gpt-3.5-turbo-instruct",
    "cost": "0.0017",  # 1.50 and 2 dollars per million
}
embedding = {
    "endpoint": "/embeddings",
    "operation": "embeddings",
    "asked": "text-embedding-3-small",
    "answered": "text-embedding-3-small",
    "cost": "0.00002",  # 0.02 dollars per million
    "usage": (1000, None),
}
image = {
    "endpoint": "/images/generations",
    "operation": "generate_content",
    "asked": "gpt-image-1",
    "answered": "gpt-image-1",
}
speech = {
    "endpoint": "/audio/speech",
    "operation": "generate_content",
    "asked": "tts-1",
    "answered": "tts-1",
    "cost": "0.000075",  # 15 dollars per million of the 5 characters that were asked for
    "usage": (None, None),
}
heard = {
    "endpoint": "/audio/transcriptions",
    "operation": "generate_content",
    "asked": "gpt-4o-transcribe",
    "answered": "gpt-4o-transcribe",
}
SHAPES: dict[str, Shape] = {
    "chat": chat,
    "chat streamed": Shape(lambda c, o: read(o, c.chat.completions.create(**CHAT, stream=True)), **streamed),
    "chat parse": Shape(lambda c, _: c.chat.completions.parse(**CHAT, response_format=Weather)),
    "chat helper": Shape(lambda c, o: helped(o, c.chat.completions.stream(**CHAT)), **streamed),
    "response": Shape(lambda c, _: c.responses.create(**RESPONSE), **response),
    "response streamed": Shape(
        lambda c, o: read(o, c.responses.create(**RESPONSE, stream=True)), **response, **streamed
    ),
    "response parse": Shape(lambda c, _: c.responses.parse(**RESPONSE, text_format=Weather), **response),
    "response helper": Shape(lambda c, o: helped(o, c.responses.stream(**RESPONSE)), **response, **streamed),
    "legacy": Shape(lambda c, _: c.completions.create(**LEGACY), **legacy),
    "legacy streamed": Shape(lambda c, o: read(o, c.completions.create(**LEGACY, stream=True)), **legacy, **streamed),
    "embeddings": Shape(lambda c, _: c.embeddings.create(**EMBEDDING), **embedding),
    # 5 dollars per million in, 40 for the 1056 tokens of the image that the server draws
    "image": Shape(lambda c, _: c.images.generate(model="gpt-image-1", prompt="A cat"), **image, cost="0.04724"),
    "speech": Shape(lambda c, _: c.audio.speech.create(model="tts-1", input="Hello", voice="alloy"), **speech),
    # 6 dollars per million for the 10 tokens of audio, 2.50 for the 990 others, 10 out
    "transcription": Shape(
        lambda c, _: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound()), **heard, cost="0.003535"
    ),
    "chat raw": Shape(lambda c, o: raw_parsed(o, c.chat.completions.with_raw_response.create(**CHAT))),
    "chat raw, never parsed": Shape(lambda c, _: c.chat.completions.with_raw_response.create(**CHAT)),
    "chat raw streamed": Shape(
        lambda c, o: raw_parsed(o, c.chat.completions.with_raw_response.create(**CHAT, stream=True)), **streamed
    ),
    "response raw": Shape(lambda c, o: raw_parsed(o, c.responses.with_raw_response.create(**RESPONSE)), **response),
    "response raw, never parsed": Shape(lambda c, _: c.responses.with_raw_response.create(**RESPONSE), **response),
    "legacy raw": Shape(lambda c, o: raw_parsed(o, c.completions.with_raw_response.create(**LEGACY)), **legacy),
    "embeddings raw": Shape(
        lambda c, o: raw_parsed(o, c.embeddings.with_raw_response.create(**EMBEDDING)), **embedding
    ),
    "embeddings raw, never parsed": Shape(lambda c, _: c.embeddings.with_raw_response.create(**EMBEDDING), **embedding),
    "speech raw": Shape(
        lambda c, _: c.audio.speech.with_raw_response.create(model="tts-1", input="Hello", voice="alloy"), **speech
    ),
    "chat body, json": Shape(lambda c, o: within(o, c.chat.completions.with_streaming_response.create(**CHAT), "json")),
    "chat body, lines": Shape(
        lambda c, o: within(o, c.chat.completions.with_streaming_response.create(**CHAT), "iter_lines")
    ),
    "chat body, bytes": Shape(
        lambda c, o: within(o, c.chat.completions.with_streaming_response.create(**CHAT), "iter_bytes")
    ),
    "chat body, parse": Shape(
        lambda c, o: within(o, c.chat.completions.with_streaming_response.create(**CHAT), "parse")
    ),
    "chat stream, lines": Shape(
        lambda c, o: within(o, c.chat.completions.with_streaming_response.create(**CHAT, stream=True), "iter_lines"),
        **streamed,
    ),
    "chat stream, text": Shape(
        lambda c, o: within(o, c.chat.completions.with_streaming_response.create(**CHAT, stream=True), "iter_text"),
        **streamed,
    ),
    "chat stream, read": Shape(
        lambda c, o: within(o, c.chat.completions.with_streaming_response.create(**CHAT, stream=True), "read"),
        **streamed,
    ),
    "chat stream, parse": Shape(
        lambda c, o: within(o, c.chat.completions.with_streaming_response.create(**CHAT, stream=True), "parse"),
        **streamed,
    ),
    "speech body": Shape(
        lambda c, o: within(
            o,
            c.audio.speech.with_streaming_response.create(model="tts-1", input="Hello", voice="alloy"),
            "iter_bytes",
        ),
        **speech,
    ),
    "post": Shape(lambda c, _: c.post("/chat/completions", cast_to=ChatCompletion, body=CHAT)),
    "post, as object": Shape(lambda c, _: c.post("/chat/completions", cast_to=object, body=CHAT)),
    "post, as dict": Shape(lambda c, _: c.post("/chat/completions", cast_to=dict[str, Any], body=CHAT)),
    "post, as text": Shape(
        lambda c, _: c.post("/chat/completions", cast_to=str, body=CHAT),
        answered="gpt-4o",
        cost=None,
        usage=(None, None),
    ),
}


def check(record: Record, shape: Shape) -> None:
    assert (record.endpoint, record.operation, record.provider) == (shape.endpoint, shape.operation, "openai")
    assert (record.requested_model, record.model) == (shape.asked, shape.answered)
    assert (record.status, record.error, record.streamed) == ("ok", None, shape.streamed)
    used = record.usage
    assert (used and used.input_tokens, used and used.output_tokens) == shape.usage
    assert record.cost_usd == (None if shape.cost is None else Decimal(shape.cost))
    assert record.cost_usd is None or type(record.cost_usd) is Decimal
    assert record.attributes["http.response.status_code"] == 200
    assert record.duration_s > 0


@pytest.mark.parametrize("name", SHAPES)
async def test_each_shape_is_one_record(
    name: str, caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """Whatever the shape of a call, it is one record and one span with the right facts, and one request."""
    shape = SHAPES[name]
    await caller(shape.call(caller.client(server), caller))
    assert len(server.requests) == 1
    (record,) = collect.records
    (span,) = collect.spans
    check(record, shape)
    assert span.context is not None
    assert record.span_id == f"{span.context.span_id:016x}"
    if "post, as" not in name:  # a plain object has no room for it
        assert record.request_id == f"req_{1:032x}"
