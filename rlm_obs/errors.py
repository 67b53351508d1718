"""Every error that rlm_obs raises on purpose, in one tree.

RlmObsError
├── ConfigError            a setting, an argument or a plugin is wrong; raised where the mistake is
├── StoreError             a budget store cannot be reached, read or written
└── CallRefused            a call was stopped before anything was sent
    ├── BudgetExceeded     a budget has no room for it
    ├── BudgetUnavailable  the store of a shared budget cannot be asked
    ├── Runaway            a guard against runaways has stopped it
    └── UnknownPrice       a budget holds, and nobody knows what the model costs
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

__all__ = [
    "BudgetExceeded",
    "BudgetUnavailable",
    "CallRefused",
    "ConfigError",
    "RlmObsError",
    "Runaway",
    "StoreError",
    "UnknownPrice",
]


class RlmObsError(Exception):
    """The root: `except RlmObsError` catches all that this library raises on purpose."""


class ConfigError(RlmObsError, ValueError):
    """A setting, an argument or a plugin is wrong; the message names it, its value and what to write instead."""


class StoreError(RlmObsError):
    """A budget store cannot be reached, opened, read or written; the message says why, and nothing was changed.

    A call never gets it: what happens to calls then is what their budget's `fail` says.
    """


class CallRefused(RlmObsError):
    """A call was stopped before anything was sent. A `call_starting` hook may raise it; nothing else gets past the guard."""


def money(amount: Decimal) -> str:
    """Write dollars for a person: two decimals at least, as many as needed to say a tiny amount, never an exponent."""
    if not amount or abs(amount) >= 1:
        return f"${amount:.2f}"
    digits = max(2, 2 - amount.adjusted())  # three that say something
    whole, _, part = f"{amount:.{digits}f}".partition(".")
    return f"${whole}.{part.rstrip('0').ljust(2, '0')}"


def amount_of(amount: Decimal, unit: str) -> str:
    """Write an amount of a budget for a person: dollars, or a whole number of tokens or calls."""
    return money(amount) if unit == "usd" else f"{amount:,.0f} {unit}"


class BudgetExceeded(CallRefused):
    """A budget has no room for the call, so nothing was sent; or (`sent`) a stream outgrew what was held for it, and was closed.

    `budget` is its name, `key` whose it is in a budget per key (None elsewhere); `spent`, `held` (by calls in flight),
    `limit` and `needed` (the most this call can use) are in `unit`: US dollars ("usd"), "tokens" or "calls". `why` says
    which of the rules refused, `advice` what to do next, `reset_at` when there is more again (None: never by itself).
    `partial` is the text that a closed stream had brought (None elsewhere).
    """

    account: object = None
    sent: bool = False
    partial: str | None = None

    def __init__(
        self,
        budget: str,
        spent: Decimal,
        held: Decimal,
        limit: Decimal,
        needed: Decimal,
        why: str = "there is no room for the call",
        advice: str = "raise budget_usd, or set an output limit so that the call fits",
        unit: str = "usd",
        key: str | None = None,
        reset_at: datetime | None = None,
    ) -> None:
        super().__init__(budget, spent, held, limit, needed, why, advice, unit, key, reset_at)  # all of it: for pickle
        self.budget, self.spent, self.held, self.limit, self.needed = budget, spent, held, limit, needed
        self.why, self.advice, self.unit, self.key, self.reset_at = why, advice, unit, key, reset_at

    def __reduce__(self) -> tuple[object, ...]:
        return (
            type(self),
            self.args,
            {"sent": self.sent, "partial": self.partial},
        )  # not the account: it is this process's

    def __str__(self) -> str:
        name = repr(self.budget) if self.key is None else f"{self.budget!r} of {self.key!r}"
        spent, limit, held, needed = (amount_of(a, self.unit) for a in (self.spent, self.limit, self.held, self.needed))
        opens = "" if self.reset_at is None else f" It opens again at {self.reset_at:%Y-%m-%d %H:%M:%S} UTC."
        outcome = f"it needs {needed} more." if self.sent else f"this call may cost {needed}. Nothing was sent."
        return (
            f"budget {name}: {self.why}. Spent {spent} of {limit}, held by calls in flight {held}, {outcome}{opens} "
            f"To go on: {self.advice}."
        )


class BudgetUnavailable(CallRefused):
    """The store of a shared budget cannot be asked, so nobody knows what is left; nothing was sent.

    `budget` is its name, `why` what the store said. `fail="open"` lets calls through instead.
    """

    def __init__(self, budget: str, why: str) -> None:
        super().__init__(budget, why)
        self.budget, self.why = budget, why

    def __str__(self) -> str:
        return (
            f"budget {self.budget!r}: its store cannot be asked ({self.why}), so nobody knows what is left. Nothing was sent. "
            f'To go on: see that the store is up and its URL is right, or let calls through uncounted: fail="open".'
        )


class Runaway(CallRefused):
    """A guard against runaways has stopped the call; nothing was sent.

    `budget` is the tracker's name, `rule` the argument that set the guard, `why` what was seen.
    """

    def __init__(self, budget: str, rule: str, why: str) -> None:
        super().__init__(budget, rule, why)
        self.budget, self.rule, self.why = budget, rule, why

    def __str__(self) -> str:
        return f"budget {self.budget!r}: {self.why}. Nothing was sent. To go on: see why, or change {self.rule}."


class UnknownPrice(CallRefused):
    """Under a budget with `unknown_price="block"`, a model that no price source knows; nothing was sent."""

    def __init__(self, model: str, provider: str, budget: str) -> None:
        super().__init__(model, provider, budget)
        self.model, self.provider, self.budget = model, provider, budget

    def __str__(self) -> str:
        return (
            f"budget {self.budget!r}: no price is known for {self.model!r} ({self.provider}), so the budget cannot hold it. "
            f'Nothing was sent. Give its price: instrument(settings={{"prices": {{"{self.model}": '
            f'{{"input": 1.0, "output": 4.0}}}}}}) (US dollars per million tokens; or RLM_OBS_PRICES=prices.toml), '
            f'or let it through uncounted: unknown_price="warn".'
        )
