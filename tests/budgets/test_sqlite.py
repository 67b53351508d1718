"""The store in an SQLite file keeps the contract, and says clearly what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_obs._budgets.sqlite import SqliteStore
from rlm_obs._budgets.store import Store
from rlm_obs.testing import StoreContract


class TestSqlite(StoreContract):
    """SQLite, with a clock that is moved; each handle has a connection of its own."""

    examples = 30

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path, self.now = tmp_path / "budgets.db", 1_000.0

    def make_store(self) -> Store:
        return SqliteStore(str(self.path), clock=lambda: self.now, timeout_s=30.0)

    def advance(self, seconds: float) -> None:
        self.now += seconds
