"""The built-in price list: what it resolves, what it refuses to guess, and what it keeps."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices import data_snapshot

from rlm_obs._pricing import genai, matching
from rlm_obs._record import Usage

ROOT = Path(__file__).parents[2]
DAY = datetime(2026, 11, 24, 12, tzinfo=UTC)
NOON, PEAK, SUNDAY_PEAK = DAY, DAY.replace(hour=2), DAY.replace(day=22, hour=2)


def in_python(code: str) -> str:
    """Run code in a fresh interpreter whose warnings are errors, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_imports_no_price_list() -> None:
    """`import rlm_obs._pricing` and a look at OpenAI's and Azure's hosts import neither genai_prices nor pydantic."""
    code = """
import sys, rlm_obs._pricing as pricing
pricing.provider_of("https://api.openai.com/v1"), pricing.provider_of("https://eu.api.openai.com/v1")
pricing.provider_of("https://acme.openai.azure.com/openai"), pricing.provider_of("http://localhost:8000/v1")
pricing.model_limits("gpt-4o")
pricing.read_usage({"prompt_tokens": 1, "completion_tokens": 1})
print([name for name in sys.modules if name.split(".")[0] in ("genai_prices", "pydantic", "openai", "httpx2")])
"""
    assert in_python(code).strip() == "[]"


def test_a_program_with_warnings_as_errors_gets_prices() -> None:
    """Under `python -W error` a price is found, and the program's warning filters are what they were."""
    code = """
import warnings
before = list(warnings.filters)
import rlm_obs._pricing as pricing
print(pricing.price("gpt-4o", {"prompt_tokens": 1_000_000, "completion_tokens": 0}).input)
assert [f[0] for f in warnings.filters if f in before] == [f[0] for f in before]
"""
    assert Decimal(in_python(code).strip()) == Decimal("2.5")


def test_the_source_has_its_version() -> None:
    """The source names the list and its version, so that a cost can be checked later."""
    assert genai.source() == f"genai-prices {genai_prices.__version__}"


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o-anything",
        "gpt-4o-2031-01-01",
        "gpt-5-nano-turbo",
        "gpt-7",
        "o4-mini-deep",
        "my-moderation",
        "text-embedding-3-small-v2",
        "",
        "x" * 10_000,
    ],
)
def test_a_name_that_is_only_near_is_unknown(name: str) -> None:
    """A name on no list has no price, however near it is to a listed one."""
    assert genai.resolve("openai", name, None, DAY) is None


def test_near_names_that_genai_prices_would_take() -> None:
    """Names that genai-prices itself prices by prefix or by a part of them are unknown here."""
    for provider, name in [("openai", "gpt-5-nano-turbo"), ("azure", "o4-mini-ultra"), ("deepseek", "deepseek-chat-2")]:
        assert genai_prices.calc_price(genai_prices.Usage(input_tokens=1), name, provider_id=provider)
        assert genai.resolve(provider, name, None, DAY) is None


def test_azure_does_not_take_a_part_of_a_name() -> None:
    """At Azure `o4-mini-deep-research` is OpenAI's model of that name, not the o4-mini that it contains."""
    deep, mini = genai.resolve("azure", "o4-mini-deep-research"), genai.resolve("azure", "o4-mini")
    assert deep is not None
    assert mini is not None
    assert (deep.input, mini.input) == (Decimal("2e-6"), Decimal("1.1e-6"))


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("gpt-4o-audio-preview-2024-10-01", "gpt-4o-audio-preview"),
        ("gpt-5-nano-2025-08-07", "gpt-5-nano"),
        ("gpt-5.2-20251211", "gpt-5.2"),
        ("GPT-4o", "gpt-4o"),
        ("omni-moderation-2024-09-26", "moderation"),
        ("ft:gpt-4o-2024-08-06:acme::id", "ft:gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:acme:x:id:ckpt-step-90", "ft:gpt-4o-mini"),
        ("ft:gpt-3.5-turbo-0125:acme:x:id", "ft:gpt-3.5-turbo-"),
        ("ft:gpt-4-0613:acme:x:id", None),
        ("ft:gpt-4.1-2025-04-14:acme:x:id", None),
        ("ft:gpt-3.5-turbo-magic:acme:x:id", None),
        ("gpt-oss-120b", None),
    ],
)
def test_snapshots_and_fine_tunes(name: str, listed: str | None) -> None:
    """A dated snapshot is its model; a fine-tune has a price only where fine-tunes of its base have one.

    Open weights are not OpenAI's to sell, though its list has them "imported from OpenRouter".
    """
    providers = data_snapshot.get_snapshot().providers
    openai = next(p for p in providers if p.id == "openai")
    found = matching.find(openai, name, providers)
    assert (found and found.id) == listed


