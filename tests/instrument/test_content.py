"""Prompts and answers are recorded only where that was asked for, and never past a `redact` hook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs import _guard
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai

SECRET, REPLY = "xq-prompt-7", "zk-answer-9"
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"Tell {SECRET}"}]}


@pytest.fixture
def secretive() -> Iterator[FakeOpenAI]:
    with fake_openai(f"Well: {REPLY}, no more") as running:
        yield running


async def every_way(caller: Any, client: Any) -> None:
    chat, other = client.chat.completions, {"model": "gpt-4o", "input": SECRET, "instructions": SECRET}
    await caller(chat.create(**CHAT, user=SECRET, metadata={"about": SECRET}))
    await caller.all(await caller(chat.create(**CHAT, stream=True)))
    await caller(chat.with_raw_response.create(**CHAT))
    await caller(client.responses.create(**other))
    await caller.all(await caller(client.responses.create(**other, stream=True)))
    await caller(client.completions.create(model="gpt-3.5-turbo-instruct", prompt=SECRET))
    await caller(client.embeddings.create(model="text-embedding-3-small", input=SECRET))
    await caller(client.images.generate(model="gpt-image-1", prompt=SECRET))
    await caller(client.audio.speech.create(model="tts-1", input=SECRET, voice="alloy"))


async def test_off_unless_asked_for(caller: Any, secretive: FakeOpenAI, as_openai: Any, collect: Collected) -> None:
    """Without `capture_content` no span, event or record holds a word of a prompt or an answer."""
    await every_way(caller, caller.client(secretive))
    spans, records = collect.spans, collect.records
    assert (len(spans), len(records)) == (9, 9)
    text = "".join(span.to_json() for span in spans) + repr(records) + json.dumps([r.to_dict() for r in records])
    assert SECRET not in text
    assert REPLY not in text
    assert "Well" not in text


async def test_errors_hold_no_content(caller: Any, as_openai: Any, collect: Collected, caplog: Any) -> None:
    """An error message may quote the prompt: it is on no span, record or log line of ours."""
    with (
        fake_openai(Answer(f"You said {SECRET}", status=400)) as server,
        pytest.raises(openai.BadRequestError, match=SECRET),
    ):
        await caller(caller.client(server).chat.completions.create(**CHAT))
    assert SECRET not in "".join(span.to_json() for span in collect.spans) + repr(collect.records)
    assert not [r for r in caplog.records if r.name.startswith("rlm_obs") and SECRET in r.getMessage()]


def contents(collect: Collected) -> list[tuple[Any, Any]]:
    found = []
    for span in collect.spans:
        said = span.attributes or {}
        given, made = said.get("gen_ai.input.messages"), said.get("gen_ai.output.messages")
        found.append((given and json.loads(str(given)), made and json.loads(str(made))))
    return found


async def test_asked_for_it_is_recorded(caller: Any, secretive: FakeOpenAI, collect: Collected) -> None:
    """With `capture_content=True` a span has messages and answer, the same plain, streamed, raw or as a response."""
    client = caller.client(secretive)
    with rlm_obs.instrument(exporters=[], capture_content=True):
        await every_way(caller, client)
    asked = [{"role": "user", "parts": [{"type": "text", "content": f"Tell {SECRET}"}]}]
    part = {"type": "text", "content": f"Well: {REPLY}, no more"}
    said = {"role": "assistant", "parts": [part], "finish_reason": "stop"}
    plain, streamed, raw, response, response_streamed, legacy, *others = contents(collect)
    assert plain == streamed == raw == (asked, [said])
    instructed = [
        {"role": "system", "parts": [{"type": "text", "content": SECRET}]},
        {"role": "user", "parts": [{"type": "text", "content": SECRET}]},
    ]
    assert response == response_streamed == (instructed, [{**said, "finish_reason": "completed"}])
    assert legacy == ([instructed[1]], [said])
    assert [given for given, _ in others] == [[instructed[1]]] * 3
    assert SECRET not in repr(collect.records)


class Redacting:
    """A plugin that takes words out, or fails at it."""

    def __init__(self, how: str) -> None:
        self.how, self.seen = how, []  # type: ignore[var-annotated]

    @rlm_obs.hookimpl
    def redact(self, request: Any, content: Any) -> Any:
        self.seen.append((request.model, content))
        if self.how == "refuses":
            raise rlm_obs.CallRefused("not this one")
        if self.how == "raises":
            raise ValueError("cannot")
        if self.how == "says nothing":
            return None
        return json.loads(json.dumps(content).replace(SECRET, "[gone]").replace(REPLY, "[gone]"))


@pytest.mark.parametrize("streamed", [False, True])
async def test_redact_sees_and_changes_it(
    streamed: bool, caller: Any, secretive: FakeOpenAI, collect: Collected
) -> None:
    """What is recorded is what the `redact` hooks have left of it."""
    plugin = Redacting("cleans")
    rlm_obs.register_plugin(plugin)
    try:
        with rlm_obs.instrument(exporters=[], capture_content=True):
            await caller.all(await caller(caller.client(secretive).chat.completions.create(**CHAT, stream=streamed)))
            (span,) = collect.spans
    finally:
        rlm_obs.unregister_plugin(plugin)
    ((model, content),) = plugin.seen
    assert model == "gpt-4o"
    assert SECRET in str(content["input"])
    assert REPLY in str(content["output"])
    assert SECRET not in span.to_json()
    assert REPLY not in span.to_json()
    assert "[gone]" in span.to_json()


@pytest.mark.swallows
@pytest.mark.parametrize("how", ["raises", "refuses", "says nothing"])
async def test_a_redact_that_fails_drops_the_content(
    how: str, caller: Any, secretive: FakeOpenAI, collect: Collected
) -> None:
    """A `redact` hook that fails costs the content, never the span, the record or the user's answer."""
    plugin = Redacting(how)
    rlm_obs.register_plugin(plugin)
    try:
        with rlm_obs.instrument(exporters=[], capture_content=True):
            answer = await caller(caller.client(secretive).chat.completions.create(**CHAT))
            (span,) = collect.spans
    finally:
        rlm_obs.unregister_plugin(plugin)
    assert REPLY in answer.choices[0].message.content
    assert SECRET not in span.to_json()
    assert REPLY not in span.to_json()
    (record,) = collect.records
    assert record.status == "ok"
    assert how == "says nothing" or _guard.failures["redact"] == 1


