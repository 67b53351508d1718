"""Budget stores that each break promises of the contract, and one that keeps them all; `breaks` names tests that must fail.

A store does few things, and each of them is in the way of many promises: so one that is broken may fail in other tests too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from rlm_obs._budgets.memory import MemoryStore
from rlm_obs.stores import AccountId, Change, Ledger, Message, Reply, State, StoreLost
from rlm_obs.testing import StoreContract


class Kept(StoreContract):
    """The contract, with a clock that is moved."""

    store: type[MemoryStore] = MemoryStore
    breaks: str = ""
    examples = 1

    def setup_method(self) -> None:
        self.now = 1_000.0
        self.made = self.store(lambda: self.now)

    def make_store(self) -> Any:
        return self.made

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Changed(MemoryStore):
    """A base for those that change a message on its way, or the answer."""

    def exchange(self, account: AccountId, message: Message) -> Reply:
        said = self.said(account, message)
        return self.answered(said, super().exchange(account, said))

    def said(self, account: AccountId, message: Message) -> Message:
        return message

    def answered(self, message: Message, reply: Reply) -> Reply:
        return reply


class TestNothing(Kept):
    """Nothing is broken."""


class TestGrantsEverything(Kept):
    """It grants what is wanted, whether it is there or not."""

    breaks = "test_a_grant test_many_at_once_never_pass_the_limit test_any_history"
    examples = 20

    class store(Changed):  # noqa: N801
        def answered(self, message: Message, reply: Reply) -> Reply:
            return replace(reply, granted=message.granted + message.wants + 1)


class TestGrantsTooLittle(Kept):
    """It grants less than is of use."""

    breaks = "test_at_least_or_nothing"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            return replace(message, least=Decimal(0))


class TestGrantsAllToOne(Kept):
    """It gives all there is to the first that asks."""

    breaks = "test_shares"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            state = self.read(account)
            free = message.limit if state is None else state.free
            return replace(message, least=min(message.wants, max(free, message.least)))


class TestTakesMoreBack(Kept):
    """It takes back more than there is."""

    breaks = "test_no_more_returns_than_there_is"

    class store(Changed):  # noqa: N801
        def answered(self, message: Message, reply: Reply) -> Reply:
            more = max(Decimal(0), message.returns - (message.granted - message.spent))
            return replace(reply, state=replace(reply.state, leased=reply.state.leased - more))


class TestNobodyWants(Kept):
    """It does not pass on that another is short of money."""

    breaks = "test_wanted"

    class store(Changed):  # noqa: N801
        def answered(self, message: Message, reply: Reply) -> Reply:
            return replace(reply, state=replace(reply.state, wanted=False))


class TestNoOverspending(Kept):
    """What was spent without a grant does not count."""

    breaks = "test_spent_without_a_grant"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            return replace(message, spent=min(message.spent, message.granted))


class TestNeverBelowNothing(Kept):
    """It hides that a lowered limit leaves less than nothing."""

    breaks = "test_a_lowered_limit"

    class store(MemoryStore):  # noqa: N801
        def change(self, account: AccountId, what: Any, amount: Decimal, who: str) -> State:
            state = super().change(account, what, amount, who)
            return replace(state, limit=max(state.limit, state.spent + state.leased))


class TestAtTheSameTime(Kept):
    """It reads and writes in two steps."""

    breaks = "test_once test_many_at_once_never_pass_the_limit test_one_handle_in_many_threads"

    class store(MemoryStore):  # noqa: N801
        def exchange(self, account: AccountId, message: Message) -> Reply:
            had = self._ledgers.get(account)
            ledger = Ledger(account) if had is None else Ledger.from_dict(account, had.to_dict())
            time.sleep(0.001)
            reply = ledger.exchange(message, self._limits_of(account.budget), self._now())
            self._ledgers[account] = ledger
            return reply

        def once(self, account: AccountId, mark: str) -> bool:
            first = mark not in self._ledgers.setdefault(account, Ledger(account)).marks
            time.sleep(0.001)
            self._ledgers[account].marks.add(mark)
            return first


class TestFloats(Kept):
    """It keeps amounts as numbers of the machine."""

    breaks = "test_amounts_are_exact test_grain"

    class store(Changed):  # noqa: N801
        def answered(self, message: Message, reply: Reply) -> Reply:
            state = replace(
                reply.state, spent=Decimal(float(reply.state.spent)), leased=Decimal(float(reply.state.leased))
            )
            return replace(reply, granted=Decimal(float(reply.granted)), state=state)


class TestNames(Kept):
    """It trims names."""

    breaks = "test_names"

    class store(MemoryStore):  # noqa: N801
        def exchange(self, account: AccountId, message: Message) -> Reply:
            return super().exchange(replace(account, budget=account.budget.strip()[:255]), message)


class TestJoinedNames(Kept):
    """It joins the names of an account to one."""

    breaks = "test_names_do_not_run_together test_windows_are_accounts"

    class store(MemoryStore):  # noqa: N801
        def exchange(self, account: AccountId, message: Message) -> Reply:
            return super().exchange(AccountId(f"{account.budget}:{account.key}"), message)

        def read(self, account: AccountId) -> State | None:
            return super().read(AccountId(f"{account.budget}:{account.key}"))


class TestClock(Kept):
    """Its clock goes back."""

    breaks = "test_the_clock_never_goes_back"

    class store(MemoryStore):  # noqa: N801
        def _now(self) -> float:
            self._latest -= 1
            return 5_000 + self._latest


class TestCloses(Kept):
    """It forgets everything when one handle is closed."""

    breaks = "test_close"

    class store(MemoryStore):  # noqa: N801
        def close(self) -> None:
            self._ledgers.clear()


class TestTakesAllMessages(Kept):
    """It takes a message again, and one that is late."""

    breaks = "test_a_repeated_message test_a_late_message"

    class store(Changed):  # noqa: N801
        turn = 0

        def said(self, account: AccountId, message: Message) -> Message:
            self.turn += 1
            return replace(message, number=self.turn)


class TestForgetsItsAnswers(Kept):
    """It believes a process that does not know yet what it was granted."""

    breaks = "test_a_lost_answer"

    class store(Changed):  # noqa: N801
        def answered(self, message: Message, reply: Reply) -> Reply:
            return reply if message.wants else replace(reply, granted=message.granted)


class TestCountsMessages(Kept):
    """It counts what each message tells, and not the totals."""

    breaks = "test_a_lost_message test_a_store_that_lost_its_last_writes"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            self.turns = getattr(self, "turns", {})
            self.turns[message.lease] = self.turns.get(message.lease, 0) + 1
            return replace(message, number=self.turns[message.lease])


class TestWantsTheFirst(Kept):
    """It knows no lease whose first message it has not seen."""

    breaks = "test_the_first_message_was_lost test_a_store_that_lost_its_last_writes"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            self.known = getattr(self, "known", set())
            if message.number > 1 and message.lease not in self.known:
                raise StoreLost
            self.known.add(message.lease)
            return message


class TestBeginsAnew(Kept):
    """It begins an account anew that was there before."""

    breaks = "test_a_store_that_lost_the_account"

    class store(MemoryStore):  # noqa: N801
        def exchange(self, account: AccountId, message: Message) -> Reply:
            try:
                return super().exchange(account, message)
            except StoreLost:
                return super().exchange(account, replace(message, granted=Decimal(0)))


class TestNeverLost(Kept):
    """It waits for ever for a lease that is lost."""

    breaks = "test_a_lost_lease_is_spent test_a_lost_lease_is_free test_reset test_leases_of_long_ago"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            return replace(message, ttl_s=1e9)


class TestLostIsFree(Kept):
    """What a lost lease had is free, whatever the budget says."""

    breaks = "test_a_lost_lease_is_spent test_leases_of_long_ago"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            return replace(message, lost_lease="free")


class TestLostIsSpent(Kept):
    """What a lost lease had is spent, whatever the budget says."""

    breaks = "test_a_lost_lease_is_free test_what_went_back_stays_so"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            return replace(message, lost_lease="spent")


class TestFirstTimeHolds(Kept):
    """A lease keeps the time of its first message, and its answers still grant it what is gone."""

    breaks = "test_a_message_keeps_a_lease"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            self.first = getattr(self, "first", {})
            return replace(message, ttl_s=self.first.setdefault(message.lease, message.ttl_s))


class TestNoEnd(Kept):
    """It does not keep when a window ends."""

    breaks = "test_the_end_of_a_window"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            return replace(message, ends_at=None)


class TestNothingRolls(Kept):
    """A rolling window keeps what was spent for ever."""

    breaks = "test_a_rolling_window test_a_lost_lease_in_a_rolling_window"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            return replace(message, rolling_s=None)


class TestKnowsAll(Kept):
    """It has an account for whoever asks."""

    breaks = "test_what_nobody_has_named_is_unknown"

    class store(MemoryStore):  # noqa: N801
        def read(self, account: AccountId) -> State | None:
            return super().read(account) or State(
                limit=Decimal(0), spent=Decimal(0), leased=Decimal(0), leases=0, now=0.0
            )


class TestNoDeclarations(Kept):
    """It knows the limits of messages only."""

    breaks = "test_a_declared_limit_holds test_keys test_another_declaration_is_taken_over"

    class store(MemoryStore):  # noqa: N801
        def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: Any, who: str) -> None:
            super().declare(budget, {}, on_change, who)


class TestFirstLimitHolds(Kept):
    """It keeps the limit of the first message."""

    breaks = "test_without_a_declaration_the_message_says_the_limit"

    class store(Changed):  # noqa: N801
        def said(self, account: AccountId, message: Message) -> Message:
            state = self.read(account)
            return message if state is None else replace(message, limit=state.limit)


class TestLogsAgain(Kept):
    """It writes into the log what has changed nothing."""

    breaks = "test_the_same_declaration_changes_nothing"

    class store(MemoryStore):  # noqa: N801
        def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: Any, who: str) -> None:
            super().declare(budget, limits, on_change, who)
            self._history[budget].append(Change(at=self._now(), who=who, what="declared", budget=budget))


class TestTakesOver(Kept):
    """It takes over whatever is declared."""

    breaks = "test_another_declaration_is_refused test_another_declaration_is_ignored"

    class store(MemoryStore):  # noqa: N801
        def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: Any, who: str) -> None:
            super().declare(budget, limits, "set", who)


class TestIgnores(Kept):
    """It ignores whatever is declared anew."""

    breaks = "test_another_declaration_is_refused test_another_declaration_is_taken_over"

    class store(MemoryStore):  # noqa: N801
        def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: Any, who: str) -> None:
            super().declare(budget, limits, "keep", who)


class TestDeclaredAgain(Kept):
    """A program that starts again takes back what an operator has set."""

    breaks = "test_what_was_set_survives_the_same_declaration"

    class store(MemoryStore):  # noqa: N801
        def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: Any, who: str) -> None:
            self._limits.pop(budget, None)
            super().declare(budget, limits, on_change, who)


class TestChangesTheUnknown(Kept):
    """It changes what was never declared."""

    breaks = "test_what_was_never_declared_cannot_be_changed"

    class store(MemoryStore):  # noqa: N801
        def change(self, account: AccountId, what: Any, amount: Decimal, who: str) -> State:
            self._history.setdefault(account.budget, [])
            return super().change(account, what, amount, who)


class TestTopsUpAll(Kept):
    """A top-up is for every window."""

    breaks = "test_top_up"

    class store(MemoryStore):  # noqa: N801
        def change(self, account: AccountId, what: Any, amount: Decimal, who: str) -> State:
            return super().change(replace(account, window=""), what, amount, who)


class TestResetsNothing(Kept):
    """A reset resets nothing."""

    breaks = "test_reset"

    class store(MemoryStore):  # noqa: N801
        def change(self, account: AccountId, what: Any, amount: Decimal, who: str) -> State:
            state = self.read(account)
            return state if what == "reset" and state is not None else super().change(account, what, amount, who)


class TestNewestFirst(Kept):
    """Its log begins with the newest."""

    breaks = "test_history"

    class store(MemoryStore):  # noqa: N801
        def history(self, budget: str) -> Sequence[Change]:
            return list(reversed(super().history(budget)))
