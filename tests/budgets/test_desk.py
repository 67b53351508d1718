"""The desk keeps money whole: however calls ask, wait, settle and give up, what is spent and held never passes the limit."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlm_obs._budgets import desk as desk_module
from rlm_obs._budgets.account import Account, Hold, Need
from rlm_obs._budgets.desk import Desk
from rlm_obs._budgets.line import Waiting
from rlm_obs.errors import BudgetExceeded, RlmObsError

ONE = Decimal(1)


def elsewhere(work: Callable[[], Any]) -> Any:
    """Do `work` as another thread would, and return or raise what came of it."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def need(most: str | Decimal, least: str | Decimal = "0", *, tokens: int = 1000, lowerable: bool = False) -> Need:
    return Need(Decimal(least), Decimal(most), tokens, lowerable)


def other(desk: Desk, account: Account, wants: Need, label: str = "other") -> Hold | Waiting:
    found: Hold | Waiting = elsewhere(lambda: desk.ask(wants, (account,), label, may_wait=True))
    return found


def held(desk: Desk, account: Account, most: str, label: str = "other") -> Hold:
    """Return a hold that another thread has."""
    hold = other(desk, account, need(most), label)
    assert isinstance(hold, Hold)
    return hold


def limited(waiting: Waiting) -> set[Account]:
    """Return the accounts that a call waits for: one that only counts keeps nobody waiting."""
    return {account for account in waiting.accounts if account.limit is not None}


