"""The truth table: answers as the API gives them, the rates beside them, and the dollars worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import rlm_obs._pricing as pricing
from rlm_obs._pricing import plugin
from rlm_obs._settings import read_settings

FILES = {path.stem: json.loads(path.read_text("utf-8")) for path in (Path(__file__).parent / "truth").glob("*.json")}
ROWS: list[dict[str, Any]] = [
    {**row, "kind": kind, "source_of_rates": file["source"], "read": file["read"]}
    for kind, file in sorted(FILES.items())
    for row in file["rows"]
]
DAY = datetime(2026, 11, 24, 12, tzinfo=UTC)
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['kind']}: {row['case']}")


@pytest.fixture(autouse=True)
def _nobodys_prices() -> Iterator[None]:
    """Leave no row's settings behind."""
    yield
    plugin.held = plugin.Stated()


def priced(row: dict[str, Any], answer: Any) -> Any:
    """Price an answer with all that the row says beside it."""
    plugin.use(read_settings(row.get("settings", {})))
    names = ("endpoint", "request", "base_url", "status", "overrides")
    given = {name: row[name] for name in names if name in row}
    return pricing.price_answer(answer, **given, at=datetime.fromisoformat(row["at"]) if "at" in row else DAY)


@every_row
def test_an_answer_costs_what_a_person_works_out(row: dict[str, Any]) -> None:
    """Each answer costs the dollars that its row works out, to 1e-9, as a dict and as JSON text; or nobody knows."""
    answer = row["answer"]
    cost = priced(row, answer)
    if row["usd"] is None:
        assert cost is None
        return
    assert cost is not None
    assert abs(cost.total - Decimal(row["usd"])) <= Decimal("1e-9")
    if "/3600" not in row["sum"]:
        assert cost.total == Decimal(row["usd"])
    assert list(cost.caveats) == row.get("caveats", [])
    if "source" in row:
        assert cost.source == row["source"]
    parts = [cost.input, cost.cached_input, cost.cache_write, cost.output, cost.tools]
    if None not in parts:
        assert sum(parts, Decimal(0)) == cost.total
    if not isinstance(answer, str):
        assert cost == priced(row, json.dumps(answer))
        assert cost == priced(row, json.dumps(answer).encode())


@every_row
def test_the_hand_was_right(row: dict[str, Any]) -> None:
    """The dollars of each row are its own sum, in dollars per million, of the rates that it writes out."""
    assert row["rates"] and row["source_of_rates"] and row["read"]
    if row["usd"] is None:
        return
    total = Decimal(0)
    for term in row["sum"].split(" + "):
        term, _, hour = term.partition("/")
        product = Decimal(1) if not hour else Decimal(1_000_000) / Decimal(hour)
        for factor in term.split("*"):
            product *= Decimal(factor)
        total += product
    assert abs(total / 1_000_000 - Decimal(row["usd"])) <= Decimal("1e-14")


def test_the_table_is_whole() -> None:
    """There are at least 120 cases, of every kind, each told once."""
    names = [(row["kind"], row["case"]) for row in ROWS]
    assert len(names) == len(set(names)) >= 120
    assert set(FILES) == {
        "azure", "chat", "hosts", "jobs", "media", "responses", "stated", "tiers", "tools", "unknown",
    }  # fmt: skip


def test_a_million_calls_sum_exactly() -> None:
    """A million costs add up to the last digit: a million times one call is one million times its dollars."""
    cost = pricing.price("gpt-5.4", {"prompt_tokens": 1, "completion_tokens": 1}, service_tier="flex", at=DAY)
    assert cost is not None
    one, total = cost.total, Decimal(0)
    for _ in range(1_000_000):
        total += one
    assert total == one * 1_000_000 == Decimal("8.75")
