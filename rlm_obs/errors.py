"""Every error that rlm_obs raises on purpose, in one tree.

RlmObsError
├── ConfigError            a setting, an argument or a plugin is wrong; raised where the mistake is
├── StoreError             a budget store cannot be reached, read or written
└── CallRefused            a call was stopped before anything was sent
    ├── BudgetExceeded     a budget has no room for it
    └── UnknownPrice       a budget holds, and nobody knows what the model costs
"""

from __future__ import annotations

from decimal import Decimal

__all__ = ["BudgetExceeded", "CallRefused", "ConfigError", "RlmObsError", "StoreError", "UnknownPrice"]


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


class BudgetExceeded(CallRefused):
    """A budget has no room for the call, so nothing was sent.

    `budget` is its name; `spent`, `held` (by calls in flight), `limit` and `needed` (the most this call can cost) are
    US dollars; `why` says which of the rules refused, `advice` what to do next.
    """

    account: object = None

    def __init__(
        self,
        budget: str,
        spent: Decimal,
        held: Decimal,
        limit: Decimal,
        needed: Decimal,
        why: str = "there is no room for the call",
        advice: str = "raise budget_usd, or set an output limit so that the call fits",
    ) -> None:
        super().__init__(budget, spent, held, limit, needed, why, advice)  # all of it in args: it survives pickle
        self.budget, self.spent, self.held, self.limit, self.needed = budget, spent, held, limit, needed
        self.why, self.advice = why, advice

    def __reduce__(self) -> tuple[type[BudgetExceeded], tuple[object, ...]]:
        return type(self), self.args  # without the account, which belongs to this process

    def __str__(self) -> str:
        return (
            f"budget {self.budget!r}: {self.why}. Spent {money(self.spent)} of {money(self.limit)}, "
            f"held by calls in flight {money(self.held)}, this call may cost {money(self.needed)}. "
            f"Nothing was sent. To go on: {self.advice}."
        )


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
