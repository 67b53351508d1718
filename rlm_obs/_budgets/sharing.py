"""How a budget is shared: its store, its name there, its limits, and what holds while the store is silent."""

from __future__ import annotations

import getpass
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from rlm_obs import _guard
from rlm_obs._budgets.account import Account
from rlm_obs._budgets.keeper import Keeper
from rlm_obs._budgets.lease import Lease
from rlm_obs._budgets.opening import opener
from rlm_obs._budgets.store import AccountId, LimitConflict, OnChange, Store
from rlm_obs.errors import ConfigError


@dataclass(slots=True, eq=False)
class Terms:
    """The terms of one shared budget. `limits` are those that the program declares, by (unit, key)."""

    keeper: Keeper
    budget: str
    limits: Mapping[tuple[str, str], Decimal]
    own_limit: Callable[[str, str], Decimal | None]
    ttl_s: float = 60.0
    timeout_s: float = 2.0
    lost_lease: Literal["spent", "free"] = "spent"
    fail: Literal["closed", "open"] = "closed"
    on_change: OnChange = "refuse"
    rolling_s: float | None = None
    let_through: int = 0
    declared: bool = False

    def join(self, account: Account, window: str) -> None:
        """Make an account one that is shared."""
        account.lease = Lease(AccountId(self.budget, account.unit, account.key, window), self, account)

    def limit_of(self, account: AccountId) -> Decimal:
        """Return what the program says the limit of an account is."""
        own = self.own_limit(account.unit, account.key)
        return self.limits[account.unit, ""] if own is None else own

    def is_own(self, account: AccountId) -> bool:
        """Tell whether the program gives this key a limit of its own."""
        return bool(account.key) and self.own_limit(account.unit, account.key) is not None

    def declare(self, store: Store) -> None:
        """Declare the limits, once per process. Raises LimitConflict where the store has others."""
        if not self.declared:
            store.declare(self.budget, self.limits, self.on_change, whose())
            self.declared = True

    def declare_now(self) -> None:
        """Declare the limits while the program is being set up: a conflict is a ConfigError, a store that is down waits."""
        try:
            self.keeper.do(self.declare).result(self.timeout_s)
        except LimitConflict as other:
            unit = "" if other.unit == "usd" else f" {other.unit}"
            of = f" of {other.key!r}" if other.key else ""
            raise ConfigError(
                f"budget {other.budget!r}{of}: its store has a limit of {other.before}{unit}, the program says {other.after}. "
                'Two programs must not fight: make them agree, or say which wins: on_limit_change="set" (the program) '
                'or "keep" (the store); a person changes it with `rlm-obs budget set`'
            ) from None
        except Late:
            self.say_down(TimeoutError(f"no answer within {self.timeout_s:g} s"))
        except ConfigError:
            raise  # its URL is wrong, which no waiting puts right
        except Exception as error:
            self.say_down(error)

    def change(self, unit: str, key: str, limit: Decimal) -> None:
        """Set a limit in the store. Raises what the store raises, TimeoutError where it is silent."""
        account = AccountId(self.budget, unit, key)

        def change(store: Store) -> None:
            self.declare(store)
            store.change(account, "set", limit, whose())

        self.keeper.do(change).result(self.timeout_s)

    def lets_through(self, error: Exception) -> bool:
        """Tell whether calls go on while the store is down; each is counted."""
        if self.fail != "open":
            return False
        self.let_through += 1
        _guard.failures[f"budget {self.budget} let through"] += 1
        return True

    def say_down(self, error: Exception) -> None:
        """Log once, while a store cannot be asked, what that means for the calls."""
        _guard.failures[f"budget store {self.budget}"] += 1
        outcome = "calls are let through and counted later" if self.fail == "open" else "calls are refused"
        _guard.say_once(
            f"store {self.budget} {type(error).__name__}",
            "budget %r: its store cannot be asked, so %s (logged once per kind, counted in rlm_obs.stats()): %s: %s",
            self.budget,
            outcome,
            type(error).__name__,
            error,
        )


def whose() -> str:
    """Return who acts, for the audit log: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"


_keepers: dict[str, Keeper] = {}
_lock = threading.Lock()


def keeper_of(store: str | Store) -> Keeper:
    """Return the keeper of a store, given by URL or as an object; one per URL and process.

    Raises ConfigError for a URL whose scheme no plugin offers; the URL itself is never shown, it may hold a password.
    """
    if not isinstance(store, str):
        if not callable(getattr(store, "exchange", None)):
            raise ConfigError(
                f'store={type(store).__name__}: give a URL such as "sqlite:///budgets.db", or a store object'
            )
        given: Any = store
        found: Keeper | None = getattr(given, "_rlm_obs_keeper", None)
        if found is None:
            found = Keeper(lambda: given)
            given._rlm_obs_keeper = found
        return found
    open_it = opener(store)
    with _lock:
        if store not in _keepers:
            _keepers[store] = Keeper(open_it)
        return _keepers[store]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
