"""The reasons for which a budget refuses a call, each with what to do next."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from rlm_obs._budgets.account import NONE, Account, Need, plus
from rlm_obs.errors import BudgetExceeded, BudgetUnavailable, amount_of

RAISE = {"usd": "raise budget_usd", "tokens": "raise budget_tokens", "calls": "raise budget_calls"}
WHAT = {"usd": "money", "tokens": "tokens", "calls": "calls"}


def spent(need: Need, account: Account) -> BudgetExceeded:
    """Nothing is left."""
    verb = "is" if account.unit == "usd" else "are"
    return _refusal(need, account, f"its {WHAT[account.unit]} {verb} spent", _raise(account), opens=True)


def too_large(need: Need, account: Account, own: Decimal) -> BudgetExceeded:
    """The call alone could use more than is left, for one of several reasons."""
    if own:
        why = (
            f"{amount_of(own, account.unit)} of it is held by an open call of this very thread or task, "
            "which cannot be waited for"
        )
        return _refusal(need, account, why, "finish or close that stream first, or set output limits")
    if not need.lowerable or account.unit == "calls":
        why = "this call alone could cost more than is left"
        what = "lower the call's output limit" if need.tokens else "shorten the input"
        return _refusal(need, account, why, f"{_raise(account)}, or {what}", opens=True)
    if not account.clamp:
        why = "this call alone could cost more than is left, and clamp=False keeps its output from being limited"
        return _refusal(need, account, why, f"set max_completion_tokens, {_raise(account)}, or clamp=True", opens=True)
    why = f"what is left pays for fewer than {account.min_output_tokens} tokens of output"
    return _refusal(need, account, why, f"{_raise(account)}, shorten the input, or lower min_output_tokens", opens=True)


def in_event_loop(need: Need, account: Account) -> BudgetExceeded:
    """A blocking call would have to wait inside a running event loop."""
    return _refusal(
        need,
        account,
        f"its {WHAT[account.unit]} {'is' if account.unit == 'usd' else 'are'} held by calls in flight, and a blocking call "
        "must not wait inside a running event loop",
        "use AsyncOpenAI, or call it in a thread (asyncio.to_thread)",
    )


def waited(need: Need, account: Account, timeout_s: float) -> BudgetExceeded:
    """Others have held on to it for as long as the call may wait."""
    return _refusal(
        need,
        account,
        f"its {WHAT[account.unit]} {'was' if account.unit == 'usd' else 'were'} still held by other calls after a wait "
        f"of {timeout_s:g} s",
        "set an output limit on the calls (max_completion_tokens), so that each holds less; or a longer wait_s",
    )


def outgrown(need: Need, account: Account) -> BudgetExceeded:
    """A stream has passed what was held for it, and there is no room for more."""
    refusal = _refusal(
        need,
        account,
        "a stream has written more than was held for it, and there is no room for more, so it was closed",
        f"{_raise(account)}; what had arrived is in .partial",
    )
    refusal.sent = True
    return refusal


def unavailable(account: Account, error: Exception) -> BudgetUnavailable:
    """The store of a shared budget cannot be asked."""
    return BudgetUnavailable(account.name, f"{type(error).__name__}: {error}")


def _raise(account: Account) -> str:
    return RAISE[account.unit]


def _refusal(need: Need, account: Account, why: str, advice: str, *, opens: bool = False) -> BudgetExceeded:
    opens_at = account.opens_at() if opens else None
    held = account.held if account.lease is None else plus(account.held, account.lease.elsewhere)
    refusal = BudgetExceeded(
        account.name,
        account.spent,
        held,
        NONE if account.limit is None else account.limit,
        need.most_of(account.unit),
        why,
        advice,
        unit=account.unit,
        key=account.key or None,
        reset_at=None if opens_at is None else datetime.fromtimestamp(opens_at, UTC),
    )
    refusal.account = account  # names may be given twice, and the tracker has to know its own
    return refusal