class DeskMachine(RuleBasedStateMachine):
    """However holds, settlements, waits, give-ups and limits interleave: never over, held in all or none, first come first
    served, nobody forgotten."""

    settled = Bundle("settled")

    live: list[Hold]
    waiting: list[Waiting]
    accounts: list[Account]

    @initialize(limits=st.lists(st.integers(1, 200), min_size=3, max_size=3), clamps=st.tuples(*[st.booleans()] * 3))
    def open(self, limits: list[int], clamps: tuple[bool, ...]) -> None:
        self.desk = Desk()
        self.accounts = [
            Account(f"budget {n}", Decimal(limit) / 100, clamp=clamp, min_output_tokens=50)
            for n, (limit, clamp) in enumerate(zip(limits, clamps, strict=True))
        ]
        self.live: list[Hold] = []
        self.waiting: list[Waiting] = []  # in the order of their coming
        self.excused: set[str] = set()  # whose limit a settlement, or the user, has passed

    @rule(
        which=st.sets(st.integers(0, 2), min_size=1),
        cents=st.integers(0, 120),
        share=st.integers(0, 10),
        lowerable=st.booleans(),
        late=st.booleans(),
        mine=st.sampled_from([False, False, False, True]),
        may_wait=st.sampled_from([True, True, True, False]),
    )
    def ask(
        self, which: set[int], cents: int, share: int, lowerable: bool, late: bool, mine: bool, may_wait: bool
    ) -> None:
        most = Decimal(cents) / 100
        least = most * share / 10
        wants = Need(None if late else least, most, 1000, lowerable, free=not most, find_least=lambda: least)
        accounts = tuple(self.accounts[n] for n in sorted(which))
        before = [(a.spent, a.held) for a in self.accounts]
        scarce = {account for account in accounts if account.limit is not None}
        if mine and any(w.owner == desk_module.whoever() for w in self.waiting):
            return  # who waits asks for nothing
        in_line = [w for w in self.waiting if not scarce.isdisjoint(w.accounts)]
        run = (lambda work: work()) if mine else elsewhere
        try:
            found = run(lambda: self.desk.ask(wants, accounts, "call", may_wait=may_wait))
        except BudgetExceeded as refusal:
            assert refusal.account in accounts
            assert [(a.spent, a.held) for a in self.accounts] == before  # held in none
            return
        if isinstance(found, Waiting):
            assert may_wait
            if mine:
                wanted = {a for w in (*self.waiting, found) for a in w.accounts}
                others = [h for a in wanted for h in a.holds.values() if h.owner != desk_module.whoever()]
                assert any(any(h.amounts) for h in others), "it waits for its own holds"
            assert [(a.spent, a.held) for a in self.accounts] == before
            self.waiting.append(found)
            return
        for account in accounts:  # held in all
            assert account.holds[id(found)] is found
        if not mine and most:
            assert not in_line, "a later call has overtaken one that waits for the same money"
        if found.tokens is not None:
            assert lowerable
            assert found.tokens >= 50
            assert all(a.clamp for a in accounts if a.limit is not None and most > a.limit - a.spent)
        self.live.append(found)

    @precondition(lambda self: self.live)
    @rule(target=settled, which=st.integers(0, 20), percent=st.sampled_from([0, 0, 10, 50, 100, 100, 100, 130]))
    def settle(self, which: int, percent: int) -> Hold:
        hold = self.live.pop(which % len(self.live))
        charge = hold.amount * percent / 100
        if charge > hold.amount:
            self.excused.update(a.name for a in hold.accounts)
        self.desk.settle(hold, charge)
        return hold

    @rule(hold=settled)
    def settle_again(self, hold: Hold) -> None:
        before = [(a.spent, a.held) for a in self.accounts]
        with pytest.raises(RlmObsError, match="settled before"):
            self.desk.settle(hold, ONE)
        assert [(a.spent, a.held) for a in self.accounts] == before

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 20))
    def give_up(self, which: int) -> None:
        waiting = self.waiting.pop(which % len(self.waiting))
        self.desk.give_up(waiting)
        assert waiting.hold is None

    @rule(which=st.integers(0, 2), cents=st.one_of(st.none(), st.integers(0, 300)))
    def change_limit(self, which: int, cents: int | None) -> None:
        account = self.accounts[which]
        limit = None if cents is None else Decimal(cents) / 100
        self.desk.change_limit(account, limit)
        self.excused.discard(account.name)
        self.take_granted()
        if limit is not None and account.spent + account.held > limit:
            self.excused.add(account.name)

    def take_granted(self) -> None:
        """Take over the holds of those who were served, and see that nobody was served before their turn."""
        for place, waiting in enumerate(self.waiting):
            if waiting.hold is not None:
                ahead = [w for w in self.waiting[:place] if w.hold is None and w.refusal is None]
                assert self.is_waited_for(waiting) or all(limited(w).isdisjoint(limited(waiting)) for w in ahead), (
                    "served before its turn"
                )
                self.live.append(waiting.hold)
        self.waiting = [w for w in self.waiting if w.hold is None and w.refusal is None]

    def is_waited_for(self, waiting: Waiting) -> bool:
        """Who holds money already does not stand behind those who may be waiting for it."""
        holds = [h for w in self.waiting for a in limited(w) for h in a.holds.values() if h is not waiting.hold]
        return any(h.owner == waiting.owner and h.amount for h in holds)  # nobody waits for a hold of nothing

    @invariant()
    def never_over(self) -> None:
        self.take_granted()
        for account in self.accounts:
            assert account.spent >= 0
            assert account.held == sum((h.amount for h in self.live if account in h.accounts), Decimal(0))
            assert set(account.holds.values()) == {h for h in self.live if account in h.accounts}
            if account.limit is not None and account.name not in self.excused:
                assert account.spent + account.held <= account.limit

    @invariant()
    def nobody_is_forgotten(self) -> None:
        self.take_granted()
        wanted: set[str] = set()
        for waiting in self.waiting:
            mine = {a.name for a in limited(waiting)}
            if wanted.isdisjoint(mine) or self.is_waited_for(waiting):  # nobody stands before it
                limits = [(a, a.limit - a.spent) for a in waiting.accounts if a.limit is not None]
                assert all(left > 0 for _, left in limits), "its money is spent, and nobody told it"
                assert any(a.held for a, _ in limits), "nobody holds anything, and it still waits"
                assert any(waiting.need.most > left - a.held for a, left in limits), "its money is free, and it waits"
            wanted |= mine

    def teardown(self) -> None:
        while getattr(self, "live", None):
            self.desk.settle(self.live.pop(), Decimal(0))
            self.take_granted()
        assert not getattr(self, "waiting", None)
        assert all(not a.held and not a.holds for a in getattr(self, "accounts", []))


TestDesk = DeskMachine.TestCase
TestDesk.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


# Who gets, who waits, who is refused


