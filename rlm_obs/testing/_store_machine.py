"""Any history of a budget store, made up by hypothesis and compared with the store in memory, step by step."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from rlm_obs._budgets.memory import MemoryStore
from rlm_obs.stores import AccountId, Message, Reply, State, Store
from rlm_obs.testing._store_owner import NONE, Owner

LIMIT = Decimal(10)
#: A lease of SHORT_S is lost by each `expire`; one of LONG_S never is.
SHORT_S, LONG_S = 0.05, 3600.0
cents = st.integers(0, 1200).map(lambda n: Decimal(n) / 100)
shares = st.integers(0, 4).map(lambda n: Decimal(n) / 4)
policies = st.sampled_from(["spent", "free"])


def run_machine(make_store: Callable[[], Store], advance: Callable[[float], None], examples: int) -> None:
    """Try so many histories. Raises AssertionError with the shortest one that breaks a promise."""

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(make_store, advance)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@dataclass
class Booked:
    """What anybody who has read all messages and answers knows of a lease."""

    account: AccountId
    free_if_lost: bool
    number: int = 0
    granted: Decimal = NONE
    spent: Decimal = NONE
    expires_at: float = 0.0


class StoreMachine(RuleBasedStateMachine):
    """Processes with two handles on one store, some of which die, oversleep, or miss messages and answers."""

    owners: Bundle[Any] = Bundle("owners")

    def __init__(self, make_store: Callable[[], Store], advance: Callable[[float], None]) -> None:
        super().__init__()
        self.advance, self.now, self.window = advance, 0.0, 0
        self.budget = f"machine-{secrets.token_hex(4)}"
        self.stores = [make_store(), make_store()]
        self.model = MemoryStore(clock=lambda: self.now)  # its time is the one in the store's answers
        for store in (*self.stores, self.model):
            store.declare(self.budget, {("usd", ""): LIMIT}, "refuse", "machine")
        self.sent: dict[str, list[Message]] = {}
        self.books: dict[str, Booked] = {}
        self.may_pass: set[AccountId] = set()  # where somebody has wished for more to be out than the limit
        self.was_reset: set[AccountId] = set()

    def teardown(self) -> None:
        for store in self.stores:
            store.close()

    @property
    def account(self) -> AccountId:
        return AccountId(self.budget, window=f"w{self.window}")

    def send(self, owner: Owner, message: Message) -> Reply:
        """Send a message to the store and to the model, compare what they answer, and keep book."""
        reply = owner.store.exchange(owner.account, message)
        self.now = reply.state.now
        before = self.model.read(owner.account)
        expected = self.model.exchange(owner.account, message)
        assert reply.granted == expected.granted
        self.compare(owner.account, reply.state, expected.state)
        booked = self.books[owner.name]
        if message.number > booked.number:
            booked.number, booked.granted, booked.spent = (
                message.number,
                reply.granted,
                max(booked.spent, message.spent),
            )
            booked.expires_at = reply.state.now + message.ttl_s
        else:
            assert before is not None
            self.compare(owner.account, reply.state, before, wanted=False)
        return reply

    def compare(self, account: AccountId, found: State, expected: State, *, wanted: bool = True) -> None:
        for name in ("limit", "spent", "leased", "leases", "free", *(["wanted"] if wanted else [])):
            assert getattr(found, name) == getattr(expected, name), name
        assert found.spent >= 0
        assert found.leased >= 0
        assert found.limit == found.spent + found.leased + found.free
        assert account in self.may_pass or found.free >= 0

    def next_message(
        self, owner: Owner, wants: Decimal = NONE, least: Decimal = NONE, share: Decimal = NONE
    ) -> Message:
        """Return the next message of a process, which gives back a share of what it has left."""
        message = owner.message(wants, least, returns=max(NONE, owner.left) * share)
        self.sent[owner.name].append(message)
        return message

    @rule(target=owners, at=st.integers(0, 1), ttl_s=st.sampled_from([SHORT_S, LONG_S]), lost_lease=policies)
    def start(self, at: int, ttl_s: float, lost_lease: str) -> Owner:
        """A process comes up."""
        owner = Owner(self.stores[at], self.account, LIMIT, {"ttl_s": ttl_s, "lost_lease": lost_lease})
        self.books[owner.name] = Booked(owner.account, lost_lease == "free")
        self.sent[owner.name] = []
        return owner

    @rule(owner=owners, wants=cents, least=cents, share=shares)
    def exchange(self, owner: Owner, wants: Decimal, least: Decimal, share: Decimal) -> None:
        """A process tells what it has spent, gives some back, and asks for more."""
        owner.granted = self.send(owner, self.next_message(owner, wants, least, share)).granted

    @rule(owner=owners, wants=cents)
    def answer_lost(self, owner: Owner, wants: Decimal) -> None:
        """The store has heard a process, which never learns of it."""
        self.send(owner, self.next_message(owner, wants))

    @rule(owner=owners, wants=cents, share=shares)
    def message_lost(self, owner: Owner, wants: Decimal, share: Decimal) -> None:
        """A message never arrives, or not before a later one."""
        self.next_message(owner, wants, share=share)

    @rule(owner=owners, share=shares)
    def settle(self, owner: Owner, share: Decimal) -> None:
        """A process spends of what it has; one that overslept may spend what went back."""
        owner.spent += max(NONE, owner.left) * share
        if owner.options == {"ttl_s": SHORT_S, "lost_lease": "free"}:
            self.may_pass.add(owner.account)

    @rule(owner=owners, amount=cents)
    def overspend(self, owner: Owner, amount: Decimal) -> None:
        """A call costs more than was held for it."""
        owner.spent += amount
        self.may_pass.add(owner.account)

    @rule(owner=owners, at=st.integers(1, 3))
    def again(self, owner: Owner, at: int) -> None:
        """An old message arrives, perhaps for the second time: that changes nothing."""
        old = [message for message in self.sent[owner.name] if message.number <= self.books[owner.name].number]
        for message in old[-at:][:1]:
            self.send(owner, message)

    @rule(owner=consumes(owners))
    def crash(self, owner: Owner) -> None:
        """A process is never heard of again."""

    @rule()
    def expire(self) -> None:
        """The short leases run out."""
        self.advance(SHORT_S * 1.5)

    @rule()
    def turn(self) -> None:
        """A new window begins; the processes of the old one go on to the end of their calls."""
        self.window += 1

    @rule(at=st.integers(0, 1), what=st.sampled_from(["top-up", "set", "reset"]), amount=cents)
    def steer(self, at: int, what: Any, amount: Decimal) -> None:
        """Somebody changes the limit, or starts anew."""
        state = self.stores[at].change(self.account, what, amount, "somebody")
        self.now = state.now
        before = self.model.read(self.account)
        assert before is not None
        if what == "set":
            self.may_pass.update(booked.account for booked in self.books.values())
        if what == "reset":
            self.was_reset.add(self.account)
            assert (state.spent, state.leased) == (NONE, before.leased)
        if what == "top-up":
            assert state.limit == before.limit + amount
        self.compare(self.account, state, self.model.change(self.account, what, amount, "somebody"))

    @rule(at=st.integers(0, 1), mark=st.sampled_from(["80%", "100%"]))
    def once(self, at: int, mark: str) -> None:
        """Somebody asks whether an alert is due."""
        assert self.stores[at].once(self.account, mark) == self.model.once(self.account, mark)

    @invariant()
    def both_handles_agree(self) -> None:
        """Each handle reads what the model knows."""
        for store in self.stores:
            found = store.read(self.account)
            assert found is not None
            self.now = found.now
            expected = self.model.read(self.account)
            assert expected is not None
            self.compare(self.account, found, expected)
        assert list(self.stores[0].accounts(self.budget)) == list(self.model.accounts(self.budget))
        told = [(c.what, c.who, c.before, c.after) for c in self.stores[1].history(self.budget)]
        assert told == [(c.what, c.who, c.before, c.after) for c in self.model.history(self.budget)]

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        """What is leased and spent is what was granted and spent by the books, to the last cent."""
        state = self.model.read(self.account)
        assert state is not None
        here = [booked for booked in self.books.values() if booked.account == self.account]
        living = [booked for booked in here if booked.expires_at > state.now]
        assert state.leased == sum((booked.granted - booked.spent for booked in living), NONE)
        if self.account not in self.was_reset:
            out = [booked.spent if booked.free_if_lost and booked not in living else booked.granted for booked in here]
            assert state.spent + state.leased == sum(out, NONE)
