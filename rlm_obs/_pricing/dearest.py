"""The most that a bound can cost: at the dearest tier, cache and kind of token that the bill may show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING

from rlm_obs._pricing.parts import ZERO
from rlm_obs._record import EXACT, Cost, Request, Usage

if TYPE_CHECKING:
    from rlm_obs._budgets.bound import Bound

Price = Callable[[Request, Usage], Cost | None]
#: A way in which a bill may read: its tier, its input ("fresh", "cached", "written", "kept" for long), its output ("text", …).
Shape = tuple[object, str, str]
AUTO = (None, "auto")
PLAIN_TIERS = ("default", "standard")
#: Sizes at which shapes are compared: below and above every step of the prices for long contexts.
SHORT, LONG, OUTPUT = 1_000, 4_000_000, 1_000
MOST_KEPT, HOUR_S = 1_024, 3_600


class Dearest:
    """Finds what a bound costs at most by asking `price`; which way is the dearest is asked once an hour per model.

    A price is a sum of tokens times rates, which long input may change as a whole. So the dearest bill has all of its
    input of one kind and all of its output of one kind, and only the rates decide which.
    """

    def __init__(self, price: Price, project_tier: str = "any") -> None:
        self._price, self._project_tier = price, project_tier
        self._kept: dict[tuple[object, ...], tuple[Shape, ...]] = {}

    def cost(self, request: Request, bound: Bound, output_tokens: int | None = None) -> Cost | None:
        """Return the most that the call can cost with all of its input and `output_tokens` (the bound's); None: unknown."""
        output = bound.output_tokens if output_tokens is None else output_tokens
        if bound.characters is not None:
            return self._price(request, Usage(characters=bound.characters))
        tier = request.params.get("service_tier")
        hour = int(time.time()) // HOUR_S
        whose = (request.provider, request.model, request.base_url, request.params.get("deployment"))
        key = (*whose, tier, bound.speaks, bound.long_cache, hour)
        try:
            shapes = self._kept.get(key)
        except TypeError:  # a tier that is no text
            return None
        if shapes is None:
            shapes = tuple(self._shapes(request, bound, tier))
            if not shapes:
                return None  # and ask again next time: a price may be given while the program runs
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[key] = shapes
        given = bound.input_tokens
        costs = [
            self._at(request, given, output, shape, *media) for media, shape in product(_media(bound, given), shapes)
        ]
        return max((cost for cost in costs if cost is not None), key=_total, default=None)

    def _shapes(self, request: Request, bound: Bound, asked: object) -> Iterator[Shape]:
        """Yield the dearest ways, without those that another exceeds in input and output alike."""
        hows = ("fresh", "cached", "written", "kept") if bound.long_cache else ("fresh", "cached", "written")
        spoken = ("text", "reasoning", "audio") if bound.speaks else ("text", "reasoning")
        found: dict[Shape, tuple[Decimal, ...]] = {}
        for tier in tiers_of(request.provider, asked, self._project_tier):
            if self._at(request, SHORT, OUTPUT, (tier, "fresh", "text")) is None:
                if tier == asked:
                    return  # what was asked for has no price
                continue
            ways: dict[Shape, tuple[Decimal, ...]] = {
                (tier, how, out): self._measured(request, (tier, how, out)) for how, out in product(hows, spoken)
            }
            for first in (0, 2):
                dearest = max(ways, key=lambda way: EXACT.add(*ways[way][first : first + 2]))
                found[dearest] = ways[dearest]
        for number, (shape, amounts) in enumerate(found.items()):
            others = [
                other for n, other in enumerate(found.values()) if n < number or (n > number and other != amounts)
            ]
            if not any(all(a >= b for a, b in zip(other, amounts, strict=True)) for other in others):
                yield shape

    def _measured(self, request: Request, shape: Shape) -> tuple[Decimal, ...]:
        """Return what input costs, and what output costs more, below and above the steps."""
        amounts: list[Decimal] = []
        for size in (SHORT, LONG):
            given = _total(self._at(request, size, 0, shape))
            amounts += [given, EXACT.subtract(_total(self._at(request, size, OUTPUT, shape)), given)]
        return tuple(amounts)

    def _at(
        self, request: Request, given: int, output: int, shape: Shape, sounds: int = 0, images: int = 0
    ) -> Cost | None:
        tier, how, spoken = shape
        if tier != request.params.get("service_tier"):
            request = Request(  # in full: `dataclasses.replace` takes three times as long
                provider=request.provider,
                endpoint=request.endpoint,
                operation=request.operation,
                model=request.model,
                params={**request.params, "service_tier": tier},
                streamed=request.streamed,
                base_url=request.base_url,
                attributes=request.attributes,
            )
        text = given - sounds - images
        return self._price(
            request,
            Usage(
                input_tokens=given,
                cached_input_tokens=text if how == "cached" else None,
                cache_write_tokens=text if how in ("written", "kept") else None,
                cache_write_long_tokens=text if how == "kept" else None,
                output_tokens=output,
                reasoning_tokens=output if spoken == "reasoning" else None,
                input_audio_tokens=sounds or None,
                input_image_tokens=images or None,
                output_audio_tokens=output if spoken == "audio" else None,
            ),
        )


def tiers_of(provider: str, asked: object, project_tier: str) -> tuple[object, ...]:
    """Return the tiers that may be billed, the one that was asked for first."""
    if asked in AUTO:  # OpenAI takes what the project is set to
        if provider != "openai" or project_tier in PLAIN_TIERS:
            return (asked,)
        return (asked, "priority" if project_tier == "any" else project_tier)
    return (asked,) if asked in PLAIN_TIERS else (asked, "default")


def likely_usage(bound: Bound, output_tokens: int) -> Usage:
    """Return what a call has probably used that does not say it: its input by its bytes, `output_tokens` as they came."""
    if bound.characters is not None:
        return Usage(characters=bound.characters)
    likely = bound.input_tokens if bound.likely_tokens is None else bound.likely_tokens
    return Usage(input_tokens=likely, output_tokens=output_tokens)


def _media(bound: Bound, given: int) -> set[tuple[int, int]]:
    """Return how much of the input may be sound and pictures, which may have rates of their own: what is dearest is as much
    as can be of one, then of the other, or none."""
    sounds, images = min(bound.audio_tokens, given), min(bound.image_tokens, given)
    both = (sounds, min(images, given - sounds)), (min(sounds, given - images), images)
    return {(0, 0), (sounds, 0), (0, images), *both}


def _total(cost: Cost | None) -> Decimal:
    return ZERO if cost is None else cost.total
