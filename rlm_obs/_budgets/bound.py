"""The most that a call can use, known before a byte is sent: an upper bound of its input, and its output limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: An image costs at most this many tokens on any model that publishes a formula (gpt-4o-mini: 2833 + 8 tiles of 5667).
MOST_IMAGE_TOKENS = 48_169
#: A token of audio is 100 ms; nothing below 8 kbit/s is accepted, so 100 bytes are at least one token's time.
AUDIO_BYTES_PER_TOKEN = 100
_IMAGE_KEYS = frozenset({"image_url", "input_image"})


@dataclass(frozen=True, slots=True)
class Bound:
    """The most a call can use, in tokens. `output_tokens` is of all choices; `limit_is_users` if the request set it."""

    input_tokens: int
    output_tokens: int
    choices: int = 1
    limit_is_users: bool = False


def most_text_tokens(text: str) -> int:
    """Return the most tokens `text` can be: a bound, about four times too high for English prose.

    Unit: tokens of any byte-level BPE. Source: one covers at least one byte (Radford et al. 2019, section 2.2).
    """
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def most_input_tokens(content: Any) -> int:
    """Return the most input tokens that a request's JSON content can be: texts by their bytes, images and audio apart.

    Keys and roles are counted too, which covers the few tokens by which a model wraps each message and tool.
    """
    kind = type(content)
    if kind is str:
        return most_text_tokens(content)
    if kind is dict:
        part = content.get("type")
        if part in _IMAGE_KEYS:
            return MOST_IMAGE_TOKENS
        if part == "input_audio":
            return len(str(content.get("input_audio"))) // AUDIO_BYTES_PER_TOKEN + 16
        total = 4
        for key, value in content.items():
            total += len(str(key)) + (most_text_tokens(value) if type(value) is str else most_input_tokens(value))
        return total
    if kind is list or kind is tuple:
        if content and type(content[0]) is int:  # already tokens, as embeddings take them
            return len(content)
        return sum(most_input_tokens(value) for value in content) + 4
    if isinstance(content, Mapping):
        return most_input_tokens(dict(content))
    return 8  # a number, a bool, null; a one-pass iterable is never consumed
