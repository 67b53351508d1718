"""What OpenAI and Azure bill by rules that no price list has: tools, the time of a cache, regions, waiting for an answer.

Read and cross-checked November 2026, from OpenAI's pricing page, its client's types, and litellm's list.
"""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal

from rlm_obs._pricing.parts import ZERO
from rlm_obs._pricing.rates import Rates
from rlm_obs._record import EXACT, Cost

#: The price lists (of genai-prices) whose models are OpenAI's.
SELLS_OPENAI = frozenset({"openai", "azure", "openai-decisions"})
#: Input that is kept in the cache for 12 hours, against fresh input.
TWELVE_HOURS = Decimal("2.5")
WEB_SEARCH, FILE_SEARCH = Decimal("0.010"), Decimal("0.0025")
PREVIEW_PLAIN, PREVIEW_REASONING = Decimal("0.025"), Decimal("0.010")
#: Models that think before they answer; only these are cheaper in the preview of web search.
REASONING = re.compile(r"(?:ft:)?(?:o\d|gpt-5(?!.*-chat)|gpt-[6-9]|codex|computer-use)")
#: Models whose web searches bill a fixed number of input tokens each.
FIXED_SEARCH = re.compile(r"(?:ft:)?(?:gpt-4o-mini|gpt-4\.1-mini)(?:-20\d\d-\d\d-\d\d)?(?::.*)?")
SEARCH_TOKENS = 8_000
#: Chats that always search do not say how often.
UNTOLD_SEARCH = "the searches of the answer are not in it"

#: What regional hosts and data zones add.
UPLIFT = Decimal("1.1")
#: Regional hosts add it for models released from this day on.
SINCE = "2026-03-05"
#: The families that were, by the beginnings of their names; a date in a name says it for itself.
NEWER = ("gpt-5.4", "gpt-5.5", "gpt-5.6", "gpt-6", "gpt-realtime-2", "gpt-image-2")
DATE = re.compile(r"20\d\d-\d\d-\d\d")
#: `background_options.completion_window` -> what is left of the price.
WINDOWS = {"2h": Decimal("0.7"), "8h": Decimal("0.6")}
STANDARD = (None, "", "auto", "default")


def ruled(rates: Rates | None, provider: str, model: str) -> Rates | None:
    """Return the rates of a price list with what OpenAI bills beside them, if it is one of OpenAI's models."""
    if rates is None or provider not in SELLS_OPENAI:
        return rates
    preview = PREVIEW_REASONING if REASONING.match(model) else PREVIEW_PLAIN
    tools = {"web_search": WEB_SEARCH, "web_search_preview": preview, "file_search": FILE_SEARCH, **rates.tools}
    longer = rates.cache_write_long
    if longer is None and rates.cache_write is not None and rates.input is not None:
        longer = EXACT.multiply(rates.input, TWELVE_HOURS)
    return replace(
        rates,
        tools=tools,
        cache_write_long=longer,
        search_tokens=SEARCH_TOKENS if FIXED_SEARCH.fullmatch(model) else 0,
        caveats=(*rates.caveats, UNTOLD_SEARCH) if "-search-" in model else rates.caveats,
        tiers=tuple((start, ruled(above, provider, model) or above) for start, above in rates.tiers),
    )


def is_newer(model: str) -> bool:
    """Tell whether a model was released since regional hosts began to add to the price."""
    name = model.lower().removeprefix("ft:")
    dated = DATE.search(name)
    return dated[0] >= SINCE if dated else name.startswith(NEWER)


def scaled(cost: Cost, factor: Decimal, *, tools: bool = False, source: str | None = None) -> Cost:
    """Return a cost whose tokens cost `factor` times as much; hosted tools too if `tools`."""
    if cost.input is None or cost.output is None:  # a plugin's, whose parts nobody knows
        return replace(cost, total=EXACT.multiply(cost.total, factor), source=source or cost.source)
    tokens = [
        EXACT.multiply(part or ZERO, factor) for part in (cost.input, cost.cached_input, cost.cache_write, cost.output)
    ]
    called = EXACT.multiply(cost.tools or ZERO, factor) if tools else cost.tools or ZERO
    total = called
    for part in tokens:
        total = EXACT.add(total, part)
    fresh, cached, written, output = tokens
    return Cost(
        total=total,
        source=source or cost.source,
        input=fresh,
        cached_input=cached,
        cache_write=written,
        output=output,
        tools=called,
        caveats=cost.caveats,
    )
