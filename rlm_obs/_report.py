"""What was spent and what is left: the figures of a tracker, as frozen data, and the tally that they are taken from."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from rlm_obs._budgets.account import NONE, Account, minus, plus
from rlm_obs._record import Cost, Record, Request, Usage
from rlm_obs._record import Status as CallStatus

__all__ = ["Balance", "CostReport"]

MOST_NAMES = (
    10_000  # operations, models and keys are the user's strings: past this many, the rest is counted as "other"
)
MOST_WAITING = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """One amount of a budget: in `unit` ("usd", "tokens", "calls"), for `key` (None without), in the window that holds.

    `remaining` is None without a limit; what is held by calls in flight is still in it. `reset_at` is when the window
    ends, or a rolling one next lets go of something; None where time alone brings nothing back.
    """

    unit: str
    key: str | None
    limit: Decimal | None
    spent: Decimal
    held: Decimal
    reset_at: datetime | None

    @property
    def remaining(self) -> Decimal | None:
        """What is left to spend, never below 0; None without a limit."""
        return None if self.limit is None else max(NONE, minus(self.limit, self.spent))

    @classmethod
    def of(cls, account: Account) -> Balance:
        """Return the balance of an account as it is now."""
        if account.limit is not None:
            account.left()  # a rolling window lets go
        opens_at = account.opens_at()
        return cls(
            unit=account.unit,
            key=account.key or None,
            limit=account.limit,
            spent=account.spent,
            held=account.held if account.lease is None else plus(account.held, account.lease.elsewhere),
            reset_at=None if opens_at is None else datetime.fromtimestamp(opens_at, UTC),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """What was spent, in US dollars; in a budget with a window, since that window began.

    `total_cost` is what calls of this process have cost, exact but for `inexact_cost`, the part that has caveats.
    `by_operation` counts a call under each operation around it, so nested ones sum to more than the total; a call
    outside of any stands under its kind ("chat", "embeddings"). `by_key` is for budgets per key. `spent` is what the
    budget has spent in all, by other processes too. `remaining` and `budget_usd` are None without a budget in dollars,
    and in a budget per key, where each key has its own.
    """

    name: str
    total_cost: Decimal
    budget_usd: Decimal | None
    held: Decimal
    calls: int
    unpriced_calls: int
    refused_calls: int
    failed_calls: int
    inexact_cost: Decimal
    by_model: Mapping[str, Decimal] = field(default_factory=dict)
    by_operation: Mapping[str, Decimal] = field(default_factory=dict)
    by_key: Mapping[str, Decimal] = field(default_factory=dict)
    spent: Decimal = NONE
    tokens: int = 0
    reset_at: datetime | None = None

    @property
    def remaining(self) -> Decimal | None:
        """US dollars left to spend, never below 0; None without a budget."""
        return None if self.budget_usd is None else max(NONE, minus(self.budget_usd, self.spent))

    @property
    def remaining_percent(self) -> float | None:
        """What is left, in percent of the budget (100.0: nothing was spent); None without a budget."""
        if self.budget_usd is None:
            return None
        return float(100 * self.remaining / self.budget_usd) if self.budget_usd and self.remaining is not None else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; amounts are strings, so that no digit is lost."""
        amounts = {
            "total_cost": self.total_cost,
            "inexact_cost": self.inexact_cost,
            "budget_usd": self.budget_usd,
            "spent": self.spent,
            "held": self.held,
            "remaining": self.remaining,
        }
        parts = {"by_model": self.by_model, "by_operation": self.by_operation, "by_key": self.by_key}
        return {
            "name": self.name,
            **{name: None if value is None else format(value, "f") for name, value in amounts.items()},
            "remaining_percent": self.remaining_percent,
            "reset_at": None if self.reset_at is None else self.reset_at.isoformat(),
            "calls": self.calls,
            "unpriced_calls": self.unpriced_calls,
            "refused_calls": self.refused_calls,
            "failed_calls": self.failed_calls,
            "tokens": self.tokens,
            **{part: {name: format(value, "f") for name, value in table.items()} for part, table in parts.items()},
        }


class Ended(Protocol):
    """What reports and budgets need of a call that has ended."""

    status: CallStatus | None
    request: Request
    #: The model that has answered.
    model: str | None
    #: Whether its cost is exact; None: nobody knows what it cost.
    exact: bool | None
    #: Whether it tells what a call has cost that was entered before, without a price.
    told_later: bool

    @property
    def cost(self) -> Cost | None:
        """What it cost."""

    @property
    def usage(self) -> Usage | None:
        """What it used, as its answer says."""

    @property
    def record(self) -> Record | None:
        """All that is known of it."""


class Tally:
    """What the calls of this process have cost in one window, by model, operation and key; added up when somebody asks."""

    def __init__(self) -> None:
        #: What is not added up yet: status, model, kind, whether exact, charge, tokens, operations, key, told later.
        self.new: deque[tuple[Any, ...]] = deque()
        self._lock = threading.Lock()
        self._total = self._inexact = NONE
        self._calls = self._unpriced = self._refused = self._failed = self._tokens = 0
        self._by_model: dict[str, Decimal] = {}
        self._by_operation: dict[str, Decimal] = {}
        self._by_key: dict[str, Decimal] = {}

    def count(self) -> None:
        """Add up what is new."""
        with self._lock:
            self._count()

    def figures(self) -> dict[str, Any]:
        """Return all sums, as a CostReport names them."""
        with self._lock:
            self._count()
            return {
                "total_cost": self._total,
                "calls": self._calls,
                "unpriced_calls": self._unpriced,
                "refused_calls": self._refused,
                "failed_calls": self._failed,
                "inexact_cost": self._inexact,
                "tokens": self._tokens,
                "by_model": dict(self._by_model),
                "by_operation": dict(self._by_operation),
                "by_key": dict(self._by_key),
            }

    def of_operation(self, operation: str) -> Decimal:
        """Return what the calls under an operation have cost."""
        with self._lock:
            self._count()
            return self._by_operation.get(operation, NONE)

    def after_fork(self) -> None:
        """Start with a lock that nobody holds in a forked child."""
        self._lock = threading.Lock()

    def _count(self) -> None:
        while self.new:
            status, model, kind, exact, charge, tokens, operations, key, told_later = self.new.popleft()
            if status == "refused":
                self._refused += 1
                continue
            self._calls += 1
            self._failed += status == "error"
            self._total = plus(self._total, charge)
            self._tokens += tokens
            self._unpriced += (exact is None) - told_later
            if not exact:
                self._inexact = plus(self._inexact, charge)
            _add(self._by_model, model or "unknown", charge)
            for operation in dict.fromkeys(operations) or (kind,):
                _add(self._by_operation, operation, charge)
            if key is not None:
                _add(self._by_key, key, charge)


def _add(book: dict[str, Decimal], name: str, charge: Decimal) -> None:
    had = book.get(name)
    if had is None and len(book) >= MOST_NAMES:
        name, had = "other", book.get("other")
    book[name] = charge if had is None else plus(had, charge)