def test_spent_money_refuses_at_once() -> None:
    """Nobody waits for money that is gone, however long the line before them."""
    desk, account = Desk(), Account("b", ONE)
    desk.settle(held(desk, account, "1"), ONE)
    with pytest.raises(BudgetExceeded, match="its money is spent") as refused:
        other(desk, account, need("0.01"))
    assert (refused.value.spent, refused.value.held, refused.value.limit, refused.value.needed) == (
        ONE,
        0,
        ONE,
        Decimal("0.01"),
    )


def test_spent_money_refuses_at_once_behind_a_line() -> None:
    """A nested budget that is spent refuses, also while others wait for the money of the outer one."""
    desk, outer, inner = Desk(), Account("outer", ONE), Account("inner", Decimal(0))
    held(desk, outer, "1")
    assert isinstance(other(desk, outer, need("0.5")), Waiting)
    with pytest.raises(BudgetExceeded, match="its money is spent") as refused:
        elsewhere(lambda: desk.ask(need("0.1"), (outer, inner), "call", may_wait=True))
    assert refused.value.budget == "inner"


def test_held_money_is_waited_for() -> None:
    """A call that fits once others have settled waits for them, and then goes."""
    desk, account = Desk(), Account("b", ONE)
    hold = held(desk, account, "0.8")
    waiting = other(desk, account, need("0.9"))
    assert isinstance(waiting, Waiting)
    threading.Timer(0.05, desk.settle, (hold, Decimal("0.1"))).start()
    assert waiting.wait(5).amount == Decimal("0.9")
    assert account.held == Decimal("0.9")


def test_a_call_too_large_for_what_is_left_is_lowered() -> None:
    """With no limit of the user's, the output is lowered to what is left beside the input; the hold never passes it."""
    desk, account = Desk(), Account("b", ONE)
    hold = desk.ask(need("10.1", "0.1", tokens=10_000, lowerable=True), (account,), "call", may_wait=True)
    assert isinstance(hold, Hold)
    assert hold.tokens is not None
    assert 890 <= hold.tokens <= 900
    assert hold.amount <= ONE


def test_the_users_own_limit_is_never_lowered() -> None:
    """A call whose limit the user set is refused where it alone could cost more than is left."""
    desk, account = Desk(), Account("b", ONE)
    with pytest.raises(BudgetExceeded, match="this call alone could cost more") as refused:
        desk.ask(need("10"), (account,), "call", may_wait=True)
    assert "output limit" in refused.value.advice


def test_clamp_false_refuses_instead_of_lowering() -> None:
    """`clamp=False` keeps the output as it is."""
    desk, account = Desk(), Account("b", ONE, clamp=False)
    with pytest.raises(BudgetExceeded, match="clamp=False"):
        desk.ask(need("10", lowerable=True), (account,), "call", may_wait=True)


@pytest.mark.parametrize("least_known", [True, False])
def test_less_output_than_is_of_use_is_refused(least_known: bool) -> None:
    """What pays for fewer than `min_output_tokens` refuses: at once, also where others still hold money."""
    desk, account = Desk(), Account("b", ONE, min_output_tokens=256)
    wants = need("100", "0.8", tokens=10_000, lowerable=True)
    if not least_known:
        wants.least, wants.find_least = None, lambda: Decimal("0.8")
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match="fewer than 256 tokens"):
            other(desk, account, wants)
        held(desk, account, "0.5") if not account.held else None


def test_an_open_stream_of_ones_own_is_never_waited_for() -> None:
    """Who holds the money further up is refused at once, and told so; a call that still fits passes."""
    desk, account = Desk(), Account("b", ONE)
    mine = desk.ask(need("0.8"), (account,), "stream", may_wait=True)
    with pytest.raises(BudgetExceeded, match=r"\$0.80 of it is held by an open call of this very thread or task"):
        desk.ask(need("0.5"), (account,), "call", may_wait=True)
    assert isinstance(desk.ask(need("0.2"), (account,), "call", may_wait=True), Hold)
    assert isinstance(mine, Hold)


def test_who_holds_money_passes_those_who_wait_for_it() -> None:
    """A call that still fits, made while one's own stream is open, does not stand behind those who wait for that stream."""
    desk, account = Desk(), Account("b", ONE)
    mine = desk.ask(need("0.5"), (account,), "stream", may_wait=True)
    waiting = other(desk, account, need("0.9"))
    assert isinstance(waiting, Waiting)
    inner = desk.ask(need("0.3"), (account,), "call", may_wait=True)
    assert isinstance(inner, Hold)
    assert isinstance(mine, Hold)
    desk.settle(inner, Decimal(0))
    desk.settle(mine, Decimal(0))
    assert waiting.hold is not None


