"""The store in memory: shared by the trackers of one process, and the model that the other stores are compared with."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

from rlm_obs._budgets.ledger import Ledger
from rlm_obs._budgets.limits import Limits
from rlm_obs._budgets.store import AccountId, Change, Message, OnChange, Reply, State

#: How often it looks for accounts that may be forgotten.
SWEEP_S = 3600.0


class MemoryStore:
    """Budgets shared by name inside one process: for tests, and for trackers that are made in several places.

    A forked child goes on with a copy.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._latest, self._swept = clock, 0.0, 0.0
        self._lock = threading.Lock()
        self._ledgers: dict[AccountId, Ledger] = {}
        self._limits: dict[str, Limits] = {}
        self._history: dict[str, list[Change]] = {}
        _stores.add(self)

    def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: OnChange, who: str) -> None:
        with self._lock:
            changes = self._limits.setdefault(budget, Limits(budget)).declare(limits, on_change, who, self._now())
            self._history.setdefault(budget, []).extend(changes)

    def exchange(self, account: AccountId, message: Message) -> Reply:
        with self._lock:
            ledger = self._ledgers.get(account) or Ledger(account)
            reply = ledger.exchange(message, self._limits_of(account.budget), self._now())
            self._keep(ledger)
            return reply

    def read(self, account: AccountId) -> State | None:
        with self._lock:
            ledger, limits = self._ledgers.get(account) or Ledger(account), self._limits_of(account.budget)
            return None if ledger.limit(limits) is None else ledger.state(limits, self._now())

    def accounts(self, budget: str | None = None) -> Sequence[AccountId]:
        with self._lock:
            return sorted(account for account in self._ledgers if budget in (None, account.budget))

    def change(self, account: AccountId, what: Literal["set", "top-up", "reset"], amount: Decimal, who: str) -> State:
        with self._lock:
            history, limits, now = self._history[account.budget], self._limits_of(account.budget), self._now()
            ledger = self._ledgers.get(account) or Ledger(account)
            if what == "set":
                history.append(limits.change(account, amount, who, now))
                return ledger.state(limits, now)
            if ledger.limit(limits) is None:
                raise ValueError(f"budget {account.budget!r} has no limit in {account.unit}")
            change, state = ledger.change(what, amount, who, limits, now)
            history.append(change)
            self._keep(ledger)
            return state

    def history(self, budget: str) -> Sequence[Change]:
        with self._lock:
            return list(self._history.get(budget, ()))

    def once(self, account: AccountId, mark: str) -> bool:
        with self._lock:
            ledger = self._ledgers.get(account) or Ledger(account)
            first = mark not in ledger.marks
            ledger.marks.add(mark)
            self._keep(ledger)
            return first

    def close(self) -> None:
        """Do nothing: what is in memory stays until the process ends."""

    def after_fork(self) -> None:
        """Start with a lock that nobody holds in a forked child."""
        self._lock = threading.Lock()

    def _limits_of(self, budget: str) -> Limits:
        return self._limits.get(budget) or Limits(budget)

    def _keep(self, ledger: Ledger) -> None:
        now = self._now()
        if ledger.id not in self._ledgers and now - self._swept >= SWEEP_S:
            self._swept = now
            self._ledgers = {name: one for name, one in self._ledgers.items() if not one.has_ended(now)}
        self._ledgers[ledger.id] = ledger

    def _now(self) -> float:
        self._latest = max(self._latest, self._clock())
        return self._latest


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
