"""`rlm-obs prices diff`: what each source of prices says of a model, side by side."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

from rlm_obs._cli.prices.rates import money
from rlm_obs._cli.table import table
from rlm_obs._plugins import loaded
from rlm_obs._pricing import plugin
from rlm_obs._record import Cost, Request, Usage

#: What is asked of each source: so many of one thing, far below any step.
COUNT = 1_000
ASKED = {
    "input": Usage(input_tokens=COUNT, output_tokens=0),
    "cached input": Usage(input_tokens=COUNT, cached_input_tokens=COUNT, output_tokens=0),
    "cache write": Usage(input_tokens=COUNT, cache_write_tokens=COUNT, output_tokens=0),
    "output": Usage(input_tokens=0, output_tokens=COUNT),
}


def diff(
    model: str,
    provider: Annotated[str, "Who answers."] = "openai",
    tier: Annotated[str | None, "The service tier."] = None,
) -> int:
    """Compare what the sources of prices say, in US dollars per million tokens; exit with 1 where they differ."""
    plugins = loaded()
    plugin.use(plugins.settings)
    params = {} if tier is None else {"service_tier": tier}
    request = Request(provider=provider, endpoint="/chat/completions", operation="chat", model=model, params=params)
    columns: dict[str, list[str]] = {}
    for name, function, wanted in plugins.callers("price"):
        said = [asked(function, wanted, request, usage) for usage in ASKED.values()]
        source = next((one.source for one in said if one is not None), None)
        if source is not None or name != "prices":
            columns[source or name] = ["-" if one is None else money(one.total * 1_000_000 / COUNT) for one in said]
    rows = [(what, *(column[at] for column in columns.values())) for at, what in enumerate(ASKED)]
    print(table([("US DOLLARS", *columns), *rows]))
    return int(any(len({cell for cell in row[1:] if cell != "-"}) > 1 for row in rows))


def asked(function: Callable[..., Any], wanted: tuple[str, ...], request: Request, usage: Usage) -> Cost | None:
    """Return what one source says of one usage."""
    facts = {"request": request, "usage": usage, "duration_s": None}
    said: Cost | None = function(*(facts[name] for name in wanted))
    return None if said is None or type(said.total) is not Decimal else said
