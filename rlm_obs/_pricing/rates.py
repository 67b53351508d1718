"""What one model costs, as exact Decimals per unit, and the one sum that turns a usage into a cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from rlm_obs._pricing.parts import ZERO, Line, in_full, own
from rlm_obs._record import EXACT, Cost, Usage

add, multiply = EXACT.add, EXACT.multiply


def in_whole_numbers(*rates: Decimal) -> tuple[Decimal, list[int]]:
    """Return a unit, and each rate as a whole number of it, exactly."""
    digits = max([0, *[-int(rate.as_tuple().exponent) for rate in rates]])
    return EXACT.scaleb(Decimal(1), -digits), [int(EXACT.scaleb(rate, digits)) for rate in rates]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one model costs, in US dollars: per token, `character`, `image`, `audio_hour`, call, and call of a tool.

    None is "has no rate of its own": then a part of the input or output is billed as what it is part of, as
    genai-prices does (`genai_prices/decompose.py`: a usage is billed at its most specific priced unit): cached and
    written tokens as input, audio and images as text. `tiers` are (start, rates): the last whose start is below the
    call's total input reprices the whole call (`genai_prices.types.TieredPrices`). `least_seconds` is the shortest
    audio that is billed; `per_hour` is of the time that a call takes, on hardware of one's own; `search_tokens` are
    input tokens that each web search bills beside those of the usage. `caveats` go onto every cost, `cached_caveat`
    onto those with cached input. `hit` and `write` are what cached and written input cost in the end; `plain` says
    that text and cache need nothing but a product each; `whole` then has the unit in which those of text are whole
    numbers, and what input and output tokens cost in it; `cached` the same of input, output and cached input.
    """

    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_long: Decimal | None = None
    output: Decimal | None = None
    reasoning: Decimal | None = None
    input_audio: Decimal | None = None
    cached_audio: Decimal | None = None
    output_audio: Decimal | None = None
    input_image: Decimal | None = None
    cached_image: Decimal | None = None
    output_image: Decimal | None = None
    training: Decimal | None = None
    character: Decimal | None = None
    image: Decimal | None = None
    audio_hour: Decimal | None = None
    per_call: Decimal | None = None
    per_hour: Decimal | None = None
    tools: Mapping[str, Decimal] = field(default_factory=dict)
    search_tokens: int = 0
    least_seconds: int = 0
    tiers: tuple[tuple[int, Rates], ...] = ()
    caveats: tuple[str, ...] = ()
    cached_caveat: str | None = None
    hit: Decimal | None = field(init=False, repr=False, compare=False)
    write: Decimal | None = field(init=False, repr=False, compare=False)
    plain: bool = field(init=False, repr=False, compare=False)
    whole: tuple[Decimal, list[int]] | None = field(init=False, repr=False, compare=False)
    cached: tuple[Decimal, list[int]] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hit", own(self.cached_input, self.input))
        object.__setattr__(self, "write", own(self.cache_write, self.input))
        text = self.input is not None and self.output is not None
        by_call = self.per_call is not None or self.per_hour is not None
        object.__setattr__(self, "plain", text and self.reasoning is None and not by_call)
        short = self.plain and not self.caveats
        text_rates = self.input or ZERO, self.output or ZERO
        object.__setattr__(self, "whole", in_whole_numbers(*text_rates) if short else None)
        short = short and not self.cached_caveat
        object.__setattr__(self, "cached", in_whole_numbers(*text_rates, self.hit or ZERO) if short else None)

    def of(self, usage: Usage) -> Rates:
        """Return the rates that hold for a call of this size: itself, or those above a step of its input."""
        for start, rates in reversed(self.tiers):
            if (usage.input_tokens or 0) > start:
                return rates
        return self

    def lines(self, usage: Usage, duration_s: float | None = None) -> list[Line]:
        """Return the products that `cost` adds up, for somebody who wants to check them."""
        lines: list[Line] = []
        rates = self.of(usage)
        in_full(rates, usage, "", (), duration_s, lines)
        return lines

    def total(self, counts: Mapping[str, int]) -> Decimal | None:
        """Return the total of `cost`, exactly, of counts of text alone (see `text_counts`), in one product; None where it
        takes more to tell, or has a caveat."""
        prompt = counts["input_tokens"]
        if self.tiers:
            for start, rates in reversed(self.tiers):
                if prompt > start:
                    return rates.total(counts)
        hits = counts.get("cached_input_tokens", 0)
        whole = self.cached if hits else self.whole
        if whole is None or hits > prompt or counts.get("cache_write_tokens"):
            return None
        unit, (each, answer, *hit) = whole
        units = (prompt - hits) * each + counts["output_tokens"] * answer
        return multiply(unit, units + hits * hit[0] if hits else units)

    def cost(
        self, usage: Usage, source: str, caveats: tuple[str, ...] = (), duration_s: float | None = None
    ) -> Cost | None:
        """Return what `usage` costs; None where it says nothing that has a rate ("unknown" is never 0).

        Counts are inclusive, so fresh input = input - cached - written - audio - images. Parts that add up to more than
        their total cost what they say and leave nothing fresh: never a negative amount, and a caveat says so.
        """
        prompt, answer = usage.input_tokens, usage.output_tokens
        if self.tiers and prompt:
            for start, rates in reversed(self.tiers):
                if prompt > start:
                    return rates.cost(usage, source, caveats, duration_s)
        if (
            prompt is None
            or answer is None
            or not self.plain
            or usage.input_audio_tokens
            or usage.input_image_tokens
            or usage.output_audio_tokens
            or usage.output_image_tokens
            or usage.tool_calls
            or usage.seconds is not None
            or usage.characters is not None
            or usage.cache_write_long_tokens
            or usage.trained_tokens
        ):
            return in_full(self, usage, source, caveats + self.caveats, duration_s)
        hits, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
        fresh = prompt - hits - written
        if fresh < 0 or (hits and self.cached_caveat):
            return in_full(self, usage, source, caveats + self.caveats, duration_s)
        new = multiply(self.input or ZERO, fresh)
        out = multiply(self.output or ZERO, answer)
        total = add(new, out)
        cached = write = ZERO
        if hits:
            cached = multiply(self.hit or ZERO, hits)
            total = add(total, cached)
        if written:
            write = multiply(self.write or ZERO, written)
            total = add(total, write)
        return Cost(
            total=total,
            source=source,
            input=new,
            cached_input=cached,
            cache_write=write,
            output=out,
            tools=ZERO,
            caveats=caveats + self.caveats,
        )