async def test_tool_calls_and_images_are_recorded_without_their_bytes(caller: Any, collect: Collected) -> None:
    """A tool's call is recorded with its arguments; an image only by its kind, size and hash."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    tool = {"name": "look", "arguments": '{"at": "it"}'}
    with fake_openai(Answer(tool_calls=[tool])) as server, rlm_obs.instrument(exporters=[], capture_content=True):
        await caller(caller.client(server).chat.completions.create(model="gpt-4o", messages=messages))
    (((asked,), (said,)),) = contents(collect)
    assert asked["parts"][0] == {"type": "text", "content": "What is it?"}
    assert asked["parts"][1].keys() == {"type", "sha256", "size"}
    (part,) = said["parts"]
    assert (part["type"], part["name"], part["arguments"]) == ("tool_call", "look", '{"at": "it"}')


async def test_streamed_tool_calls_are_joined(caller: Any, collect: Collected) -> None:
    """Tools called in a stream come in pieces: what is recorded is what a plain answer would say."""
    tools = [{"name": "look", "arguments": '{"at": "it"}'}, {"name": "go", "arguments": "{}"}]
    with fake_openai(Answer(tool_calls=tools)) as server, rlm_obs.instrument(exporters=[], capture_content=True):
        await caller.all(await caller(caller.client(server).chat.completions.create(**CHAT, stream=True)))
    ((_, (said,)),) = contents(collect)
    assert [(p["name"], p["arguments"]) for p in said["parts"] if p["type"] == "tool_call"] == [
        ("look", '{"at": "it"}'),
        ("go", "{}"),
    ]
    assert all(p["id"] for p in said["parts"] if p["type"] == "tool_call")
