"""Text is counted exactly where tiktoken and its vocabulary are at hand, and nothing is ever downloaded."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken

import rlm_obs
from rlm_obs._budgets import counting
from rlm_obs._budgets.bound import most_text_tokens
from rlm_obs._budgets.counting import text_counter


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    """Let nobody connect, and keep tiktoken away from a cache that this machine may have."""
    tried: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: tried.append(a) or connect(None, a))  # type: ignore[arg-type]
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    yield tried
    counting.use("bytes")


def test_bytes_are_the_default() -> None:
    """Unless asked for, no vocabulary is looked for."""
    counting.use("bytes")
    assert text_counter("gpt-4o") is most_text_tokens


def test_without_a_vocabulary_bytes_are_counted(no_network: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """Where the cache has none, one line says how to fetch one, and nobody connects."""
    with rlm_obs.instrument(exporters=[], settings={"count_tokens": "tiktoken"}):
        assert text_counter("gpt-4o") is most_text_tokens
        assert rlm_obs.estimate({"model": "gpt-4o", "input": "hello"}).input_tokens
    assert no_network == []
    assert "no vocabulary is in its cache" in caplog.text


def test_a_damaged_vocabulary_is_left_alone(no_network: list[Any], tmp_path: Path) -> None:
    """tiktoken would throw it away and fetch it anew: it is not asked."""
    (tmp_path / "cache").mkdir()
    damaged = tmp_path / "cache" / "fb374d419588a4632f3f557e76b4b70aebbca790"  # o200k_base
    damaged.write_bytes(b"not a vocabulary")
    counting.use("tiktoken")
    assert text_counter("gpt-4o") is most_text_tokens and no_network == []
    assert damaged.read_bytes() == b"not a vocabulary"


def test_without_tiktoken_bytes_are_counted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is an extra: where it is missing, one line says so."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    counting.use("tiktoken")
    assert text_counter("gpt-4o") is most_text_tokens
    assert "pip install tiktoken" in caplog.text


@pytest.fixture
def vocabulary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put a vocabulary of single bytes and one word where o200k_base is kept, with its real hash set aside."""
    made = tiktoken.Encoding(
        "o200k_base",
        pat_str=r"\w+|\W",
        mergeable_ranks={**{bytes([n]): n for n in range(256)}, b"he": 256, b"ll": 257, b"hell": 258, b"hello": 259},
        special_tokens={},
    )
    monkeypatch.setattr(counting, "_at_hand", lambda name: name == "o200k_base")
    monkeypatch.setattr(tiktoken, "get_encoding", {"o200k_base": made}.__getitem__)


def test_a_vocabulary_counts_exactly(vocabulary: None) -> None:
    """The texts of a request count as their tokens, for the models that tiktoken knows; for others by their bytes."""
    with rlm_obs.instrument(exporters=[], settings={"count_tokens": "tiktoken"}):
        text = "hello " * 100
        assert text_counter("gpt-4o")(text) == text_counter("gpt-4o-mini-2024-07-18")(text) == 200
        assert text_counter("gpt-3.5-turbo") is text_counter("gpt-6-sol") is most_text_tokens
        body = {"messages": [{"role": "user", "content": text}]}
        exact = rlm_obs.estimate({"model": "gpt-4o", **body}).input_tokens
        bytes_ = rlm_obs.estimate({"model": "gpt-6-sol", **body}).input_tokens
        assert exact is not None and bytes_ is not None and bytes_ - exact == 400


def test_a_very_long_text_counts_by_its_bytes(vocabulary: None) -> None:
    """Counting it would take longer than a call should wait."""
    counting.use("tiktoken")
    assert text_counter("gpt-4o")("hello " * 200_000) == 1_200_000


def test_a_special_token_in_a_text_is_text(vocabulary: None) -> None:
    """What a user writes is never taken for a mark of the model's, and never an error."""
    counting.use("tiktoken")
    assert text_counter("gpt-4o")("<|endoftext|>") > 1
