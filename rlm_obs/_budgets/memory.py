"""The store in memory: shared by the trackers of one process, and the model that the other stores are compared with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

from rlm_obs._budgets.ledger import Ledger
from rlm_obs._budgets.limits import Limits
from rlm_obs._budgets.store import AccountId, Change, Message, OnChange, Reply, State


class MemoryStore:
    """Budgets shared by name inside one process: for tests, and for trackers that are made in several places."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._latest = clock, 0.0
        self._lock = threading.Lock()
        self._ledgers: dict[AccountId, Ledger] = {}
        self._limits: dict[str, Limits] = {}
        self._history: dict[str, list[Change]] = {}

    def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: OnChange, who: str) -> None:
        with self._lock:
            held = self._limits.setdefault(budget, Limits(budget))
            self._history.setdefault(budget, []).extend(held.declare(limits, on_change, who, self._now()))

    def exchange(self, account: AccountId, message: Message) -> Reply:
        with self._lock:
            ledger = self._ledgers.get(account) or Ledger(account)
            own = message.limit if message.own else None
            limits = self._limits.get(account.budget) or Limits(account.budget)
            ledger.own = own
            limit = limits.of(account, own, message.limit)
            reply = ledger.exchange(message, message.limit if limit is None else limit, self._now())
            self._ledgers[account] = ledger
            return reply

    def read(self, account: AccountId) -> State | None:
        with self._lock:
            ledger = self._known(account)
            return None if ledger is None else ledger.state(self._now())

    def accounts(self, budget: str | None = None) -> Sequence[AccountId]:
        with self._lock:
            return sorted(account for account in self._ledgers if budget in (None, account.budget))

    def change(self, account: AccountId, what: Literal["set", "top-up", "reset"], amount: Decimal, who: str) -> State:
        with self._lock:
            limits, now = self._limits[account.budget], self._now()
            change = limits.change(account, amount, who, now) if what == "set" else None
            ledger = self._known(account)
            if ledger is None:
                raise ValueError(f"budget {account.budget!r} has no limit in {account.unit}")
            if what != "set":
                self._ledgers[account] = ledger
                change = ledger.change(what, amount, who, now)
            assert change is not None
            self._history[account.budget].append(change)
            return ledger.state(now)

    def history(self, budget: str) -> Sequence[Change]:
        with self._lock:
            return list(self._history.get(budget, ()))

    def once(self, account: AccountId, mark: str) -> bool:
        with self._lock:
            ledger = self._ledgers.setdefault(account, Ledger(account))
            first = mark not in ledger.marks
            ledger.marks.add(mark)
            return first

    def close(self) -> None:
        """Do nothing: what is in memory stays until the process ends."""

    def _known(self, account: AccountId) -> Ledger | None:
        """Return an account with the limit that holds for it now; None for one that nobody has ever named."""
        limits = self._limits.get(account.budget) or Limits(account.budget)
        ledger = self._ledgers.get(account)
        limit = limits.of(account, None if ledger is None else ledger.own, None if ledger is None else ledger.limit)
        if limit is None:
            return ledger
        ledger = ledger or Ledger(account)
        ledger.limit = limit
        return ledger

    def _now(self) -> float:
        self._latest = max(self._latest, self._clock())
        return self._latest
