"""The store in an SQLite file: for the processes of one machine; what was answered survives kill -9 at any moment."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, TypeVar

from rlm_obs._budgets.ledger import KEEP_ENDED_S, Ledger
from rlm_obs._budgets.limits import Limits
from rlm_obs._budgets.sqlite_file import TIMEOUT_S, SqliteFile
from rlm_obs._budgets.store import AccountId, Change, Message, OnChange, Reply, State
from rlm_obs.errors import StoreError

T = TypeVar("T")
WHERE = 'budget = ? AND unit = ? AND "key" = ? AND "window" = ?'


class SqliteStore:
    """Budgets in one file. It is made by the first who writes; nobody makes one by reading.

    Every method is one transaction. Raises StoreError where the file cannot be opened, read or written, or stays locked
    for `timeout_s`; then nothing was changed. The clock is the machine's, but never behind the latest in the file.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.time, timeout_s: float = TIMEOUT_S) -> None:
        self._file, self._clock, self._latest = SqliteFile(path, timeout_s), clock, 0.0

    def __repr__(self) -> str:
        return f"SqliteStore({self._file.path!r})"

    def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: OnChange, who: str) -> None:
        with self._file.writing() as file:
            held = self._limits(file, budget)
            changes = held.declare(limits, on_change, who, self._tick(file))
            self._keep_limits(file, held)
            for change in changes:
                self._log(file, change)

    def exchange(self, account: AccountId, message: Message) -> Reply:
        with self._file.writing() as file:
            now, ledger = self._tick(file), self._ledger(file, account) or Ledger(account)
            reply = ledger.exchange(message, self._limits(file, account.budget), now)
            self._keep(file, ledger, now)
            return reply

    def read(self, account: AccountId) -> State | None:
        with self._file.reading() as file:
            if file is None:
                return None
            ledger, limits = self._ledger(file, account) or Ledger(account), self._limits(file, account.budget)
            return None if ledger.limit(limits) is None else ledger.state(limits, self._now(file))

    def accounts(self, budget: str | None = None) -> Sequence[AccountId]:
        with self._file.reading() as file:
            if file is None:
                return []
            rows = file.execute(
                'SELECT budget, unit, "key", "window" FROM accounts WHERE :budget IS NULL OR budget = :budget',
                {"budget": budget},
            )
            return sorted(AccountId(*row) for row in rows)

    def change(self, account: AccountId, what: Literal["set", "top-up", "reset"], amount: Decimal, who: str) -> State:
        with self._file.writing() as file:
            if not self._is_declared(file, account.budget):
                raise KeyError(account.budget)
            limits, now = self._limits(file, account.budget), self._tick(file)
            ledger = self._ledger(file, account) or Ledger(account)
            if what == "set":
                self._log(file, limits.change(account, amount, who, now))
                self._keep_limits(file, limits)
                return ledger.state(limits, now)
            if ledger.limit(limits) is None:
                raise ValueError(f"budget {account.budget!r} has no limit in {account.unit}")
            change, state = ledger.change(what, amount, who, limits, now)
            self._log(file, change)
            self._keep(file, ledger, now)
            return state

    def history(self, budget: str) -> Sequence[Change]:
        with self._file.reading() as file:
            if file is None:
                return []
            rows = file.execute("SELECT said FROM changes WHERE budget = ? ORDER BY id", (budget,))
            return [self._read(said, Change.from_dict) for (said,) in rows]

    def once(self, account: AccountId, mark: str) -> bool:
        with self._file.writing() as file:
            now, ledger = self._tick(file), self._ledger(file, account) or Ledger(account)
            if mark in ledger.marks:
                return False
            ledger.marks.add(mark)
            self._keep(file, ledger, now)
            return True

    def close(self) -> None:
        self._file.close()

    # -- rows --------------------------------------------------------------------------------------------------------

    def _now(self, file: sqlite3.Connection) -> float:
        """Return the time: the clock's, but never before the latest that this handle or the file has seen."""
        (latest,) = file.execute("SELECT latest FROM clock").fetchone()
        self._latest = max(self._latest, latest, self._clock())
        return self._latest

    def _tick(self, file: sqlite3.Connection) -> float:
        now = self._now(file)
        file.execute("UPDATE clock SET latest = ?", (now,))
        return now

    def _limits(self, file: sqlite3.Connection, budget: str) -> Limits:
        row = file.execute("SELECT said FROM limits WHERE budget = ?", (budget,)).fetchone()
        return Limits(budget) if row is None else self._read(row[0], lambda said: Limits.from_dict(budget, said))

    def _is_declared(self, file: sqlite3.Connection, budget: str) -> bool:
        return file.execute("SELECT 1 FROM limits WHERE budget = ?", (budget,)).fetchone() is not None

    def _keep_limits(self, file: sqlite3.Connection, limits: Limits) -> None:
        file.execute("INSERT OR REPLACE INTO limits VALUES (?, ?)", (limits.budget, json.dumps(limits.to_dict())))

    def _ledger(self, file: sqlite3.Connection, account: AccountId) -> Ledger | None:
        row = file.execute(f"SELECT said FROM accounts WHERE {WHERE}", names(account)).fetchone()  # noqa: S608
        return None if row is None else self._read(row[0], lambda said: Ledger.from_dict(account, said))

    def _keep(self, file: sqlite3.Connection, ledger: Ledger, now: float) -> None:
        """Write an account; accounts whose window ended long ago are forgotten by the way."""
        file.execute(
            "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?)",
            (*names(ledger.id), ledger.ends_at, json.dumps(ledger.to_dict())),
        )
        file.execute("DELETE FROM accounts WHERE ends_at <= ?", (now - KEEP_ENDED_S,))

    def _log(self, file: sqlite3.Connection, change: Change) -> None:
        row = (change.budget, json.dumps(change.to_dict()))
        file.execute("INSERT INTO changes (budget, said) VALUES (?, ?)", row)

    def _read(self, said: str, make: Callable[[dict[str, Any]], T]) -> T:
        try:
            return make(json.loads(said))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise StoreError(f"budget store {self._file.path}: a row of it is damaged") from error


def names(account: AccountId) -> tuple[str, str, str, str]:
    return account.budget, account.unit, account.key, account.window
