"""The most by slopes is the most that asking finds, for every listed model; and where slopes do not tell it, they say so."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

import rlm_obs
from rlm_obs._budgets.bound import Bound
from rlm_obs._pricing import Chain, finding, genai, plugin
from rlm_obs._pricing.finding import Stated
from rlm_obs._pricing.overrides import Overrides
from rlm_obs._pricing.slopes import Slopes
from rlm_obs._record import Cost, Request, Usage
from rlm_obs._settings import read_settings
from tests.pricing.test_chain import chain

BOUNDS = [
    Bound(1_000, 0),
    Bound(700, 4_096, limit_is_users=True),
    Bound(150_000, 9, long_cache=True),
    Bound(300_000, 77, speaks=True),
    Bound(2_000_000, 100),
]


def asked(model: str = "gpt-4o", provider: str = "openai", **params: Any) -> Request:
    return Request(provider=provider, endpoint="/chat/completions", operation="chat", model=model, params=params)


@pytest.fixture
def prices() -> Iterator[Chain]:
    yield chain()
    plugin.use(read_settings())


@pytest.mark.parametrize("tier", [None, "default", "flex", "priority"])
def test_slopes_say_what_asking_says(tier: str | None, prices: Chain) -> None:
    """For each model of OpenAI's and every ninth of the others, the amount is the same to the digit, or no slope is given."""
    told = 0
    for provider in genai.providers():
        for model in provider.models if provider.id == "openai" else provider.models[::9]:
            request = asked(model.id, provider.id, **({} if tier is None else {"service_tier": tier}))
            for bound in BOUNDS:
                by_slope = Slopes().most(request, bound, bound.output_tokens, plugin.stated())
                if by_slope is None:
                    continue
                cost = prices.most(request, bound)
                assert cost is not None and cost.total == by_slope, (provider.id, model.id, bound)
                told += 1
    assert told > 100


@pytest.mark.parametrize(
    "settings",
    [
        {"prices": {"gpt-4o": {"input": 3, "output": 12, "cache_write": 4}}},
        {"prices": {"discount": {"*": "25%"}}},
        {"prices": {"gpt-4o": {"input": 3, "output": 12}, "discount": {"*": "25%"}}},
        {"prices": {"gpt-4o": {"per_call": "0.01"}}},
        {"prices": {"gpt-4o": {"input": 3}}},
        {"hosts": {"api.openai.com": "free"}},
        {"hosts": {"api.openai.com": {"per_hour": 4}}},
        {"project_tier": "default"},
    ],
)
def test_slopes_of_what_is_stated(settings: dict[str, Any]) -> None:
    """The user's own prices, discounts, hosts and tier are in them, as they are where the price is asked for."""
    prices, request = chain(**settings), Request(
        provider="openai", endpoint="", operation="chat", model="gpt-4o", base_url="https://api.openai.com/v1"
    )  # fmt: skip
    most = prices.most(request, Bound(900, 90))
    assert prices.most_usd(request, Bound(900, 90)) == (None if most is None else most.total)
    plugin.use(read_settings())


def test_what_a_slope_cannot_say_is_asked_for(prices: Chain) -> None:
    """Sounds, images, characters, an odd tier and an unknown model have no slope."""
    for bound in (Bound(9, 9, audio_tokens=1), Bound(9, 9, image_tokens=1), Bound(0, 0, characters=3)):
        assert Slopes().most(asked(), bound, 9, Stated()) is None
    assert Slopes().most(asked(service_tier=[]), Bound(9, 9), 9, Stated()) is None
    assert prices.most_usd(asked("no-such-model"), Bound(9, 9)) is None
    assert prices.most_usd(asked(), Bound(0, 0, image_tokens=0, characters=3)) == prices.most_usd(
        asked(), Bound(0, 0, characters=3)
    )


def test_another_plugin_is_asked_each_time(prices: Chain) -> None:
    """Where a plugin prices too, its word counts at once, and no longer once it is gone."""

    class Mine:
        @rlm_obs.hookimpl
        def price(self, request: Request, usage: Usage) -> Cost | None:
            return Cost(total=Decimal(usage.input_tokens or 0), source="mine")

    mine, before = Mine(), prices.most_usd(asked(), Bound(9, 9))
    prices._plugins.register(mine)
    assert prices.most_usd(asked(), Bound(7, 9)) == 7
    prices._plugins.unregister(mine)
    assert prices.most_usd(asked(), Bound(9, 9)) == before


def test_newer_prices_are_found(prices: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """New settings hold at once; the list is looked up again each minute, for its rates may turn, and newer data may come."""
    before = prices.most_usd(asked(), Bound(1_000_000, 0))
    plugin.use(read_settings({"prices": {"gpt-4o": {"input": 99, "output": 99}}}))
    assert prices.most_usd(asked(), Bound(1_000_000, 0)) == 99 != before
    stated = Stated()
    moment, found = stated.moment(), finding.by_list(asked(), stated)
    assert stated.moment() is moment and finding.by_list(asked(), stated) is found
    monkeypatch.setattr(finding.time, "time", lambda: 4e9)
    assert stated.moment() is not moment
    assert finding.by_list(asked(), stated) is not found


def test_a_flood_of_names_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up names cost no memory."""
    monkeypatch.setattr("rlm_obs._pricing.slopes.MOST_KEPT", 3)
    monkeypatch.setattr("rlm_obs._pricing.finding.MOST_FOUND", 3)
    slopes, stated = Slopes(), Stated()
    for number in range(20):
        slopes.most(asked(f"made-up-{number}"), Bound(1, 1), 1, stated)
    assert len(slopes._kept) <= 3 and len(stated.listed) <= 3


def test_the_programs_precision_does_not_matter() -> None:
    """A program that counts with six digits has its holds in full."""
    stated = Stated(Overrides({"m": {"input": "1.23456789", "output": "2.3456789"}}))
    with decimal.localcontext(prec=6):
        most = Slopes("default").most(asked("m"), Bound(123_456_789, 1), 1, stated)
    assert most == Decimal("152.41578984758411")
