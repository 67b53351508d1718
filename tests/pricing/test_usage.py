"""Reading what an answer says it used, from JSON and from the client's objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import CompletionUsage, CreateEmbeddingResponse, ImagesResponse
from openai.types.audio import Transcription
from openai.types.responses import Response, ResponseUsage

from rlm_obs._pricing.usage import ABSURD, read_tools, read_usage, text_counts
from rlm_obs._record import Usage

CHAT: dict[str, Any] = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 7, "cache_write_tokens": 5, "image_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 2, "image_tokens": 1},
}
CHAT_READ = Usage(
    input_tokens=100,
    cached_input_tokens=40,
    cache_write_tokens=5,
    output_tokens=50,
    reasoning_tokens=20,
    input_audio_tokens=7,
    output_audio_tokens=2,
    input_image_tokens=3,
    output_image_tokens=1,
)
RESPONSE: dict[str, Any] = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "output_tokens": 6,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 16,
}
RESPONSE_READ = Usage(input_tokens=10, cached_input_tokens=4, cache_write_tokens=2, output_tokens=6, reasoning_tokens=3)


@pytest.mark.parametrize("build", [dict, CompletionUsage.model_validate, lambda d: CompletionUsage.construct(**d)])
def test_chat(build: Any) -> None:
    """The usage of a chat is read the same from JSON, from a checked object and from an unchecked one."""
    assert read_usage(build(CHAT)) == CHAT_READ


@pytest.mark.parametrize("build", [dict, ResponseUsage.model_validate, lambda d: ResponseUsage.construct(**d)])
def test_responses(build: Any) -> None:
    """So is that of a response."""
    assert read_usage(build(RESPONSE)) == RESPONSE_READ


def test_embeddings_images_transcriptions() -> None:
    """Embeddings say no output, images their image tokens, transcriptions tokens or seconds."""
    embedding = CreateEmbeddingResponse.construct(usage={"prompt_tokens": 8, "total_tokens": 8}).usage
    assert read_usage(embedding) == Usage(input_tokens=8)
    image = ImagesResponse.construct(
        created=1,
        usage={"input_tokens": 9, "input_tokens_details": {"image_tokens": 5, "text_tokens": 4}, "output_tokens": 7},
    )
    assert read_usage(image.usage) == Usage(input_tokens=9, input_image_tokens=5, output_tokens=7)
    tokens = {"type": "tokens", "input_tokens": 3, "input_token_details": {"audio_tokens": 2}, "output_tokens": 1}
    assert read_usage(Transcription.construct(text="", usage=tokens).usage) == Usage(
        input_tokens=3, input_audio_tokens=2, output_tokens=1
    )
    seconds = Transcription.construct(text="", usage={"type": "duration", "seconds": 12})
    assert read_usage(seconds.usage) == Usage(seconds=12.0)


def test_fields_that_the_client_does_not_know() -> None:
    """What a host adds is read from an object as from JSON: DeepSeek's and Moonshot's names for cached tokens."""
    for extra in ({"prompt_cache_hit_tokens": 6}, {"cached_tokens": 6}):
        said: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10, **extra}
        expected = Usage(input_tokens=9, cached_input_tokens=6, output_tokens=1)
        assert read_usage(said) == expected
        assert read_usage(CompletionUsage.construct(**said)) == expected
        assert read_usage(CompletionUsage.model_validate(said)) == expected
        assert read_usage(SimpleNamespace(**said)) == expected


@pytest.mark.parametrize("provider", ["x_ai", "gcp.gemini", "gcp.vertex_ai"])
def test_reasoning_that_is_left_out_is_put_back(provider: str) -> None:
    """Where `completion_tokens` leaves reasoning out, the output is total - prompt; elsewhere it is as it is said."""
    said = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    back, plain = read_usage(said, provider), read_usage(said, "openai")
    assert back is not None
    assert plain is not None
    assert (back.output_tokens, plain.output_tokens) == (105, 5)
    less = read_usage({**said, "total_tokens": 3}, provider)
    assert less is not None
    assert less.output_tokens == 5


@pytest.mark.parametrize("raw", [None, {}, [], "", 0, True, "usage", {"other": 1}, {"prompt_tokens": None}, object()])
def test_no_usage_is_none(raw: object) -> None:
    """An answer that says nothing of its usage has none."""
    assert read_usage(raw) is None


@pytest.mark.parametrize("wrong", [None, -1, True, 1.0, "7", ABSURD + 1, [], {}, float("nan")])
def test_a_count_that_cannot_be_is_not_said(wrong: object) -> None:
    """A count that is no whole number of tokens is "not said"; the others of the same answer still count."""
    used = read_usage(
        {"prompt_tokens": 5, "completion_tokens": wrong, "prompt_tokens_details": {"cached_tokens": wrong}}
    )
    assert used == Usage(input_tokens=5)


@pytest.mark.parametrize("wrong", [None, 3, "x", [1], True])
def test_details_that_cannot_be_are_not_said(wrong: object) -> None:
    """Details of a wrong type are "not said"."""
    said: dict[str, Any] = {"prompt_tokens": 5, "completion_tokens": 2}
    said |= {"prompt_tokens_details": wrong, "completion_tokens_details": wrong}
    assert read_usage(said) == Usage(input_tokens=5, output_tokens=2)
    assert read_usage(CompletionUsage.construct(**said)) == Usage(input_tokens=5, output_tokens=2)


def test_tools_of_a_response() -> None:
    """The searches of a response are counted as the answer counts them."""
    tools = {"web_search": {"num_requests": 3}, "image_gen": {"total_tokens": 0}}
    assert read_tools(tools) == {"web_search": 3}
    assert read_tools({"web_search": {"num_requests": 0}, "image_gen": {"total_tokens": 9}}) == {}
    whole = Response.construct(usage=RESPONSE, tool_usage=tools)
    used = read_usage(whole.usage, "openai", whole.tool_usage)
    assert used is not None
    assert used.tool_calls == {"web_search": 3}
    assert used.input_tokens == 10


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.integers(0, 10**13),
    st.binary(max_size=2),
)
names = st.sampled_from(
    [*CHAT, *RESPONSE, "seconds", "type", "prompt_cache_hit_tokens", "cached_tokens", "reasoning_tokens"]
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(names, inner, max_size=6)),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(trees, st.sampled_from(["openai", "x_ai"]), trees)
def test_nothing_that_is_answered_raises(raw: Any, provider: str, tools: Any) -> None:
    """Whatever an answer holds, as JSON or as an unchecked object, reading it does not raise and gives sane counts."""
    built = [raw]
    if isinstance(raw, dict):
        built += [CompletionUsage.construct(**raw), SimpleNamespace(**raw)]
    for thing in built:
        used = read_usage(thing, provider, tools)
        for value in used.to_dict().values() if used else ():
            assert isinstance(value, dict) or (type(value) in (int, float) and 0 <= value <= ABSURD)


def test_the_counts_of_text_are_those_of_its_usage() -> None:
    """Most chats are read the short way; what it leaves to the long one is all that is not text alone in whole numbers."""
    plain = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    parts = {"prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0, "holograms": 7}}
    assert text_counts({**plain, **parts}) == {
        "input_tokens": 9,
        "output_tokens": 5,
        "cached_input_tokens": 4,
        "input_audio_tokens": 0,
    }
    for other in (
        {**plain, "prompt_tokens_details": {"audio_tokens": 1}},
        {**plain, "completion_tokens_details": {"image_tokens": 2}},
        {**plain, "prompt_tokens_details": {"cached_tokens": "4"}},
        {**plain, "prompt_tokens": -1},
        {**plain, "completion_tokens": True},
        {**plain, "cost": 0.1},
        {"input_tokens": 9, "output_tokens": 5},
        {},
        None,
    ):
        assert text_counts(other) is None
    assert text_counts(plain, "x_ai") is None
