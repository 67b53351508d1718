"""What a budget store is, for those who write one: the protocol, its messages, and the arithmetic of one account."""

from rlm_obs._budgets.ledger import Ledger
from rlm_obs._budgets.limits import Limits
from rlm_obs._budgets.store import (
    AccountId,
    Change,
    LimitConflict,
    Message,
    Reply,
    State,
    Store,
    StoreLost,
    down,
    up,
)

__all__ = [
    "AccountId",
    "Change",
    "Ledger",
    "LimitConflict",
    "Limits",
    "Message",
    "Reply",
    "State",
    "Store",
    "StoreLost",
    "down",
    "up",
]
