"""`rlm-obs prices list`: the models of a provider, and what their tokens cost."""

from __future__ import annotations

import json as jsons
from typing import Annotated

from rlm_obs._cli.prices.rates import per_million
from rlm_obs._cli.table import table
from rlm_obs._plugins import loaded
from rlm_obs._pricing import genai, plugin
from rlm_obs._settings import near
from rlm_obs.errors import ConfigError

COLUMNS = ("input", "cached_input", "cache_write", "output")


def list_prices(
    provider: Annotated[str, "Whose price list."] = "openai",
    like: Annotated[str, "Only models with this in their name."] = "",
    json: Annotated[bool, "Print JSON."] = False,
) -> None:
    """List the models of a provider with their standard rates, in US dollars per million tokens, as of today."""
    plugin.use(loaded().settings)
    listed = next((one for one in genai.providers() if one.id == genai.IDS.get(provider, provider)), None)
    if listed is None:
        raise ConfigError(f"there is no provider {provider!r}{near(provider, [one.id for one in genai.providers()])}")
    rows = []
    for model in listed.models:
        rates = genai.resolve(provider, model.id) if like in model.id else None
        if rates is not None:
            rows.append((model.id, per_million(rates)))
    if json:
        print(jsons.dumps([{"model": name, **rates} for name, rates in rows], indent=2))
        return
    said = [(name, *(rates.get(column, "-") for column in COLUMNS)) for name, rates in rows]
    print(table([("MODEL", *(column.replace("_", " ").upper() for column in COLUMNS)), *said]))
