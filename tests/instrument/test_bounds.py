"""What a request may use at most: every endpoint's input and output, and what nobody can know before the call."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_obs._budgets import bound as reasons
from rlm_obs._budgets.bound import Bound
from rlm_obs._instrument import bounds
from rlm_obs._instrument.bounds import bound_of, has_bound
from rlm_obs._instrument.endpoints import ENDPOINTS
from rlm_obs._instrument.openai import PARAMS, SCALARS
from rlm_obs._record import Request

CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS = "/chat/completions", "/responses", "/completions", "/embeddings"
PNG = (
    "data:image/png;base64,"
    + base64.b64encode(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 1024, 1024) + bytes(9_000)).decode()
)


def bounded(path: str, provider: str = "openai", **body: Any) -> Bound:
    params = {name: value for name, value in body.items() if name in PARAMS and isinstance(value, SCALARS)}
    request = Request(provider=provider, endpoint=path, operation="x", model=body.get("model"), params=params)
    return bound_of(body, ENDPOINTS[path], request)


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}


@given(st.text())
def test_text_counts_by_its_bytes(text: str) -> None:
    """A prompt is at most its bytes, and a few tokens of wrapping."""
    size = len(text.encode())
    assert size <= bounded(CHAT, **said(text)).input_tokens <= size + 60
    assert size <= bounded(RESPONSES, model="gpt-4o", input=text).input_tokens <= size + 10
    assert bounded(EMBEDDINGS, model="text-embedding-3-small", input=text).input_tokens == size


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted(
    {*bounds.NOT_INPUT, "instructions", "response_format", "functions", "suffix", "text", "reasoning", "anything"}
    - {"model"}
)


@given(
    st.sampled_from([path for path, endpoint in ENDPOINTS.items() if endpoint.unbounded is None]),
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6),
    st.sampled_from(["gpt-4o", "gpt-6-sol", "tts-1", "no-such-model", "text-embedding-3-small", "", None, 7]),
    st.sampled_from(["openai", "azure.ai.openai", "deepseek", "no such provider"]),
)
def test_any_body_has_a_bound(path: str, body: dict[str, Any], model: Any, provider: str) -> None:
    """Whatever JSON a request holds, there is a bound, it is never negative, and nothing is raised."""
    request = Request(
        provider=provider,
        endpoint=path,
        operation="x",
        model=model if isinstance(model, str) else None,
        params={name: value for name, value in body.items() if name in PARAMS and isinstance(value, SCALARS)},
    )
    found = bound_of({"model": model, **body}, ENDPOINTS[path], request)
    assert found.input_tokens >= 0 and found.output_tokens >= 0 and found.choices >= 1
    assert found.likely_tokens is None or 0 <= found.likely_tokens <= found.input_tokens
    assert found.holds or found.unknown


def test_a_request_that_is_nested_without_end_is_no_error() -> None:
    """What no client could send has a bound of nothing, and a reason."""
    inner: list[Any] = []
    inner.append(inner)
    found = bounded(CHAT, model="gpt-4o", messages=inner)
    assert found.unknown and not found.holds


def test_schemas_and_tools_are_input() -> None:
    """Tools, functions and response formats count with all that is written in them."""
    text = "x" * 1_000
    for more in (
        {"tools": [{"type": "function", "function": {"name": "f", "description": text}}]},
        {"functions": [{"name": "f", "description": text}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"description": text}}}},
        {"instructions": text},
        {"a_parameter_of_some_host": {"documents": [text]}},
    ):
        assert 1_000 <= bounded(CHAT, **said("hi", **more)).input_tokens <= 1_200


def test_what_no_model_reads_is_no_input() -> None:
    """Metadata, biases and keys cost nothing."""
    more = {
        "metadata": {"a": "x" * 500},
        "user": "x" * 500,
        "logit_bias": {str(n): 1 for n in range(300)},
        "stop": "x" * 500,
    }
    assert bounded(CHAT, **said("hi", **more)).input_tokens == bounded(CHAT, **said("hi")).input_tokens


def test_images_by_their_size_and_at_most_by_their_model() -> None:
    """A data URL counts by its pixels; a remote image at the model's most, which is a bound as well."""
    for part in (
        [{"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}],
        [{"type": "input_image", "image_url": PNG, "detail": "high"}],
    ):
        found = bounded(CHAT, model="gpt-4o", messages=[{"role": "user", "content": part}])
        assert found.image_tokens == 765 and found.holds and not found.unknown
        assert 765 <= found.input_tokens <= 850
    remote = {"type": "input_image", "image_url": "https://example.test/cat.png"}
    found = bounded(RESPONSES, model="gpt-4o", input=[{"role": "user", "content": [remote]}])
    assert found.image_tokens == 1_445 and found.holds and not found.unknown


def test_sounds_are_a_share_of_their_own() -> None:
    """Audio in is counted by its time, and may have a rate of its own; audio out makes the output one."""
    part = {"type": "input_audio", "input_audio": {"data": "A" * 4_000, "format": "mp3"}}
    found = bounded(
        CHAT, model="gpt-audio", messages=[{"role": "user", "content": [part]}], modalities=["text", "audio"]
    )
    assert found.audio_tokens == 30 and found.speaks


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"previous_response_id": "resp_1"}, reasons.STORED),
        ({"conversation": "conv_1"}, reasons.STORED),
        ({"conversation": {"id": "conv_1"}}, reasons.STORED),
        ({"prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}, reasons.STORED),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, reasons.STORED),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}, reasons.FILES),
    ],
)
def test_stored_input_is_bounded_by_the_window(more: dict[str, Any], reason: str) -> None:
    """What is on the server is named; it never exceeds the model's window, so that is held where it is known."""
    found = bounded(RESPONSES, **{"model": "gpt-4o", "input": "go on", **more})
    assert found.unknown == (reason,) and found.input_tokens == 128_000 and found.holds
    unknown = bounded(RESPONSES, **{"model": "no-such-model", "input": "go on", **more})
    assert unknown.unknown == (reason,) and unknown.input_tokens < 300 and not unknown.holds


