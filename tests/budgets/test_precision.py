"""Sums are exact whatever precision the program counts with: here six digits, which a program may set for itself."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import openai
import pytest

import rlm_obs
from rlm_obs import CostTracker
from rlm_obs._budgets.account import Account, Hold, Need
from rlm_obs._budgets.crowd import ENOUGH, Kind
from rlm_obs._budgets.desk import Desk
from rlm_obs.testing import fake_openai

LIMIT, ODD = Decimal("1234567.890123"), Decimal("0.000123456789")
PRICES = {"odd": {"input": "1.23456789", "output": "7.65432101"}}


@pytest.fixture(autouse=True)
def six_digits() -> Iterator[None]:
    with decimal.localcontext(prec=6):
        yield


@pytest.mark.parametrize("enforcement", ["reserve", "expected", "check"])
def test_holds_lose_nothing(enforcement: str) -> None:
    """What was held and is given back leaves the account as it was, and what is spent is spent to the last digit."""
    desk, account = Desk(), Account("a", LIMIT, enforcement)
    kind = Kind()
    for _ in range(ENOUGH):
        kind.end(kind.begin(), ODD)
    need = Need(ODD, ODD * 2, 1000, input_tokens=9, kind=kind)
    holds = [desk.ask(need, (account,), "call", may_wait=False) for _ in range(30)]
    assert desk.extend(holds[0], ODD, 10) is None  # type: ignore[arg-type]
    for hold in holds:
        assert isinstance(hold, Hold)
        desk.settle(hold, ODD)
    assert account.held == 0
    assert account.spent == Decimal("0.003703703670")
    assert account.left() == Decimal("1234567.886419296330")


def test_what_is_left_is_compared_exactly() -> None:
    """A call that is dearer than what is left by less than the program's precision is refused all the same."""
    desk, account = Desk(), Account("a", Decimal("1.0000001"), clamp=False)
    with pytest.raises(rlm_obs.BudgetExceeded):
        desk.ask(Need(Decimal(0), Decimal("1.0000002")), (account,), "call", may_wait=False)
    assert isinstance(desk.ask(Need(Decimal(0), Decimal("1.0000001")), (account,), "call", may_wait=False), Hold)


def test_output_is_lowered_exactly() -> None:
    """So is the output that there is room for, and what is held for it."""
    need = Need(Decimal("0.0000001"), Decimal("1.0000001"), 10_000_000, lowerable=True)
    assert need.affordable(Decimal("0.1234568")) == 1_234_566  # of a ten-millionth each, less a grain
    assert need.cost(1_234_567) == Decimal("0.1234568")


@pytest.mark.parametrize("window", [None, timedelta(hours=1)])
def test_the_books_of_calls_are_exact(window: timedelta | None) -> None:
    """Spent, remaining, the report and an operation's cost are the sum of what the calls cost, digit for digit."""
    tracker = CostTracker(LIMIT, window=window)
    with fake_openai() as server, rlm_obs.instrument(exporters=[], settings={"prices": PRICES}) as whole:
        client = openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=0)
        with tracker.track("work"):
            answers = [
                client.chat.completions.create(model="odd", messages=[{"role": "user", "content": "x" * n}])
                for n in (1, 100, 1_000)
            ]
        report = whole.report()
    used = [answer.usage for answer in answers if answer.usage]
    with decimal.localcontext(prec=60):
        cost = (
            sum(
                (u.prompt_tokens * Decimal("1.23456789") + u.completion_tokens * Decimal("7.65432101") for u in used),
                Decimal(0),
            )
            / 1_000_000
        )
        left = LIMIT - cost
    assert len(cost.as_tuple().digits) > 6
    assert tracker.spent == report.total_cost == tracker.get_operation_cost("work") == cost
    assert report.by_model == {"odd": cost}
    assert tracker.remaining == left and tracker.held == 0
