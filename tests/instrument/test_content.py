"""Prompts and answers are recorded only where that was asked for, and never past a `redact` hook."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import rlm_obs
from rlm_obs import _guard, _settings
from rlm_obs._instrument import content
from rlm_obs._instrument.joined import Joined
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai

SECRET, REPLY = "xq-prompt-7", "zk-answer-9"
WORDS = st.sampled_from(
    [
        "messages",
        "input",
        "prompt",
        "instructions",
        "tools",
        "type",
        "role",
        "content",
        "function",
        "output",
        "choices",
        "message",
        "delta",
        "tool_calls",
        "index",
        "audio",
        "data",
        "url",
        "text",
        "image_url",
        "refusal",
        "item",
        "output_index",
        "summary",
        "result",
        "name",
        "arguments",
        "functions",
        "images",
    ]
)
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"Tell {SECRET}"}]}


class Weather(BaseModel):
    """What the server of these tests answers with."""

    city: str
    celsius: int


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


ATTRIBUTES = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
)


def contents(collect: Collected, *names: str) -> list[tuple[Any, ...]]:
    """Return the content of each span; what it has not is None."""
    found = []
    for span in collect.spans:
        said = span.attributes or {}
        found.append(tuple(said.get(name) and json.loads(str(said[name])) for name in names or ATTRIBUTES[:2]))
    return found


def text(content: str, kind: str = "text") -> dict[str, str]:
    return {"type": kind, "content": content}


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
    told = [{"role": "user", "parts": [text(SECRET)]}]
    assert response == response_streamed == (told, [{**said, "finish_reason": "completed"}])
    assert legacy == (told, [said])
    assert [given for given, _ in others] == [told] * 3
    assert [i for (i,) in contents(collect, ATTRIBUTES[2])][3:5] == [[text(SECRET)]] * 2
    assert others[1][1][0]["parts"][0]["type"] == "blob"
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
    assert [n for kind, n in _guard.failures.items() if kind.endswith(".redact")] == ([] if "says" in how else [1])


async def test_tool_calls_and_images_are_recorded_without_their_bytes(caller: Any, collect: Collected) -> None:
    """A tool's call is recorded with its arguments; an image only by its kind, size and hash."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    tool = {"name": "look", "arguments": '{"at": "it"}'}
    with fake_openai(Answer(tool_calls=[tool])) as server, rlm_obs.instrument(exporters=[], capture_content=True):
        await caller(caller.client(server).chat.completions.create(model="gpt-4o", messages=messages))
    (((asked,), (said,)),) = contents(collect)
    assert asked["parts"][0] == {"type": "text", "content": "What is it?"}
    known = {"type": "blob", "modality": "image", "mime_type": "image/png", "size": 3}
    assert asked["parts"][1] == {**known, "sha256": hashlib.sha256(b"ABC").hexdigest()}
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


async def test_tools_and_their_answers(caller: Any, collect: Collected) -> None:
    """Definitions, calls and answers of tools are recorded alike for chats and responses; definitions are flat."""
    plain = {"name": "look", "description": "Looks", "parameters": {"type": "object", "properties": {}}}
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    chat: list[Any] = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Here."},
    ]
    items: list[Any] = [
        {"role": "user", "content": "Where?"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "Here."},
    ]
    with fake_openai("Fine") as server, rlm_obs.instrument(exporters=[], capture_content=True):
        client, tool = caller.client(server), {"type": "function"}
        await caller(client.chat.completions.create(model="a", messages=chat, tools=[{**tool, "function": plain}]))
        await caller(client.responses.create(model="a", input=items, tools=[{**tool, **plain}, {"type": "web_search"}]))
    (first, tools), (second, flat) = contents(collect, ATTRIBUTES[0], ATTRIBUTES[3])
    assert first == second
    assert [message["role"] for message in first] == ["user", "assistant", "tool"]
    assert first[1]["parts"] == [{"type": "tool_call", "id": "c1", "name": "look", "arguments": "{}"}]
    assert first[2]["parts"] == [{"type": "tool_call_response", "id": "c1", "response": "Here."}]
    assert tools == [{"type": "function", **plain}]
    assert flat == [*tools, {"type": "web_search", "name": "web_search"}]


