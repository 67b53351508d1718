"""Turns a price of genai-prices into our Rates."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rlm_obs._pricing import matching
from rlm_obs._pricing.rates import Rates
from rlm_obs._record import EXACT

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

FINE_TUNED_CACHE = "the cached rate of fine-tuned models is not in the price list; the input rate is taken"
#: genai-prices' price keys -> ours; each is given per this many units.
KEYS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_long",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "input_audio",
    "cache_audio_read_mtok": "cached_audio",
    "output_audio_mtok": "output_audio",
    "input_image_mtok": "input_image",
    "cache_image_read_mtok": "cached_image",
    "output_image_mtok": "output_image",
    "input_mchars": "character",
}
TOOLS = {
    "web_searches_kcount": "web_search",
    "storage_searches_kcount": "file_search",
    "social_searches_kcount": "x_search",
    "code_executions_kcount": "code_interpreter",
}
MILLION, THOUSAND = Decimal(1_000_000), Decimal(1_000)


def rates_of(model: ModelInfo, provider: Provider, price: ModelPrice, caveats: tuple[str, ...] = ()) -> Rates | None:
    """Return a price of genai-prices as our Rates: its tiers are taken apart into whole price lists."""
    prices: dict[str, Any] = {key: value for key, value in price.__dict__.items() if value is not None}
    if not prices:
        return Rates(input=Decimal(0), output=Decimal(0)) if matching.known_free(model) else None
    starts = sorted({tier.start for value in prices.values() for tier in getattr(value, "tiers", ())})
    least = 10 if provider.id == "groq" and model.id.startswith("whisper-large-v3") else 0  # ModelInfo.calc_price
    cached = FINE_TUNED_CACHE if model.id.startswith("ft:") or ".ft-" in model.id else None
    if "cache_read_mtok" in prices:
        cached = None

    def above(start: int, tiers: tuple[tuple[int, Rates], ...] = ()) -> Rates:
        flat = {key: _at(value, start) for key, value in prices.items()}
        hour = flat.get("input_audio_hours", flat.get("audio_hours"))
        calls = flat.get("requests_kcount")
        rates: dict[str, Any] = {ours: EXACT.divide(flat[key], MILLION) for key, ours in KEYS.items() if key in flat}
        return Rates(
            **rates,
            audio_hour=hour,
            per_call=None if calls is None else EXACT.divide(calls, THOUSAND),
            tools={name: EXACT.divide(flat[key], THOUSAND) for key, name in TOOLS.items() if key in flat},
            least_seconds=least,
            tiers=tiers,
            caveats=caveats,
            cached_caveat=cached,
        )

    return above(-1, tuple((start, above(start)) for start in starts))


def _at(price: Any, start: int) -> Decimal:
    """Return a price just above `start` tokens of input."""
    rate: Decimal = getattr(price, "base", price)
    for tier in getattr(price, "tiers", ()):
        if start >= tier.start:
            rate = tier.price
    return rate
