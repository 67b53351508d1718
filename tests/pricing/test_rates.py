"""Rates and their sum, against genai-prices on all of its models."""

from __future__ import annotations

import decimal
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_obs._pricing import genai
from rlm_obs._pricing.listed import rates_of
from rlm_obs._pricing.parts import AUDIO_AS_TEXT, CACHE_SPLIT
from rlm_obs._pricing.rates import Rates
from rlm_obs._record import Cost, Usage

MODELS = [(provider, model) for provider in get_snapshot().providers for model in provider.models]
RICH = [
    (p, m) for p, m in MODELS if m.price_variants or not hasattr(m.prices, "calc_price") or "audio" in str(m.prices)
]
DAY = datetime(2026, 11, 24, 12, tzinfo=UTC)
counts = st.one_of(st.integers(0, 5), st.integers(0, 10_000), st.sampled_from([199_999, 200_000, 272_000, 272_001]))
PLAIN = Rates(input=Decimal("2.5e-6"), cached_input=Decimal("1.25e-6"), output=Decimal("1e-5"))


@st.composite
def usages(draw: Any) -> Usage:
    """Build a usage that does not contradict itself: no part, and no sum of parts, is more than its total."""
    text, hits, written, audio, images = (draw(counts) for _ in range(5))
    said, thought, spoken, drawn = (draw(counts) for _ in range(4))
    return Usage(
        input_tokens=text + hits + written + audio + images,
        cached_input_tokens=draw(st.sampled_from([hits, hits or None])),
        cache_write_tokens=written or None,
        input_audio_tokens=audio or None,
        input_image_tokens=images or None,
        output_tokens=said + thought + spoken + drawn,
        reasoning_tokens=thought or None,
        output_audio_tokens=spoken or None,
        output_image_tokens=drawn or None,
        seconds=draw(st.one_of(st.none(), st.integers(0, 90_000).map(lambda n: n / 4))),
        characters=draw(st.one_of(st.none(), counts)),
        tool_calls=draw(st.dictionaries(st.sampled_from(["web_search", "file_search"]), st.integers(1, 9))),
    )


def theirs(usage: Usage) -> TheirUsage:
    """Return the same usage in genai-prices' words; our text-first rule leaves no overlap of cache and audio."""
    facts: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "input_audio_tokens": usage.input_audio_tokens,
        "input_image_tokens": usage.input_image_tokens,
        "cache_audio_read_tokens": 0,
        "cache_image_read_tokens": 0,
        "output_tokens": usage.output_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens,
        "output_audio_tokens": usage.output_audio_tokens,
        "output_image_tokens": usage.output_image_tokens,
        "audio_seconds": usage.seconds,
        "input_audio_seconds": usage.seconds,
        "input_characters": usage.characters,
        "web_searches": usage.tool_calls.get("web_search"),
        "storage_searches": usage.tool_calls.get("file_search"),
    }
    return TheirUsage(**{key: value for key, value in facts.items() if value is not None})


@settings(max_examples=800, deadline=None)
@given(st.one_of(st.sampled_from(MODELS), st.sampled_from(RICH)), usages(), st.integers(0, 900), st.times())
def test_the_sum_is_that_of_genai_prices(pair: Any, usage: Usage, days: int, clock: time) -> None:
    """For every model of their data, at every time and for every usage that adds up, our total is theirs exactly.

    Only seconds are kept to 1e-15 dollars, since an hourly rate does not divide by 3,600 evenly. Where nothing of the
    usage has a rate, theirs is 0 and ours is None.
    """
    provider, model = pair
    when = datetime.combine(DAY.date() - timedelta(days=days), clock, UTC)
    variants = [None, *(v.when for v in model.price_variants or ())]
    for context in variants:
        expected = model.calc_price(theirs(usage), provider, genai_request_timestamp=when, price_context=context)
        rates = rates_of(model, provider, model.get_prices(when, context))
        cost = rates.cost(usage, "test") if rates else None
        if cost is None:
            assert expected.total_price == 0
        elif usage.seconds and rates and rates.audio_hour:
            assert abs(cost.total - expected.total_price) <= Decimal("1e-15")
        else:
            assert cost.total == expected.total_price


def test_every_model_once() -> None:
    """No model of the data is left out of the comparison: each one prices the same text and cache to the same sum."""
    usage = Usage(input_tokens=300_000, cached_input_tokens=100_000, cache_write_tokens=7, output_tokens=4_321)
    for provider, model in MODELS:
        expected = model.calc_price(theirs(usage), provider, genai_request_timestamp=DAY)
        rates = rates_of(model, provider, model.get_prices(DAY))
        cost = rates.cost(usage, "test") if rates else None
        assert (cost.total if cost else 0) == expected.total_price, (provider.id, model.id)


