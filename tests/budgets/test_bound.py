"""A bound is never below what content can use: text by its bytes, images and sounds by their formulas, the rest named."""

from __future__ import annotations

import json
from collections import UserDict
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rlm_obs._budgets import bound
from rlm_obs._budgets.bound import Count, most_input_tokens, most_json_tokens, most_text_tokens, plain_text_tokens

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.text(st.characters()))
def test_a_token_covers_at_least_one_byte(text: str) -> None:
    """Text is at most its UTF-8 bytes, a lone surrogate too: as JSON sends it, it takes no fewer."""
    assert most_text_tokens(text) == len(text.encode("utf-8", "surrogatepass"))


def test_a_long_text_is_never_encoded_whole() -> None:
    """Text beyond ASCII is counted piece by piece, and to the same sum."""
    text = "слово " * 100_000
    assert most_text_tokens(text) == len(text.encode())


@given(st.lists(st.text()))
def test_every_text_of_a_message_counts(texts: list[str]) -> None:
    """However texts are nested, each of their bytes is in the bound."""
    content = [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]
    assert most_input_tokens(content) >= sum(most_text_tokens(text) for text in texts) + len("role") + len("user")


@given(JSON)
def test_written_out_json_is_within_its_bound(value: Any) -> None:
    """A schema counts at least the bytes of its JSON, whatever a model makes of it."""
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    unescaped = sum(written.count(mark) for mark in (b"\\", b"\x7f"))  # a model reads the character, not its escape
    escapes = written.count(b"\\u00") * 5
    assert most_json_tokens(value) >= len(written) - unescaped - escapes


PARTS = st.sampled_from([*bound.PARTS, "text", "refusal", "no such part"])


@given(st.lists(st.fixed_dictionaries({"type": PARTS}, optional={
    "image_url": JSON, "input_audio": JSON, "file": JSON, "file_id": JSON, "detail": JSON, "result": JSON, "audio": JSON,
    "prompt_cache_breakpoint": JSON, "text": JSON,
})) | JSON)  # fmt: skip
def test_any_content_has_a_bound(content: Any) -> None:
    """Whatever a message holds, well formed or not, there is a bound, and it is never negative."""
    count = Count("gpt-4o")
    assert count.content(content) >= count.images + count.sounds >= 0


def test_a_data_url_counts_as_its_image() -> None:
    """An image costs what its formula says, however long its data URL."""
    url = "data:image/png;base64," + "A" * 1_000_000  # no image in it: the most of the model
    for part in (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_image", "image_url": url},
        {"type": "image_generation_call", "id": "ig_1", "result": "A" * 1_000_000},
    ):
        assert 1_445 <= most_input_tokens(part, "gpt-4o") <= 1_445 + 60


def test_a_word_of_a_schema_is_no_image() -> None:
    """Only in content is a type a part: in a schema or in the arguments of a tool it is text like any other."""
    schema = {"type": "image_url", "image_url": "x" * 10_000}
    assert most_json_tokens(schema) > 10_000


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "input_file", "file_id": "file-1"}, bound.FILES),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}, bound.FILES),
        ({"type": "item_reference", "id": "msg_1"}, bound.STORED),
        ({"type": "input_audio", "input_audio": {}}, bound.SOUND),
        ({"role": "assistant", "audio": {"id": "audio_1"}}, bound.SOUND),
        ({"type": "video_url", "video_url": {"url": "https://example.test/a.mp4"}}, bound.CUSTOM),
        ({"role": "user", "content": iter(["once"])}, bound.UNREAD),
    ],
)
def test_what_cannot_be_known_is_named(part: dict[str, Any], reason: str) -> None:
    """Files, stored items, earlier sounds and what can be read only once are named, not guessed."""
    count = Count("gpt-4o")
    count.content([part])
    assert list(count.unknown) == [reason] and count.stored


def test_an_image_without_a_formula_is_named() -> None:
    """A model whose formula nobody published is held at the dearest one, which is said."""
    count = Count("gpt-9")
    assert count.content({"type": "input_image", "file_id": "file-1"}) >= 73_800
    assert bound.PICTURES in count.unknown


def test_tokens_given_as_numbers_are_counted() -> None:
    """A list of numbers is at least as many tokens as it has."""
    assert most_input_tokens([5, 6, 7]) >= 3


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
    assert most_json_tokens(schema) >= len(json.dumps(schema, separators=(",", ":")))


def test_any_mapping_is_a_mapping() -> None:
    """A user's own mapping counts as the dict that it is sent as."""
    assert most_input_tokens(UserDict(content="hello")) == most_input_tokens({"content": "hello"})


class Role(StrEnum):
    user = "user"


class Message(BaseModel):
    role: Role
    content: str
    refusal: str | None = None


def test_an_answer_that_is_sent_back_counts_as_its_fields() -> None:
    """Messages of the client's own models count as what they are sent as."""
    sent = {"role": "user", "content": "hello"}
    assert most_input_tokens([Message(role=Role.user, content="hello")]) == most_input_tokens([sent])


@pytest.mark.parametrize("ttl", ["12h", "1h"])
def test_a_cache_for_hours_is_noticed(ttl: str) -> None:
    """A breakpoint that is kept for hours is noticed wherever it stands; the usual ones are not."""
    for mark, expected in ((ttl, True), ("30m", False), (None, False)):
        count = Count("gpt-5.6-sol")
        part = {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": mark}}
        count.content([{"role": "user", "content": [part]}])
        assert count.long_cache is expected


@given(st.lists(st.fixed_dictionaries({"role": st.text(max_size=9), "content": st.text(max_size=50)}), max_size=5))
def test_plain_messages_count_as_any_content(messages: list[dict[str, str]]) -> None:
    """The short way for messages of ASCII gives what the long way does, and leaves all others to it."""
    plain = plain_text_tokens(messages)
    ascii_alone = all(text.isascii() for message in messages for text in message.values())
    assert plain == (Count("gpt-4o").content(messages) if ascii_alone else None)


@pytest.mark.parametrize(
    "other",
    [
        None,
        "hello",
        ({"role": "user", "content": "hello"},),
        [{"role": "user"}],
        [{"role": "user", "content": "hello", "name": "x"}],
        [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        [{"type": "input_image", "content": "hello"}],
    ],
)
def test_what_is_no_plain_message_goes_the_long_way(other: Any) -> None:
    """Other shapes are not counted by the short way."""
    assert plain_text_tokens(other) is None
