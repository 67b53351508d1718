"""A token of sound is a tenth of a second: by the rate in a WAV's header, else by the lowest bit rate there is."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_obs._budgets.audio import audio_tokens


def wav(seconds: float, rate: int = 24_000, channels: int = 1, width: int = 2) -> str:
    written = io.BytesIO()
    with wave.open(written, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(bytes(int(seconds * rate) * channels * width))
    return base64.b64encode(written.getvalue()).decode()


@given(st.floats(0, 5), st.sampled_from([8_000, 16_000, 24_000, 44_100]), st.integers(1, 2), st.integers(1, 4))
def test_a_wav_counts_by_its_time(seconds: float, rate: int, channels: int, width: int) -> None:
    """Ten tokens a second, never fewer, and hardly more."""
    tokens = audio_tokens({"data": wav(seconds, rate, channels, width), "format": "wav"})
    assert tokens is not None
    assert seconds * 10 - 0.01 <= tokens <= seconds * 10 + 2


def test_anything_else_counts_as_the_longest_that_fits() -> None:
    """MP3 has no bit rate below 8 kbit/s: a thousand bytes are at most a second."""
    assert audio_tokens({"data": "A" * 4_000, "format": "mp3"}) == 30


@pytest.mark.parametrize("sound", [None, "x", {}, {"data": None}, {"data": 5}, {"data": b"RIFF"}])
def test_a_sound_that_is_not_there_has_no_length(sound: Any) -> None:
    """Without data there is no bound, and the caller says so."""
    assert audio_tokens(sound) is None


@given(st.binary(max_size=100), st.integers(0, 60))
def test_a_header_that_lies_is_no_error(noise: bytes, cut: int) -> None:
    """A WAV that is cut off, or states a rate of nothing, counts as the longest that fits."""
    whole = base64.b64decode(wav(0.1))
    for content in (whole[:cut] + noise, whole[:22] + bytes(12) + whole[34:], b"RIFF" + noise):
        tokens = audio_tokens({"data": base64.b64encode(content).decode()})
        assert tokens is not None and tokens >= 0
    silent = audio_tokens({"data": base64.b64encode(whole[:22] + bytes(12) + whole[34:]).decode()})
    assert silent == -(-((len(whole) + 2) // 3 * 3) * 10 // 1_000)