def test_who_holds_money_does_not_wait_behind_those_who_wait_for_it() -> None:
    """A call made while one's own stream is open waits for other calls, and never in a ring with the line."""
    desk, account = Desk(), Account("b", ONE)
    mine = desk.ask(need("0.5"), (account,), "stream", may_wait=True)
    theirs = held(desk, account, "0.4")
    behind = other(desk, account, need("0.9"))
    assert isinstance(behind, Waiting)
    inner = desk.ask(need("0.3"), (account,), "call", may_wait=True)
    assert isinstance(inner, Waiting)
    desk.settle(theirs, Decimal(0))
    assert inner.hold is not None, "the one before it waits for the stream, which waits for this call"
    assert isinstance(mine, Hold)
    desk.settle(inner.hold, Decimal(0))
    desk.settle(mine, Decimal(0))
    assert behind.hold is not None


def test_who_holds_other_money_that_is_waited_for_does_not_wait_either() -> None:
    """A stream is open under one budget, another thread waits for its money under two, and the stream's thread asks under the
    second: it goes at once, or both would wait for each other.
    """
    desk, first, second = Desk(), Account("first", Decimal("0.14")), Account("second", Decimal("0.02"))
    hold = desk.ask(need("0.13"), (first,), "stream", may_wait=True)
    assert isinstance(hold, Hold)
    waiting = elsewhere(lambda: desk.ask(need("0.02"), (first, second), "both", may_wait=True))
    assert isinstance(waiting, Waiting)
    asked = desk.ask(need("0.01"), (second,), "second", may_wait=True)
    assert isinstance(asked, Hold)
    for one in (asked, hold):
        desk.settle(one, Decimal(0))
    assert waiting.wait(5).amount == Decimal("0.02")


def test_nobody_is_overtaken_by_a_chain_of_budgets() -> None:
    """Who waits behind another for one budget is not overtaken on a second one by those who came later."""
    desk, a, b, c = Desk(), Account("a", ONE), Account("b", ONE), Account("c", ONE)
    in_a = held(desk, a, "0.8")
    in_c = held(desk, c, "0.8")

    def ask(*accounts: Account) -> Waiting:
        found = elsewhere(lambda: desk.ask(need("0.5"), accounts, "call", may_wait=True))
        assert isinstance(found, Waiting)
        return found

    first, second, third = ask(a, b), ask(b, c), ask(c)
    desk.settle(in_c, Decimal(0))
    assert third.hold is None
    desk.settle(in_a, Decimal(0))
    assert first.hold is not None
    assert second.hold is not None
    assert third.hold is None or c.spent + c.held <= ONE


def test_the_hold_of_a_thread_that_ended_is_nobodys_own() -> None:
    """A stream handed on by a thread that has ended is waited for, also by a new thread that got the same number."""
    desk, account = Desk(), Account("b", ONE)
    numbers: list[int] = []

    def ask(most: str) -> Hold | Waiting:
        numbers.append(threading.get_ident())
        return desk.ask(need(most), (account,), "call", may_wait=True)

    elsewhere(lambda: ask("0.8"))
    for _ in range(20):
        waiting = elsewhere(lambda: ask("0.5"))
        assert isinstance(waiting, Waiting)
        desk.give_up(waiting)
    assert len(set(numbers)) < len(numbers), "no number came twice: the test shows nothing"


async def test_a_blocking_call_never_waits_in_an_event_loop() -> None:
    """`may_wait=False` refuses what would have to wait, and says what to do instead."""
    desk, account = Desk(), Account("b", ONE)
    held(desk, account, "0.8")
    with pytest.raises(BudgetExceeded, match="inside a running event loop") as refused:
        desk.ask(need("0.5"), (account,), "call", may_wait=False)
    assert "AsyncOpenAI" in refused.value.advice
    assert isinstance(desk.ask(need("0.1"), (account,), "call", may_wait=False), Hold)


def test_first_come_first_served() -> None:
    """A small call that would fit waits behind a large one, so that the large one is not starved."""
    desk, account = Desk(), Account("b", ONE)
    hold = held(desk, account, "0.6")
    large, small = other(desk, account, need("0.9")), other(desk, account, need("0.1"))
    assert isinstance(large, Waiting)
    assert isinstance(small, Waiting)
    desk.settle(hold, Decimal(0))
    assert large.hold is not None
    assert small.hold is not None


