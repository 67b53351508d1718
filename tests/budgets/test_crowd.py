"""What a crowd is expected to cost: learnt in the order in which calls began, and never more than each may cost at most."""

from __future__ import annotations

import math
import statistics
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_obs._budgets.account import Account, Hold, Need
from rlm_obs._budgets.crowd import ENOUGH, LAST, MOST_LATER, RISK, Crowd, Kind, Kinds, One
from rlm_obs._budgets.desk import Desk
from rlm_obs._budgets.line import Waiting
from rlm_obs._budgets.seen import MOST_KINDS
from rlm_obs.errors import BudgetExceeded
from tests.budgets.test_desk import elsewhere

ONE = Decimal(1)
CENT = Decimal("0.01")


def learnt(*costs: str | Decimal) -> Kind:
    """Return a kind whose calls have cost so much, one after the other."""
    kind = Kind()
    for cost in costs:
        kind.end(kind.begin(), Decimal(cost))
    return kind


def needing(most: str, kind: Kind | None, tokens: int = 1000) -> Need:
    return Need(Decimal(0), Decimal(most), tokens, lowerable=True, kind=kind)


def asked(desk: Desk, account: Account, need: Need) -> Hold | Waiting:
    """Ask as another thread would."""
    found: Hold | Waiting = elsewhere(lambda: desk.ask(need, (account,), "call", may_wait=True))
    return found


def test_no_short_call_counts_before_a_long_one_that_began_earlier() -> None:
    """What ends first is short: a crowd is not let out before the first long call has told what it costs."""
    kind = Kind()
    long = kind.begin()
    for _ in range(ENOUGH):
        kind.end(kind.begin(), CENT)
    assert not kind.known
    kind.end(long, ONE)
    assert kind.known
    assert kind.mean > 4 * CENT


def test_a_call_that_says_nothing_keeps_nobody_back() -> None:
    """A call that failed, or whose output the budget lowered, is no example, and is not waited for."""
    kind = Kind()
    failed = kind.begin()
    for _ in range(ENOUGH):
        kind.end(kind.begin(), CENT)
    kind.end(failed, None)
    assert kind.known
    assert kind.mean == CENT


def test_a_call_that_never_ends_takes_no_memory_without_bound() -> None:
    """While a stream stays open, those that ended after it are forgotten from a number on, and it is held against them."""
    kind = Kind()
    kind.begin()
    for _ in range(3 * MOST_LATER):
        kind.end(kind.begin(), CENT)
    assert len(kind._begun) <= MOST_LATER + 1
    assert kind.outliers() >= MOST_LATER


@given(st.lists(st.decimals("0.000001", "100", places=8), min_size=1, max_size=300))
def test_mean_and_variance_are_those_of_the_last_calls(costs: list[Decimal]) -> None:
    """They are exact sums over the last 128."""
    kind, last = learnt(*costs), [float(c) for c in costs[-LAST:]]
    assert math.isclose(kind.mean, statistics.fmean(last), rel_tol=1e-9, abs_tol=2e-12)
    assert math.isclose(kind.variance, statistics.pvariance(last), rel_tol=1e-6, abs_tol=1e-9)


@given(st.integers(1, 200), st.integers(1, 300))
def test_more_calls_are_seldom_dearer_than_any_before(running: int, counted: int) -> None:
    """That more calls pass all that were counted than are held in full happens once in a thousand, whatever they cost."""
    kind = learnt(*[CENT] * counted)
    for _ in range(running):
        kind.begin()
    full = kind.outliers()
    assert full >= 1
    if full < running:
        assert math.comb(running, full) / math.comb(running + counted, full) <= RISK


@given(st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=1, max_size=40))
def test_a_crowd_holds_no_more_than_each_may_cost(calls: list[tuple[int, bool]]) -> None:
    """However costs vary, no more is held than by the most of each, and no less than the means; at the end nothing is."""
    kind, crowd = learnt(*[CENT, ONE] * 30), Crowd()
    ones = [One.of(kind if learned else None, cents * CENT) for cents, learned in calls]
    for key, one in enumerate(ones):
        foreseen = crowd.total(one)
        if one.kind is not None:
            kind.begin()
        crowd.add(key, one)
        assert crowd.total() == foreseen
        assert crowd.means <= crowd.total() <= sum(o.mean + o.extra for o in ones[: key + 1])
    for key, one in enumerate(ones):
        crowd.remove(key, one.mean)
    assert not crowd.calls and not crowd.kinds and not crowd.beyond
    assert crowd.total() == 0


def test_the_last_call_is_not_kept_waiting_for_a_margin() -> None:
    """Alone, a call is held by the most that it costs: one that just fits goes out, and waits for nobody."""
    desk, account = Desk(), Account("b", ONE, "expected")
    hold = asked(desk, account, needing("1.00", learnt(*["0.01", "0.03"] * 30)))
    assert isinstance(hold, Hold)
    assert account.held == ONE


def test_nobody_waits_for_an_open_stream_of_its_own() -> None:
    """What its own call may cost beyond the mean counts too: a call that cannot go out beside it is refused, not kept."""
    desk, account, kind = Desk(), Account("b", ONE, "expected", clamp=False), learnt(*[CENT] * 60)
    desk.ask(needing("0.90", kind), (account,), "stream", may_wait=True)
    with pytest.raises(BudgetExceeded):
        desk.ask(needing("0.90", None), (account,), "call", may_wait=True)


def test_many_run_where_calls_are_alike_and_few_where_one_may_cost_all() -> None:
    """Calls that were alike are held by their mean; as long as too few were seen each is held in full."""
    for seen, expected in ((ENOUGH - 1, 7), (1000, 64)):
        desk, account, kind = Desk(), Account("b", Decimal(10), "expected"), learnt(*["0.0128"] * seen)
        found = [asked(desk, account, needing("1.28", kind)) for _ in range(64)]
        assert sum(isinstance(one, Hold) for one in found) == expected


def test_a_settled_call_is_an_example_and_one_that_cost_nothing_is_none() -> None:
    """The desk tells the kind what a call has cost; a failed one, and one that was never sent, teach nothing."""
    desk, account, kind = Desk(), Account("b", Decimal(10), "expected"), Kind()
    for cost in (CENT, Decimal(0), None):
        hold = asked(desk, account, needing("1.00", kind))
        assert isinstance(hold, Hold)
        desk.release(hold) if cost is None else desk.settle(hold, cost)
    assert kind._count == 1
    assert not kind._begun
    assert kind.mean == CENT


def test_kinds_are_kept_apart_and_bounded() -> None:
    """A flood of made-up models costs no memory."""
    kinds = Kinds()
    first = kinds.of("m", "chat")
    assert kinds.of("m", "chat") is first is not kinds.of("m", "embeddings")
    for number in range(MOST_KINDS):
        kinds.of(f"m{number}", "chat")
    assert len(kinds._kinds) == MOST_KINDS
    assert kinds.of("m", "chat") is not first
