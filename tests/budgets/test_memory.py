"""The store in memory keeps the contract of stores, and what the others are compared with is therefore right."""

from __future__ import annotations

from rlm_obs._budgets.memory import MemoryStore
from rlm_obs._budgets.store import Store
from rlm_obs.testing import StoreContract


class TestMemory(StoreContract):
    """Memory, with a clock that is moved."""

    examples = 200

    def setup_method(self) -> None:
        self.now = 1_000.0
        self.store = MemoryStore(clock=lambda: self.now)

    def make_store(self) -> Store:
        return self.store

    def advance(self, seconds: float) -> None:
        self.now += seconds


class TestMemoryByTheRealClock(StoreContract):
    """Memory, by the clock of the machine: as a store whose clock cannot be moved is tested."""

    examples = 5

    def setup_method(self) -> None:
        self.store = MemoryStore()

    def make_store(self) -> Store:
        return self.store