def test_who_wants_nothing_does_not_stand_in_line() -> None:
    """A free call passes those who wait for money."""
    desk, account = Desk(), Account("b", ONE)
    held(desk, account, "0.6")
    assert isinstance(other(desk, account, need("0.9")), Waiting)
    assert isinstance(other(desk, account, need("0")), Hold)


def test_nested_budgets_hold_in_all_or_in_none() -> None:
    """One budget without room, and none of the others holds anything."""
    desk, outer, inner = Desk(), Account("outer", ONE), Account("inner", Decimal("0.1"))
    with pytest.raises(BudgetExceeded) as refused:
        desk.ask(need("0.5"), (outer, inner), "call", may_wait=True)
    assert refused.value.budget == "inner"
    assert not outer.held
    assert not inner.held


@pytest.mark.parametrize("enforcement", ["warn", "off"])
def test_some_budgets_only_count(enforcement: str) -> None:
    """ "warn" and "off" refuse nothing."""
    desk, account = Desk(), Account("b", Decimal(0), enforcement)
    assert isinstance(desk.ask(need("5"), (account,), "call", may_wait=True), Hold)


def test_check_looks_at_the_money_spent_only() -> None:
    """ "check" lets calls go side by side past the limit, and refuses once it is spent."""
    desk, account = Desk(), Account("b", ONE, "check")
    first, second = held(desk, account, "0.8"), held(desk, account, "0.8")
    for hold in (first, second):
        desk.settle(hold, Decimal("0.8"))
    with pytest.raises(BudgetExceeded, match="its money is spent"):
        other(desk, account, need("0.1"))


# Waiting


def test_waiting_ends_at_its_time() -> None:
    """After `timeout_s` the call is refused, with the time and what to do; it is out of the line and holds nothing."""
    desk, account = Desk(), Account("b", ONE)
    hold = held(desk, account, "0.8")
    waiting = other(desk, account, need("0.5"))
    assert isinstance(waiting, Waiting)
    behind = other(desk, account, need("0.1"))
    assert isinstance(behind, Waiting)
    began = time.monotonic()
    with pytest.raises(BudgetExceeded, match=r"still held by other calls after a wait of 0\.05 s") as refused:
        waiting.wait(0.05)
    assert 0.04 < time.monotonic() - began < 2
    assert (refused.value.held, refused.value.needed) == (Decimal("0.8"), Decimal("0.5"))
    assert behind.hold is not None, "who stood behind is served when the one before leaves"
    desk.settle(hold, Decimal(0))
    assert account.held == Decimal("0.1")


def test_waiting_no_time_at_all_refuses() -> None:
    """`timeout_s=0` does not wait."""
    desk, account = Desk(), Account("b", ONE)
    held(desk, account, "0.8")
    waiting = other(desk, account, need("0.5"))
    assert isinstance(waiting, Waiting)
    with pytest.raises(BudgetExceeded, match="after a wait of 0 s"):
        waiting.wait(0)


