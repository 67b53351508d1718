"""CostTracker: one budget and its book: what was spent, on what, and whether the next call may go out."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from opentelemetry import context as otel

from rlm_obs import _guard, _lost, _scope
from rlm_obs._budgets.desk import NONE, Account, desk
from rlm_obs._plugins import gates, loaded
from rlm_obs._record import Record, dollars
from rlm_obs.errors import BudgetExceeded, ConfigError, money

ENFORCEMENTS = ("reserve", "check", "warn", "off")
MOST_NAMES = 10_000  # operations and models are the user's strings: past this many, the rest is counted as "other"
MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A budget crossed a threshold, or (`exhausted`) refused a call. Amounts are US dollars."""

    budget: str
    threshold: float
    spent: Decimal
    limit: Decimal
    exhausted: bool = False

    def __str__(self) -> str:
        if self.exhausted:
            return f"budget {self.budget!r} has refused a call: {money(self.spent)} of {money(self.limit)} is spent"
        return f"budget {self.budget!r} has reached {self.threshold:.0%}: {money(self.spent)} of {money(self.limit)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """What was spent so far, in US dollars. `total_cost` is exact but for `inexact_cost`, the part that has caveats.

    `by_operation` counts a call under each operation around it, so nested ones sum to more than the total; a call
    outside of any stands under its kind ("chat", "embeddings"). `remaining` is None without a budget.
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

    @property
    def remaining(self) -> Decimal | None:
        """US dollars left to spend, never below 0; None without a budget."""
        return None if self.budget_usd is None else max(NONE, self.budget_usd - self.total_cost)

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
            "held": self.held,
            "remaining": self.remaining,
        }
        return {
            "name": self.name,
            **{name: None if value is None else format(value, "f") for name, value in amounts.items()},
            "remaining_percent": self.remaining_percent,
            "calls": self.calls,
            "unpriced_calls": self.unpriced_calls,
            "refused_calls": self.refused_calls,
            "failed_calls": self.failed_calls,
            "by_model": {name: format(value, "f") for name, value in self.by_model.items()},
            "by_operation": {name: format(value, "f") for name, value in self.by_operation.items()},
        }


