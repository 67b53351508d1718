"""Alerts of a budget: a threshold crossed, a call refused, a pace that will not last; once each, and to whom they go."""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import threading
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit

from rlm_obs import _guard
from rlm_obs._budgets.account import Account, times
from rlm_obs.errors import ConfigError, amount_of

#: A pace is judged once so much of the budget is spent: before, it says nothing.
PACE_FROM = Decimal("0.25")
WEBHOOK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A budget crossed a threshold, will not last its window at this pace, or (`exhausted`) refused a call.

    `spent` and `limit` are in `unit`: US dollars ("usd"), "tokens" or "calls"; `key` is whose, in a budget per key.
    `kind` is "threshold", "pace" or "exhausted". `ends_at` is when the budget ends at the pace since its window began
    (None: not before the window does, or not known); `reset_at` when the window ends.
    """

    budget: str
    threshold: float
    spent: Decimal
    limit: Decimal
    exhausted: bool = False
    kind: Literal["threshold", "pace", "exhausted"] = "threshold"
    unit: str = "usd"
    key: str | None = None
    ends_at: datetime | None = None
    reset_at: datetime | None = None

    def __str__(self) -> str:
        name = repr(self.budget) if self.key is None else f"{self.budget!r} of {self.key!r}"
        spent = f"{amount_of(self.spent, self.unit)} of {amount_of(self.limit, self.unit)}"
        pace = "" if self.ends_at is None else f"; at this pace it ends at {self.ends_at:%Y-%m-%d %H:%M} UTC"
        if self.exhausted:
            return f"budget {name} has refused a call: {spent} is spent"
        if self.kind == "pace":
            return f"budget {name} will not last: {spent} is spent{pace}"
        return f"budget {name} has reached {self.threshold:.0%}: {spent}{pace}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; amounts are strings, times ISO 8601."""
        return {
            "kind": self.kind,
            "budget": self.budget,
            "key": self.key,
            "unit": self.unit,
            "threshold": self.threshold,
            "spent": format(self.spent, "f"),
            "limit": format(self.limit, "f"),
            "ends_at": None if self.ends_at is None else self.ends_at.isoformat(),
            "reset_at": None if self.reset_at is None else self.reset_at.isoformat(),
            "text": str(self),
        }


def read_thresholds(given: Any) -> tuple[float, ...]:
    """Return `alert_threshold=` as shares of the budget, lowest first. Raises ConfigError for what they cannot be."""
    many = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [given]
    if not many or not all(_is_share(one) for one in many):
        raise ConfigError(
            f"alert_threshold={given!r}: give a share of the budget above 0 and up to 1, or a list of them"
        )
    return tuple(sorted({float(one) for one in many}))


def _is_share(one: object) -> bool:
    return isinstance(one, int | float | Decimal) and not isinstance(one, bool) and 0 < one <= 1


def due(account: Account, thresholds: Sequence[float], starts_at: float | None) -> Iterable[tuple[str, Alert]]:
    """Return the alerts that hold for an account now, each with the mark by which it is sent once."""
    limit = account.limit
    if not limit or account.enforcement == "off":
        return
    spent = account.spent
    for threshold in thresholds:
        if spent < times(limit, Decimal(str(threshold))):
            break
        yield f"{threshold:g}@{limit.normalize():f}", about(account, threshold, starts_at)
    if starts_at is not None and account.ends_at is not None and spent >= times(limit, PACE_FROM):
        alert = about(account, float(spent / limit), starts_at, kind="pace")
        if alert.ends_at is not None and spent < limit:
            yield f"pace@{limit.normalize():f}", alert


def about(
    account: Account,
    threshold: float,
    starts_at: float | None = None,
    *,
    kind: Literal["threshold", "pace", "exhausted"] = "threshold",
) -> Alert:
    """Return an alert about an account as it is now."""
    limit = account.limit or Decimal(0)
    ends_at = None
    if starts_at is not None and account.ends_at is not None and account.spent:
        passed = account.now() - starts_at
        at_pace = starts_at + passed * float(limit / account.spent)
        ends_at = at_pace if passed > 0 and at_pace < account.ends_at else None
    return Alert(
        budget=account.name,
        threshold=threshold,
        spent=account.spent,
        limit=limit,
        exhausted=kind == "exhausted",
        kind=kind,
        unit=account.unit,
        key=account.key or None,
        ends_at=None if ends_at is None else datetime.fromtimestamp(ends_at, UTC),
        reset_at=None if account.ends_at is None else datetime.fromtimestamp(account.ends_at, UTC),
    )


class Messenger:
    """Takes alerts to where they go, off the call's path where that may take time: webhooks, and coroutines without a loop."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def send(self, to: object, alert: Alert) -> None:
        """Call a function with an alert, await a coroutine function, or POST the alert as JSON to an `https://` address."""
        if isinstance(to, str):
            self.later(lambda: post(to, alert))
            return
        assert callable(to)
        if not inspect.iscoroutinefunction(to):
            to(alert)
            return
        running = asyncio._get_running_loop()
        if running is None:
            self.later(lambda: asyncio.run(to(alert)))
        else:
            task = running.create_task(to(alert))
            _tasks.add(task)
            task.add_done_callback(_done)

    def later(self, job: Callable[[], object]) -> None:
        """Do something in the messenger's thread."""
        self._jobs.put(job)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="rlm_obs-alerts", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # at the end of the program no thread starts any more
                _guard.guarded("on_alert", self._jobs.get())

    def wait(self, timeout_s: float) -> None:
        """Wait until what was to be sent was sent, or `timeout_s` have passed."""
        done = threading.Event()
        if self._thread is not None and self._thread.is_alive():
            self._jobs.put(done.set)
            done.wait(timeout_s)

    def _run(self) -> None:
        while True:
            _guard.guarded("on_alert", self._jobs.get())


def post(address: str, alert: Alert) -> None:
    """POST an alert as JSON: {"text": …} with its fields beside it, which chat services take as a message."""
    request = urllib.request.Request(  # noqa: S310  # the scheme was checked
        address,
        data=json.dumps(alert.to_dict()).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "rlm-obs"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=WEBHOOK_S):  # noqa: S310
        pass


def check_receiver(argument: str, to: object) -> None:
    """Raise ConfigError for what cannot receive an alert; an address is not shown, it may hold a secret."""
    if to is None or callable(to):
        return
    if isinstance(to, str) and urlsplit(to).scheme in ("http", "https") and urlsplit(to).netloc:
        return
    shown = "a text that is no address" if isinstance(to, str) else repr(to)
    raise ConfigError(f'{argument}: {shown}: give a function of one argument, or an address "https://…"')


def _done(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and isinstance(error := task.exception(), Exception):
        _guard.failed("on_alert", error)


_tasks: set[asyncio.Task[Any]] = set()
messenger = Messenger()
