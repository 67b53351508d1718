"""The store in Lua does what the store in memory does, whatever is said to it: every reply, state and refusal is the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from rlm_obs_redis.store import RedisStore
from servers import Server

from rlm_obs._budgets.memory import MemoryStore
from rlm_obs.stores import AccountId, LimitConflict, Message, Reply, StoreLost

NUMBERS = itertools.count()
BUDGETS = ("day", "a {b}:c%")
START = 4_000_000_000.1  # after the server's own clock, so that the tests can turn it by the store's high-water mark
LEASES = ("one", "two", "three", "four")

small = st.decimals(0, 20, places=2)
exact = st.one_of(small, st.decimals(0, 1, places=15), st.decimals(0, 10**11, places=15))
finer = st.one_of(exact, st.decimals(0, 1, places=18))
accounts = st.builds(
    AccountId,
    budget=st.sampled_from(BUDGETS),
    unit=st.sampled_from(["usd", "usd", "tokens"]),
    key=st.sampled_from(["", "an: {odd} key%"]),
    window=st.sampled_from(["", "2096-10"]),
)
limits = st.one_of(small, st.decimals(0, 10**12, places=15), st.just(Decimal(10**12)))


class Machine(RuleBasedStateMachine):
    """Whatever messages arrive, in whatever order, at whatever time, both stores say the same."""

    server: Server

    @initialize()
    def open(self) -> None:
        self.now = START
        self.memory = MemoryStore(clock=lambda: self.now)
        self.redis = RedisStore(f"{self.server.url}?prefix=machine-{next(NUMBERS)}")
        self.replies: dict[tuple[AccountId, str], Reply] = {}
        self.sent: dict[tuple[AccountId, str], Message] = {}
        self.wait(0.0)

    def teardown(self) -> None:
        self.both("accounts")
        for budget in BUDGETS:
            self.both("history", budget)
        self.redis.close()

    def both(self, verb: str, *args: Any) -> Any:
        """Ask both stores, and compare what they say or raise."""
        found = []
        for store in (self.memory, self.redis):
            with localcontext(prec=60):  # the model is not to round either
                try:
                    found.append(getattr(store, verb)(*args))
                except (LimitConflict, KeyError, ValueError) as error:
                    found.append((type(error), error.args))
                except StoreLost:
                    found.append(StoreLost)
        assert found[0] == found[1]
        return found[1]

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.5, 1.7, 2.0, 30.0, 61.0, 3600.0, 7300.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for budget in BUDGETS:
            self.redis._connected().hset(self.redis._key(budget, "limits"), "clock", repr(self.now))

    @rule(
        budget=st.sampled_from(BUDGETS),
        given=st.dictionaries(
            st.tuples(st.sampled_from(["usd", "tokens"]), st.sampled_from(["", "x y"])), small, max_size=3
        ),
        on_change=st.sampled_from(["refuse", "set", "keep"]),
    )
    def declare(self, budget: str, given: dict[tuple[str, str], Decimal], on_change: str) -> None:
        self.both("declare", budget, given, on_change, "wer: ä")

    @rule(
        account=accounts,
        lease=st.sampled_from(LEASES),
        drift=st.sampled_from([0, 0, 0, 0, 2, -1]),
        jump=st.sampled_from([1, 1, 1, 1, 1, 1, 2, 3, 0, -1]),
        share=st.decimals(0, 1, places=3),
        over=st.one_of(st.just(Decimal(0)), st.just(Decimal(0)), finer),
        returns=st.one_of(st.just(Decimal(0)), exact),
        wants=exact,
        least=st.one_of(st.just(Decimal(0)), small, finer),
        ttl_s=st.sampled_from([0.25, 5.0, 60.0, 5000.0]),
        lost_lease=st.sampled_from(["spent", "free"]),
        limit=limits,
        own=st.booleans(),
        rolling_s=st.sampled_from([None, None, 7.0, 60.0, 3600.1]),
        ends=st.booleans(),
    )
    def exchange(
        self,
        account: AccountId,
        lease: str,
        drift: int,
        jump: int,
        share: Decimal,
        over: Decimal,
        ends: bool,
        **said: Any,
    ) -> None:
        before = self.sent.get((account, lease), Message(lease=lease, number=0, limit=Decimal(0)))
        reply = self.replies.get((account, lease))
        granted = Decimal(0) if reply is None else reply.granted
        with localcontext(prec=60):
            spent = before.spent + max(Decimal(0), granted - before.spent) * share + over
            spent = spent.quantize(Decimal("1e-18"), ROUND_CEILING)
        message = Message(
            lease=lease,
            number=max(1, before.number + jump),
            granted=max(Decimal(0), granted + drift),  # an answer was lost, or the store has lost writes
            spent=spent,
            ends_at=START + 50_000 if ends else None,
            **said,
        )
        self.send(account, message)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if self.sent:
            (account, _), message = data.draw(st.sampled_from(list(self.sent.items())))
            self.send(account, replace(message, wants=Decimal(5), spent=message.spent + 1))

    @rule(account=accounts, what=st.sampled_from(["set", "top-up", "reset"]), amount=st.one_of(small, limits))
    def change(self, account: AccountId, what: str, amount: Decimal) -> None:
        self.both("change", account, what, amount, "somebody")

    @rule(account=accounts, mark=st.sampled_from(["0.8", "1.0"]))
    def once(self, account: AccountId, mark: str) -> None:
        self.both("once", account, mark)

    @rule(account=accounts)
    def read(self, account: AccountId) -> None:
        self.both("read", account)

    def send(self, account: AccountId, message: Message) -> None:
        reply = self.both("exchange", account, message)
        if isinstance(reply, Reply):
            self.replies[account, message.lease] = reply
            self.sent[account, message.lease] = message


def test_same_as_memory(shared: Server) -> None:
    """Long conversations with both stores bring the same replies."""
    machine: Callable[[], Machine] = type("Here", (Machine,), {"server": shared})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.mark.parametrize("leases", [1, 3, 7, 100])
def test_shares_are_exact(store: RedisStore, leases: int) -> None:
    """Of the largest budget each gets a share rounded down to 1e-15 dollars, and not one grain is made or lost."""
    account, limit, free = AccountId("large"), Decimal(10**12), Decimal(10**12)
    with localcontext(prec=60):
        for n in range(leases):
            wants = limit if n == leases - 1 else Decimal("1e-15")
            reply = store.exchange(account, Message(lease=f"l{n}", number=1, limit=limit, wants=wants))
            if n == leases - 1:
                assert reply.granted == (free / (2 * max(1, n))).quantize(Decimal("1e-15"), "ROUND_FLOOR")
            free -= reply.granted
            assert reply.state.free == free