class CostTracker:
    """Count what calls cost, and stop the next one before it overspends.

    Calls fall under a tracker inside `with tracker:`, `with tracker.track("operation"):`, a function decorated with
    `@rlm_obs.cost_tracked(tracker=tracker)`, or an `RLM` bound to it; trackers nest, and a call must fit in all of them.

    `budget_usd`: the limit in US dollars (None only counts). `alert_threshold`: the share of it at which `on_alert` and the
    `budget_alert` hook are called, once. `enforcement`: "reserve" holds the most a call can cost before it is sent, so
    that concurrent calls cannot overspend together; "check" looks at the money spent so far only; "warn" never refuses;
    "off" only counts. `wait_s`: how long a call waits for money that is held by others (None: the request's own timeout).
    `clamp`: lower the output limit of a call that set none to what is left, down to `min_output_tokens`.
    `unknown_price`: what to do with a model without a price: "block", "warn", or US dollars per million tokens to assume.
    `unseen_usage`: how a stream that was left early is settled: by an "estimate", or by the whole "hold".

    Raises ConfigError for a bad argument; calls under it raise BudgetExceeded or UnknownPrice, and then nothing is sent.
    """

    def __init__(
        self,
        budget_usd: Decimal | float | str | None = None,
        alert_threshold: float = 0.8,
        name: str = "default",
        *,
        enforcement: str = "reserve",
        wait_s: float | None = None,
        clamp: bool = True,
        min_output_tokens: int = 256,
        unknown_price: str | Decimal | float = "block",
        unseen_usage: str = "estimate",
        on_alert: Callable[[Alert], object] | None = None,
        on_budget_exceeded: Callable[[BudgetExceeded], object] | None = None,
    ) -> None:
        limit = None if budget_usd is None else dollars(budget_usd, "budget_usd")
        _one_of("enforcement", enforcement, ENFORCEMENTS)
        _one_of("unseen_usage", unseen_usage, ("estimate", "hold"))
        if not _is_number(alert_threshold) or not 0 < alert_threshold <= 1:
            raise ConfigError(f"alert_threshold={alert_threshold!r}: give a share of the budget, above 0 and up to 1")
        if wait_s is not None and not (_is_number(wait_s) and 0 <= wait_s <= 86_400):
            raise ConfigError(f"wait_s={wait_s!r}: give seconds, 0 to 86400")
        if isinstance(min_output_tokens, bool) or not isinstance(min_output_tokens, int) or min_output_tokens < 1:
            raise ConfigError(f"min_output_tokens={min_output_tokens!r}: give a number of tokens, 1 or more")
        for argument, given in (("on_alert", on_alert), ("on_budget_exceeded", on_budget_exceeded)):
            if given is not None and not callable(given):
                raise ConfigError(f"{argument}={given!r}: give a function of one argument")
        self.name, self.alert_threshold, self.wait_s, self.unseen_usage = (
            name,
            float(alert_threshold),
            wait_s,
            unseen_usage,
        )
        self._alert_share = Decimal(str(alert_threshold))
        self.unknown_price = _assumed(unknown_price)
        self.on_alert, self.on_budget_exceeded = on_alert, on_budget_exceeded
        self._account = Account(name, limit, enforcement, clamp, min_output_tokens)
        self._calls = self._unpriced = self._refused = self._failed = 0
        self._inexact = NONE
        self._by_model: dict[str, Decimal] = {}
        self._by_operation: dict[str, Decimal] = {}
        self._alerted: set[float | str] = set()
        self._lock = threading.Lock()
        _trackers.add(self)

    @property
    def budget_usd(self) -> Decimal | None:
        """The limit in US dollars; set it to give the running program more (or less), at once."""
        return self._account.limit

    @budget_usd.setter
    def budget_usd(self, value: Decimal | float | str | None) -> None:
        desk.change_limit(self._account, None if value is None else dollars(value, "budget_usd"))
        with self._lock:
            self._alerted.clear()  # its thresholds are others now

    @property
    def spent(self) -> Decimal:
        """US dollars settled so far."""
        _lost.lost.end_gone()
        return self._account.spent

    @property
    def held(self) -> Decimal:
        """US dollars that calls in flight may still cost."""
        _lost.lost.end_gone()
        return self._account.held

    @property
    def remaining(self) -> Decimal | None:
        """US dollars left to spend, never below 0; None without a budget. What is held is still in it."""
        limit = self._account.limit
        return None if limit is None else max(NONE, limit - self.spent)

    def is_near_limit(self) -> bool:
        """Tell whether the share `alert_threshold` of the budget is spent; False without a budget."""
        limit = self._account.limit
        return limit is not None and self.spent >= limit * self._alert_share

    def get_report(self) -> CostReport:
        """Return what was spent so far, on which models and operations; a snapshot that does not change."""
        _lost.lost.end_gone()
        with self._lock:
            return CostReport(
                name=self.name,
                total_cost=self._account.spent,
                budget_usd=self._account.limit,
                held=self._account.held,
                calls=self._calls,
                unpriced_calls=self._unpriced,
                refused_calls=self._refused,
                failed_calls=self._failed,
                inexact_cost=self._inexact,
                by_model=dict(self._by_model),
                by_operation=dict(self._by_operation),
            )

    def get_operation_cost(self, operation: str) -> Decimal:
        """Return what the calls inside `track(operation)` have cost, nested ones included; 0 if there were none."""
        _lost.lost.end_gone()
        return self._by_operation.get(operation, NONE)

    @contextmanager
    def track(self, operation: str) -> Iterator[CostTracker]:
        """Count the calls of a block under `operation` (and under this tracker, if they were not already)."""
        with _entered(_scope.widened(trackers=(self,), operation=operation)):
            yield self

    def __enter__(self) -> CostTracker:
        gates.hold()
        token = otel.attach(_scope.with_scope(_scope.widened(trackers=(self,))))
        _tokens.set((*_tokens.get(), token))
        return self

    def __exit__(self, *_: object) -> None:
        *others, token = _tokens.get() or (None,)  # None: entered in another context, whose own it stays
        _tokens.set(tuple(others))
        if token is not None:
            _scope.detach(token)
        gates.release()

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Decorate a function: its calls fall under this tracker, as with `@rlm_obs.cost_tracked(tracker=self)`."""
        import rlm_obs

        return rlm_obs.cost_tracked(tracker=self)(function)

    def __repr__(self) -> str:
        limit = self._account.limit
        of = "" if limit is None else f" of {money(limit)}"
        return f"<CostTracker {self.name!r}: {money(self._account.spent)}{of} spent>"

    # -- what a call tells its trackers ------------------------------------------------------------------------------

    def book(self, record: Record, charge: Decimal, operations: Iterable[str]) -> None:
        """Enter a finished call: `charge` is what it costs this budget, also where the record's own cost is unknown."""
        model = record.model or "unknown"
        with self._lock:
            if record.status == "refused":
                self._refused += 1
                return
            self._calls += 1
            self._failed += record.status == "error"
            if record.cost is None:
                self._unpriced += 1
            if record.cost is None or record.cost.caveats:
                self._inexact += charge
            _add(self._by_model, model, charge)
            for operation in dict.fromkeys(operations) or (record.operation,):
                _add(self._by_operation, operation, charge)
        self._alert_if_due()

    def out_of_room(self, refusal: BudgetExceeded) -> None:
        """Tell those who asked to know that a budget refused a call, if it was this one."""
        if refusal.account is not self._account:
            return
        if self.on_budget_exceeded is not None:
            _guard.guarded("on_budget_exceeded", self.on_budget_exceeded, refusal)
        self._alert(
            "exhausted",
            Alert(budget=self.name, threshold=1.0, spent=refusal.spent, limit=refusal.limit, exhausted=True),
        )

    def _alert_if_due(self) -> None:
        limit = self._account.limit
        if limit is not None and limit and self._account.enforcement != "off":
            spent = self._account.spent
            if spent >= limit * self._alert_share:
                alert = Alert(budget=self.name, threshold=self.alert_threshold, spent=spent, limit=limit)
                self._alert(self.alert_threshold, alert)

    def _alert(self, once: float | str, alert: Alert) -> None:
        with self._lock:
            if once in self._alerted:
                return
            self._alerted.add(once)
        _guard.log.warning("%s", alert)
        if self.on_alert is not None:
            _guard.guarded("on_alert", self.on_alert, alert)
        loaded().notify("budget_alert", alert=alert)


