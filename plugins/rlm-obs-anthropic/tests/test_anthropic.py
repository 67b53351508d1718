"""Calls through the real client, both colours, to a server on loopback: what is recorded, what it costs, what is stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import pytest
import rlm_obs_anthropic
from conftest import USAGE, Server, events, message

import rlm_obs
from rlm_obs.testing import Collected, InstrumentorContract

ASK: dict[str, Any] = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 500,
    "messages": [{"role": "user", "content": "Say hello"}],
}
M = Decimal(1_000_000)
#: claude-sonnet-4-6: 3 dollars a million in, 15 out, 0.30 read from the cache, 3.75 and 6 written to it.
FULL = (100 * 3 + 20 * 15 + 4000 * Decimal("0.3") + 1000 * Decimal("3.75") + 2000 * 6) / M
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "it"}}
THINKING = {"type": "thinking", "thinking": "Let me see", "signature": "s"}


def plainly(server: Server, work: Callable[[Any], Any], **options: Any) -> Any:
    with anthropic.Anthropic(api_key="k", base_url=server.url, **{"max_retries": 0, **options}) as client:
        found = work(client)
        return list(found) if isinstance(found, anthropic.Stream) else found


def awaited(server: Server, work: Callable[[Any], Any], **options: Any) -> Any:
    async def run() -> Any:
        async with anthropic.AsyncAnthropic(
            api_key="k", base_url=server.url, **{"max_retries": 0, **options}
        ) as client:
            found = await work(client)
            return [item async for item in found] if isinstance(found, anthropic.AsyncStream) else found

    return asyncio.run(run())


@pytest.fixture(params=[plainly, awaited])
def call(request: pytest.FixtureRequest) -> Any:
    """Make a call with the blocking client, then with the awaited one."""
    return request.param


@pytest.fixture(autouse=True)
def on() -> Iterator[rlm_obs.Instrumentation]:
    """Everything instrumented; the server is nobody's known host, and is priced as Anthropic's."""
    with rlm_obs.instrument(exporters=[]) as made:
        yield made
    assert rlm_obs.stats()["failures"] == {}


@pytest.mark.parametrize("stream", [False, True])
def test_a_message(stream: bool, call: Any, server: Server, collect: Collected) -> None:
    """A message is recorded with exact tokens and cost, the cache in both classes of time; the same where it is streamed."""
    more: Any = {"stop_sequences": ["X"], "extra_body": {"temperature": 0.5}}
    call(server, lambda client: client.messages.create(**ASK, stream=stream, **more))
    (record,), (span,) = collect.records, collect.spans
    assert record.usage == rlm_obs.Usage(
        input_tokens=7100,
        cached_input_tokens=4000,
        cache_write_tokens=3000,
        cache_write_long_tokens=2000,
        output_tokens=20,
    )
    assert record.cost_usd == FULL
    assert (record.provider, record.operation, record.endpoint) == ("anthropic", "chat", "/v1/messages")
    assert (record.model, record.requested_model) == ("claude-sonnet-4-6", "claude-sonnet-4-6")
    assert (record.status, record.streamed, record.request_id) == ("ok", stream, "req_1")
    assert (record.time_to_first_chunk_s is not None) is stream
    said = span.attributes or {}
    assert span.name == "chat claude-sonnet-4-6"
    assert said["gen_ai.response.finish_reasons"] == ("end_turn",)
    assert said["gen_ai.response.id"] == "msg_1"
    assert said["gen_ai.request.temperature"] == 0.5
    assert said["gen_ai.request.max_tokens"] == 500
    assert said["gen_ai.request.stop_sequences"] == ("X",)
    assert said["rlm_obs.retries"] == 0
    assert "Say hello" not in span.to_json()
    assert "Hello" not in span.to_json()


def test_the_helper_for_streams(server: Server, collect: Collected) -> None:
    """`messages.stream` and its text stream see what they always see, and are one call."""
    with anthropic.Anthropic(api_key="k", base_url=server.url) as client, client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "Hello there"
        assert stream.get_final_message().usage.output_tokens == 20
    (record,) = collect.records
    assert (record.status, record.cost_usd) == ("ok", FULL)


def test_a_stream_that_is_left(server: Server, collect: Collected) -> None:
    """A stream that is left has its input from the first event, and is one call that was aborted."""
    server.answers["/v1/messages"] = message({"type": "text", "text": "long " * 100_000})
    with anthropic.Anthropic(api_key="k", base_url=server.url) as client:
        stream = client.messages.create(**ASK, stream=True)
        for _ in stream:
            break
        stream.close()
    (record,) = collect.records
    assert record.status == "aborted"
    assert record.usage is not None
    assert record.usage.input_tokens == 7100


def test_raw_answers(server: Server, collect: Collected) -> None:
    """Raw and streaming responses are read by the user as ever, and recorded in full."""
    with anthropic.Anthropic(api_key="k", base_url=server.url) as client:
        assert client.messages.with_raw_response.create(**ASK).parse().content[0].text == "Hello there"  # type: ignore[union-attr]
        with client.messages.with_streaming_response.create(**ASK, stream=True) as response:
            assert b"".join(response.iter_bytes()) == events(message())
    assert [record.cost_usd for record in collect.records] == [FULL, FULL]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_content(stream: bool, call: Any, server: Server, collect: Collected) -> None:
    """Where content is captured, thinking, text and tools are there, joined; tools are counted in any case."""
    server.answers["/v1/messages"] = message(THINKING, {"type": "text", "text": "One moment"}, TOOL, reason="tool_use")
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    result = {"type": "tool_result", "tool_use_id": "t0", "content": [{"type": "text", "text": "there"}]}
    asked: Any = {**ASK, "messages": [{"role": "user", "content": [picture, result]}], "system": "Be kind"}
    tools: Any = [{"name": "look", "description": "Looks", "input_schema": {"type": "object"}}]
    call(server, lambda client: client.messages.create(**asked, tools=tools, stream=stream))
    with rlm_obs.instrument(exporters=[], capture_content=True):
        call(server, lambda client: client.messages.create(**asked, tools=tools, stream=stream))
    without, span = collect.spans
    assert [record.attributes["rlm_obs.response.tool_calls"] for record in collect.records] == [1, 1]
    assert not [name for name in without.attributes or {} if "messages" in name]
    said = {name: json.loads(str(value)) for name, value in (span.attributes or {}).items() if name in ATTRIBUTES}
    assert said["gen_ai.system_instructions"] == [{"type": "text", "content": "Be kind"}]
    assert said["gen_ai.tool.definitions"] == [{"type": "function", **tools[0]}]
    blob, response = said["gen_ai.input.messages"][0]["parts"]
    assert (blob["type"], blob["mime_type"], blob["size"]) == ("blob", "image/png", 3)
    assert response == {
        "type": "tool_call_response",
        "id": "t0",
        "response": [{"type": "text", "content": "there"}],
    }
    (answer,) = said["gen_ai.output.messages"]
    assert answer["finish_reason"] == "tool_use"
    thinking, text, tool = answer["parts"]
    assert (thinking, text["content"]) == ({"type": "reasoning", "content": "Let me see"}, "One moment")
    assert (tool["name"], tool["arguments"]) == ("look", '{"at": "it"}' if stream else {"at": "it"})


ATTRIBUTES = {
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
}


def test_a_budget_stops_it(call: Any, server: Server) -> None:
    """A call that could pass the budget is refused, and nothing is sent; one that fits is let through and charged."""
    with rlm_obs.CostTracker("0.0075") as budget:  # 500 tokens out are 0.0075 by themselves
        with pytest.raises(rlm_obs.BudgetExceeded):
            call(server, lambda client: client.messages.create(**ASK))
        assert server.asked == []
    with rlm_obs.CostTracker("0.05") as budget:
        call(server, lambda client: client.messages.create(**ASK))
    assert budget.spent == FULL


@pytest.mark.parametrize(("ttl", "fits"), [(None, True), ("5m", True), ("1h", False)])
def test_what_is_held(ttl: str | None, fits: bool, server: Server) -> None:
    """Ten thousand bytes are held at the price of a write to the cache, 3.75 dollars a million, for an hour 6."""
    mark = {} if ttl is None else {"cache_control": {"type": "ephemeral", "ttl": ttl}}
    asked: Any = {**ASK, "messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 10_000, **mark}]}]}
    with rlm_obs.CostTracker("0.055"):
        if fits:
            plainly(server, lambda client: client.messages.create(**asked))
        else:
            with pytest.raises(rlm_obs.BudgetExceeded):
                plainly(server, lambda client: client.messages.create(**asked))
    assert len(server.asked) == fits


def test_what_is_only_named(server: Server) -> None:
    """A document that is only named may be a million tokens, and that much is held."""
    named: Any = {"type": "document", "source": {"type": "url", "url": "https://a.b/c.pdf"}}
    asked: Any = {**ASK, "messages": [{"role": "user", "content": [named]}]}
    with rlm_obs.CostTracker("2.99"), pytest.raises(rlm_obs.BudgetExceeded):
        plainly(server, lambda client: client.messages.create(**asked))
    assert server.asked == []


def test_errors_and_retries(call: Any, server: Server, collect: Collected) -> None:
    """A failed call has its status, its id and its retries; it costs nothing, and its message is nowhere."""
    server.statuses = [529, 529, 529]
    with rlm_obs.instrument(exporters=[], settings={"rate_limits": True}), pytest.raises(anthropic.APIStatusError):
        call(server, lambda client: client.messages.create(**ASK), max_retries=2)
    (record,), (span,) = collect.records, collect.spans
    assert (record.status, record.cost_usd, record.request_id) == ("error", 0, "req_3")
    assert record.attributes["http.response.status_code"] == 529
    assert record.attributes["rlm_obs.retries"] == 2
    assert record.attributes["rlm_obs.rate_limit.requests_remaining"] == 49
    assert "secret" not in span.to_json()


def batch(server: Server, name: str) -> None:
    """Lay down a finished batch of two results and two failures, without a newline at its end."""
    plain = {**USAGE, "service_tier": "batch", "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    plain["cache_creation"] = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    results: list[dict[str, Any]] = [
        {"type": "succeeded", "message": message(usage=plain)},
        {"type": "errored", "error": {"type": "error", "error": {"type": "api_error", "message": "a secret"}}},
        {"type": "succeeded", "message": message(TOOL, usage=plain)},
        {"type": "expired"},
    ]
    url = f"{server.url}/v1/messages/batches/{name}/results"
    server.answers[f"/v1/messages/batches/{name}"] = {
        "id": name,
        "type": "message_batch",
        "processing_status": "ended",
        "results_url": url,
    }
    server.answers[f"/v1/messages/batches/{name}/results"] = [
        {"custom_id": f"c{n}", "result": result} for n, result in enumerate(results)
    ]


def test_batches(server: Server, collect: Collected, on: rlm_obs.Instrumentation) -> None:
    """Each result is a call at half the price when it is read, with the blocking client and the awaited one; read again,
    it is no second one, and a failed result is none at all."""
    half = (100 * Decimal("1.5") + 20 * Decimal("7.5")) / M

    def read(client: anthropic.Anthropic, name: str) -> int:
        return len(list(client.messages.batches.results(name)))

    async def read_async(client: anthropic.AsyncAnthropic, name: str) -> int:
        return len([line async for line in await client.messages.batches.results(name)])

    batch(server, "batch_1")
    batch(server, "batch_2")
    assert plainly(server, lambda client: read(client, "batch_1")) == 4
    assert plainly(server, lambda client: read(client, "batch_1")) == 4
    assert awaited(server, lambda client: read_async(client, "batch_2")) == 4
    assert [record.cost_usd for record in collect.records] == [half] * 4
    assert [record.service_tier for record in collect.records] == ["batch"] * 4
    assert [record.attributes.get("rlm_obs.response.tool_calls") for record in collect.records] == [None, 1, None, 1]
    assert len(collect.spans) == 4


def test_what_is_free_passes(call: Any, server: Server, collect: Collected) -> None:
    """Counting tokens, and any other endpoint, passes as if nobody looked."""
    server.answers["/v1/messages/count_tokens"] = {"input_tokens": 7}
    asked = {"model": ASK["model"], "messages": ASK["messages"]}
    assert call(server, lambda client: client.messages.count_tokens(**asked)).input_tokens == 7
    assert collect.records == []


def test_the_client_is_left_as_it_was() -> None:
    """After `uninstrument` the classes are what they were."""
    rlm_obs.uninstrument()
    for cls in (anthropic.Anthropic, anthropic.AsyncAnthropic):
        before = {name: cls.__dict__.get(name) for name in ("request", "_process_response")}
        with rlm_obs.instrument(exporters=[]):
            assert cls.__dict__["request"] is not before["request"]
        assert {name: cls.__dict__.get(name) for name in before} == before


def test_its_size() -> None:
    """The plugin has less than 200 lines: the gate knows the rest."""
    assert rlm_obs_anthropic.__file__ is not None
    assert len(Path(rlm_obs_anthropic.__file__).read_text("utf-8").splitlines()) < 200


class TestInstrumentor(InstrumentorContract):
    """The instrumentor keeps what every instrumentor promises."""

    module = "anthropic"

    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> Iterator[None]:
        self.server = server
        self.asked = {**ASK, "messages": [{"role": "user", "content": self.prompt}]}
        with anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0) as self.client:
            yield

    def make_instrumentor(self) -> Any:
        return rlm_obs_anthropic.register_instrumentors()["anthropic"]()

    def call(self) -> object:
        return self.client.messages.create(**self.asked)

    def fail(self) -> object:
        self.server.statuses.append(529)
        return self.call()

    def stream(self) -> Iterable[Any]:
        stream: Iterable[Any] = self.client.messages.create(**self.asked, stream=True)
        return stream

    async def async_call(self) -> object:
        async with anthropic.AsyncAnthropic(api_key="k", base_url=self.server.url) as client:
            return await client.messages.create(**self.asked)

    def sent(self) -> int:
        return len(self.server.asked)
