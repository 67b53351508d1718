"""A bound is never below what a request can use: text by its bytes, images and audio apart, anything else by its shape."""

from __future__ import annotations

import json
from collections import UserDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_obs._budgets.bound import MOST_IMAGE_TOKENS, most_input_tokens, most_text_tokens

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.text(st.characters()))
def test_a_token_covers_at_least_one_byte(text: str) -> None:
    """Text is at most its UTF-8 bytes, a lone surrogate too: as JSON sends it, it takes no fewer."""
    assert most_text_tokens(text) == len(text.encode("utf-8", "surrogatepass"))


@given(st.lists(st.text()))
def test_every_text_of_a_message_counts(texts: list[str]) -> None:
    """However texts are nested, each of their bytes is in the bound."""
    content = [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]
    assert most_input_tokens(content) >= sum(most_text_tokens(text) for text in texts) + len("role") + len("user")


@given(JSON)
def test_any_json_has_a_bound(content: Any) -> None:
    """Whatever a request holds, there is a bound, and it is never negative."""
    assert most_input_tokens(content) >= 0


def test_an_image_is_not_counted_by_its_bytes() -> None:
    """An image costs at most what the dearest formula says, however long its data URL."""
    url = "data:image/png;base64," + "A" * 1_000_000
    assert most_input_tokens({"type": "image_url", "image_url": {"url": url}}) == MOST_IMAGE_TOKENS
    assert most_input_tokens({"type": "input_image", "image_url": url}) == MOST_IMAGE_TOKENS


def test_audio_counts_by_its_time() -> None:
    """A token of audio is a hundred milliseconds, and no second of it is below a thousand bytes."""
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}}
    assert 1000 <= most_input_tokens(sound) <= 1100


def test_tokens_given_as_numbers_are_tokens() -> None:
    """Embeddings take tokens instead of text."""
    assert most_input_tokens([5, 6, 7]) == 3
    assert most_input_tokens([[5, 6, 7], [8]]) >= 4


def test_a_one_pass_iterable_is_not_consumed() -> None:
    """What can be read only once is left for the client."""
    once = iter(["a", "b"])
    most_input_tokens({"messages": once})
    assert list(once) == ["a", "b"]


@pytest.mark.parametrize("tools", [1, 50])
def test_schemas_of_tools_count(tools: int) -> None:
    """Names, keys and descriptions of tools are sent, so they are in the bound."""
    schema = [
        {"type": "function", "function": {"name": f"tool_{n}", "parameters": {"type": "object"}}} for n in range(tools)
    ]
    assert most_input_tokens(schema) >= len(json.dumps(schema, separators=(",", ":"))) * 0.5


def test_any_mapping_is_a_mapping() -> None:
    """A user's own mapping counts as the dict that it is sent as."""
    assert most_input_tokens(UserDict(content="hello")) == most_input_tokens({"content": "hello"})