@pytest.mark.parametrize(
    "tool",
    [*bounds.HOSTED, "web_search", "web_search_preview", "web_search_2025_08_26", "no such tool"],
)
def test_hosted_tools_are_named_and_break_the_bound(tool: str) -> None:
    """A tool that runs at the host adds input in turns of its own, which no window bounds."""
    found = bounded(RESPONSES, model="gpt-4o", input="hi", tools=[{"type": tool}])
    assert len(found.unknown) == 1 and not found.holds
    own = [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]
    assert bounded(RESPONSES, model="gpt-4o", input="hi", tools=own).holds


def test_search_is_named_however_it_is_asked_for() -> None:
    """By an option, or by a model that always searches."""
    for body in (
        said("hi", web_search_options={}),
        {**said("hi"), "model": "gpt-4o-search-preview"},
        {**said("hi"), "model": "o3-deep-research"},
    ):
        found = bounded(CHAT, **body)
        assert found.unknown == (bounds.WEB_SEARCH,) and not found.holds


def test_no_input_exceeds_the_window() -> None:
    """A text longer than the window would be refused, so it holds no more; not so at Azure, where names are one's own."""
    assert bounded(CHAT, **said("x" * 1_000_000)).input_tokens == 128_000
    assert bounded(CHAT, "azure.ai.openai", **said("x" * 1_000_000)).input_tokens >= 1_000_000


