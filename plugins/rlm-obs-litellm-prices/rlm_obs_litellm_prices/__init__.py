"""Prices from litellm's list, without litellm: the copy that comes with this plugin, or the file LITELLM_PRICES_FILE."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rlm_obs

BUNDLED = Path(__file__).with_name("prices.json.gz")
VARIABLE = "LITELLM_PRICES_FILE"
MILLION = Decimal(1_000_000)
#: OpenTelemetry's names of providers -> what stands before a model in litellm's list, and its own name of them.
PROVIDERS = {
    "openai": ("", "openai"),
    "azure.ai.openai": ("azure/", "azure"),
    "anthropic": ("", "anthropic"),
    "deepseek": ("deepseek/", "deepseek"),
    "fireworks": ("fireworks_ai/", "fireworks_ai"),
    "gcp.gemini": ("gemini/", "gemini"),
    "groq": ("groq/", "groq"),
    "mistral_ai": ("mistral/", "mistral"),
    "moonshot_ai": ("moonshot/", "moonshot"),
    "openrouter": ("openrouter/", "openrouter"),
    "perplexity": ("perplexity/", "perplexity"),
    "together": ("together_ai/", "together_ai"),
    "x_ai": ("xai/", "xai"),
}
TIERS = {None: "", "": "", "auto": "", "default": "", "standard": "", "flex": "_flex", "batch": "_batches"}
TIERS |= {"priority": "_priority", "fast": "_priority"}
#: litellm's keys, in dollars per one -> those of a price of rlm-obs; the first that is there counts.
KEYS = {
    "input": ("input_cost_per_token",),
    "output": ("output_cost_per_token",),
    "cached_input": ("cache_read_input_token_cost",),
    "cache_write": ("cache_creation_input_token_cost",),
    "cache_write_long": ("cache_creation_input_token_cost_above_12hr", "cache_creation_input_token_cost_above_1hr"),
    "reasoning": ("output_cost_per_reasoning_token",),
    "input_audio": ("input_cost_per_audio_token",),
    "cached_audio": ("cache_read_input_audio_token_cost",),
    "output_audio": ("output_cost_per_audio_token",),
    "input_image": ("input_cost_per_image_token",),
    "cached_image": ("cache_read_input_image_token_cost",),
    "output_image": ("output_cost_per_image_token",),
    "characters": ("input_cost_per_character",),
}
STEP = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")


@rlm_obs.hookimpl
def configured(settings: rlm_obs.Settings) -> None:
    """Read the list when the program is instrumented, not in its first call."""
    models()


@rlm_obs.hookimpl
def price(request: rlm_obs.Request, usage: rlm_obs.Usage) -> rlm_obs.Cost | None:
    """Price a model that the list names exactly; what it cannot say (searches, regions, waiting) is left to others."""
    named = PROVIDERS.get(request.provider)
    tier = TIERS.get(request.params.get("service_tier"))
    if named is None or tier is None or not request.model or usage.tool_calls or usage.also:
        return None
    if request.params.get("completion_window") in ("2h", "8h"):
        return None
    if named[0] == "" and request.base_url and urlsplit(request.base_url).hostname != f"api.{named[1]}.com":
        return None  # a region, or a host that only speaks like it: the built-in prices know, and say so
    rates = rates_of(request.provider, request.model, tier, step_of(request.provider, request.model, usage))
    if rates is None:
        return None
    cost = rlm_obs.price(request.model, usage, request.provider, overrides={request.model: rates})
    return None if cost is None else replace(cost, source=source())


def step_of(provider: str, model: str, usage: rlm_obs.Usage) -> str:
    """Return what stands in the keys of the highest step that the call's input has passed."""
    entry = entry_of(provider, model) or {}
    passed = [int(found[1]) for key in entry if (found := STEP.fullmatch(key))]
    above = max((step for step in passed if (usage.input_tokens or 0) > step * 1_000), default=None)
    return "" if above is None else f"_above_{above}k_tokens"


@lru_cache(maxsize=4096)
def rates_of(provider: str, model: str, tier: str, step: str) -> Mapping[str, Decimal] | None:
    """Return the rates of a model as `prices` of rlm-obs; None where the tier has none, or all of them are 0."""
    entry = entry_of(provider, model)
    if entry is None:
        return None
    if tier and f"input_cost_per_token{tier}" not in entry:
        return None
    found: dict[str, Decimal] = {}
    for ours, keys in KEYS.items():
        names = [f"{key}{part}" for key in keys for part in (step + tier, tier, "")]
        rate = next((entry[name] for name in names if isinstance(entry.get(name), Decimal | int)), None)
        if rate is not None:
            found[ours] = Decimal(rate) * MILLION
    if entry.get("mode") == "image_generation" and "output" not in found and "output_image" in found:
        found["output"] = found["output_image"]
    second = entry.get("input_cost_per_second") or entry.get("output_cost_per_second")
    if second and "input" not in found:
        found["per_second"] = Decimal(second)
    return found if any(found.values()) else None


@lru_cache(maxsize=4096)
def entry_of(provider: str, model: str) -> Mapping[str, Any] | None:
    """Return the list's entry of a model, by its exact name and for this provider only."""
    prefix, name = PROVIDERS[provider]
    entry = models().get(prefix + model)
    return entry if entry is not None and name in str(entry.get("litellm_provider")) else None


def models() -> Mapping[str, Mapping[str, Any]]:
    """Return the list: that of the file which the variable names, or the copy of this plugin."""
    return _read(os.environ.get(VARIABLE))[1]


def source() -> str:
    """Return who prices, with the version of the list, or the name of its file."""
    return _read(os.environ.get(VARIABLE))[0]


@lru_cache(maxsize=4)
def _read(file: str | None) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    if file:
        try:
            listed = json.loads(Path(file).read_text("utf-8"), parse_float=Decimal)
        except (OSError, ValueError) as error:
            raise rlm_obs.ConfigError(f"{VARIABLE}={file} cannot be read: {error}") from None
        return f"litellm {Path(file).name}", listed
    with gzip.open(BUNDLED, "rt", encoding="utf-8") as text:
        bundled = json.load(text, parse_float=Decimal)
    return f"litellm {bundled['version']}", bundled["models"]
