"""What a bound costs at most is never under the bill, however the bill reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_obs._budgets.bound import Bound
from rlm_obs._pricing import genai
from rlm_obs._pricing.dearest import Dearest, likely_usage
from rlm_obs._pricing.finding import Stated
from rlm_obs._pricing.overrides import Overrides
from rlm_obs._pricing.plugin import by_list, by_user
from rlm_obs._record import Cost, Request, Usage

#: Asked -> what the answer may name, and so is billed.
BILLED = {
    None: (None, "default", "priority"),
    "auto": ("default", "priority"),
    "default": ("default",),
    "flex": ("flex", "default"),
    "priority": ("priority", "default"),
    "fast": ("priority", "default"),
}


def by_price(request: Request, usage: Usage) -> Cost | None:
    return by_list(request, usage, Stated())


def models() -> Iterator[tuple[str, str]]:
    for provider in genai.providers():
        for model in provider.models:
            cost = by_price(asked(provider.id, model.id), Usage(input_tokens=9, output_tokens=9))
            if cost is not None and not cost.caveats:  # one that has a rate for both
                yield provider.id, model.id


def asked(provider: str, model: str, tier: str | None = None) -> Request:
    params = {} if tier is None else {"service_tier": tier}
    return Request(provider=provider, endpoint="/chat/completions", operation="chat", model=model, params=params)


PRICED = sorted(models())
OPENAI = [one for one in PRICED if one[0] == "openai"]
DEAREST = Dearest(by_price)


@st.composite
def within(draw: st.DrawFn, bound: Bound, *, speaks: bool) -> Usage:
    """Draw a usage that a call with this bound may have: each part within its total."""
    given = draw(st.one_of(st.just(bound.input_tokens), st.integers(0, bound.input_tokens)))
    sounds = draw(st.integers(0, min(given, bound.audio_tokens)))
    images = draw(st.integers(0, min(given - sounds, bound.image_tokens)))
    hits = draw(st.integers(0, given - sounds - images))
    written = draw(st.integers(0, given - sounds - images - hits))
    kept = draw(st.integers(0, written)) if bound.long_cache else None
    answer = draw(st.one_of(st.just(bound.output_tokens), st.integers(0, bound.output_tokens)))
    spoken = draw(st.integers(0, answer)) if speaks else 0
    return Usage(
        input_tokens=given,
        cached_input_tokens=hits,
        cache_write_tokens=written,
        cache_write_long_tokens=kept,
        output_tokens=answer,
        reasoning_tokens=draw(st.integers(0, answer - spoken)),
        input_audio_tokens=sounds,
        input_image_tokens=images,
        output_audio_tokens=spoken,
    )


bounds = st.builds(
    Bound,
    st.one_of(st.integers(0, 3_000), st.integers(270_000, 275_000), st.integers(0, 2_000_000)),
    st.integers(0, 130_000),
    audio_tokens=st.one_of(st.just(0), st.integers(0, 3_000)),
    image_tokens=st.one_of(st.just(0), st.integers(0, 3_000)),
    speaks=st.booleans(),
    long_cache=st.booleans(),
)


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.one_of(st.sampled_from(OPENAI), st.sampled_from(PRICED)), st.sampled_from(list(BILLED)), bounds)
def test_the_most_is_never_under_the_bill(data: Any, model: tuple[str, str], tier: str | None, bound: Bound) -> None:
    """Over the price list: whatever tier answers, however input was cached or written, with all kinds of tokens."""
    request = asked(*model, tier)
    most = DEAREST.cost(request, bound)
    if most is None:  # the tier that was asked for is not on the list
        assert by_price(request, Usage(input_tokens=1, output_tokens=1)) is None
        return
    usage = data.draw(within(bound, speaks=bound.speaks))
    billed = data.draw(st.sampled_from(BILLED[tier] if model[0] == "openai" else (tier, "default")))
    cost = by_price(asked(*model, billed), usage)
    assert cost is None or cost.total <= most.total


rate = st.decimals("0", "100", places=4)


@given(
    st.data(),
    bounds,
    st.fixed_dictionaries(
        {"input": rate, "output": rate},
        optional=dict.fromkeys(
            (
                "cached_input",
                "cache_write",
                "cache_write_long",
                "reasoning",
                "input_audio",
                "cached_audio",
                "output_audio",
            ),
            rate,
        ),
    ),
)
def test_the_most_is_never_under_ones_own_prices(data: Any, bound: Bound, prices: dict[str, Decimal]) -> None:
    """The same for prices that a user states, where a cache may cost more than what is not in it."""
    overrides = Overrides({"m": prices})
    most = Dearest(lambda request, usage: by_user(request, usage, Stated(overrides))).cost(asked("openai", "m"), bound)
    usage = data.draw(within(bound, speaks=bound.speaks))
    cost = by_user(asked("openai", "m"), usage, Stated(overrides))
    assert most is not None and cost is not None and cost.total <= most.total


def total(tier: str | None, bound: Bound, model: str = "gpt-5.4", project: str = "any") -> Decimal:
    most = Dearest(by_price, project).cost(asked("openai", model, tier), bound)
    assert most is not None
    return most.total


def test_a_tier_that_is_not_named_may_be_any_that_the_project_has() -> None:
    """Unset and "auto" are held at the priority price; "default" is not, nor where the settings say what the project has."""
    bound = Bound(1_000, 1_000)
    standard = Decimal("0.0175")  # 1,000 x $2.50 + 1,000 x $15 a million
    assert total("default", bound) == standard
    assert total(None, bound) == total("auto", bound) == total("priority", bound) == 2 * standard
    assert total("flex", bound) == standard
    assert total(None, bound, project="default") == standard
    assert total(None, bound, project="flex") == standard


def test_writing_to_the_cache_is_in_it() -> None:
    """Where a model lists a rate for it, all input is held as written; for hours, as written at twice that rate."""
    bound = Bound(1_000, 0)
    assert total("default", bound, "gpt-6-sol") == Decimal("0.0025")  # $2.50 a million, not $2
    assert total("default", replace(bound, long_cache=True), "gpt-6-sol") == Decimal("0.005")


def test_sounds_and_pictures_are_what_is_dearest() -> None:
    """Input that may be of either kind is held as the dearer one, whichever is told first."""
    assert total("default", Bound(1_000, 0, audio_tokens=1_000, image_tokens=1_000), "gpt-image-1") == Decimal("0.01")
    prices = {"input": Decimal(2), "output": Decimal(1), "input_audio": Decimal(1), "input_image": Decimal(3)}
    dearest = Dearest(lambda request, usage: by_user(request, usage, Stated(Overrides({"m": prices}))))
    most = dearest.cost(asked("openai", "m"), Bound(1_000, 0, audio_tokens=800, image_tokens=300))
    assert most is not None and most.total == Decimal("0.0023")  # 300 pictures, the rest is text


def test_long_input_reprices_the_whole() -> None:
    """Above 272,000 tokens of input, the output too is held at the higher rate."""
    below, above = total("default", Bound(272_000, 1_000)), total("default", Bound(272_001, 1_000))
    assert below == Decimal("0.695") and above == Decimal("1.382505")


def test_a_tier_without_a_price_is_not_priced_as_another() -> None:
    """ "scale" is on no list, so nobody knows the most either."""
    assert Dearest(by_price).cost(asked("openai", "gpt-5.4", "scale"), Bound(1, 1)) is None
    assert Dearest(by_price).cost(asked("openai", "no-such-model"), Bound(1, 1)) is None


def test_the_dearest_way_is_asked_for_once() -> None:
    """A model's tiers and caches are compared at its first call; the next ones cost one price each."""
    asked_for = []

    def price(request: Request, usage: Usage) -> Cost | None:
        asked_for.append(usage)
        return by_price(request, usage)

    dearest = Dearest(price)
    dearest.cost(asked("openai", "gpt-4o"), Bound(5, 5))
    asked_for.clear()
    dearest.cost(asked("openai", "gpt-4o"), Bound(7, 7))
    assert len(asked_for) == 1


