"""`rlm-obs budget …`: look at the budgets in a store, change them, and see who has changed them."""

from __future__ import annotations

import json as jsons
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Literal

from rlm_obs._budgets.steering import BudgetRow, Budgets, open_budgets
from rlm_obs._budgets.store import Change, plain
from rlm_obs._cli.table import table
from rlm_obs._settings import read_settings
from rlm_obs.errors import ConfigError, money

Url = Annotated[str | None, "The store's URL; RLM_OBS_BUDGET_STORE if it is not given."]
Unit = Annotated[Literal["usd", "tokens", "calls"], "What the limit is in."]
Key = Annotated[str, "Whose budget, where it is one per key."]
Window = Annotated[str | None, "Which window; the newest if it is not given."]
Who = Annotated[str | None, "Who does it, for the audit log; user@host if not given."]
Json = Annotated[bool, "Print JSON."]


def show(budget: Annotated[str | None, "This budget only."] = None, store: Url = None, json: Json = False) -> None:
    """Show what is spent, leased and free of each budget in a store."""
    with opened(store) as budgets:
        tell(budgets.show(budget), json)


def set_limit(
    budget: str, limit: str, unit: Unit = "usd", key: Key = "", store: Url = None, who: Who = None, json: Json = False
) -> None:
    """Set a limit, from now on and in each window; without --key that of every key without its own."""
    with opened(store) as budgets:
        tell([budgets.set(budget, limit, unit, key, who)], json)


def top_up(
    budget: str,
    amount: str,
    unit: Unit = "usd",
    key: Key = "",
    window: Window = None,
    store: Url = None,
    who: Who = None,
    json: Json = False,
) -> None:
    """Add to the limit of one window, once."""
    with opened(store) as budgets:
        tell([budgets.top_up(budget, amount, unit, key, window, who)], json)


def reset(
    budget: str,
    unit: Unit = "usd",
    key: Key = "",
    window: Window = None,
    store: Url = None,
    who: Who = None,
    json: Json = False,
) -> None:
    """Forget what was spent in one window; what living processes hold stays held."""
    with opened(store) as budgets:
        tell([budgets.reset(budget, unit, key, window, who)], json)


def history(budget: str, store: Url = None, json: Json = False) -> None:
    """Show who has changed a budget, when, from what, to what."""
    with opened(store) as budgets:
        changes = budgets.history(budget)
    if json:
        print(jsons.dumps([change.to_dict() for change in changes], indent=2))
    elif not changes:
        print(f"no program has declared a budget {budget!r} in this store")
    else:
        print(table([("WHEN", "WHO", "WHAT", "UNIT", "KEY", "WINDOW", "FROM", "TO"), *map(line_of, changes)]))


def opened(url: str | None) -> Budgets:
    """Open the store of a command. Raises ConfigError where none is named."""
    setting = read_settings().budget_store
    found = url or (None if setting is None else setting.get_secret_value())
    if not found:
        raise ConfigError("which store? give --store URL, such as sqlite:///budgets.db, or set RLM_OBS_BUDGET_STORE")
    return open_budgets(found)


def tell(rows: Sequence[BudgetRow], json: bool) -> None:
    if json:
        print(jsons.dumps([row.to_dict() for row in rows], indent=2))
    elif not rows:
        print("nothing was spent of any budget here yet")
    else:
        head = ("BUDGET", "UNIT", "KEY", "WINDOW", "LIMIT", "SPENT", "LEASED", "FREE", "LEASES", "ENDS", "OPENS")
        print(table([head, *map(cells, rows)]))


def cells(row: BudgetRow) -> tuple[str, ...]:
    amounts = (amount(value, row.unit) for value in (row.limit, row.spent, row.leased, row.free))
    return (
        row.budget,
        row.unit,
        row.key or "-",
        row.window or "-",
        *amounts,
        str(row.leases),
        when(row.ends_at),
        when(row.opens_at),
    )


def line_of(change: Change) -> tuple[str, ...]:
    amounts = (amount(value, change.unit) for value in (change.before, change.after))
    return when(change.at), change.who, change.what, change.unit, change.key or "-", change.window or "-", *amounts


def amount(value: Decimal | None, unit: str) -> str:
    if value is None:
        return "-"
    return money(value) if unit == "usd" else plain(value)


def when(at: float | None) -> str:
    return "-" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%SZ}"