@pytest.mark.parametrize(
    ("more", "output", "choices", "users"),
    [
        ({}, 16_384, 1, False),
        ({"max_completion_tokens": 100}, 100, 1, True),
        ({"max_tokens": 100, "max_completion_tokens": 50}, 50, 1, True),
        ({"max_tokens": 10**9}, 16_384, 1, True),
        ({"n": 3}, 3 * 16_384, 3, False),
        ({"n": 3, "max_tokens": 7}, 21, 3, True),
        ({"n": None, "max_tokens": None}, 16_384, 1, False),
        ({"n": "3", "max_tokens": -1}, 16_384, 1, False),
        ({"max_tokens": True}, 16_384, 1, False),
    ],
)
def test_output_by_the_limits(more: dict[str, Any], output: int, choices: int, users: bool) -> None:
    """Output is the user's limit or the model's own, for each choice."""
    found = bounded(CHAT, **said("hi", **more))
    assert (found.output_tokens, found.choices, found.limit_is_users) == (output, choices, users)


def test_a_prediction_is_output() -> None:
    """What was predicted and thrown away is billed as output, so it is held beside a limit."""
    prediction = {"type": "content", "content": "x" * 1_000}
    found = bounded(CHAT, **said("hi", max_tokens=10, prediction=prediction))
    assert 1_010 <= found.output_tokens <= 1_100


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("hello", 5),
        (["hello", "you"], 8),
        ([1, 2, 3], 3),
        ([[1, 2, 3], [4]], 4),
        (["x" * 20_000, "y"], 8_193),  # a single one is never longer than the window
        (["x" * 8_000] * 100, 300_000),  # nor all of them
    ],
)
def test_embeddings(given: Any, tokens: int) -> None:
    """A text, tokens, lists of both: each bounded by the window, and all by what one request may have."""
    found = bounded(EMBEDDINGS, model="text-embedding-3-small", input=given)
    assert (found.input_tokens, found.output_tokens, found.holds) == (tokens, 0, True)


@pytest.mark.parametrize(
    ("body", "tokens", "output", "choices"),
    [
        ({"prompt": "hello"}, 5, 16, 1),
        ({"prompt": ["hello", "you"], "n": 2, "max_tokens": 5}, 8, 20, 4),
        ({"prompt": [1, 2, 3], "best_of": 4, "n": 2}, 3, 64, 4),
        ({"prompt": [[1, 2], [3]], "max_tokens": 1}, 3, 2, 2),
        ({"prompt": "hello", "suffix": "you"}, 11, 16, 1),
        ({}, 1, 16, 1),
    ],
)
def test_completions(body: dict[str, Any], tokens: int, output: int, choices: int) -> None:
    """Each prompt is a request of its own with `n` or `best_of` answers; OpenAI writes 16 tokens where none are asked."""
    found = bounded(COMPLETIONS, model="gpt-3.5-turbo-instruct", **body)
    assert (found.input_tokens, found.output_tokens, found.choices) == (tokens, output, choices)


def test_other_hosts_complete_more() -> None:
    """The 16 tokens are OpenAI's: elsewhere the model's own limit counts."""
    assert bounded(COMPLETIONS, "together", model="no-such-model", prompt="x").output_tokens == 128_000


def test_speech_is_bounded_where_it_is_priced_by_the_character() -> None:
    """tts-1 bills what it reads; other speech, images and transcriptions have no bound, for a reason."""
    spoken = Request(provider="openai", endpoint="/audio/speech", operation="x", model="tts-1")
    assert has_bound(ENDPOINTS["/audio/speech"], spoken)
    assert bound_of({"input": "hello"}, ENDPOINTS["/audio/speech"], spoken).characters == 5
    for path, endpoint in ENDPOINTS.items():
        request = Request(provider="openai", endpoint=path, operation="x", model="gpt-4o-mini-tts")
        assert has_bound(endpoint, request) is (endpoint.unbounded is None)


@pytest.mark.parametrize("options", [{"ttl": "12h"}, {"mode": "explicit", "ttl": "12h"}])
def test_a_cache_for_hours_is_noticed(options: dict[str, Any]) -> None:
    """The option of the whole request counts as the mark of a part does."""
    assert bounded(CHAT, **said("hi", prompt_cache_options=options)).long_cache
    assert not bounded(CHAT, **said("hi", prompt_cache_options={"ttl": "30m"})).long_cache