def test_every_listed_name_is_found() -> None:
    """Each name that a list spells out is found, and is the model that genai-prices finds too."""
    providers = data_snapshot.get_snapshot().providers

    def names(clause: Any) -> list[str]:
        if hasattr(clause, "or_"):
            return [name for part in clause.or_ for name in names(part)]
        return [clause.equals] if hasattr(clause, "equals") else []

    for provider in providers:
        for model in provider.models:
            for name in names(model.match):
                if provider.id == "openai" and name.startswith(matching.NOT_SOLD):
                    continue
                assert matching.find(provider, name, providers) is provider.find_model(name, all_providers=providers)


@pytest.mark.parametrize("tier", ["scale", "ultrafast", "flex", "performance", "FLEX", "no-such-tier", "x" * 999])
def test_a_tier_that_nobody_lists_is_unknown(tier: str) -> None:
    """A tier without a price of its own is unknown, never the standard price (gpt-4o has no flex)."""
    assert genai.resolve("openai", "gpt-4o", tier, DAY) is None


@pytest.mark.parametrize("tier", [None, "", "auto", "default", "standard", "on_demand"])
def test_the_standard_tier_has_many_names(tier: str | None) -> None:
    """Each name of the standard tier, and no name, is the standard price."""
    assert genai.resolve("openai", "gpt-4o", tier, DAY) == genai.resolve("openai", "gpt-4o", None, DAY)


def test_a_fallback_has_no_tiers() -> None:
    """A model that Azure takes from OpenAI's list is priced there at the standard tier only."""
    assert genai.resolve("azure.ai.openai", "gpt-4o", None, DAY) is not None
    assert genai.resolve("azure.ai.openai", "gpt-4o", "priority", DAY) is None


def test_a_tier_is_unknown_before_its_price_is() -> None:
    """Before the day from which the data knows a tier's price, that tier is unknown."""
    assert genai.resolve("openai", "gpt-4o", "priority", datetime(2026, 10, 11, 23, tzinfo=UTC)) is None
    assert genai.resolve("openai", "gpt-4o", "priority", datetime(2026, 10, 12, 0, tzinfo=UTC)) is not None


def test_days_are_of_utc() -> None:
    """A time with another zone is its moment in UTC, and one without a zone is taken as UTC."""
    tokyo = timezone(timedelta(hours=9))
    before = genai.resolve("openai", "o3", None, datetime(2025, 6, 10, 8, 59, tzinfo=tokyo))
    after = genai.resolve("openai", "o3", None, datetime(2025, 6, 10, 9, 0, tzinfo=tokyo))
    naive = genai.resolve("openai", "o3", None, datetime(2025, 6, 10, 0, 0))  # noqa: DTZ001
    assert before is not None
    assert after is not None
    assert (before.input, after.input) == (Decimal("1e-5"), Decimal("2e-6"))
    assert naive == after


def test_the_time_of_day_is_not_kept() -> None:
    """A model with peak hours has two prices on one day; DeepSeek's are those of weekdays only."""
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    costs = [genai.resolve("deepseek", "deepseek-v4-pro", None, when) for when in (NOON, PEAK, NOON, SUNDAY_PEAK)]
    priced = [rates.cost(usage, "test") for rates in costs if rates]
    assert [cost.total for cost in priced if cost] == [Decimal(p) for p in ("0.66", "1.32", "0.66", "0.66")]
    assert all([cost.exact for cost in priced if cost])


