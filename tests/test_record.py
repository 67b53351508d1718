"""The facts about a call: exact amounts, frozen, JSON-ready, and no "unknown" that reads as 0."""

from __future__ import annotations

import dataclasses
import json
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_obs import BudgetExceeded, CallRefused, ConfigError, Cost, Record, Request, RlmObsError, UnknownPrice, Usage
from rlm_obs._record import dollars
from rlm_obs.errors import money

RECORD = Record(
    id="call_1",
    provider="openai",
    endpoint="/chat/completions",
    operation="chat",
    model="gpt-4o-2024-08-06",
    requested_model="gpt-4o",
    status="ok",
    started_at=datetime(2026, 11, 24, tzinfo=UTC),
    duration_s=1.5,
)


@given(st.decimals(min_value=0, max_value=10**12, allow_nan=False))
def test_an_amount_is_read_exactly(amount: Decimal) -> None:
    """A Decimal, and its text, are read digit for digit."""
    assert dollars(amount, "x") == amount
    assert dollars(f" {amount} ", "x") == amount


@given(st.floats(min_value=0, max_value=1e12, allow_nan=False))
def test_a_float_is_read_as_it_is_written(amount: float) -> None:
    """0.1 is ten cents, and not 0.1000000000000000055."""
    assert dollars(amount, "x") == Decimal(repr(amount))


@given(st.integers(0, 10**12))
def test_an_int_is_an_amount(amount: int) -> None:
    """Of whole dollars."""
    assert dollars(amount, "x") == amount


@pytest.mark.parametrize(
    "wrong",
    [
        -1, -0.01, "-5", float("nan"), float("inf"), "nan", "Infinity", Decimal("-Infinity"), "sNaN", 10**12 + 1, "1e13",
        "", "five", "$5", "1,5", None, True, [], object(), b"5", 1j,
    ],
)  # fmt: skip
def test_what_is_no_amount_is_blamed_where_it_was_given(wrong: Any) -> None:
    """A ConfigError, which is a ValueError too, with the argument's name and the value."""
    with pytest.raises(ConfigError, match="budget_usd=") as error:
        dollars(wrong, "budget_usd")
    assert repr(wrong) in str(error.value)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    "fact", [RECORD, Usage(), Cost(total=Decimal(1), source="x"), Request(provider="p", endpoint="/e", operation="o")]
)
def test_facts_do_not_change(fact: Any) -> None:
    """They are frozen, and pickle as they are."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(fact, dataclasses.fields(fact)[0].name, "other")
    assert pickle.loads(pickle.dumps(fact)) == fact


def test_unknown_is_none() -> None:
    """A record without a cost has no dollars, which is not 0."""
    assert RECORD.cost_usd is None
    assert RECORD.to_dict()["cost_usd"] is None
    assert Usage().to_dict() == {}


def test_a_cost_from_a_plugin_needs_a_total_and_a_source() -> None:
    """Parts are optional; a float total is read as it is written, and a bad one is a ConfigError."""
    cost = Cost(total=0.1, source="mine")  # type: ignore[arg-type]
    assert cost.total == Decimal("0.1")
    assert cost.exact
    assert not Cost(total=Decimal(1), source="x", caveats=("assumed",)).exact
    with pytest.raises(ConfigError, match=r"Cost\.total=-1"):
        Cost(total=-1, source="mine")  # type: ignore[arg-type]


def test_a_record_is_json_ready() -> None:
    """Amounts are strings without an exponent, times are ISO 8601, what is not known is left out or null."""
    usage = Usage(input_tokens=5, tool_calls={"web_search": 2})
    cost = Cost(total=Decimal("1E-7"), output=Decimal("1E-7"), source="override", caveats=("assumed",))
    record = dataclasses.replace(RECORD, usage=usage, cost=cost, attributes={"user.id": "u"})
    said = json.loads(json.dumps(record.to_dict()))
    assert said["cost"] == {"total": "0.0000001", "output": "0.0000001", "source": "override", "caveats": ["assumed"]}
    assert said["cost_usd"] == "0.0000001"
    assert said["usage"] == {"input_tokens": 5, "tool_calls": {"web_search": 2}}
    assert said["started_at"] == "2026-11-24T00:00:00+00:00"
    assert said["attributes"] == {"user.id": "u"}
    assert "error" not in said


# Errors


def test_errors_are_one_tree() -> None:
    """`except RlmObsError` catches them all, and `except CallRefused` what was not sent."""
    assert issubclass(BudgetExceeded, CallRefused)
    assert issubclass(UnknownPrice, CallRefused)
    assert issubclass(CallRefused, RlmObsError)
    assert issubclass(ConfigError, RlmObsError)


@given(st.decimals(min_value=0, max_value=10**9, allow_nan=False, places=12))
def test_money_is_written_for_a_person(amount: Decimal) -> None:
    """Two decimals at least, never an exponent, never a bare dot, and true to three digits."""
    text = money(amount)
    assert text.startswith("$")
    whole, dot, cents = text[1:].partition(".")
    assert whole.isdigit()
    assert dot
    assert len(cents) >= 2
    assert cents.isdigit()
    assert abs(Decimal(text[1:]) - amount) <= max(amount * Decimal("0.006"), Decimal(0))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("0.5", "$0.50"),
        ("0.9999999", "$1.00"),
        ("0.00009", "$0.00009"),
        ("1E-9", "$0.000000001"),
        ("12.345", "$12.34"),
    ],
)
def test_money_by_example(amount: str, text: str) -> None:
    """As a reader expects it."""
    assert money(Decimal(amount)) == text


@pytest.mark.parametrize("cls", [Request, Usage, Cost, Record])
def test_facts_are_frozen_as_data_classes_are(cls: type) -> None:
    """However fast they are made: no field can be set or deleted, none is shared, arguments are checked, and a subclass is one."""
    given: dict[str, Any] = {f.name: object() for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
    given = {
        f.name: given[f.name]
        for f in dataclasses.fields(cls)
        if f.name in given and f.default_factory is dataclasses.MISSING
    }
    if cls is Cost:
        given["total"] = 1
    made, twin = cls(**given), cls(**given)
    assert type(made) is cls and made == twin and not hasattr(made, "__dict__")
    if cls is Cost:
        assert type(made.total) is Decimal
    for field in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(made, field.name)
        if field.default_factory is not dataclasses.MISSING:
            assert getattr(made, field.name) is not getattr(twin, field.name)
    with pytest.raises(TypeError):
        cls(**given, surprise=1)
    with pytest.raises(TypeError):
        cls(*given.values(), 1)
    below = type("Below", (cls,), {})
    assert type(below(**given)) is below
    assert dataclasses.replace(made) == made
