"""litellm's list prices what it names exactly, and leaves to others what it cannot say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
import rlm_obs_litellm_prices as plugin

import rlm_obs
from rlm_obs import Request, Usage
from rlm_obs.testing import FakeOpenAI, PriceCase, PricesContract

CHAT = Usage(input_tokens=1000, cached_input_tokens=400, output_tokens=100)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    for kept in (plugin.rates_of, plugin.entry_of, plugin._read):
        kept.cache_clear()


class TestPrices(PricesContract):
    """The plugin keeps what every source of prices promises."""

    def make_plugin(self) -> object:
        return plugin

    def cases(self) -> list[PriceCase]:
        flex = {"service_tier": "flex"}
        return [
            PriceCase(model="gpt-4o-mini", usage=CHAT, usd="0.00018"),
            PriceCase(model="gpt-5.4", usage=CHAT, usd="0.001552", params=flex),
            PriceCase(model="gpt-5.4", usage=Usage(input_tokens=272_001, output_tokens=1), usd="1.3600275"),
        ]


def cost(
    model: str, usage: Usage = CHAT, provider: str = "openai", base_url: str = "", **params: Any
) -> Decimal | None:
    request = Request(provider=provider, endpoint="", operation="chat", model=model, params=params, base_url=base_url)
    said = plugin.price(request, usage)
    return None if said is None else said.total


@pytest.mark.parametrize(
    ("asked", "dollars"),
    [
        ({"model": "gpt-4o-mini"}, 600 * Decimal("0.15") + 400 * Decimal("0.075") + 100 * Decimal("0.6")),
        (
            {"model": "gpt-5.4", "service_tier": "flex"},
            600 * Decimal("1.25") + 400 * Decimal("0.13") + 100 * Decimal("7.5"),
        ),
        (
            {"model": "gpt-4o-mini", "service_tier": "batch"},
            600 * Decimal("0.075") + 400 * Decimal("0.075") + 100 * Decimal("0.3"),
        ),
        ({"model": "gpt-5.4", "service_tier": "fast"}, 600 * 5 + 400 * Decimal("0.5") + 100 * 30),
        ({"model": "gpt-4o", "provider": "azure.ai.openai"}, 600 * Decimal("2.5") + 400 * Decimal("1.25") + 100 * 10),
        ({"model": "gpt-4o-mini", "service_tier": "scale"}, None),
        ({"model": "gpt-4o-mini", "service_tier": "flex"}, None),
        ({"model": "gpt-4o-minimal"}, None),
        ({"model": "gpt-4o-mini", "provider": "groq"}, None),
        ({"model": "gpt-4o-mini", "provider": "nobody"}, None),
        ({"model": "gpt-4o-mini", "base_url": "https://eu.api.openai.com/v1"}, None),
        ({"model": "gpt-4o-mini", "base_url": "http://localhost:8000/v1"}, None),
        ({"model": "gpt-5.4", "completion_window": "2h"}, None),
    ],
)
def test_rates(asked: dict[str, Any], dollars: Decimal | None) -> None:
    """Tiers, cached input and prefixes are as the list has them; what is not on it is left to others."""
    assert cost(**asked) == (None if dollars is None else dollars / 1_000_000)


def test_the_step() -> None:
    """Above its step the whole call costs more, and not at it."""
    assert cost("gpt-5.4", Usage(input_tokens=272_000, output_tokens=0)) == Decimal("0.68")
    assert cost("gpt-5.4", Usage(input_tokens=272_001, output_tokens=0)) == Decimal("1.360005")


def test_both_times_of_the_cache() -> None:
    """Writes that are kept for 12 hours cost 2.5 times the input."""
    usage = Usage(input_tokens=1000, cache_write_tokens=1000, cache_write_long_tokens=400, output_tokens=0)
    assert cost("gpt-6-sol", usage) == (600 * Decimal("2.5") + 400 * 5) / 1_000_000


def test_seconds_and_images() -> None:
    """A transcription by its seconds, an image by its tokens."""
    assert cost("whisper-1", Usage(seconds=93.0)) == Decimal("0.0093")
    image = Usage(input_tokens=50, input_image_tokens=0, output_tokens=1056)
    assert cost("gpt-image-1", image) == (50 * 5 + 1056 * 40) / Decimal(1_000_000)


def test_hosted_tools_are_left_to_others() -> None:
    """A call with searches is not priced half."""
    assert cost("gpt-5", Usage(input_tokens=1, output_tokens=1, tool_calls={"web_search": 1})) is None


def test_a_model_that_is_0_throughout_is_unknown() -> None:
    """The list has entries of 0 for models that are not free: they are unknown here."""
    zero = [
        n for n, e in plugin.models().items() if e.get("input_cost_per_token") == 0 == e.get("output_cost_per_token")
    ]
    assert zero
    for provider, (prefix, _) in plugin.PROVIDERS.items():
        for name in zero:
            if name.startswith(prefix):
                assert not cost(name.removeprefix(prefix), Usage(input_tokens=9, output_tokens=9), provider)


def test_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LITELLM_PRICES_FILE names another list; one that cannot be read is a ConfigError that names it."""
    entry = {"litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
    (tmp_path / "mine.json").write_text(json.dumps({"gpt-4o": entry}))
    monkeypatch.setenv(plugin.VARIABLE, str(tmp_path / "mine.json"))
    assert cost("gpt-4o") == Decimal("0.0012")
    assert plugin.source() == "litellm mine.json"
    monkeypatch.setenv(plugin.VARIABLE, str(tmp_path / "none.json"))
    with pytest.raises(rlm_obs.ConfigError, match=r"none\.json"):
        plugin.models()


def test_a_real_call(fake_openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed plugin prices a call before the built-in list does, but not what it leaves to it."""
    host = "127.0.0.1"
    with (
        rlm_obs.instrument(exporters=[], settings={"hosts": {host: "groq"}}) as on,
        openai.OpenAI(api_key="none", base_url=fake_openai.base_url) as client,
    ):
        client.chat.completions.create(model="llama-3.3-70b-versatile", messages=[{"role": "user", "content": "hi"}])
        used = fake_openai.billed[0].usage
        expected = (used["prompt_tokens"] * Decimal("0.59") + used["completion_tokens"] * Decimal("0.79")) / 1_000_000
        assert on.report().total_cost == expected