class Collector(CostTracker):
    """A tracker without a budget that keeps the records themselves, for one run or one test."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.records: list[Record] = []

    def book(self, record: Record, charge: Decimal, operations: Iterable[str]) -> None:
        self.records.append(record)
        super().book(record, charge, operations)


@contextmanager
def _entered(scope: _scope.Scope) -> Iterator[None]:
    gates.hold()
    try:
        with _scope.attached(_scope.with_scope(scope)):
            yield
    finally:
        gates.release()


def _is_number(given: object) -> bool:
    return isinstance(given, int | float | Decimal) and not isinstance(given, bool)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: there is {', '.join(map(repr, allowed))}")


def _assumed(given: object) -> str | Decimal:
    """Read `unknown_price`: a policy's name, or US dollars per million tokens."""
    if given in ("block", "warn"):
        return str(given)
    try:
        return dollars(given, "unknown_price")
    except ConfigError:
        raise ConfigError(f'unknown_price={given!r}: give "block", "warn", or US dollars per million tokens') from None


def _add(book: dict[str, Decimal], name: str, charge: Decimal) -> None:
    if name not in book and len(book) >= MOST_NAMES:
        name = "other"
    book[name] = book.get(name, NONE) + charge


_tokens: ContextVar[tuple[Token[Any], ...]] = ContextVar("rlm_obs_tokens", default=())
_trackers: weakref.WeakSet[CostTracker] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: the parent's calls in flight are not the child's, and no lock is held."""
    for tracker in list(_trackers):
        tracker._lock = threading.Lock()
        tracker._account.held = NONE
        tracker._account.holds.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

__all__ = ["Alert", "CostReport", "CostTracker"]
