"""`rlm-obs prices check`: whether a file of prices can be used, and what it changes."""

from __future__ import annotations

from pathlib import Path

from rlm_obs._cli.prices.rates import money, per_million
from rlm_obs._cli.table import table
from rlm_obs._pricing import genai
from rlm_obs._pricing.overrides import Overrides


def check(file: Path) -> None:
    """Read a file of prices (TOML or JSON) and say what each is beside the list's; what cannot be is named."""
    overrides = Overrides.read(file)
    assert overrides is not None
    rows = [("MODEL", "PER MILLION", "THE LIST SAYS")]
    for name, rates in overrides.stated():
        provider, slash, model = name.rpartition("/")
        listed = genai.resolve(provider if slash else "openai", model)
        mine, theirs = per_million(rates), {} if listed is None else per_million(listed)
        rows.append((name, spelled(mine), spelled({k: theirs.get(k, "-") for k in mine}) if theirs else "nothing"))
    if len(rows) > 1:
        print(table(rows))
    for name, share in overrides.discounts.items():
        print(f"{money(share * 100)}% off {'everything else' if name == '*' else name}")
    print(f"{file}: {len(rows) - 1} prices, {len(overrides.discounts)} discounts, no mistake")


def spelled(rates: dict[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {rate}" for name, rate in rates.items()) or "by the call or the time"
