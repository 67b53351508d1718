"""The test server keeps its word to a real client: everybody's tests rest on it, so it has tests of its own."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from pydantic import BaseModel

from rlm_obs.testing._server import Answer, FakeOpenAI, Seen, fake_openai

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]


@contextmanager
def connected(server: FakeOpenAI, **options: Any) -> Iterator[OpenAI]:
    plain = openai.DefaultHttpxClient(verify=False)  # no certificates to load: ten times quicker
    with OpenAI(api_key="test", base_url=server.base_url, http_client=plain, **{"max_retries": 0, **options}) as client:
        yield client


def port_of(server: FakeOpenAI) -> int:
    return int(server.base_url.removesuffix("/v1").rpartition(":")[2])


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with fake_openai() as running:
        yield running


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[OpenAI]:
    with connected(server) as made:
        yield made


def post(server: FakeOpenAI, path: str, body: Any) -> tuple[int, dict[str, str], bytes]:
    """Send one request past the client, for what the client does not show."""
    wire = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=5)
    try:
        wire.request("POST", path, json.dumps(body))
        answer = wire.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        wire.close()


# Chat completions


def test_a_chat_answer_repeats_the_question(client: OpenAI) -> None:
    """Without an answer of the user's own, the first words of the last message come back."""
    made = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert made.choices[0].message.content == "You said: Hello there"
    assert made.choices[0].finish_reason == "stop"


def test_usage_can_be_counted_by_hand(client: OpenAI) -> None:
    """Input is a quarter of the characters, output the words of the answer."""
    made = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x" * 400}])
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (100, 3, 103)


