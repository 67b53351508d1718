"""The contract of stores, first part: limits, who may change them, and what is granted under them."""

# mypy: disable-error-code="comparison-overlap"

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import pytest

from rlm_obs.stores import AccountId, Change, LimitConflict
from rlm_obs.testing._store_base import BUDGET, LIMITS, SHORT_S, USD, StoreTests, parts
from rlm_obs.testing._store_owner import NONE

What = Literal["set", "top-up", "reset"]


class LimitTests(StoreTests):
    """What holds, and what is granted."""

    def test_what_nobody_has_named_is_unknown(self) -> None:
        """An account of which no limit is known and that nobody used has no state, no history, and is not listed."""
        store = self.open()
        assert store.read(USD) is None
        assert list(store.accounts()) == list(store.accounts(BUDGET)) == []
        assert list(store.history(BUDGET)) == []

    def test_a_declared_limit_holds(self) -> None:
        """A declared limit is known to all at once, also before anything was spent, and comes before a message's own."""
        self.open().declare(BUDGET, LIMITS, "refuse", "ann")
        store = self.open()
        state = store.read(USD)
        assert state is not None
        assert parts(state) == (10, 0, 0, 10)
        assert parts(self.owner(limit=99).asks()) == (10, 0, 0, 10)
        assert store.read(AccountId(BUDGET, "tokens")) is None

    def test_without_a_declaration_the_message_says_the_limit(self) -> None:
        """The limit of an account that was never declared is the one of the last message."""
        assert self.owner(limit=7).asks().limit == 7
        assert self.owner(limit=8).asks().limit == 8
        state = self.open().read(USD)
        assert state is not None
        assert state.limit == 8

    def test_the_same_declaration_changes_nothing(self) -> None:
        """Declaring the same limits again leaves everything as it is, the audit log too."""
        store = self.open()
        for _ in range(2):
            store.declare(BUDGET, LIMITS, "refuse", "ann")
        assert [(c.what, c.who, c.unit, c.key, c.before, c.after) for c in store.history(BUDGET)] == [
            ("created", "ann", "usd", "", None, Decimal(10))
        ]

    def test_another_declaration_is_refused(self) -> None:
        """Another limit is refused with both limits in the error, and nothing of that declaration is taken over."""
        store = self.open()
        store.declare(BUDGET, LIMITS, "refuse", "ann")
        with pytest.raises(LimitConflict) as caught:
            store.declare(BUDGET, {("tokens", ""): Decimal(5), ("usd", ""): Decimal(20)}, "refuse", "bob")
        error = caught.value
        assert (error.budget, error.unit, error.key, error.before, error.after) == (BUDGET, "usd", "", 10, 20)
        assert store.read(AccountId(BUDGET, "tokens")) is None
        assert [change.who for change in store.history(BUDGET)] == ["ann"]

    def test_another_declaration_is_ignored(self) -> None:
        """With "keep" the limit that was declared first stays, and what is new is taken."""
        store = self.open()
        store.declare(BUDGET, LIMITS, "refuse", "ann")
        store.declare(BUDGET, {("usd", ""): Decimal(20), ("tokens", ""): Decimal(5)}, "keep", "bob")
        assert self.limits(USD, AccountId(BUDGET, "tokens")) == [10, 5]
        assert [(c.what, c.unit) for c in store.history(BUDGET)] == [("created", "usd"), ("created", "tokens")]

    def test_another_declaration_is_taken_over(self) -> None:
        """With "set" the new limit holds from now on, whatever was set before, and the log says from what to what."""
        store = self.open()
        store.declare(BUDGET, LIMITS, "refuse", "ann")
        store.change(USD, "set", Decimal(15), "operator")
        store.declare(BUDGET, {("usd", ""): Decimal(20)}, "set", "bob")
        assert self.limits(USD) == [20]
        last = store.history(BUDGET)[-1]
        assert (last.what, last.who, last.before, last.after) == ("declared", "bob", 15, 20)

    @pytest.mark.parametrize("on_change", ["refuse", "set", "keep"])
    def test_what_was_set_survives_the_same_declaration(self, on_change: Any) -> None:
        """A limit that an operator has set holds on when the program starts again with the limit that it always declares."""
        store = self.open()
        store.declare(BUDGET, LIMITS, "refuse", "ann")
        state = store.change(USD, "set", Decimal(50), "operator")
        assert state.limit == 50
        store.declare(BUDGET, LIMITS, on_change, "ann")
        assert self.limits(USD) == [50]
        assert self.owner().asks().limit == 50

    def test_keys(self) -> None:
        """The limit with the key "" is that of every key without its own; a program's own for a key comes before it,
        and what was set for the key comes before both.
        """
        store = self.open()
        ann, bob, eve = (AccountId(BUDGET, key=key, window="w") for key in ("ann", "bob", "eve"))
        store.declare(BUDGET, {**LIMITS, ("usd", "ann"): Decimal(3)}, "refuse", "ann")
        assert self.limits(ann, bob) == [3, 10]
        assert self.owner(eve, 4, own=True).asks().limit == 4
        store.change(AccountId(BUDGET), "set", Decimal(20), "operator")
        assert self.limits(ann, bob, eve) == [3, 20, 4]
        store.change(AccountId(BUDGET, key="eve"), "set", Decimal(6), "operator")
        assert self.owner(eve, 4, own=True).asks().limit == 6
        assert self.limits(ann, bob, AccountId(BUDGET, key="eve", window="next")) == [3, 20, 6]

    def test_what_was_never_declared_cannot_be_changed(self) -> None:
        """A change of an unknown budget is a KeyError, one of a unit without a limit a ValueError; neither is logged."""
        store = self.open()
        changes: tuple[What, ...] = ("set", "top-up", "reset")
        for what in changes:
            with pytest.raises(KeyError):
                store.change(USD, what, Decimal(1), "operator")
        store.declare(BUDGET, LIMITS, "refuse", "ann")
        for what in changes[1:]:
            with pytest.raises(ValueError, match="tokens"):
                store.change(AccountId(BUDGET, "tokens"), what, Decimal(1), "operator")
        assert len(store.history(BUDGET)) == 1

    def test_top_up(self) -> None:
        """A top-up adds to the limit of one account, now, and of no other."""
        store = self.open()
        store.declare(BUDGET, LIMITS, "refuse", "ann")
        one, other = AccountId(BUDGET, window="one"), AccountId(BUDGET, window="other")
        assert parts(store.change(one, "top-up", Decimal("2.5"), "operator")) == (
            Decimal("12.5"),
            0,
            0,
            Decimal("12.5"),
        )
        assert self.limits(one, other) == [Decimal("12.5"), 10]
        store.change(one, "set", Decimal(20), "operator")
        assert self.limits(one, other) == [Decimal("22.5"), 20]
        assert one in store.accounts(BUDGET)

    def test_reset(self) -> None:
        """After a reset nothing is spent, lost leases hold nothing, and living ones what they may still spend."""
        store = self.open()
        store.declare(BUDGET, LIMITS, "refuse", "ann")
        lost, living = self.owner(ttl_s=SHORT_S), self.owner()
        lost.asks(2)
        living.asks(4)
        living.spends(1)
        self.advance(2 * SHORT_S)
        assert store.once(USD, "80%")
        assert parts(store.change(USD, "reset", NONE, "operator")) == (10, 0, 3, 7)
        assert store.once(USD, "80%")
        assert parts(living.spends(2)) == (10, 2, 1, 7)
        lost.spent += 1
        assert parts(lost.asks()) == (10, 3, 1, 6)
        assert lost.left == 0

    def test_history(self) -> None:
        """The audit log says who has done what, when, to which account, from what, to what; oldest first, by budget."""
        store, account = self.open(), AccountId(BUDGET, key="ann", window="day")
        store.declare(BUDGET, LIMITS, "refuse", "deploy")
        store.declare("other", LIMITS, "refuse", "deploy")
        self.owner(account).spends(1)
        store.change(account, "set", Decimal(5), "bob")
        store.change(account, "top-up", Decimal(2), "eve")
        store.change(account, "reset", NONE, "zoe")
        log = self.open().history(BUDGET)
        assert all(isinstance(change, Change) and change.budget == BUDGET for change in log)
        assert [(c.what, c.who, c.key, c.window, c.before, c.after) for c in log] == [
            ("created", "deploy", "", "", None, 10),
            ("set", "bob", "ann", "", None, 5),
            ("top-up", "eve", "ann", "day", 5, 7),
            ("reset", "zoe", "ann", "day", 1, 0),
        ]
        times = [change.at for change in log]
        assert times == sorted(times)
        assert len(store.history("other")) == 1
