"""`rlm-obs prices show`: what a model costs, on each service tier, and above each step of its input."""

from __future__ import annotations

import json as jsons
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from rlm_obs._cli.prices.rates import described, per_million
from rlm_obs._cli.table import table
from rlm_obs._plugins import loaded
from rlm_obs._pricing import genai, plugin
from rlm_obs._pricing.overrides import SOURCE
from rlm_obs._pricing.rates import Rates
from rlm_obs.errors import ConfigError

TIERS = (None, "flex", "priority", "batch", "ultrafast", "scale")


def show(
    model: str,
    provider: Annotated[str, "Whose price list."] = "openai",
    day: Annotated[str | None, "The prices of another day, as 2026-11-24."] = None,
    json: Annotated[bool, "Print JSON."] = False,
) -> None:
    """Show what a model costs: your own price where you stated one, else the list's."""
    found = list(known(model, provider, day))
    if not found:
        raise ConfigError(
            f"no price is known for {model!r} of {provider!r}: `rlm-obs prices list` shows those that are"
        )
    if json:
        print(jsons.dumps([{"tier": t, "above": a, "source": s, **per_million(r)} for t, a, s, r in found], indent=2))
        return
    for tier, above, source, rates in found:
        step = f", above {above:,} input tokens" if above else ""
        print(f"{model}, {tier}{step} ({source})")
        print(table(list(described(rates)), "  "))


def known(model: str, provider: str, day: str | None) -> Iterator[tuple[str, int, str, Rates]]:
    """Give tier, step, source and rates of all that is known of a model."""
    plugin.use(loaded().settings)
    overrides = plugin.stated().overrides
    own = None if overrides is None else overrides.rates(provider, model)
    if own is not None:
        yield "every tier", 0, SOURCE, own
        return
    try:
        at = None if day is None else datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC)
    except ValueError:
        raise ConfigError(f"--day={day}: give a day as 2026-11-24") from None
    for tier in TIERS:
        rates = genai.resolve(provider, model, tier, at)
        if rates is not None:
            yield tier or "standard", 0, genai.source(), rates
            for start, above in rates.tiers:
                yield tier or "standard", start, genai.source(), above
