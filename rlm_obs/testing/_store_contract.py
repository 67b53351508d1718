"""The contract of budget stores: a pytest class that a store's author inherits, a test a promise of the protocol."""

# mypy: disable-error-code="comparison-overlap"

from __future__ import annotations

import decimal
import threading
from decimal import Decimal

import pytest

from rlm_obs.stores import AccountId
from rlm_obs.testing._store_base import BUDGET, LIMITS, USD, in_threads, parts
from rlm_obs.testing._store_leases import LeaseTests
from rlm_obs.testing._store_limits import LimitTests
from rlm_obs.testing._store_owner import Owner


class StoreContract(LimitTests, LeaseTests):
    """What every budget store keeps to. Inherit it in a test file and write `make_store`; pytest runs the rest.

    A store whose clock can be moved writes `advance` too. Without it the contract waits, and skips what would take hours.
    `examples` is how many histories hypothesis (if it is installed) makes up and compares with the store in memory.
    """

    examples: int = 40

    # -- grants ------------------------------------------------------------------------------------------------------

    def test_a_grant(self) -> None:
        """What is wanted is granted while there is much, and adds up; it counts as leased until it is spent or returned."""
        owner = self.owner()
        assert parts(owner.asks(1)) == (10, 0, 1, 9)
        assert parts(owner.asks("0.5")) == (10, 0, Decimal("1.5"), Decimal("8.5"))
        assert owner.granted == Decimal("1.5")
        state = owner.spends(1)
        assert parts(state) == (10, 1, Decimal("0.5"), Decimal("8.5"))
        assert state.leases == 1
        state = owner.returns("0.5")
        assert parts(state) == (10, 1, 0, 9)
        assert (state.leases, owner.left) == (0, 0)

    def test_no_more_returns_than_there_is(self) -> None:
        """A process that returns more than it has left returns what it has left."""
        owner = self.owner()
        owner.asks(3)
        owner.spends(2)
        assert parts(owner.returns(5)) == (10, 2, 0, 8)

    def test_at_least_or_nothing(self) -> None:
        """Less than `least` is of no use, so nothing is granted then."""
        owner = self.owner()
        owner.asks(3)
        other = self.owner()
        assert parts(other.asks(20, least=8)) == (10, 0, 3, 7)
        assert other.granted == 0
        assert parts(other.asks(20, least=7)) == (10, 0, 10, 0)
        assert other.granted == 7

    def test_shares(self) -> None:
        """One that wants all there is gets a share, so that there is something for those that come after it."""
        owners = [self.owner() for _ in range(6)]
        for owner in owners:
            owner.asks(10, least="0.01")
        assert all(owner.granted > 0 for owner in owners)
        assert sum(owner.granted for owner in owners) <= 10

    def test_wanted(self) -> None:
        """A process that could not be served is made known to the others for a while, not to itself."""
        rich, poor = self.owner(), self.owner()
        rich.asks(10, least=10)
        assert not poor.asks(1, least=1).wanted
        assert rich.asks().wanted
        self.advance(2.1)
        assert not rich.asks().wanted

    def test_spent_without_a_grant(self) -> None:
        """What was spent without a grant counts all the same, and can pass the limit."""
        owner = self.owner(limit=3)
        assert parts(owner.spends(5)) == (3, 5, 0, -2)
        assert owner.asks(1).leased == 0
        assert owner.left == 0

    def test_a_lowered_limit(self) -> None:
        """A limit below what is spent and leased leaves less than nothing free, and nothing is granted."""
        store, owner = self.open(), self.owner()
        store.declare(BUDGET, LIMITS, "refuse", "ann")
        owner.asks(6, least=6)
        assert parts(store.change(USD, "set", Decimal(4), "operator")) == (4, 0, 6, -2)
        other = self.owner()
        other.asks(1)
        assert other.granted == 0

    # -- alerts ------------------------------------------------------------------------------------------------------

    def test_once(self) -> None:
        """Of many that ask for one mark at the same time, exactly one is told that it is the first."""
        stores = [self.open() for _ in range(4)]
        ready = threading.Barrier(16)

        def ask(at: int) -> list[bool]:
            ready.wait()
            return [stores[at % 4].once(USD, f"mark {n}") for n in range(5)]

        answers = in_threads(16, ask)
        assert [sum(column) for column in zip(*answers, strict=True)] == [1] * 5
        assert stores[0].once(AccountId(BUDGET, window="next"), "mark 1")

    # -- amounts and names -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("precision", [3, 28])
    def test_amounts_are_exact(self, precision: int) -> None:
        """No digit is lost: from a million million dollars down to 1e-15, whatever the program's own decimal context is."""
        great, small = Decimal(10) ** 12, Decimal("1e-15")
        with decimal.localcontext(prec=60):
            rest = great - small
        with decimal.localcontext(prec=precision):
            owner = self.owner(limit=great)
            assert owner.store.exchange(USD, owner.message(wants=small)).granted == small
            owner.granted = owner.spent = small
            assert parts(owner.asks()) == (great, small, 0, rest)
            owner = self.owner(AccountId(BUDGET, window="next"), limit=great)
            state = owner.asks(great, least=great)
            assert parts(state) == (great, 0, great, 0)
            owner.spent = Decimal("1000000.00001")
            assert owner.asks().spent == Decimal("1000000.00001")

    def test_grain(self) -> None:
        """What is spent is rounded up and what is granted down: dollars to 1e-15, tokens and calls to whole ones."""
        owner = self.owner()
        assert owner.spends("1e-18").spent == Decimal("1e-15")
        assert self.owner().asks("0.1234567890123456").leased == Decimal("0.123456789012345")
        tokens = self.owner(AccountId(BUDGET, "tokens"))
        tokens.asks("2.5")
        assert tokens.granted == 2
        assert parts(tokens.spends("1.5")) == (10, 2, 0, 8)

    @pytest.mark.parametrize(
        "name",
        ["", " ", "Бюджет 予算 🧾", "a'b\"c", "a/b:c{d}|e,f", "%s %00", "line\nbreak\ttab", "nul\x00nul", "x" * 2000],
    )
    def test_names(self, name: str) -> None:
        """Budgets, keys, windows, marks and people are named as anybody likes."""
        store, account = self.open(), AccountId(name, "usd", name + "key", name + "window")
        store.declare(name, {("usd", name + "key"): Decimal(3)}, "refuse", name)
        owner = self.owner(account)
        assert parts(owner.spends(1)) == (3, 1, 0, 2)
        store.change(account, "top-up", Decimal(1), name)
        assert store.once(account, name)
        assert not store.once(account, name)
        assert list(self.open().accounts(name)) == [account]
        assert [change.who for change in store.history(name)] == [name, name]
        assert parts(owner.asks()) == (4, 1, 0, 3)

    def test_names_do_not_run_together(self) -> None:
        """A budget "a:b" with the key "c" is not the budget "a" with the key "b:c"."""
        for joint in (":", "/", "|", ",", "\x00", "\n", "{", "%3A"):
            for spent, account in enumerate(
                (AccountId(f"a{joint}b", key="c"), AccountId("a", key=f"b{joint}c")), start=1
            ):
                self.owner(account).spends(spent)
                state = self.open().read(account)
                assert state is not None
                assert state.spent == spent, joint

    # -- many at once ------------------------------------------------------------------------------------------------

    def test_many_at_once_never_pass_the_limit(self) -> None:
        """Threads with handles of their own take, spend and return at once: together they are never granted too much."""
        limit, threads = Decimal(1), 8
        owners = [self.owner(limit=limit) for _ in range(threads)]
        ready = threading.Barrier(threads)

        def work(at: int) -> None:
            ready.wait()
            for turn in range(12):
                state = owners[at].asks("0.07", least="0.01")
                assert state.free >= 0
                spent = min(owners[at].left, Decimal("0.03"))
                owners[at].spent += spent
                owners[at].returns(owners[at].left if turn % 3 == 2 else 0)

        in_threads(threads, work)
        state = self.open().read(USD)
        assert state is not None
        assert state.spent == sum(owner.spent for owner in owners)
        assert state.leased == sum(owner.left for owner in owners)
        assert state.free >= 0

    def test_one_handle_in_many_threads(self) -> None:
        """One handle may be used by several threads."""
        store = self.open()
        owners = [Owner(store, USD, Decimal(100)) for _ in range(8)]
        in_threads(8, lambda at: [owners[at].spends("0.01") for _ in range(10)])
        state = store.read(USD)
        assert state is not None
        assert state.spent == Decimal("0.8")

    def test_the_clock_never_goes_back(self) -> None:
        """The time in the answers never goes back, whichever handle is asked."""
        owners = [self.owner() for _ in range(3)]
        times = [owners[turn % 3].asks().now for turn in range(9)]
        assert times == sorted(times)

    def test_close(self) -> None:
        """A handle can be closed again, and the others go on with the same data."""
        owner, other = self.owner(), self.owner()
        owner.spends(1)
        owner.store.close()
        owner.store.close()
        assert parts(other.asks()) == (10, 1, 0, 9)

    # -- everything together -----------------------------------------------------------------------------------------

    def test_any_history(self) -> None:
        """Whatever happens in whatever order, limit = spent + leased + free, no grant passes the limit, and the store
        says what the store in memory says.
        """
        pytest.importorskip("hypothesis", reason="any history is tried by hypothesis: pip install hypothesis")
        from rlm_obs.testing._store_machine import run_machine

        run_machine(self.make_store, self.advance, self.examples)
