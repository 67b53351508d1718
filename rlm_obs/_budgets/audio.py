"""The most tokens that a sound in a request can cost: a token is 100 ms, and its length is in its header or its bytes."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any

#: Tokens of one second. Source: OpenAI's pricing page, audio input (read November 2026).
PER_SECOND = 10
#: MP3 has no bit rate below 8 kbit/s (MPEG 2.5 layer III), which is 1,000 bytes of a second.
LEAST_BYTES_PER_SECOND = 1_000
#: Samples as they are, as integers or floats, and the form of either with its format in an extension.
PLAIN = frozenset({1, 3, 0xFFFE})
HEADER_CHARACTERS = 2_048


def audio_tokens(sound: Any) -> int | None:
    """Return the most tokens of an `input_audio` (`{"data": base64, "format": "wav"}`), or None where it has no data.

    A WAV by the rate in its header, so no more than a token too many; anything else as if it were the longest that fits.
    """
    data = sound.get("data") if isinstance(sound, dict) else None
    if not isinstance(data, str):
        return None
    size = len(data) * 3 // 4
    rate = _wav_rate(data) or LEAST_BYTES_PER_SECOND
    return -(-size * PER_SECOND // rate)


def _wav_rate(data: str) -> int | None:
    head = data[:HEADER_CHARACTERS]
    try:
        return _rate(b64decode(head[: len(head) // 4 * 4], validate=True))
    except (binascii.Error, ValueError):
        return None


def _rate(head: bytes) -> int | None:
    """Return the bytes of a second that a WAV's header states, the lower of the two ways in which it does."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at = 12
    while at + 24 <= len(head):
        kind, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if kind == b"fmt ":
            form, channels, samples, stated, _, bits = (
                int.from_bytes(head[at + start : at + end], "little")
                for start, end in ((8, 10), (10, 12), (12, 16), (16, 20), (20, 22), (22, 24))
            )
            counted = channels * samples * bits // 8
            return min(stated, counted) if form in PLAIN else None
        at += 8 + size + size % 2
    return None
