"""Records and spans carry what the conventions name, and what only an answer's head says: both colours, every way of calling."""

from __future__ import annotations

from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs.testing import Answer, Collected, fake_openai

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
LIMITS = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6ms",
    "retry-after-ms": "1",
}
AGAIN = Answer(status=429, headers=LIMITS)


def said(collect: Collected) -> list[dict[str, Any]]:
    return [dict(span.attributes or {}) for span in collect.spans]


async def test_what_was_asked(caller: Any, collect: Collected) -> None:
    """Parameters are on the span as they were sent, under the conventions' names; what was not sent is absent."""
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    with fake_openai() as server, rlm_obs.instrument(exporters=[]):
        client = caller.client(server)
        sent = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "frequency_penalty": 0.1, "presence_penalty": 0.2, "n": 2}
        more: Any = {"stop": ["END", "STOP"], "service_tier": "flex", "response_format": schema}
        await caller(client.chat.completions.create(**CHAT, max_completion_tokens=9, **sent, **more))
        await caller(client.chat.completions.create(**CHAT, stop="END", response_format={"type": "text"}))
        text: Any = {"format": {"type": "json_object"}}
        await caller(
            client.responses.create(model="a", input="b", text=text, conversation="conv_1", max_output_tokens=5)
        )
        embedding: Any = {"model": "text-embedding-3-small", "input": "a"}
        await caller(client.embeddings.create(**embedding, dimensions=64, encoding_format="float"))
        await caller(client.images.generate(model="gpt-image-1", prompt="a"))
        await caller(client.audio.speech.create(model="tts-1", input="a", voice="alloy"))
    chat, plain, response, embedded, image, speech = said(collect)
    host, port = server.base_url.split("/")[2].split(":")
    for one in (chat, plain, response, embedded, image, speech):
        assert (one["server.address"], one["server.port"]) == (host, int(port))
    asked = {
        key: value
        for key, value in chat.items()
        if key.startswith(("gen_ai.request.", "openai.request.", "openai.api"))
    }
    assert asked == {
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 7,
        "gen_ai.request.frequency_penalty": 0.1,
        "gen_ai.request.presence_penalty": 0.2,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stop_sequences": ("END", "STOP"),
        "openai.request.service_tier": "flex",
        "openai.api.type": "chat_completions",
    }
    assert plain["gen_ai.request.stop_sequences"] == ("END",)
    assert (response["openai.api.type"], response["gen_ai.conversation.id"]) == ("responses", "conv_1")
    assert embedded["gen_ai.embeddings.dimension.count"] == 64
    assert embedded["gen_ai.request.encoding_formats"] == ("float",)
    kinds = [one.get("gen_ai.output.type") for one in (chat, plain, response, embedded, image, speech)]
    assert kinds == ["json", "text", "json", None, "image", "speech"]
    assert "openai.api.type" not in embedded


async def test_a_conversation_of_the_users_own(caller: Any, collect: Collected) -> None:
    """A conversation that the user has named wins over the one in the request."""
    with (
        fake_openai() as server,
        rlm_obs.instrument(exporters=[]),
        rlm_obs.context(**{"gen_ai.conversation.id": "mine"}),
    ):
        await caller(caller.client(server).responses.create(model="a", input="b", conversation={"id": "conv_1"}))
    assert said(collect)[0]["gen_ai.conversation.id"] == "mine"


async def ways(caller: Any, client: Any) -> None:
    """Make one call in each way in which an answer reaches the user."""
    chat = client.chat.completions
    await caller(chat.create(**CHAT))
    await caller.all(await caller(chat.create(**CHAT, stream=True)))
    await caller(chat.with_raw_response.create(**CHAT))
    async with caller.entered(chat.with_streaming_response.create(**CHAT)) as response:
        await caller(response.read())


async def test_retries_and_ids(caller: Any, collect: Collected) -> None:
    """However an answer is read, it is known how often the client has tried again, and the id of the last request."""
    with fake_openai(script=[AGAIN, AGAIN, "b", *["c"] * 3]) as server, rlm_obs.instrument(exporters=[]):
        await ways(caller, caller.client(server, max_retries=3))
    assert [record.attributes["rlm_obs.retries"] for record in collect.records] == [2, 0, 0, 0]
    assert [record.attributes["http.response.status_code"] for record in collect.records] == [200] * 4
    assert len({record.request_id for record in collect.records}) == 4
    assert all(record.request_id for record in collect.records)


