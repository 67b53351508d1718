"""Lays out the rates of a model, for the commands that show some."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from rlm_obs._pricing.rates import Rates

MILLION = Decimal(1_000_000)
#: Rates per token, in the order in which they are shown.
TOKENS = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_long",
    "output",
    "reasoning",
    "input_audio",
    "cached_audio",
    "output_audio",
    "input_image",
    "cached_image",
    "output_image",
    "training",
    "character",
)
ONES = {"per_call": "a call", "audio_hour": "an hour of audio or video", "per_hour": "an hour", "image": "an image"}


def money(amount: Decimal) -> str:
    """Return dollars without the zeros at their end: 2.5, 0.075, 10."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def per_million(rates: Rates) -> dict[str, str]:
    """Return the rates of tokens, in dollars per million of them."""
    said: dict[str, Any] = {name: getattr(rates, name) for name in TOKENS}
    return {name: money(rate * MILLION) for name, rate in said.items() if rate is not None}


def described(rates: Rates) -> Iterator[tuple[str, str]]:
    """Give what each thing costs, and per how many."""
    for name, text in per_million(rates).items():
        yield name.replace("_", " "), f"${text} per million"
    for name, unit in ONES.items():
        rate = getattr(rates, name)
        if rate is not None:
            yield unit, f"${money(rate)}"
    for name, rate in rates.tools.items():
        yield name.replace("_", " "), f"${money(rate * 1000)} per 1,000 calls"
    if rates.search_tokens:
        yield "search content", f"{rates.search_tokens:,} input tokens a web search"
