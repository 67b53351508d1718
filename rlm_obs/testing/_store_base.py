"""What every test of the contract of stores begins with: handles on the store, processes that use it, and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from rlm_obs.stores import AccountId, State, Store
from rlm_obs.testing._store_owner import Owner

BUDGET = "contract"
USD = AccountId(BUDGET)
LIMITS = {("usd", ""): Decimal(10)}
#: How long a lease lives in the tests that lose one, in seconds; the contract waits for real where no clock can be moved.
SHORT_S = 0.2
LONGEST_WAIT_S = 5.0


class StoreTests:
    """The part that a store's author writes, and what the tests use of it."""

    def make_store(self) -> Store:
        """Return a new handle on the same data each time it is asked within a test; a test begins with no data."""
        raise AssertionError("write make_store(self) in your test class")

    def advance(self, seconds: float) -> None:
        """Let so much time pass on the store's clock."""
        if seconds > LONGEST_WAIT_S:
            pytest.skip("the store's clock cannot be moved: write advance(self, seconds)")
        time.sleep(seconds)

    @pytest.fixture(autouse=True)
    def _opened(self) -> Iterator[None]:
        self._handles: list[Store] = []
        yield
        for store in self._handles:
            store.close()

    def open(self) -> Store:
        """Return a handle that is closed when the test has ended."""
        self._handles.append(self.make_store())
        return self._handles[-1]

    def owner(self, account: AccountId = USD, limit: object = 10, **options: Any) -> Owner:
        """Return a process of its own, with a handle of its own."""
        return Owner(self.open(), account, Decimal(str(limit)), options)

    def limits(self, *accounts: AccountId) -> list[Decimal | None]:
        """Return the limits that a new handle reads."""
        store = self.open()
        states = [store.read(account) for account in accounts]
        return [None if state is None else state.limit for state in states]


def parts(state: State) -> tuple[Any, ...]:
    """Return the limit and its parts: spent, leased, free."""
    return state.limit, state.spent, state.leased, state.free


def in_threads(threads: int, work: Callable[[int], Any]) -> list[Any]:
    """Return what `work` returns for each number, all at once; raises what one of them raises."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(threads)))