def test_a_long_wait_says_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One log line says who holds how much and what to do, by the first in line and not by all."""
    monkeypatch.setattr(desk_module, "LOG_WAIT_AFTER_S", 0.02)
    desk, account = Desk(), Account("day", ONE)
    first, second = held(desk, account, "0.5", "gpt-4o"), held(desk, account, "0.3", "gpt-4.1")
    waiting = [other(desk, account, need("0.7"), "o3") for _ in range(3)]
    with caplog.at_level(logging.WARNING, "rlm_obs"):
        threads = [threading.Thread(target=w.wait, args=(5,)) for w in waiting if isinstance(w, Waiting)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        for hold in (first, second):
            desk.settle(hold, Decimal(0))
        for w in waiting:
            while w.hold is None:  # type: ignore[union-attr]
                time.sleep(0.01)
            desk.settle(w.hold, Decimal(0))  # type: ignore[union-attr]
        for thread in threads:
            thread.join()
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1
    for part in (
        "budget 'day'",
        "(o3)",
        "2 calls in flight hold $0.80",
        "gpt-4o $0.50, gpt-4.1 $0.30",
        "max_completion_tokens",
    ):
        assert part in said[0]


def test_a_new_limit_serves_the_line() -> None:
    """Who waits goes as soon as the budget is raised, and is refused as soon as it is below what is spent."""
    desk, account = Desk(), Account("b", ONE)
    held(desk, account, "0.8")
    waiting = other(desk, account, need("0.5"))
    assert isinstance(waiting, Waiting)
    desk.change_limit(account, Decimal(2))
    assert waiting.wait(0).amount == Decimal("0.5")
    other_one = other(desk, account, need("1.9"))
    assert isinstance(other_one, Waiting)
    desk.change_limit(account, Decimal(0))
    with pytest.raises(BudgetExceeded, match="its money is spent"):
        other_one.wait(0)


async def test_tasks_wait_without_blocking_their_loop() -> None:
    """An awaited wait lets other tasks run, and goes on when another thread settles."""
    desk, account = Desk(), Account("b", ONE)
    hold = held(desk, account, "0.8")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    waiting = other(desk, account, need("0.5"))
    assert isinstance(waiting, Waiting)
    threading.Timer(0.1, desk.settle, (hold, Decimal(0))).start()
    assert (await waiting.wait_async(5)).amount == Decimal("0.5")
    assert ticks > 5
    ticking.cancel()


async def test_a_cancelled_task_leaves_the_line() -> None:
    """Cancelled while it waits, a task holds nothing, and who stood behind it is served."""
    desk, account = Desk(), Account("b", ONE)
    held(desk, account, "0.8")
    waiting, behind = other(desk, account, need("0.5")), other(desk, account, need("0.2"))
    assert isinstance(waiting, Waiting)
    assert isinstance(behind, Waiting)
    task = asyncio.create_task(waiting.wait_async(5))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert behind.hold is not None
    assert account.held == ONE


async def test_a_task_cancelled_as_it_is_served_is_cancelled_and_holds_nothing() -> None:
    """A cancellation is not swallowed by the money that comes at the same moment."""
    desk, account = Desk(), Account("b", ONE)
    hold = held(desk, account, "0.8")
    waiting = other(desk, account, need("0.5"))
    assert isinstance(waiting, Waiting)
    task = asyncio.create_task(waiting.wait_async(5))
    await asyncio.sleep(0.02)
    desk.settle(hold, Decimal(0))  # granted: its loop will be told
    await asyncio.sleep(0)  # ... and has set the event, but the task has not run
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not account.held


async def test_an_awaited_wait_ends_at_its_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a thread: a log line on the way, a refusal at the end."""
    monkeypatch.setattr(desk_module, "LOG_WAIT_AFTER_S", 0.02)
    desk, account = Desk(), Account("b", ONE)
    held(desk, account, "0.8")
    waiting = other(desk, account, need("0.5"))
    assert isinstance(waiting, Waiting)
    with pytest.raises(BudgetExceeded, match="after a wait of 0.1 s"):
        await waiting.wait_async(0.1)
    assert len(caplog.records) == 1
    assert account.held == Decimal("0.8")


@pytest.mark.filterwarnings("ignore:coroutine 'Waiting.wait_async' was never awaited")
def test_an_event_loop_closed_under_a_waiter_leaves_nothing_held() -> None:
    """Who cannot be told that it was served gives its money back, and the next in line is served."""
    desk, account = Desk(), Account("b", ONE)
    hold = held(desk, account, "0.8")
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio says that the task was destroyed
    waiting = other(desk, account, need("0.9"))
    assert isinstance(waiting, Waiting)
    task = loop.create_task(waiting.wait_async(5))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    behind = other(desk, account, need("0.7"))
    assert isinstance(behind, Waiting)
    desk.settle(hold, Decimal(0))
    assert behind.hold is not None
    assert account.held == Decimal("0.7")
    with desk.lock:  # what is left of the task may be collected while this very thread has the lock
        del task, waiting
        gc.collect()
    assert account.held == Decimal("0.7")