def test_usage_has_openais_details(server: FakeOpenAI) -> None:
    """Usage carries the nested numbers of the real API, zero where nothing special was used."""
    _, _, body = post(server, "/v1/chat/completions", {"model": "m", "messages": HELLO})
    usage = json.loads(body)["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0, "audio_tokens": 0, "cache_write_tokens": 0}
    assert set(usage["completion_tokens_details"]) == {
        "reasoning_tokens",
        "audio_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    }


def test_a_well_known_model_answers_as_its_snapshot(client: OpenAI) -> None:
    """The answered model is the dated one, as with OpenAI, and any other name comes back as it was."""
    names = ["gpt-4o", "gpt-4o-mini", "my-model"]
    made = [client.chat.completions.create(model=name, messages=HELLO).model for name in names]
    assert made == ["gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "my-model"]


def test_the_answered_model_can_be_chosen() -> None:
    """`model=` is what answers, whatever was asked for."""
    with fake_openai(model="other") as server, connected(server) as client:
        assert client.chat.completions.create(model="gpt-4o", messages=HELLO).model == "other"


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_an_output_limit_cuts_the_answer(limit: str) -> None:
    """An answer longer than the limit ends after that many words, with finish_reason "length"."""
    with fake_openai("one two three four") as server, connected(server) as client:
        made = client.chat.completions.create(model="m", messages=HELLO, **{limit: 2})  # type: ignore[call-overload]
        assert made.choices[0].message.content == "one two"
        assert made.choices[0].finish_reason == "length"
        assert made.usage.completion_tokens == 2


def test_each_of_n_choices_is_paid(client: OpenAI) -> None:
    """n=3 answers three choices and counts the output of all."""
    made = client.chat.completions.create(model="m", messages=HELLO, n=3)
    assert made.usage is not None
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert made.usage.completion_tokens == 3 * 4


class Step(BaseModel):
    title: str
    seconds: float
    kind: Literal["first", "second"]
    notes: list[str]
    inner: Step | None


def test_a_json_schema_is_satisfied_by_chat(client: OpenAI) -> None:
    """A pydantic model, even one that refers to itself, parses from the default answer."""
    parsed = client.chat.completions.parse(model="m", messages=HELLO, response_format=Step).choices[0].message.parsed
    assert parsed is not None
    assert (parsed.title, parsed.seconds, parsed.kind, parsed.notes) == ("text", 1, "first", ["text"])


def test_tools_are_called_when_the_answer_says_so() -> None:
    """`Answer.tool_calls` becomes the message's tool calls, and nothing is called without it."""
    answer = Answer(tool_calls=[{"name": "weather", "arguments": {"city": "Rome"}}])
    with fake_openai(script=[answer]) as server, connected(server) as client:
        first = client.chat.completions.create(model="m", messages=HELLO).choices[0]
        second = client.chat.completions.create(model="m", messages=HELLO).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.tool_calls is not None
    call: Any = first.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Rome"})
    assert second.message.tool_calls is None


# Chat streams


def test_a_stream_says_the_same_as_a_plain_answer(client: OpenAI) -> None:
    """The pieces of a streamed answer add up to the plain one, and the last choice says why it ended."""
    chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: Hello there"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_is_streamed_when_asked_for(server: FakeOpenAI, client: OpenAI) -> None:
    """With include_usage a last chunk without choices has it, and in every other chunk it is null."""
    options: Any = {"include_usage": True}
    *others, last = client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.model_dump(exclude_unset=True) == server.billed[0].usage
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in others)


def test_a_host_may_ignore_include_usage() -> None:
    """stream_usage=False never sends usage with chunks, and bills all the same."""
    with fake_openai(stream_usage=False) as server, connected(server) as client:
        chunks = list(
            client.chat.completions.create(
                model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        )
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        assert server.billed[0].usage["completion_tokens"] == 4


def test_a_gateway_may_send_usage_unasked() -> None:
    """stream_usage="always" puts usage in the last chunk that has choices."""
    with fake_openai(stream_usage="always") as server, connected(server) as client:
        *others, last = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert last.choices[0].finish_reason == "stop"
        assert last.usage is not None
        assert all(chunk.usage is None for chunk in others)


def test_the_stream_is_spelled_as_openai_spells_it(server: FakeOpenAI) -> None:
    """Each event is one `data:` line and a blank one, and [DONE] ends the stream."""
    _, headers, body = post(server, "/v1/chat/completions", {"model": "m", "messages": HELLO, "stream": True})
    *events, done, nothing = body.split(b"\n\n")
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert all(event.startswith(b'data: {"id":"chatcmpl-') for event in events)
    assert (done, nothing) == (b"data: [DONE]", b"")


def test_events_arrive_one_by_one() -> None:
    """The first event is in the client's hands while the server still waits to send the next."""
    with (
        fake_openai(chunk_delay_s=60) as server,
        connected(server) as client,
        client.chat.completions.create(model="m", messages=HELLO, stream=True) as stream,
    ):
        assert next(stream).choices[0].delta.role == "assistant"


def test_streamed_tool_calls_add_up() -> None:
    """The client's own stream helper puts a streamed tool call together."""
    answer = Answer(tool_calls=[{"name": "weather", "arguments": {"city": "Rome"}}])
    with fake_openai(answer) as server, connected(server) as client:
        with client.chat.completions.stream(model="m", messages=HELLO) as stream:
            calls = stream.get_final_completion().choices[0].message.tool_calls
        assert calls is not None
        assert json.loads(calls[0].function.arguments) == {"city": "Rome"}


def test_chunks_can_be_spelled_out() -> None:
    """Mappings in `Answer.chunks` are sent as they are: usage of a gateway's own making, for one."""
    own = {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 7}}
    with fake_openai(Answer(chunks=[own])) as server, connected(server) as client:
        (chunk,) = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert chunk.usage is not None
        assert chunk.usage.prompt_tokens == 7
        assert server.billed == [("/v1/chat/completions", "m", {"prompt_tokens": 7})]


def test_pieces_can_be_chosen() -> None:
    """Texts in `Answer.chunks` are the pieces of a stream."""
    with fake_openai(Answer(chunks=["Hel", "lo"])) as server, connected(server) as client:
        chunks = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert [c.choices[0].delta.content for c in chunks][1:3] == ["Hel", "lo"]


# Responses


def test_a_response_is_answered(client: OpenAI) -> None:
    """The responses API answers text, usage in its own spelling, and the service tier."""
    made = client.responses.create(model="gpt-4o", input="Hello there", service_tier="flex")
    assert made.output_text == "You said: Hello there"
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (2, 4, 6)
    assert (made.usage.input_tokens_details.cached_tokens, made.service_tier) == (0, "flex")


def test_a_response_is_streamed_by_the_real_events(client: OpenAI) -> None:
    """A streamed response has the API's events in the API's order, numbered, with usage in the last."""
    events = list(client.responses.create(model="m", input="Hello there", stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * 4,
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_response_stream_names_its_events_and_has_no_done(server: FakeOpenAI) -> None:
    """The wire has `event:` lines and no [DONE]."""
    _, _, body = post(server, "/v1/responses", {"model": "m", "input": "Hi", "stream": True})
    assert body.startswith(b'event: response.created\ndata: {"type":"response.created"')
    assert b"[DONE]" not in body


def test_a_response_that_hits_its_limit_is_incomplete(client: OpenAI) -> None:
    """max_output_tokens cuts the answer, streamed or not, and the status says so."""
    plain = client.responses.create(model="m", input="Hello there", max_output_tokens=2)
    *_, last = client.responses.create(model="m", input="Hello there", max_output_tokens=2, stream=True)
    assert (plain.output_text, plain.status) == ("You said:", "incomplete")
    assert last.type == "response.incomplete"


def test_a_json_schema_is_satisfied_by_a_response(client: OpenAI) -> None:
    """`responses.parse` gets an object of the asked type."""
    assert client.responses.parse(model="m", input="Hi", text_format=Step).output_parsed is not None


def test_a_response_calls_tools() -> None:
    """`Answer.tool_calls` becomes function_call items, streamed ones too."""
    with fake_openai(Answer(tool_calls=[{"name": "now"}])) as server, connected(server) as client:
        (item,) = client.responses.create(model="m", input="Hi").output
        events = list(client.responses.create(model="m", input="Hi", stream=True))
    assert (item.type, getattr(item, "name", None)) == ("function_call", "now")
    assert "response.function_call_arguments.done" in [event.type for event in events]


def test_a_stored_response_can_be_read_again(client: OpenAI) -> None:
    """GET answers the same response, costs nothing, and a stranger's id is a 404."""
    made = client.responses.create(model="m", input="Hi")
    assert client.responses.retrieve(made.id) == made
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_unknown")


# The other routes


def test_legacy_completions_are_answered(client: OpenAI) -> None:
    """The old completions answer plain and streamed, with usage."""
    plain = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello there")
    *chunks, last = client.completions.create(
        model="m", prompt="Hello there", stream=True, stream_options={"include_usage": True}
    )
    assert plain.choices[0].text == "You said: Hello there" == "".join(chunk.choices[0].text for chunk in chunks)
    assert plain.usage == last.usage


def test_embeddings_are_the_same_in_both_encodings(client: OpenAI) -> None:
    """base64, which the client asks for by itself, holds the numbers that the float list holds."""
    floats = client.embeddings.create(model="text-embedding-3-small", input="Hi", encoding_format="float")
    packed: Any = client.embeddings.create(model="text-embedding-3-small", input="Hi", encoding_format="base64")
    default = client.embeddings.create(model="text-embedding-3-small", input="Hi")
    numbers = list(struct.unpack("<1536f", base64.b64decode(packed.data[0].embedding)))
    assert numbers == floats.data[0].embedding == pytest.approx(default.data[0].embedding)


@pytest.mark.parametrize(
    ("given", "count", "tokens"), [("x" * 8, 1, 2), (["a", "b"], 2, 2), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)]
)
def test_embeddings_take_every_form_of_input(client: OpenAI, given: Any, count: int, tokens: int) -> None:
    """A text, texts, tokens and lists of tokens are counted for what they are, at the asked size."""
    made = client.embeddings.create(model="text-embedding-3-small", input=given, dimensions=4)
    assert [len(one.embedding) for one in made.data] == [4] * count
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (tokens, tokens)


def test_moderations_cost_nothing(server: FakeOpenAI, client: OpenAI) -> None:
    """A moderation is answered and neither counted as paid nor billed."""
    assert not client.moderations.create(input="Hi").results[0].flagged
    assert (server.calls, server.billed) == (0, [])


def test_models_are_listed_and_found(client: OpenAI) -> None:
    """There is a list of models, and each name has a card unless it does not exist."""
    assert "gpt-4o" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("does-not-exist")


def test_an_image_is_made(server: FakeOpenAI, client: OpenAI) -> None:
    """An image is a png, and its usage tells text from image."""
    made = client.images.generate(model="gpt-image-1", prompt="a cat", n=2, quality="low")
    assert made.data is not None
    assert made.usage is not None
    assert base64.b64decode(made.data[0].b64_json or "").startswith(b"\x89PNG")
    assert (made.usage.output_tokens, made.usage.input_tokens_details.text_tokens) == (2 * 272, 1)
    assert server.billed[0].usage["output_tokens"] == 2 * 272


def test_speech_is_bytes(server: FakeOpenAI, client: OpenAI) -> None:
    """Speech is not JSON, says nothing of usage, and is billed by the character."""
    made = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello")
    assert made.response.headers["content-type"] == "audio/mpeg"
    assert len(made.content) > 100
    assert server.billed == [("/v1/audio/speech", "tts-1", {"characters": 5})]


def test_whisper_is_counted_in_seconds(server: FakeOpenAI, client: OpenAI) -> None:
    """whisper-1 answers the seconds of the audio, transcribed or translated."""
    audio = ("talk.wav", bytes(64_000))
    made: Any = client.audio.transcriptions.create(model="whisper-1", file=audio)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # openai 3 discourages translations
        client.audio.translations.create(model="whisper-1", file=audio)
    assert made.text == "This is what was said."
    assert [entry.usage for entry in server.billed] == [{"type": "duration", "seconds": 2}] * 2


def test_a_transcribing_model_is_counted_in_tokens(client: OpenAI) -> None:
    """gpt-4o-transcribe answers tokens, and audio apart from text."""
    made: Any = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("talk.wav", bytes(64_000)))
    assert (made.usage.type, made.usage.input_tokens, made.usage.output_tokens) == ("tokens", 20, 5)
    assert made.usage.input_token_details.audio_tokens == 20


def test_a_transcription_is_streamed(client: OpenAI) -> None:
    """A streamed transcription ends with its text and usage."""
    events = list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", b"x"), stream=True))
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == "This is what was said."


def test_files_are_kept_and_batches_are_empty(client: OpenAI) -> None:
    """An uploaded file is listed afterwards; there are no batches."""
    made = client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert [file.id for file in client.files.list()] == [made.id]
    assert (made.filename, made.bytes, list(client.batches.list())) == ("a.jsonl", 2, [])


def test_azure_paths_are_answered(server: FakeOpenAI) -> None:
    """Azure's client finds its deployment, and the query is kept apart from the path."""
    endpoint = server.base_url.removesuffix("/v1")
    with AzureOpenAI(api_key="test", azure_endpoint=endpoint, api_version="2024-10-21", max_retries=0) as client:
        assert client.chat.completions.create(model="gpt-4o", messages=HELLO).model == "gpt-4o-2024-08-06"
    seen = server.requests[0]
    assert seen.path == "/openai/deployments/gpt-4o/chat/completions"
    assert (seen.query, server.calls) == ({"api-version": "2024-10-21"}, 1)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/openai/v1/chat/completions"])
def test_a_route_has_many_prefixes(server: FakeOpenAI, path: str) -> None:
    """A route is the same with and without the version, and below /openai."""
    assert post(server, path, {"model": "m", "messages": HELLO})[0] == 200


# Errors


@pytest.mark.parametrize(
    ("path", "body", "status", "message", "code"),
    [
        ("chat/completions", {"messages": HELLO}, 400, "you must provide a model parameter", None),
        ("chat/completions", {"model": "m"}, 400, "parameter: 'messages'", "missing_required_parameter"),
        ("chat/completions", {"model": "m", "messages": HELLO, "max_tokens": 0}, 400, "", "integer_below_min_value"),
        ("chat/completions", {"model": "m", "messages": HELLO, "stream_options": {"a": 1}}, 400, "only allowed", None),
        ("chat/completions", {"model": "does-not-exist", "messages": HELLO}, 404, "not exist", "model_not_found"),
        (
            "responses",
            {"model": "m", "input": "Hi", "stream": True, "stream_options": {"include_usage": True}},
            400,
            "Unknown parameter: 'stream_options.include_usage'",
            "unknown_parameter",
        ),
        ("nowhere", {"model": "m"}, 404, "Invalid URL (POST /v1/nowhere)", "unknown_url"),
    ],
)
def test_a_wrong_request_is_refused(
    server: FakeOpenAI, path: str, body: Any, status: int, message: str, code: str | None
) -> None:
    """What the API would refuse is refused in the API's shape, and nothing is billed."""
    answered, _, content = post(server, f"/v1/{path}", body)
    error = json.loads(content)["error"]
    assert (answered, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert message in error["message"]
    assert server.billed == []


def test_a_status_answers_everything() -> None:
    """`status=401` is what each request gets, as the client's own error."""
    with fake_openai(status=401) as server, connected(server) as client:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
            client.models.list()
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="m", messages=HELLO)
        assert (server.calls, server.billed) == (1, [])


def test_a_script_is_played_in_order() -> None:
    """A client that retries sees the faults of the script, then the good answer; one call, three requests."""
    script = [Answer(status=500, headers={"retry-after-ms": "1"}), Answer(status=429, headers={"retry-after-ms": "1"})]
    with fake_openai(script=[*script, "fine"]) as server, connected(server, max_retries=2) as client:
        made = client.chat.completions.create(model="m", messages=HELLO)
        assert made.choices[0].message.content == "fine"
        assert (server.calls, len(server.billed)) == (3, 1)


def test_a_stream_can_be_cut() -> None:
    """cut_after=3 breaks the connection after three events: the client raises, the two pieces sent are billed."""
    with fake_openai(Answer("one two three four", cut_after=3)) as server, connected(server) as client:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(3)] == ["", "one", " two"]
        with pytest.raises(Exception, match=r"peer closed connection|Connection error"):
            next(stream)
        assert server.billed[0].usage["completion_tokens"] == 2


def test_a_plain_answer_can_be_cut() -> None:
    """cut_after on a plain answer breaks the connection before the body is complete."""
    with (
        fake_openai(Answer(cut_after=0)) as server,
        connected(server) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.chat.completions.create(model="m", messages=HELLO)


def test_an_error_in_the_users_function_reaches_the_client() -> None:
    """A function that raises is answered as a 500 that names the error and is not retried."""

    def broken(seen: Seen) -> str:
        raise LookupError("no such answer")

    with fake_openai(broken) as server, connected(server, max_retries=2) as client:
        with pytest.raises(openai.InternalServerError, match="LookupError: no such answer"):
            client.chat.completions.create(model="m", messages=HELLO)
        assert len(server.requests) == 1


def test_a_client_that_waits_no_longer_times_out() -> None:
    """`latency_s` holds back the answer."""
    with (
        fake_openai(latency_s=5) as server,
        connected(server, timeout=0.03) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(model="m", messages=HELLO)


def test_latency_is_kept() -> None:
    """An answer does not come before its time, and one answer may have its own."""
    with fake_openai(Answer(delay_s=0.03)) as server, connected(server) as client:
        began = time.monotonic()
        client.chat.completions.create(model="m", messages=HELLO)
        assert time.monotonic() - began >= 0.03


# Answers of the user's own


def test_the_answer_can_be_a_function_of_the_request() -> None:
    """A function gets the request as it arrived and returns the text."""
    with fake_openai(lambda seen: f"{seen.method} {seen.json['model']}") as server, connected(server) as client:
        assert client.responses.create(model="m", input="Hi").output_text == "POST m"


def test_the_answer_can_be_a_body() -> None:
    """A mapping is the whole JSON body, and its usage is what is billed."""
    body = {"id": "x", "model": "real", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    with fake_openai(body) as server, connected(server) as client:
        assert client.chat.completions.create(model="m", messages=HELLO).id == "x"
        assert server.billed == [("/v1/chat/completions", "real", body["usage"])]


def test_the_answer_can_be_bytes() -> None:
    """Raw bytes go out under their own content type."""
    with fake_openai(Answer(body=b"<html>", content_type="text/html", status=502)) as server:
        status, headers, body = post(server, "/v1/chat/completions", {})
    assert (status, headers["content-type"], body) == (502, "text/html", b"<html>")


def test_usage_is_merged_in_either_spelling() -> None:
    """One mapping serves all routes: names are translated, details merged, the total summed."""
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 60}}
    with fake_openai("fine", usage=usage) as server, connected(server) as client:
        chat = client.chat.completions.create(model="m", messages=HELLO).usage
        response = client.responses.create(model="m", input="Hi").usage
    assert chat is not None
    assert chat.prompt_tokens_details is not None
    assert response is not None
    assert (chat.prompt_tokens, chat.total_tokens, chat.prompt_tokens_details.cached_tokens) == (100, 101, 60)
    assert (response.input_tokens, response.total_tokens, response.input_tokens_details.cached_tokens) == (100, 101, 60)


def test_usage_can_be_left_out() -> None:
    """usage=False answers without it, None as a value leaves out one field, and a function may decide."""
    script = [Answer(usage=False), Answer(usage={"prompt_tokens_details": None}), Answer(usage=lambda seen: None)]
    with fake_openai("fine", script=script) as server, connected(server) as client:
        bare, without, counted = (client.chat.completions.create(model="m", messages=HELLO).usage for _ in range(3))
        assert bare is None
        assert without is not None
        assert without.prompt_tokens_details is None
        assert counted is not None
        assert counted.total_tokens == 6
        assert len(server.billed) == 2


# What the server tells


def test_requests_are_kept_as_they_arrived(server: FakeOpenAI, client: OpenAI) -> None:
    """Headers in lower case, the parsed body and its bytes; `clear` forgets them."""
    client.chat.completions.create(model="m", messages=HELLO, extra_headers={"X-Mine": "yes"})
    (seen,) = server.requests
    assert (seen.method, seen.path, seen.headers["x-mine"]) == ("POST", "/v1/chat/completions", "yes")
    assert seen.json == json.loads(seen.body) == {"model": "m", "messages": HELLO}
    server.clear()
    assert (server.requests, server.billed, server.calls) == ([], [], 0)


def test_each_answer_has_its_own_request_id(client: OpenAI) -> None:
    """x-request-id is there, in OpenAI's form, and never the same twice."""
    ids = [client.chat.completions.create(model="m", messages=HELLO)._request_id or "" for _ in range(2)]
    assert all(one.startswith("req_") for one in ids)
    assert ids[0] != ids[1]


def test_billed_is_what_the_client_saw(server: FakeOpenAI, client: OpenAI) -> None:
    """The bill has the path, the answered model and the very usage of the answer."""
    made = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert made.usage is not None
    assert server.billed == [("/v1/chat/completions", made.model, made.usage.model_dump(exclude_unset=True))]


def test_a_stream_is_billed_before_its_usage_arrives(server: FakeOpenAI, client: OpenAI) -> None:
    """A reader that stops at response.completed finds the bill already written."""
    for event in client.responses.create(model="m", input="Hi", stream=True):
        if event.type == "response.completed":
            assert len(server.billed) == 1


def test_a_stream_left_early_is_billed_for_what_was_sent() -> None:
    """When the client hangs up, the bill counts all of the input and a part of the output, and nothing is printed."""
    words = " ".join(["word"] * 500)
    with fake_openai(words, chunk_delay_s=0.002) as server, connected(server) as client:
        with client.chat.completions.create(model="m", messages=HELLO, stream=True) as stream:
            for _ in range(3):
                next(stream)
        deadline = time.monotonic() + 2
        while not server.billed and time.monotonic() < deadline:
            time.sleep(0.005)
        assert 1 <= server.billed[0].usage["completion_tokens"] < 500


# The server itself


def test_the_async_client_is_served(server: FakeOpenAI) -> None:
    """The async client gets plain answers and streams, many at a time."""

    async def run() -> tuple[list[str | None], str]:
        async with AsyncOpenAI(api_key="test", base_url=server.base_url, max_retries=0) as client:
            many = [client.chat.completions.create(model="m", messages=HELLO) for _ in range(8)]
            texts = [made.choices[0].message.content for made in await asyncio.gather(*many)]
            stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
            return texts, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    texts, streamed = asyncio.run(run())
    assert {*texts, streamed} == {"You said: Hello there"}


def test_thirty_two_threads_are_served(server: FakeOpenAI, client: OpenAI) -> None:
    """No request of 32 threads is lost, mixed up or counted twice."""

    def ask(number: int) -> str | None:
        made = client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"number {number}"}])
        return made.choices[0].message.content

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(96))) == [f"You said: number {number}" for number in range(96)]
    assert (server.calls, len(server.billed), len(server.requests)) == (96, 96, 96)