async def test_retries_of_a_failure(caller: Any, collect: Collected) -> None:
    """A call that fails in the end says how often it was tried, by its last request, answered or not."""
    with fake_openai(AGAIN) as server, rlm_obs.instrument(exporters=[]):
        with pytest.raises(openai.RateLimitError):
            await caller(caller.client(server, max_retries=2).chat.completions.create(**CHAT))
        client = caller.client("http://127.0.0.1:9", max_retries=1)
        client._calculate_retry_timeout = lambda *_: 0.001
        with pytest.raises(openai.APIConnectionError):
            await caller(client.chat.completions.create(**CHAT))
    limited, lost = collect.records
    assert (limited.attributes["rlm_obs.retries"], limited.attributes["http.response.status_code"]) == (2, 429)
    assert limited.request_id
    assert lost.attributes["rlm_obs.retries"] == 1
    assert "http.response.status_code" not in lost.attributes


@pytest.mark.parametrize("asked", [True, False])
async def test_rate_limits(asked: bool, caller: Any, collect: Collected) -> None:
    """The headers of rate limits are attributes where the setting asks for them: of answers read in any way, and of errors."""
    ok = Answer("b", headers=LIMITS)
    with (
        fake_openai(script=[ok] * 4 + [AGAIN]) as server,
        rlm_obs.instrument(exporters=[], settings={"rate_limits": asked}),
    ):
        client = caller.client(server)
        await ways(caller, client)
        with pytest.raises(openai.RateLimitError):
            await caller(client.chat.completions.create(**CHAT))
    known = {
        "rlm_obs.rate_limit.limit_requests": 5000,
        "rlm_obs.rate_limit.remaining_tokens": 149984,
        "rlm_obs.rate_limit.reset_tokens": "6ms",
    }
    for attributes in (*said(collect), *(record.attributes for record in collect.records)):
        found = {name: value for name, value in attributes.items() if "rate_limit" in name}
        assert found == (known if asked else {})


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_tool_calls_are_counted(count: int, streamed: bool, caller: Any, collect: Collected) -> None:
    """How many tools an answer wants called is on the record, of chats and responses, plain and streamed."""
    tools = [{"name": f"tool_{n}", "arguments": '{"name": "x"}'} for n in range(count)]
    with fake_openai(Answer(tool_calls=tools)) as server, rlm_obs.instrument(exporters=[]):
        client = caller.client(server)
        await caller.all(await caller(client.chat.completions.create(**CHAT, stream=streamed)))
        await caller.all(await caller(client.responses.create(model="a", input="b", stream=streamed)))
    found = [record.attributes.get("rlm_obs.response.tool_calls") for record in collect.records]
    assert found == [count or None] * 2


async def test_how_fast_it_came(caller: Any, collect: Collected) -> None:
    """A stream has its chunks, its first one's time, and tokens per second from there on; a plain call over its whole time."""
    with fake_openai(Answer(chunks=["a", "b", "c"], chunk_delay_s=0.02)) as server, rlm_obs.instrument(exporters=[]):
        client = caller.client(server)
        await caller(client.chat.completions.create(**CHAT))
        await caller.all(await caller(client.chat.completions.create(**CHAT, stream=True)))
    plain, streamed = collect.records
    assert plain.usage is not None
    assert plain.tokens_per_second == (plain.usage.output_tokens or 0) / plain.duration_s
    assert plain.time_to_first_chunk_s is None
    assert "rlm_obs.response.chunks" not in plain.attributes
    assert streamed.time_to_first_chunk_s is not None
    assert streamed.attributes["rlm_obs.response.chunks"] >= 3
    assert streamed.usage is None or streamed.tokens_per_second is not None
    assert [s.get("rlm_obs.response.tokens_per_second") for s in said(collect)] == [
        plain.tokens_per_second,
        streamed.tokens_per_second,
    ]


async def test_the_client_is_left_as_it_was(caller: Any) -> None:
    """Both methods that were patched are what they were; a client without the second is patched at the first alone."""
    cls = openai.AsyncOpenAI if caller.awaits else openai.OpenAI
    before = {name: cls.__dict__.get(name) for name in ("request", "_process_response")}
    with rlm_obs.instrument(exporters=[]):
        assert cls.__dict__["request"] is not before["request"]
    assert {name: cls.__dict__.get(name) for name in before} == before


async def test_parameters_are_recorded_as_they_were_sent(caller: Any, collect: Collected) -> None:
    """Requests that are equal but for the kind of a number are told apart: 1 stays 1, and 1.0 stays 1.0."""
    given = [1, 1.0, True, 1, 0.0, False]
    with fake_openai("hi") as server:
        client = caller.client(server)
        for value in given:
            await caller(client.chat.completions.create(**CHAT, temperature=value))
    said = [(span.attributes or {})["gen_ai.request.temperature"] for span in collect.spans]
    assert [(type(one), one) for one in said] == [(type(one), one) for one in given]
