"""The accounts of one budget: one for each unit, each key and each window, made when a call first needs it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from rlm_obs import _guard
from rlm_obs._budgets.account import Account
from rlm_obs._budgets.rolling import Rolling
from rlm_obs._budgets.sharing import Terms
from rlm_obs._budgets.store import UNITS
from rlm_obs._budgets.windows import Turn, Window
from rlm_obs._record import dollars
from rlm_obs.errors import ConfigError

Limits = Mapping[str, Decimal]
TOTAL = Turn("")
SPELLED = re.compile(
    r"\s*(?P<dollar>\$)?\s*(?P<amount>\d[\d_]*(?:\.\d+)?)\s*(?P<many>[kKmM])?\s*(?P<unit>usd|tokens?|calls?)?"
    r"\s*(?:(?:/|per|a)\s*(?P<window>hour|day|week|month))?\s*",
    re.IGNORECASE,
)
MANY = {"": 1, "k": 1_000, "m": 1_000_000}


class Book:
    """Finds a call's accounts. `rules` is the account that all others are made after; `limits` has an entry per unit that
    is limited; `own` gives the limits of one key, where they are not the default ones."""

    def __init__(
        self,
        rules: Account,
        limits: Limits,
        window: Window | None = None,
        own: Callable[[str], Limits] | None = None,
        terms: Terms | None = None,
    ) -> None:
        self._rules, self.limits, self.window, self._own, self.terms = rules, limits, window, own, terms
        self._lock = threading.Lock()
        self._turn = TOTAL
        self._by_key: dict[str, tuple[Account, ...]] = {}

    def turn(self) -> Turn:
        """Return the window that holds now; accounts of the last one stay with the calls that are held in them."""
        window = self.window
        if window is None:
            return TOTAL
        now = self.now()
        turn = self._turn
        if turn is TOTAL or (turn.ends_at is not None and now >= turn.ends_at):
            with self._lock:
                found = window.at(now)
                if found.name != self._turn.name:
                    self._turn = found
                    self._by_key = {}
                turn = self._turn
        return turn

    def now(self) -> float:
        """Return the time by which windows turn (seconds since 1970): the store's, where there is one."""
        return time.time() if self.terms is None else self.terms.keeper.now()

    def accounts(self, key: str = "") -> tuple[Account, ...]:
        """Return the accounts in which a call of `key` is held and settled now: dollars first."""
        if self.window is not None:
            self.turn()
        found = self._by_key.get(key)
        if found is None:
            with self._lock:
                found = self._by_key.get(key)
                if found is None:
                    found = self._by_key[key] = tuple(self._made(key, self._turn))
        return found

    def all(self) -> list[tuple[Account, ...]]:
        """Return the accounts of every key in the window that holds now."""
        self.turn()
        with self._lock:
            return list(self._by_key.values())

    def keys(self) -> list[str]:
        """Return the keys that were seen in the window that holds now."""
        self.turn()
        with self._lock:
            return list(self._by_key)

    def set_limit(self, unit: str, limit: Decimal | None) -> list[Account]:
        """Change the default limit; returns the accounts that it changes, for the desk to change them."""
        with self._lock:
            limits = {u: v for u, v in self.limits.items() if u != unit}
            self.limits = limits if limit is None else {**limits, unit: limit}
            own = self._own or (lambda _: {})
            return [a for k, many in self._by_key.items() for a in many if a.unit == unit and unit not in own(k)]

    def limit_of(self, unit: str, key: str) -> Decimal | None:
        """Return a key's own limit, or None where the default holds."""
        return None if self._own is None or not key else self._own(key).get(unit)

    def after_fork(self) -> None:
        """In a forked child: the parent's calls in flight are not the child's, and no lock is held."""
        self._lock = threading.Lock()
        for accounts in self._by_key.values():
            for account in accounts:
                account.forget_calls()

    def _made(self, key: str, turn: Turn) -> Iterator[Account]:
        own = {} if self._own is None or not key else self._own(key)
        for unit in UNITS:
            limit = own.get(unit, self.limits.get(unit))
            if unit != "usd" and limit is None:
                continue
            account = replace(self._rules, unit=unit, key=key, limit=limit, ends_at=turn.ends_at, holds={})
            if self.terms is not None and limit is not None:
                self.terms.join(account, turn.name)
            elif self.window is not None and self.window.rolling_s is not None:
                account.rolling = Rolling(self.window.rolling_s)
            else:
                account.simple = unit == "usd" and account.enforcement == "reserve"
            yield account


def read_limits(usd: object, tokens: object, calls: object) -> dict[str, Decimal]:
    """Return the limits that arguments give, by unit. Raises ConfigError for what they cannot be."""
    limits = {} if usd is None else {"usd": dollars(usd, "budget_usd")}
    for unit, given in (("tokens", tokens), ("calls", calls)):
        if given is not None:
            limits[unit] = _whole(given, f"budget_{unit}")
    return limits


def read_own(given: Any) -> Callable[[str], Limits] | None:
    """Return what `limits=` means: a function from a key to its own limits. Raises ConfigError for what it cannot be."""
    if given is None:
        return None
    if callable(given):
        return lambda key: _guard.guarded("limits", lambda: _limits_of(given(key), "limits(key)")) or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"limits={given!r}: give a mapping from a key to US dollars, or a function of a key")
    read = {str(key): _limits_of(value, f"limits[{key!r}]") for key, value in given.items()}
    return lambda key: read.get(key, {})


def read_spelled(budget: str) -> tuple[dict[str, Decimal], str | None]:
    """Return the limits and the window of a budget in words: "$10", "10 usd/day", "200k tokens per hour, $1"."""
    limits: dict[str, Decimal] = {}
    windows = set()
    for part in budget.split(","):
        found = SPELLED.fullmatch(part)
        unit = "usd" if found is None else (found["unit"] or "usd").lower()
        unit = unit if unit == "usd" else unit.rstrip("s") + "s"
        if found is None or (found["dollar"] and unit != "usd") or unit in limits:
            raise ConfigError(
                f'budget={budget!r}: give it as "$10", "10 usd/day", "200k tokens/hour" or "500 calls/day"'
            )
        amount = Decimal(found["amount"].replace("_", "")) * MANY[(found["many"] or "").lower()]
        limits[unit] = dollars(amount, "budget") if unit == "usd" else _whole(int(amount), "budget")
        windows.add((found["window"] or "").lower() or None)
    if len(windows) > 1:
        raise ConfigError(f"budget={budget!r}: one tracker has one window; nest two trackers for two")
    return limits, windows.pop()


def _limits_of(given: object, where: str) -> dict[str, Decimal]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        unknown = [unit for unit in given if unit not in UNITS]
        if unknown:
            raise ConfigError(f"{where}: there is no unit {unknown[0]!r}; there are: {', '.join(UNITS)}")
        return {unit: dollars(v, where) if unit == "usd" else _whole(v, where) for unit, v in given.items()}
    return {"usd": dollars(given, where)}


def _whole(given: object, where: str) -> Decimal:
    amount = dollars(given, where)
    if amount != amount.to_integral_value():
        raise ConfigError(f"{where}={given!r}: give a whole number")
    return amount