def test_a_script_is_shared_by_threads() -> None:
    """Each answer of a script goes to exactly one request."""
    with (
        fake_openai("late", script=[str(n) for n in range(16)]) as server,
        connected(server) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        made = list(pool.map(lambda _: client.responses.create(model="m", input="Hi").output_text, range(20)))
    assert sorted(made) == sorted([*(str(n) for n in range(16)), *["late"] * 4])


def test_a_connection_is_used_again(server: FakeOpenAI) -> None:
    """Plain answers and streams leave the connection open for the next request."""
    wire = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=5)
    wire.connect()
    mine = wire.sock.getsockname()
    for stream in (False, True, False):
        wire.request("POST", "/v1/completions", json.dumps({"model": "m", "prompt": "Hi", "stream": stream}))
        wire.getresponse().read()
        assert wire.sock.getsockname() == mine
    wire.close()


def test_a_chunked_body_that_waits_for_100_is_read(server: FakeOpenAI) -> None:
    """Expect: 100-continue is answered before the body, and a chunked body is put together."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=5) as wire:
        wire.sendall(b"POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n")
        wire.sendall(b"Connection: close\r\n\r\n")
        assert wire.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.sendall(b'b\r\n{"model":"m\r\n10\r\n","prompt":"Hi"}\r\n0\r\n\r\n')
        answer = b"".join(iter(lambda: wire.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.requests[0].json == {"model": "m", "prompt": "Hi"}


def test_what_is_not_http_is_refused(server: FakeOpenAI) -> None:
    """Noise gets a 400 and the end of the connection, not a traceback."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=5) as wire:
        wire.sendall(b"noise\r\n\r\n")
        assert wire.recv(100).startswith(b"HTTP/1.1 400 ")


