"""Pricing what was not seen live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from rlm_obs._pricing import plugin, price, price_answer
from rlm_obs._pricing.overrides import Overrides
from rlm_obs._record import Cost, Usage
from rlm_obs.errors import ConfigError

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
CHAT = {"prompt_tokens": 1_000, "completion_tokens": 100}
ANSWER = {"model": "gpt-4o-2024-08-06", "usage": CHAT}
FULL = Decimal("0.0035")


@pytest.fixture(autouse=True)
def _nobodys_prices() -> Iterator[None]:
    """Leave no test's prices and hosts behind."""
    yield
    plugin.held = plugin.Stated()


def test_both_shapes_of_usage_and_our_own_are_taken() -> None:
    """`price` takes the JSON of chats and of responses, any mapping, and a Usage, to the same cost."""
    shapes: list[Any] = [CHAT, {"input_tokens": 1_000, "output_tokens": 100}, MappingProxyType(CHAT)]
    for usage in [*shapes, Usage(input_tokens=1_000, output_tokens=100)]:
        cost = price("gpt-4o", usage, at=AT)
        assert cost is not None
        assert cost.total == FULL


def test_unknown_is_none() -> None:
    """A model, a tier or a usage that nobody knows is None, never 0."""
    assert price("no-such-model", CHAT) is None
    assert price("gpt-4o", {}) is None
    assert price("gpt-4o", CHAT, service_tier="scale") is None
    assert price("gpt-4o", CHAT, "no-such-provider") is None
    for answer in (
        {},
        {"model": "gpt-4o"},
        {"model": "gpt-4o", "usage": None},
        {"usage": CHAT},
        "plain text",
        b"\xff",
        "[1]",
    ):
        assert price_answer(answer) is None


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_an_error_costs_nothing(status: int) -> None:
    """An answer of 400 or more costs exactly 0, even of an unknown model."""
    assert price_answer({"error": {}}, status=status) == Cost(total=Decimal(0), source="status")


def test_a_queued_response_is_unknown() -> None:
    """A background response that is still queued has no usage yet, so no cost that anybody knows."""
    assert price_answer({"model": "gpt-5", "status": "queued", "usage": None}, "/v1/responses") is None


def test_the_request_fills_in_what_the_answer_leaves_out() -> None:
    """Model and tier are those of the answer; the request's count only where the answer names none."""
    asked = {"model": "gpt-4o-mini", "service_tier": "priority"}
    cost = price_answer({"usage": CHAT}, request=asked, at=AT)
    assert cost is not None
    assert cost.total == Decimal("0.00035")
    told = price_answer({**ANSWER, "service_tier": "default"}, request=asked, at=AT)
    assert told is not None
    assert told.total == FULL


def test_a_line_of_a_batch() -> None:
    """A line of a batch's output is priced as a batch, and one that failed costs nothing."""
    line = {"id": "b", "custom_id": "1", "response": {"status_code": 200, "body": ANSWER}, "error": None}
    cost = price_answer(json.dumps(line), at=AT)
    assert cost is not None
    assert cost.total == FULL / 2
    failed = price_answer({"custom_id": "1", "response": {"status_code": 400, "body": {"error": {}}}})
    assert failed == Cost(total=Decimal(0), source="status")
    assert price_answer({"custom_id": "1", "response": None, "error": {"code": "batch_expired"}}) is None


def test_the_host_tells_who_bills() -> None:
    """`base_url` names the provider; a host that nobody declared is assumed to bill like OpenAI, with a caveat."""
    groq = price("llama-3.3-70b-versatile", CHAT, base_url="https://api.groq.com/openai/v1")
    assert groq is not None
    assert groq.exact
    own = price("gpt-4o", CHAT, base_url="http://localhost:8000/v1")
    assert own is not None
    assert own.caveats == ("host assumed to bill like openai",)
    assert price("llama-3.3-70b-versatile", CHAT, base_url="http://localhost:8000/v1") is None


def test_own_prices_hold(tmp_path: Path) -> None:
    """`overrides` take what the setting takes, and win; without them the configured prices hold."""
    stated = {"gpt-4o": {"input": 1, "output": 0}}
    (tmp_path / "p.json").write_text(json.dumps(stated))
    for given in (stated, tmp_path / "p.json", str(tmp_path / "p.json")):
        for cost in (price("gpt-4o", CHAT, overrides=given), price_answer(ANSWER, overrides=given)):
            assert cost is not None
            assert (cost.total, cost.source) == (Decimal("0.001"), "override")
    plugin.held = plugin.Stated(Overrides.read(stated))
    configured = price("gpt-4o", CHAT)
    assert configured is not None
    assert configured.source == "override"
    with pytest.raises(ConfigError):
        price("gpt-4o", CHAT, overrides={"gpt-4o": {"input": "x"}})