#: What a request says of pictures, sounds and files -> the part that is recorded of it.
PICTURES = [
    (
        {"type": "image_url", "image_url": {"url": "https://a.b/c.png?sig=x"}},
        "uri",
        "image",
        {"uri": "https://a.b/c.png"},
    ),
    ({"type": "input_image", "image_url": "data:image/gif;base64,QUJD"}, "blob", "image", {"mime_type": "image/gif"}),
    ({"type": "input_image", "file_id": "file-1"}, "file", "image", {"file_id": "file-1"}),
    ({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}, "blob", "audio", {"size": 3}),
    ({"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}}, "blob", "document", {"size": 3}),
    ({"type": "input_file", "file_url": "https://a.b/c.pdf"}, "uri", "document", {"uri": "https://a.b/c.pdf"}),
    ({"type": "input_file", "file_id": "file-2"}, "file", "document", {"file_id": "file-2"}),
]


@pytest.mark.parametrize(("given", "kind", "modality", "known"), PICTURES)
def test_pictures_sounds_and_files(given: Any, kind: str, modality: str, known: Any) -> None:
    """A picture, sound or file is its kind, size and hash, its id, or its address without a query; never its bytes."""
    (message,) = content.of_request({"messages": [{"role": "user", "content": [given]}]})["input"]
    (part,) = message["parts"]
    assert (part["type"], part["modality"]) == (kind, modality)
    assert {name: part[name] for name in known} == known
    assert "QUJD" not in repr(part)
    assert "sig" not in repr(part)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("a", [text("a")]),
        (["a", "b"], [text("a"), text("b")]),
        ([1, 2, 3], [{"type": "tokens", "size": 3}]),
        ([[1, 2], [3]], [{"type": "tokens", "size": 2}, {"type": "tokens", "size": 1}]),
    ],
)
async def test_embeddings(given: Any, parts: Any, caller: Any, collect: Collected) -> None:
    """What is embedded is recorded, each text for itself; of tokens their number, of vectors nothing."""
    with fake_openai() as server, rlm_obs.instrument(exporters=[], capture_content=True):
        await caller(caller.client(server).embeddings.create(model="text-embedding-3-small", input=given))
    ((asked, said),) = contents(collect)
    assert [message["parts"] for message in asked] == [[part] for part in parts]
    assert said is None


async def test_a_stream_that_was_left(caller: Any, secretive: FakeOpenAI, collect: Collected) -> None:
    """Of a stream that is left early, what had come is recorded, of chats and of responses."""
    with rlm_obs.instrument(exporters=[], capture_content=True):
        client = caller.client(secretive)
        for stream, events in (
            (await caller(client.chat.completions.create(**CHAT, stream=True)), 2),
            (await caller(client.responses.create(model="gpt-4o", input="a", stream=True)), 5),
        ):
            if caller.awaits:
                for _ in range(events):
                    await anext(stream)
            else:
                for _ in range(events):
                    next(stream)
            await caller(stream.close())
    for _, (said,) in contents(collect):
        assert said["parts"][0]["content"].startswith("Well")


async def test_a_long_text_is_cut(caller: Any, collect: Collected) -> None:
    """A text past `content_limit` is cut there, with a mark, in prompts and answers."""
    settings = {"content_limit": 20}
    with fake_openai("b" * 900) as server, rlm_obs.instrument(exporters=[], capture_content=True, settings=settings):
        client = caller.client(server)
        message: Any = {"role": "user", "content": "a" * 900}
        for stream in (False, True):
            await caller.all(await caller(client.chat.completions.create(model="a", messages=[message], stream=stream)))
    for (asked,), (said,) in contents(collect):
        assert asked["parts"] == [text("a" * 20 + "… (cut)")]
        assert said["parts"] == [text("b" * 20 + "… (cut)")]


async def test_a_parsed_answer_is_recorded_without_a_warning(
    caller: Any, server: FakeOpenAI, collect: Collected
) -> None:
    """What `parse` has made of an answer is recorded as its text, and pydantic has nothing to warn of."""
    with rlm_obs.instrument(exporters=[], capture_content=True):
        chat = caller.client(server).chat.completions
        await caller(chat.parse(**CHAT, response_format=Weather))
    (_, (said,)) = contents(collect)[0]
    assert said["parts"] == [text('{"city": "Oslo", "celsius": 4}')]


@pytest.mark.parametrize(
    ("said", "on"),
    [("true", True), ("SPAN_ONLY", True), ("span_and_event", True), ("NO_CONTENT", False), ("event_only", False)],
)
def test_the_variable_of_opentelemetry(said: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's variable switches content on in each of its spellings that puts it on spans."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", said)
    assert _settings.read_settings().capture_content is on


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(WORDS, c)
    )
)
def test_any_shape_can_be_read(body: Any) -> None:
    """However odd a request, an answer or an event is, reading its content raises nothing but what the guard holds."""
    if isinstance(body, dict):
        content.of_request(body)
        content.of_answer(body)
        joined = Joined()
        joined.add(body)
        joined()
