"""The truth table: usage as the API answers it, the rates beside it, and the dollars worked out by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import rlm_obs._pricing as pricing

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "truth.json").read_text())
DAY = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["case"])
def test_an_answer_costs_what_a_person_works_out(row: dict[str, Any]) -> None:
    """Each answer costs the dollars that its row works out, exactly, whether it comes as a dict or as JSON text."""
    answer = {"model": row["model"], "usage": row["usage"], "service_tier": row.get("tier")}
    if "tool_usage" in row:
        answer["tool_usage"] = row["tool_usage"]
    at = datetime.fromisoformat(row["at"]) if "at" in row else DAY
    given = {
        "endpoint": row.get("endpoint", "/v1/chat/completions"),
        "request": row.get("asked"),
        "base_url": row.get("base_url", "https://api.openai.com/v1"),
        "at": at,
    }
    cost = pricing.price_answer(answer, **given)
    assert cost is not None
    assert cost.total == Decimal(row["usd"])
    assert cost.exact, cost.caveats
    assert cost == pricing.price_answer(json.dumps(answer), **given)
    assert cost == pricing.price_answer(json.dumps(answer).encode(), **given)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["case"])
def test_the_hand_was_right(row: dict[str, Any]) -> None:
    """The dollars of each row are its own sum, in dollars per million, worked out in Decimal."""
    products = [part.split("*") for part in row["sum"].split(" + ")]
    assert sum(Decimal(n) * Decimal(rate) for n, rate in products) / 1_000_000 == Decimal(row["usd"])