def test_an_interrupted_wait_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a call waits: it is out of the line, and holds nothing."""
    desk, account = Desk(), Account("b", ONE)
    hold = held(desk, account, "0.8")
    waiting = other(desk, account, need("0.5"))
    assert isinstance(waiting, Waiting)

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr(waiting, "_done", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        waiting.wait(1)
    desk.settle(hold, Decimal(0))
    assert not account.held


# With real threads and tasks


def test_no_wake_up_is_lost_among_threads() -> None:
    """Sixteen threads at one small budget: each of their calls ends, never over, and nothing is held at the end."""
    desk, account = Desk(), Account("b", Decimal(10_000))
    over: list[Decimal] = []
    done: list[int] = []

    def work(seed: int) -> None:
        luck = random.Random(seed)
        for _ in range(60):
            wants = need(str(luck.randint(1, 9_000)), tokens=10_000, lowerable=luck.random() < 0.3)
            found = desk.ask(wants, (account,), "call", may_wait=True)
            hold = found.wait(20) if isinstance(found, Waiting) else found
            with desk.lock:
                if account.spent + account.held > 10_000:
                    over.append(account.spent + account.held)
            if luck.random() < 0.5:
                time.sleep(0)
            desk.settle(hold, hold.amount / 10_000)
        done.append(seed)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 16
    assert not over
    assert not account.held
    assert not account.holds


async def test_no_wake_up_is_lost_among_tasks() -> None:
    """Two hundred tasks, a third of them cancelled on the way: all others are served, and nothing is held at the end."""
    desk, account = Desk(), Account("b", Decimal(1000))
    served = 0

    async def work(amount: int) -> None:
        nonlocal served
        found = desk.ask(need(str(amount)), (account,), "call", may_wait=True)
        hold = await found.wait_async(20) if isinstance(found, Waiting) else found
        try:
            await asyncio.sleep(0.001)
            served += 1
        finally:
            assert account.spent + account.held <= 1000
            desk.settle(hold, Decimal("0.01"))

    tasks = [asyncio.create_task(work(100 + n * 4)) for n in range(200)]
    await asyncio.sleep(0.01)
    cancelled = [t for t in tasks[::3] if t.cancel()]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served >= 200 - len(cancelled)
    assert all(t.cancelled() or t.exception() is None for t in tasks)
    assert not account.held
    assert not account.holds


def test_a_count_that_all_share_keeps_nobody_waiting() -> None:
    """A call that waits for one budget does not stop calls under another, though one book counts them all."""
    desk, program, tight, wide = Desk(), Account("program", None), Account("tight", ONE), Account("wide", ONE)
    holder = elsewhere(lambda: desk.ask(need("0.9"), (program, tight), "holder", may_wait=True))
    assert isinstance(holder, Hold)
    waiting = elsewhere(lambda: desk.ask(need("0.5"), (program, tight), "waiter", may_wait=True))
    assert isinstance(waiting, Waiting)
    assert isinstance(elsewhere(lambda: desk.ask(need("0.5"), (program, wide), "free", may_wait=True)), Hold)
    assert isinstance(elsewhere(lambda: desk.ask(need("0.5"), (program,), "freer", may_wait=True)), Hold)
    desk.settle(holder, Decimal("0.1"))
    assert waiting.wait(1).amount == Decimal("0.5")


def test_the_way_of_most_calls_overtakes_nobody_and_ends_with_the_room() -> None:
    """A call that is held at once never passes those in line, nor the limit; where it does not fit, nothing is held of it."""
    desk, account = Desk(), Account("budget", ONE, simple=True)
    counted = Account("counted", None, simple=True)
    first = held(desk, account, "0.9")
    waiting = other(desk, account, need("0.5"))
    assert isinstance(waiting, Waiting)
    assert desk.hold_at_once(Decimal("0.05"), (counted, account), "small") is None
    desk.settle(first, Decimal("0.25"))
    assert waiting.hold is not None and (account.spent, account.held) == (Decimal("0.25"), Decimal("0.5"))
    fits = desk.hold_at_once(Decimal("0.25"), (counted, account), "fits")
    assert fits is not None and (counted.held, account.held) == (Decimal("0.25"), Decimal("0.75"))
    assert desk.hold_at_once(Decimal("0.000001"), (counted, account), "one too many") is None
    assert (counted.held, account.held) == (Decimal("0.25"), Decimal("0.75"))
    desk.settle(fits, Decimal("0.1"))
    desk.settle(waiting.hold, Decimal("0.1"))
    assert (counted.spent, account.spent) == (Decimal("0.1"), Decimal("0.45"))
    assert counted.held == account.held == 0 and not counted.holds and not account.holds
