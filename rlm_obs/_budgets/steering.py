"""Reading and steering shared budgets from outside of the programs that spend them; each change is on record in the store."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rlm_obs._budgets.opening import open_store
from rlm_obs._budgets.sharing import whose
from rlm_obs._budgets.store import UNITS, AccountId, Change, State, Store, plain
from rlm_obs._record import dollars
from rlm_obs.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """What a store knows of one account of a budget. `limit` = `spent` + `leased` + `free`, whatever happens.

    Amounts are US dollars, tokens or calls, by `unit`. `key` and `window` are "" where the budget has none. `leased` is what
    `leases` processes may still spend. Times are seconds since 1970: `ends_at` is when the window ends, `opens_at` when a
    rolling window next lets go of something; None where it does not.
    """

    budget: str
    unit: str
    key: str
    window: str
    limit: Decimal
    spent: Decimal
    leased: Decimal
    free: Decimal
    leases: int
    ends_at: float | None = None
    opens_at: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready; amounts are strings, so that no digit is lost."""
        amounts = {name: plain(getattr(self, name)) for name in ("limit", "spent", "leased", "free")}
        return {name: getattr(self, name) for name in self.__slots__} | amounts


class Budgets:
    """The budgets in a store, to be looked at and steered. Use it as a context manager, or close it.

    Every method raises StoreError where the store cannot be reached, read or written. A change raises ConfigError for a
    budget, a unit or an amount that cannot be; it is written to the store's audit log with `who` (user@host if not given),
    and holds at once: a running program learns of it with its next message to the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def show(self, budget: str | None = None) -> list[BudgetRow]:
        """Return a row for each account of one budget, or of all, sorted by budget, unit, key and window."""
        rows = []
        for account in self._store.accounts(budget):
            state = self._store.read(account)
            if state is not None:
                rows.append(_row(account, state))
        return rows

    def set(
        self, budget: str, limit: Decimal | float | str, unit: str = "usd", key: str = "", who: str | None = None
    ) -> BudgetRow:
        """Set the limit of a key, or of every key without its own, from now on and in each window."""
        return self._change(AccountId(budget, unit, key), "set", _amount(limit, unit, "limit"), who)

    def top_up(
        self,
        budget: str,
        amount: Decimal | float | str,
        unit: str = "usd",
        key: str = "",
        window: str | None = None,
        who: str | None = None,
    ) -> BudgetRow:
        """Add to the limit of one account, once. Without a `window` it is the newest; the next one begins without it."""
        account = self._newest(budget, unit, key) if window is None else AccountId(budget, unit, key, window)
        more = _amount(amount, unit, "amount")
        if not more:
            raise ConfigError(f"amount={amount!r}: give more than 0")
        return self._change(account, "top-up", more, who)

    def reset(
        self, budget: str, unit: str = "usd", key: str = "", window: str | None = None, who: str | None = None
    ) -> BudgetRow:
        """Forget what was spent of one account, and which alerts were given; what living processes hold stays held."""
        account = self._newest(budget, unit, key) if window is None else AccountId(budget, unit, key, window)
        return self._change(account, "reset", Decimal(0), who)

    def history(self, budget: str) -> list[Change]:
        """Return who has changed what of a budget, when (seconds since 1970), from what, to what; oldest first."""
        return list(self._store.history(budget))

    def close(self) -> None:
        """Let go of the store; again, it does nothing."""
        self._store.close()

    def __enter__(self) -> Budgets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _change(self, account: AccountId, what: Any, amount: Decimal, who: str | None) -> BudgetRow:
        if account.unit not in UNITS:
            raise ConfigError(f"unit={account.unit!r}: there is {', '.join(map(repr, UNITS))}")
        try:
            state = self._store.change(account, what, amount, whose() if who is None else who)
        except KeyError:
            known = sorted({one.budget for one in self._store.accounts()})
            raise ConfigError(
                f"no program has declared a budget {account.budget!r} in this store"
                + (f"; there are: {', '.join(map(repr, known))}" if known else "")
            ) from None
        except ValueError:
            raise ConfigError(
                f"budget {account.budget!r} has no limit in {account.unit} for key {account.key!r}"
            ) from None
        return _row(account, state)

    def _newest(self, budget: str, unit: str, key: str) -> AccountId:
        """Return the account of the window that ends last; of those without an end, the one with the last name."""
        found = [one for one in self._store.accounts(budget) if (one.unit, one.key) == (unit, key)]
        states = {one: state for one in found if (state := self._store.read(one)) is not None}
        if not states:
            return AccountId(budget, unit, key)
        newest = max(states, key=lambda one: (states[one].ends_at or 0.0, one.window))
        ends_at = states[newest].ends_at
        if ends_at is not None and ends_at <= states[newest].now:
            raise ConfigError(f"the newest window of budget {budget!r}, {newest.window!r}, has ended; name the window")
        return newest


def open_budgets(url: str) -> Budgets:
    """Return the budgets in the store at `url` ("sqlite:///budgets.db", "redis://…"), to be looked at and steered.

    Raises ConfigError for a URL that no plugin can open. Nothing is created by looking.
    """
    return Budgets(open_store(url))


def _amount(value: object, unit: str, name: str) -> Decimal:
    amount = dollars(value, name)
    if unit != "usd" and amount % 1:
        raise ConfigError(f"{name}={value!r}: give a whole number of {unit}")
    return amount


def _row(account: AccountId, state: State) -> BudgetRow:
    return BudgetRow(
        budget=account.budget,
        unit=account.unit,
        key=account.key,
        window=account.window,
        limit=state.limit,
        spent=state.spent,
        leased=state.leased,
        free=state.free,
        leases=state.leases,
        ends_at=state.ends_at,
        opens_at=state.opens_at,
    )