any_count = st.one_of(st.none(), counts)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(RICH),
    st.builds(
        Usage,
        **dict.fromkeys(
            [
                "input_tokens",
                "cached_input_tokens",
                "cache_write_tokens",
                "output_tokens",
                "reasoning_tokens",
                "input_audio_tokens",
                "output_audio_tokens",
                "input_image_tokens",
                "output_image_tokens",
                "characters",
                "images",
            ],
            any_count,
        ),
        seconds=st.one_of(st.none(), st.floats(0, 1e6)),
        tool_calls=st.dictionaries(st.sampled_from(["web_search", "file_search", "never_heard_of"]), st.integers(0, 9)),
    ),
)
def test_no_answer_costs_less_than_nothing(pair: Any, usage: Usage) -> None:
    """Whatever an answer says, no part of its cost is negative, the parts sum to the total, and nothing raises."""
    provider, model = pair
    rates = rates_of(model, provider, model.get_prices(DAY))
    cost = rates.cost(usage, "test") if rates else None
    if cost is not None:
        parts = [cost.input, cost.cached_input, cost.cache_write, cost.output, cost.tools]
        assert all(part is not None and part >= 0 for part in parts)
        with decimal.localcontext(prec=60):
            assert sum(part for part in parts if part is not None) == cost.total


@pytest.mark.parametrize(
    ("usage", "part"),
    [
        (Usage(input_tokens=10, cached_input_tokens=20, output_tokens=1), "input"),
        (Usage(input_tokens=10, cache_write_tokens=11, output_tokens=1), "input"),
        (Usage(input_tokens=10, input_audio_tokens=20, output_tokens=1), "input"),
        (Usage(input_tokens=10, output_tokens=1, output_audio_tokens=2), "output"),
    ],
)
def test_parts_above_their_total_are_billed_and_said(usage: Usage, part: str) -> None:
    """Parts that exceed their total leave nothing fresh, cost what they say themselves, and carry a caveat."""
    cost = PLAIN.cost(usage, "test")
    assert cost is not None
    assert f"the parts of the {part} exceed its total" in cost.caveats
    if usage.cached_input_tokens:
        assert cost.total == 20 * Decimal("1.25e-6") + Decimal("1e-5")


@pytest.mark.parametrize("usage", [Usage(), Usage(reasoning_tokens=5), Usage(seconds=3.0), Usage(images=1)])
def test_what_is_not_said_is_unknown(usage: Usage) -> None:
    """A usage that says nothing with a rate has no cost: None, never 0."""
    assert PLAIN.cost(usage, "test") is None


def test_zero_that_is_said_costs_zero() -> None:
    """Zero tokens, said explicitly, cost exactly 0."""
    cost = PLAIN.cost(Usage(input_tokens=0, output_tokens=0), "test")
    assert cost is not None
    assert cost.total == 0
    assert cost.exact


def test_half_an_answer_is_not_exact() -> None:
    """A usage without its output costs what is known of it, and says what is missing; an embedding misses nothing."""
    cost = PLAIN.cost(Usage(input_tokens=100), "test")
    assert cost is not None
    assert cost.total == Decimal("0.00025")
    assert cost.caveats == ("the answer does not say its output tokens",)
    embedding = Rates(input=Decimal("2e-8")).cost(Usage(input_tokens=100), "test")
    assert embedding is not None
    assert embedding.exact


def test_a_tool_without_a_rate_is_said() -> None:
    """The call of a hosted tool that nobody priced leaves the rest priced, with a caveat that names it."""
    cost = PLAIN.cost(Usage(input_tokens=1, output_tokens=1, tool_calls={"x_search": 2, "shell": 1}), "test")
    assert cost is not None
    assert set(cost.caveats) == {"there is no rate for x_search calls", "container time not in the answer"}


def test_audio_at_text_rates_is_said() -> None:
    """Audio of a model without an audio rate is priced as text, as genai-prices does, but not as if that were exact."""
    cost = PLAIN.cost(Usage(input_tokens=10, input_audio_tokens=5, output_tokens=1), "test")
    assert cost is not None
    assert cost.caveats == (AUDIO_AS_TEXT,)


def test_a_cache_that_may_be_audio_is_said() -> None:
    """Where the answer does not say whether the cache was text or audio and it matters, the cost is not exact."""
    rates = genai.resolve("openai", "gpt-realtime")
    assert rates is not None
    cost = rates.cost(Usage(input_tokens=100, cached_input_tokens=50, input_audio_tokens=60, output_tokens=0), "test")
    assert cost is not None
    # 60 audio + 50 cached are 10 more than 100, so 10 cached tokens must have been audio: 40 text, 10 audio cached
    assert cost.cached_input == 50 * Decimal("0.4e-6")
    assert cost.input == 50 * Decimal("32e-6")
    assert cost.caveats == (CACHE_SPLIT,)