def test_a_price_that_comes_later_is_found() -> None:
    """That nobody knew a price is not remembered."""
    known: list[Cost] = []
    dearest = Dearest(lambda request, usage: known[0] if known else None)
    assert dearest.cost(asked("openai", "m"), Bound(1, 1)) is None
    known.append(Cost(total=Decimal(1), source="test"))
    assert dearest.cost(asked("openai", "m"), Bound(1, 1)) == known[0]


@pytest.mark.parametrize("tier", [[], {}, 7])
def test_an_odd_tier_is_no_error(tier: Any) -> None:
    """What cannot be a tier is priced like one that nobody named, or not at all."""
    request = Request(provider="openai", endpoint="", operation="chat", model="gpt-4o", params={"service_tier": tier})
    most = Dearest(by_price).cost(request, Bound(1, 1))
    assert most is None or most.total > 0


def test_what_is_likely_is_less_than_the_most() -> None:
    """A stream without usage is settled at what its bytes probably were; speech at its characters."""
    assert likely_usage(Bound(1_000, 9, likely_tokens=250), 3) == Usage(input_tokens=250, output_tokens=3)
    assert likely_usage(Bound(1_000, 9), 3).input_tokens == 1_000
    assert likely_usage(Bound(0, 0, characters=70), 0) == Usage(characters=70)
