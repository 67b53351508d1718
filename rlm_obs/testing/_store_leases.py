"""The contract of stores, second part: messages that are lost, late or repeated, leases that are lost, and windows."""

# mypy: disable-error-code="comparison-overlap"

from __future__ import annotations

from decimal import Decimal

import pytest

from rlm_obs.stores import AccountId, StoreLost
from rlm_obs.testing._store_base import SHORT_S, USD, StoreTests, parts


class LeaseTests(StoreTests):
    """What becomes of a lease, whatever happens to its owner and to the messages."""

    # -- lost, late and repeated -------------------------------------------------------------------------------------

    def test_a_repeated_message(self) -> None:
        """A message that arrives twice changes nothing the second time, and gets the state as it is by then."""
        owner, other = self.owner(), self.owner()
        owner.asks(4)
        owner.spent += 1
        message = owner.message(wants=2, returns=1)
        first = owner.exchange(message)
        other.asks(1)
        again = owner.store.exchange(USD, message)
        assert again.granted == first.granted == 5
        assert parts(again.state) == (10, 1, 5, 4)

    def test_a_late_message(self) -> None:
        """A message that arrives after a later one changes nothing at all: no amount, no time, no limit, no window."""
        owner = self.owner(ttl_s=60.0)
        owner.asks(2)
        late = owner.message(
            wants=3,
            returns=1,
            ttl_s=0.001,
            lost_lease="free",
            limit=Decimal(99),
            own=True,
            rolling_s=0.001,
            ends_at=1.0,
        )
        owner.granted = Decimal(2)
        owner.asks(1)
        reply = owner.store.exchange(USD, late)
        assert (reply.granted, parts(reply.state)) == (3, (10, 0, 3, 7))
        self.advance(0.01)
        state = self.open().read(USD)
        assert state is not None
        assert parts(state) == (10, 0, 3, 7)

    def test_a_lost_answer(self) -> None:
        """A grant whose answer was lost is in the next answer: nothing has to be asked for twice."""
        owner = self.owner()
        owner.store.exchange(USD, owner.message(wants=4))
        assert parts(owner.asks()) == (10, 0, 4, 6)
        assert owner.granted == 4

    def test_a_lost_message(self) -> None:
        """Totals make good for messages that never arrived: what they told is in the next one."""
        owner = self.owner()
        owner.asks(5)
        owner.spent += 1
        owner.message(returns=2)
        owner.spent += 1
        assert parts(owner.asks()) == (10, 2, 1, 7)

    def test_the_first_message_was_lost(self) -> None:
        """A process whose first messages never arrived begins with the one that does."""
        owner = self.owner()
        owner.message(wants=5)
        owner.message(wants=5)
        assert parts(owner.asks(1)) == (10, 0, 1, 9)

    def test_a_store_that_lost_its_last_writes(self) -> None:
        """A lease that the store does not know any more is taken up again with the totals of its owner."""
        self.owner().asks(1)
        owner = self.owner()
        owner.number, owner.granted, owner.spent = 7, Decimal(5), Decimal(2)
        assert parts(owner.asks()) == (10, 2, 4, 4)
        assert owner.granted == 5

    def test_a_store_that_lost_the_account(self) -> None:
        """A lease with a grant whose account is gone altogether is StoreLost, and that begins no account anew."""
        owner = self.owner()
        owner.number, owner.granted, owner.spent = 7, Decimal(5), Decimal(2)
        with pytest.raises(StoreLost):
            owner.asks()
        assert list(owner.store.accounts()) == []

    # -- lost leases -------------------------------------------------------------------------------------------------

    def test_a_lost_lease_is_spent(self) -> None:
        """What a lost lease had left counts as spent, until its owner comes back and has it again."""
        owner = self.owner()
        owner.asks(4)
        owner.spent += 1
        assert parts(owner.asks(ttl_s=SHORT_S)) == (10, 1, 3, 6)
        self.advance(2 * SHORT_S)
        other = self.owner()
        state = other.asks(6, least=6)
        assert (parts(state), state.leases) == ((10, 4, 6, 0), 1)
        owner.spent += 1
        assert parts(owner.asks()) == (10, 2, 8, 0)
        assert owner.left == 2

    def test_a_lost_lease_is_free(self) -> None:
        """With lost_lease="free" it goes back; what its owner spent of it all the same counts too."""
        owner = self.owner(lost_lease="free")
        owner.asks(4)
        owner.spent += 1
        owner.asks(ttl_s=SHORT_S)
        self.advance(2 * SHORT_S)
        assert parts(self.owner().asks(9, least=9)) == (10, 1, 9, 0)
        owner.spent += 1
        assert parts(owner.asks(1)) == (10, 2, 9, -1)
        assert owner.left == 0

    def test_what_went_back_stays_so(self) -> None:
        """An owner that comes back and misses the answer, and whose next message is lost, does not get back what went."""
        owner = self.owner(lost_lease="free")
        owner.asks(4, ttl_s=SHORT_S)
        self.advance(2 * SHORT_S)
        self.owner().asks(10, least=10)
        owner.store.exchange(USD, owner.message())
        owner.message()
        assert parts(owner.asks()) == (10, 0, 10, 0)
        assert owner.left == 0

    def test_a_message_keeps_a_lease(self) -> None:
        """Each message gives a lease its time anew."""
        owner = self.owner(lost_lease="free")
        owner.asks(4, ttl_s=SHORT_S)
        owner.asks(ttl_s=3600.0)
        self.advance(2 * SHORT_S)
        state = self.open().read(USD)
        assert state is not None
        assert (state.leases, state.leased) in ((1, 4), (0, 0))  # on a machine that stood still between the two
        assert state.leased == owner.granted

    def test_leases_of_long_ago(self) -> None:
        """Leases of hours and days ago still count as spent, however many there are."""
        for _ in range(3):
            self.owner(ttl_s=SHORT_S).asks(1)
        self.advance(3 * 86_400.0)
        state = self.owner().asks()
        assert (parts(state), state.leases) == ((10, 3, 0, 7), 0)

    # -- windows -----------------------------------------------------------------------------------------------------

    def test_windows_are_accounts(self) -> None:
        """Each budget, unit, key and window is an account of its own, and the list has them sorted."""
        made = [
            AccountId("b", "usd", "ann", "w2"),
            AccountId("b", "usd", "ann", "w1"),
            AccountId("b", "tokens", "ann", "w1"),
            AccountId("b", "usd", "", "w1"),
            AccountId("a", "usd", "ann", "w1"),
        ]
        for spent, account in enumerate(made, start=1):
            self.owner(account).spends(spent)
        store = self.open()
        assert list(store.accounts()) == sorted(made)
        assert list(store.accounts("b")) == sorted(made[:4])
        assert [state.spent for account in made if (state := store.read(account))] == [1, 2, 3, 4, 5]

    def test_the_end_of_a_window(self) -> None:
        """The state says when the window ends, as the last message said."""
        account = AccountId("b", window="hour")
        assert self.owner(account, ends_at=4e9).asks().ends_at == 4e9
        state = self.open().read(account)
        assert state is not None
        assert state.ends_at == 4e9

    def test_a_rolling_window(self) -> None:
        """In a rolling window an amount counts as spent for so long, and then no more; the state says when."""
        owner = self.owner(rolling_s=0.6)
        owner.asks(10, least=10)
        state = owner.spends(4)
        assert parts(state) == (10, 4, 6, 0)
        assert state.opens_at is not None
        assert 0.6 <= state.opens_at - state.now <= 0.6 * 1.02
        self.advance(0.7)
        state = owner.asks()
        assert (parts(state), state.opens_at) == ((10, 0, 6, 4), None)

    def test_a_lost_lease_in_a_rolling_window(self) -> None:
        """There a lost lease counts as spent for so long too, from when it was lost."""
        self.owner(rolling_s=0.6).asks(10, least=10, ttl_s=SHORT_S)
        self.advance(SHORT_S + 0.7)
        assert parts(self.owner(rolling_s=0.6).asks()) == (10, 0, 0, 10)
