"""The most that text can cost where its rates are at hand: two products a call, of slopes that are found once a minute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from rlm_obs._pricing import finding
from rlm_obs._pricing.dearest import MOST_KEPT, tiers_of
from rlm_obs._pricing.parts import ZERO, own
from rlm_obs._pricing.rates import Rates, in_whole_numbers, multiply
from rlm_obs._record import Request

if TYPE_CHECKING:
    from rlm_obs._budgets.bound import Bound
    from rlm_obs._pricing.finding import Found, Stated

#: What a token of input and one of output cost at most, in one tier.
Slope = tuple[Decimal, Decimal]
#: From more input tokens than `start` on, these slopes hold, of which the dearest counts; the highest start comes first.
#: They are whole numbers of `unit`, in which sums are exact and quick.
Step = tuple[int, Decimal, tuple[tuple[int, int], ...]]
NO_STEPS: tuple[Step, ...] = ()


class Slopes:
    """Finds what a bound of text costs at most, as `Dearest` does by asking; only for prices that come from rates.

    A price by rates is a sum of tokens times rates, which long input may change as a whole. So the dearest bill has all
    of its input of the dearest kind and all of its output of the dearest kind.
    """

    def __init__(self, project_tier: str = "any") -> None:
        self._project_tier = project_tier
        self._kept: dict[tuple[object, ...], tuple[Step, ...]] = {}
        self._moment: object = None

    def most(self, request: Request, bound: Bound, output_tokens: int | None, stated: Stated) -> Decimal | None:
        """Return the most, in US dollars; None where rates alone do not tell it: sounds, images, time, no price at all."""
        kind = "slopes"
        if not bound.plain:
            if bound.characters is not None or bound.audio_tokens or bound.image_tokens:
                return None
            if bound.speaks or bound.long_cache:
                kind = f"slopes {bound.speaks} {bound.long_cache}"
        if output_tokens is None:
            output_tokens = bound.output_tokens
        given, moment = bound.input_tokens, stated.moment()
        kept = request.found.get(kind)
        if kept is None or kept[0] is not moment or kept[1] is not self:
            try:
                steps = self._steps_of(request, bound, stated, moment)
            except TypeError:  # a tier that is no text
                return None
            kept = request.found[kind] = (moment, self, steps)
        for start, unit, slopes in kept[2]:
            if given > start:
                most = 0
                for each_in, each_out in slopes:
                    units = each_in * given + each_out * output_tokens
                    if units > most:
                        most = units
                return multiply(unit, most)
        return None

    def _steps_of(self, request: Request, bound: Bound, stated: Stated, moment: object) -> tuple[Step, ...]:
        """Return the steps of a request, found once for all that are priced alike."""
        if moment is not self._moment:
            self._kept, self._moment = {}, moment
        params = request.params
        key = (
            *(request.provider, request.model, request.base_url, request.endpoint, params.get("service_tier")),
            *(params.get("deployment"), params.get("completion_window"), bound.speaks, bound.long_cache),
        )
        steps = self._kept.get(key)
        if steps is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            steps = self._kept[key] = self._steps(request, bound, stated)
        return steps

    def _steps(self, request: Request, bound: Bound, stated: Stated) -> tuple[Step, ...]:
        """Return the steps of all tiers that may be billed, or none where one of them is not known by its rates alone."""
        if stated.hosts and request.base_url and stated.host(request.base_url).free:
            return (_step(-1, [(ZERO, ZERO)]),)
        asked = request.params.get("service_tier")
        known: list[Found] = []
        for tier in tiers_of(request.provider, asked, self._project_tier):
            found = finding.found(_in_tier(request, tier), stated)
            if found is not None:
                known.append(found)
            elif tier == asked:
                return NO_STEPS
        if not all([_is_slope(rates) for found in known for rates in _sizes(found.rates)]):
            return NO_STEPS
        off = finding.left_of(known, request, stated.overrides)
        starts = {start for found in known for start, _ in found.rates.tiers}
        return tuple(
            _step(start, [_slope(found, left, start, bound) for found, left in zip(known, off, strict=True)])
            for start in (*sorted(starts, reverse=True), -1)
        )


def _in_tier(request: Request, tier: object) -> Request:
    if tier == request.params.get("service_tier"):
        return request
    return replace(request, params={**request.params, "service_tier": tier})


def _sizes(rates: Rates) -> Iterator[Rates]:
    yield rates
    for _, above in rates.tiers:
        yield above


def _is_slope(rates: Rates) -> bool:
    """Tell whether text costs so much a token, and nothing beside that."""
    text = rates.input is not None and rates.output is not None
    return text and rates.per_call is None and rates.per_hour is None


def _slope(found: Found, left: Decimal, start: int, bound: Bound) -> Slope:
    rates = found.rates
    for above, of_above in found.rates.tiers:
        if start >= above:
            rates = of_above
    given, output = [rates.input, rates.hit, rates.write], [rates.output, own(rates.reasoning, rates.output)]
    if bound.long_cache:
        given.append(own(rates.cache_write_long, rates.write))
    if bound.speaks:
        output.append(own(rates.output_audio, rates.output))
    for _, factor in found.factors:
        left = multiply(left, factor)
    return (
        multiply(max([rate or ZERO for rate in given]), left),
        multiply(max([rate or ZERO for rate in output]), left),
    )


def _step(start: int, slopes: list[Slope]) -> Step:
    """Return a step whose slopes are whole numbers, without those that are never the dearest."""
    dearest = _without_cheaper(slopes)
    unit, numbers = in_whole_numbers(*[rate for slope in dearest for rate in slope])
    return start, unit, tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _without_cheaper(slopes: list[Slope]) -> tuple[Slope, ...]:
    """Return the slopes without those that another is above in input and output alike."""
    return tuple(
        one
        for number, one in enumerate(slopes)
        if not any(
            other[0] >= one[0] and other[1] >= one[1] and (other != one or at < number)
            for at, other in enumerate(slopes)
        )
    )
