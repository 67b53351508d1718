"""The user's own prices: which of them holds, and what is said about one that cannot be."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rlm_obs._pricing.overrides import Overrides
from rlm_obs._record import Usage
from rlm_obs.errors import ConfigError

USAGE = Usage(input_tokens=1_000_000, cached_input_tokens=400_000, output_tokens=100_000)


def cost(prices: Any, model: str, usage: Usage = USAGE, provider: str = "openai") -> Any:
    read = Overrides.read(prices)
    assert read is not None
    rates = read.rates(provider, model)
    return None if rates is None else rates.cost(usage, "override")


def test_a_price_is_per_million_tokens() -> None:
    """Prices are dollars per million tokens, taken as they are written: 0.1 is ten cents, not its float."""
    got = cost({"mine": {"input": 0.1, "cached_input": "0.01", "output": 3}}, "mine")
    assert got.total == Decimal("0.06") + Decimal("0.004") + Decimal("0.3")
    assert got.source == "override"
    assert got.exact


def test_cached_input_without_a_price_costs_as_input() -> None:
    """Without `cached_input` the cached tokens cost what input costs."""
    assert cost({"mine": {"input": 1, "output": 0}}, "mine").total == 1


def test_a_price_per_call() -> None:
    """`per_call` is dollars for each call, alone or on top of the tokens."""
    assert cost({"mine": {"per_call": "0.02"}}, "mine").total == Decimal("0.02")
    assert cost({"mine": {"per_call": 0.02, "input": 1, "output": 1}}, "mine").total == Decimal("1.12")


def test_seconds_and_characters() -> None:
    """`per_second` is dollars per second of audio, `characters` per million characters."""
    assert cost({"w": {"per_second": "0.0001"}}, "w", Usage(seconds=93.0)).total == Decimal("0.0093")
    assert cost({"t": {"characters": 15}}, "t", Usage(characters=2_000)).total == Decimal("0.03")


def test_audio_and_images() -> None:
    """Audio and image tokens have prices of their own."""
    usage = Usage(
        input_tokens=30, input_audio_tokens=10, input_image_tokens=10, output_tokens=20, output_audio_tokens=5
    )
    prices = {"m": {"input": 1, "input_audio": 10, "input_image": 2, "output": 4, "output_audio": 20}}
    assert cost(prices, "m", usage).total * 1_000_000 == 10 * 1 + 10 * 10 + 10 * 2 + 15 * 4 + 5 * 20


@pytest.mark.parametrize(
    ("model", "provider", "dollars"),
    [
        ("gpt-4o", "openai", 1),
        ("GPT-4o", "openai", 1),
        ("gpt-4o", "azure.ai.openai", 2),
        ("gpt-4o-2024-08-06", "openai", 1),
        ("gpt-4o-2024-08-06", "azure.ai.openai", 2),
        ("gpt-4o-mini", "openai", 3),
        ("gpt-4o-mini-2024-07-18", "openai", 3),
        ("gpt-4.1", "openai", 4),
        ("gpt-4.1", "groq", 5),
        ("meta-llama/llama-3", "groq", 6),
        ("o3", "openai", None),
    ],
)
def test_the_nearest_price_holds(model: str, provider: str, dollars: int | None) -> None:
    """Exact wins over a prefix, a longer prefix over a shorter, one with the provider over one without it."""
    prices = {
        "gpt-4o": {"input": 1, "output": 0},
        "azure.ai.openai/gpt-4o": {"input": 2, "output": 0},
        "gpt-4o-*": {"input": 3, "output": 0},
        "gpt-4*": {"input": 4, "output": 0},
        "groq/gpt-4*": {"input": 5, "output": 0},
        "meta-llama/*": {"input": 6, "output": 0},
    }
    got = cost(prices, model, provider=provider)
    assert (got and got.total) == dollars


def test_a_file_of_toml_or_json(tmp_path: Path) -> None:
    """A file holds the same as a mapping; its numbers are read as they are written, never through a float."""
    (tmp_path / "p.toml").write_text('["acme/mine-1.5"]\ninput = 0.1\noutput = 0.3\n')
    (tmp_path / "p.json").write_text(json.dumps({"acme/mine-1.5": {"input": 0.1, "output": 0.3}}))
    for path in (tmp_path / "p.toml", str(tmp_path / "p.json")):
        assert cost(path, "mine-1.5", provider="acme").total == Decimal("0.13")


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ({"m": {"input": -1}}, ["'m'", "input", "-1"]),
        ({"m": {"input": float("nan")}}, ["'m'", "input", "nan"]),
        ({"m": {"output": "much"}}, ["'m'", "output", "'much'"]),
        ({"m": {"input": True}}, ["'m'", "input", "True"]),
        ({"m": {"imput": 1}}, ["'m'", "'imput'", "did you mean", "'input'"]),
        ({"m": {}}, ["'m'", "input"]),
        ({"m": 3}, ["'m'", "3"]),
        ({"m": {"1": {"input": 1}}}, ["'m'", '["m.1"]']),
        ({"": {"input": 1}}, ["no name"]),
        ({"m": {"input": 1}, "M": {"input": 2}}, ["'M'", "twice"]),
        ([1], ["a table per model"]),
    ],
)
def test_a_price_that_cannot_be_is_said_where_it_is(prices: Any, said: list[str]) -> None:
    """A wrong price is a ConfigError that names the model, the key, the value, and the names that were near."""
    with pytest.raises(ConfigError) as caught:
        Overrides.read(prices)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.toml", "[m]\ninput = -3\n", ["p.toml", "'m'", "-3"]),
        ("p.toml", "[gpt-4.1]\ninput = 3\n", ["p.toml", '["gpt-4.1"]']),
        ("p.toml", "input = ", ["p.toml"]),
        ("p.json", "{", ["p.json"]),
        ("p.json", "[]", ["p.json", "a table per model"]),
        ("p.yaml", "m:", ["p.yaml", ".toml or .json"]),
        ("missing.toml", None, ["missing.toml", "No such file"]),
    ],
)
def test_a_file_that_cannot_be_is_named(tmp_path: Path, name: str, text: str | None, said: list[str]) -> None:
    """What is wrong in a file is said with the file's name."""
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        Overrides.read(tmp_path / name)
    for part in said:
        assert part in str(caught.value)


def test_made_up_names_do_not_grow_memory() -> None:
    """A flood of names without a price is kept in a bounded dict."""
    prices = Overrides({"m": {"input": 1}})
    for number in range(5_000):
        assert prices.rates("openai", f"made-up-{number}") is None
    assert len(prices._found) <= 4_096