def test_closing_is_quick_whatever_is_open() -> None:
    """A hanging request, a half-read stream and an idle connection do not hold up `close`, and leave no thread."""
    server = fake_openai(Answer("one two", chunk_delay_s=60), script=[None, Answer(delay_s=60)])
    with connected(server) as client:
        half_read = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(half_read)
        failed: list[Exception] = []

        def hang() -> None:
            try:
                client.chat.completions.create(model="m", messages=HELLO)
            except openai.APIConnectionError as error:
                failed.append(error)

        hanging = threading.Thread(target=hang)
        hanging.start()
        while len(server.requests) < 2:
            time.sleep(0.001)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 0.5
        hanging.join(5)
        half_read.close()
    assert len(failed) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fake-openai")]


def test_closing_twice_does_nothing(server: FakeOpenAI) -> None:
    """`close` inside the block is allowed, and nobody is served afterwards."""
    server.close()
    server.close()
    with connected(server) as client, pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_nothing_is_printed(server: FakeOpenAI, client: OpenAI, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither answers nor errors reach stdout or stderr."""
    client.models.list()
    with pytest.raises(openai.NotFoundError):
        client.get("/nowhere", cast_to=object)
    assert capfd.readouterr() == ("", "")


def test_it_runs_by_itself() -> None:
    """`python -m` starts a server in the foreground, whose first line is its base URL."""
    command = [sys.executable, "-m", "rlm_obs.testing._server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with OpenAI(api_key="test", base_url=process.stdout.readline().strip(), max_retries=0) as client:
                assert client.responses.create(model="m", input="Hi").output_text == "You said: Hi"
        finally:
            process.terminate()