def test_reasoning_with_its_own_rate() -> None:
    """Where reasoning has a rate of its own, it is billed at that and only the rest of the output as output."""
    rates = Rates(input=Decimal(1), output=Decimal(8), reasoning=Decimal(3))
    cost = rates.cost(Usage(input_tokens=0, output_tokens=10, reasoning_tokens=4), "test")
    assert cost is not None
    assert cost.output == 6 * 8 + 4 * 3


def test_a_hundred_thousand_costs_add_up() -> None:
    """The sum of 100,000 costs is 100,000 times one of them, to the last digit: money does not drift."""
    total = Decimal(0)
    for _ in range(100_000):
        cost = PLAIN.cost(Usage(input_tokens=1_001, cached_input_tokens=333, output_tokens=7), "test")
        assert cost is not None
        total += cost.total
    one = 668 * Decimal("2.5e-6") + 333 * Decimal("1.25e-6") + 7 * Decimal("1e-5")
    assert total == one * 100_000


def test_the_decimal_context_of_the_program_does_not_matter() -> None:
    """A program that works with two digits of precision, or forbids inexact sums, gets the same exact cost."""
    usage = Usage(input_tokens=123_457, cached_input_tokens=12_345, output_tokens=6_789)
    usual = PLAIN.cost(usage, "test")
    with decimal.localcontext(prec=2) as context:
        context.traps[decimal.Inexact] = True
        assert PLAIN.cost(usage, "test") == usual


def test_a_cost_explains_itself() -> None:
    """Each share of a cost is what the tokens of that kind cost."""
    cost = PLAIN.cost(Usage(input_tokens=100, cached_input_tokens=40, output_tokens=10), "here")
    assert cost == Cost(
        total=Decimal("0.0003"),
        source="here",
        input=Decimal("0.00015"),
        cached_input=Decimal("0.00005"),
        cache_write=Decimal(0),
        output=Decimal("0.0001"),
        tools=Decimal(0),
    )


text = st.integers(0, 10**12)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.fixed_dictionaries(
        {"input_tokens": text, "output_tokens": text},
        optional=dict.fromkeys(["cached_input_tokens", "cache_write_tokens", "reasoning_tokens"], text),
    ),
)
def test_the_total_of_text_is_that_of_its_cost(pair: Any, said: dict[str, int]) -> None:
    """What budgets count is what the record says, to the last digit; where the short way cannot tell, it does not."""
    provider, model = pair
    rates = rates_of(model, provider, model.get_prices(DAY))
    total = None if rates is None else rates.total(said)
    if rates is not None and total is not None:
        cost = rates.cost(Usage(**said), "test")  # type: ignore[arg-type]
        assert cost is not None and str(cost.total) == str(total) and cost.exact


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        (PLAIN, {"input_tokens": 10, "output_tokens": 1, "cached_input_tokens": 11}),
        (Rates(input=Decimal(1), output=Decimal(1), caveats=("about",)), {"input_tokens": 1, "output_tokens": 1}),
        (Rates(input=Decimal(1), output=Decimal(1), reasoning=Decimal(2)), {"input_tokens": 1, "output_tokens": 1}),
        (Rates(input=Decimal(1), output=Decimal(1), per_call=Decimal(2)), {"input_tokens": 1, "output_tokens": 1}),
        (Rates(input=Decimal(1)), {"input_tokens": 1, "output_tokens": 1}),
        (
            Rates(input=Decimal(1), output=Decimal(1), cached_caveat="maybe"),
            {"input_tokens": 1, "output_tokens": 1, "cached_input_tokens": 1},
        ),
    ],
)
def test_a_total_that_takes_more_to_tell_is_left_to_the_cost(rates: Rates, said: dict[str, int]) -> None:
    """A contradiction, a caveat, and a rate for more than text are not for the short way."""
    assert rates.total(said) is None


def test_a_total_above_a_step_is_at_its_rates() -> None:
    """A long input is priced as a whole at the rates of long inputs."""
    rates = Rates(input=Decimal("1e-6"), output=Decimal("2e-6"), tiers=((100, PLAIN),))
    assert rates.total({"input_tokens": 100, "output_tokens": 1}) == Decimal("0.000102")
    assert rates.total({"input_tokens": 101, "output_tokens": 1}) == Decimal("0.0002625")
