"""Sources of prices that each break one promise of the contract, and one that keeps them all; `breaks` says which tests must fail."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any

import rlm_obs
from rlm_obs import Cost, Request, Usage
from rlm_obs.testing import PriceCase, PricesContract

M = 1_000_000
BEFORE, FROM = datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


class Prices:
    """Prices one model at 3 and 15 dollars a million, from 2027 on at 2 and 10; keeps every promise."""

    def __init__(self) -> None:
        self.now = FROM

    def rates(self, model: str | None) -> tuple[Decimal, Decimal] | None:
        if model != "acme-1":
            return None
        return (Decimal(3), Decimal(15)) if self.now < FROM else (Decimal(2), Decimal(10))

    def cost(self, request: Request, usage: Usage) -> Any:
        rates = self.rates(request.model)
        if rates is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        with localcontext(prec=60):
            parts = usage.input_tokens * rates[0] / M, usage.output_tokens * rates[1] / M
            return Cost(total=sum(parts), source="acme", input=parts[0], output=parts[1])

    @rlm_obs.hookimpl
    def price(self, request: Request, usage: Usage) -> Any:
        return self.cost(request, usage)


class Kept(PricesContract):
    """The contract, with a case before and a case after the day."""

    prices: type[Prices] = Prices
    breaks: str = ""

    def setup_method(self) -> None:
        self.made = self.prices()

    def make_plugin(self) -> object:
        return self.made

    def cases(self) -> list[PriceCase]:
        usage = Usage(input_tokens=123_457, output_tokens=11)
        new = PriceCase(model="acme-1", usage=usage, usd="0.247024", at=FROM)
        return [new, replace(new, usd="0.370536", at=BEFORE)]

    def move_clock(self, moment: datetime) -> None:
        self.made.now = moment


EXACT = "test_each_case_is_exact test_the_precision_of_the_program_does_not_matter test_a_price_holds_from_its_day "


class TestNothing(Kept):
    """Nothing is broken."""


class TestRounds(Kept):
    """It rounds to cents."""

    breaks = EXACT + "test_more_never_costs_less"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            cost = super().cost(request, usage)
            return None if cost is None else replace(cost, total=round(cost.total, 2) * 0, input=None, output=None)


class TestNoSource(Kept):
    """It does not say who prices."""

    breaks = "test_each_case_is_exact"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            cost = super().cost(request, usage)
            return None if cost is None else replace(cost, source=" ")


class TestCountsTwice(Kept):
    """Its parts are more than the whole."""

    breaks = "test_each_case_is_exact"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            cost = super().cost(request, usage)
            return None if cost is None else replace(cost, cached_input=cost.input)


class TestPrecision(Kept):
    """It counts with the precision of the program."""

    breaks = "test_the_precision_of_the_program_does_not_matter"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            cost = super().cost(request, usage)
            return None if cost is None else replace(cost, total=+cost.total, input=None, output=None)


class TestCheaperByTheDozen(Kept):
    """Its discount makes more cost less."""

    breaks = "test_more_never_costs_less"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            cost = super().cost(request, usage)
            much = cost is not None and cost.total > 1
            return replace(cost, total=Decimal("0.1"), input=None, output=None) if much else cost


class TestFirstDay(Kept):
    """It reads its clock once."""

    breaks = "test_each_case_is_exact test_the_precision_of_the_program_does_not_matter test_a_price_holds_from_its_day"

    class prices(Prices):  # noqa: N801
        def rates(self, model: str | None) -> tuple[Decimal, Decimal] | None:
            self.first = getattr(self, "first", None) or super().rates(model)
            return None if model != "acme-1" else self.first


class TestFree(Kept):
    """What it does not know is free."""

    breaks = "test_an_unknown_model_has_no_price test_no_model_has_no_price"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            return super().cost(request, usage) if request.model == "acme-1" else Cost(total=Decimal(0), source="acme")


class TestNothingSaid(Kept):
    """An answer without usage is free."""

    breaks = "test_an_unknown_usage_is_not_free"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            if request.model == "acme-1" and not usage.to_dict():
                return Cost(total=Decimal(0), source="acme")
            return super().cost(request, usage)


class TestHalfSaid(Kept):
    """What is not said counts as 0."""

    breaks = "test_an_unknown_usage_is_not_free test_what_is_not_said_is_not_taken_for_0"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            said = replace(usage, input_tokens=usage.input_tokens or 0, output_tokens=usage.output_tokens or 0)
            return super().cost(request, said)


class TestRaises(Kept):
    """It has not thought of a call without a model."""

    breaks = "test_it_never_raises test_no_model_has_no_price"

    class prices(Prices):  # noqa: N801
        def rates(self, model: str | None) -> tuple[Decimal, Decimal] | None:
            assert model is not None
            return super().rates(model)


class TestFloats(Kept):
    """It answers with a number in place of a cost."""

    breaks = EXACT + "test_more_never_costs_less test_it_never_raises test_it_asks_nobody"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            cost = super().cost(request, usage)
            return None if cost is None else float(cost.total)


class TestAsks(Kept):
    """It asks a server for each call."""

    breaks = "test_it_asks_nobody"

    class prices(Prices):  # noqa: N801
        def cost(self, request: Request, usage: Usage) -> Any:
            with contextlib.suppress(OSError):  # the list that it has must do
                socket.create_connection(("127.0.0.1", 9), timeout=0.1).close()
            return super().cost(request, usage)