def test_a_weekend_that_nobody_wrote_down_is_said() -> None:
    """Where the data has hours of the day and nothing of weekdays, a weekend's price carries a caveat."""
    saturday = genai.resolve("deepseek", "deepseek-chat", None, DAY.replace(day=21))
    assert saturday is not None
    cost = saturday.cost(Usage(input_tokens=1, output_tokens=1), "test")
    assert cost is not None
    assert cost.caveats == (genai.WEEKEND,)


def test_made_up_names_do_not_grow_memory() -> None:
    """A flood of unknown names is kept in a bounded dict, and their answer stays None."""
    for number in range(genai.MOST + 500):
        assert genai.resolve("no-such-provider", f"made-up-{number}", None, DAY) is None
    assert len(genai._kept[1]) <= genai.MOST
    assert genai.resolve("openai", "gpt-4o", None, DAY) is not None


def test_an_unknown_model_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a model is unknown is kept like a price is."""
    looked: list[str] = []
    find = matching.find

    def watched(provider: Any, name: str, everyone: Any) -> Any:
        looked.append(name)
        return find(provider, name, everyone)

    monkeypatch.setattr(matching, "find", watched)
    for _ in range(5):
        assert genai.resolve("openai", "looked-up-once", None, DAY) is None
    assert looked == ["looked-up-once"]


def test_newer_data_is_used_at_once() -> None:
    """When the program brings newer prices (`genai_prices.UpdatePrices`), what was kept of the older is forgotten."""
    assert genai.resolve("openai", "gpt-4o", None, DAY) is not None
    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=[], from_auto_update=True))
    try:
        assert genai.resolve("openai", "gpt-4o", None, DAY) is None
    finally:
        data_snapshot.set_custom_snapshot(None)
    assert genai.resolve("openai", "gpt-4o", None, DAY) is not None


def test_many_threads_get_one_price() -> None:
    """Sixteen threads that start at once, while a flood empties what is kept, all get the same prices."""
    names = ["gpt-4o", "gpt-4o-mini", "o3", "gpt-6-sol", "gpt-5.4"]
    expected = [genai.resolve("openai", name, None, DAY) for name in names]
    ready = threading.Barrier(16)

    def work(thread: int) -> bool:
        ready.wait()
        for number in range(300):
            genai.resolve("openai", f"flood-{thread}-{number}", None, DAY)
            if [genai.resolve("openai", name, None, DAY) for name in names] != expected:
                return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_the_first_look_up_may_be_of_many_threads() -> None:
    """When many threads at once ask for the first price of a process, each gets it, and the warning filters survive."""
    code = """
import threading, warnings
from rlm_obs._pricing import genai
before, found, ready = list(warnings.filters), [], threading.Barrier(8)
def work():
    ready.wait()
    found.append(genai.resolve("openai", "gpt-4o").input)
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
assert not any(f[0] == "ignore" and f[1] is None and f[2] is Warning for f in warnings.filters), warnings.filters
print(len(found), len(set(found)))
"""
    assert in_python(code).split() == ["8", "1"]


def test_free_is_said_and_not_assumed() -> None:
    """A listed model without any rate is free where it is called so, and unknown where nobody wrote its rates down."""
    listed = next(p for p in data_snapshot.get_snapshot().providers if p.id == "openrouter")
    names = [m.id for m in listed.models if m.id.endswith(":free") and not vars(m.prices)]
    free = genai.resolve("openrouter", names[0], None, DAY)
    assert free is not None
    cost = free.cost(Usage(input_tokens=5, output_tokens=5), "test")
    assert cost is not None
    assert cost.total == 0
    assert genai.resolve("cerebras", "qwen-3-coder-480b", None, DAY) is None


def test_a_fine_tune_says_when_its_cache_is_a_guess() -> None:
    """The list has no cached rate of fine-tunes: their cached input is taken at the input rate, with a caveat."""
    rates = genai.resolve("openai", "ft:gpt-4o-2024-08-06:acme::id", None, DAY)
    assert rates is not None
    plain = rates.cost(Usage(input_tokens=10, output_tokens=1), "test")
    cached = rates.cost(Usage(input_tokens=10, cached_input_tokens=4, output_tokens=1), "test")
    assert plain is not None
    assert cached is not None
    assert plain.exact
    assert not cached.exact
    assert plain.total == cached.total
