"""What a budget store is, for those who write one: the protocol, its messages, and the arithmetic of one account."""

# The facts of the arithmetic are for stores that do it in another language.
from rlm_obs._budgets.ledger import FORGET_S as FORGET_S
from rlm_obs._budgets.ledger import KEEP_ENDED_S as KEEP_ENDED_S
from rlm_obs._budgets.ledger import SLICES as SLICES
from rlm_obs._budgets.ledger import Ledger
from rlm_obs._budgets.limits import Limits
from rlm_obs._budgets.store import EXACT as EXACT
from rlm_obs._budgets.store import GRAIN as GRAIN
from rlm_obs._budgets.store import WANTED_S as WANTED_S
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
from rlm_obs._budgets.store import OnChange as OnChange

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
