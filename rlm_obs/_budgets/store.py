"""What a budget store is: the place where processes and machines share a budget, and the messages that go there and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Literal, Protocol

from rlm_obs._record import EXACT as EXACT

UNITS = ("usd", "tokens", "calls")
#: Stores keep dollars to this grain, tokens and calls whole; what is spent is rounded up, what is granted down.
GRAIN = Decimal("1e-15")
#: How long a message that could not be served has the other leases give back what they do not need.
WANTED_S = 2.0
OnChange = Literal["refuse", "set", "keep"]


@dataclass(frozen=True, slots=True, order=True)
class AccountId:
    """Names one amount: of which budget, in which unit, for which key ("" without), in which window ("" for the total)."""

    budget: str
    unit: str = "usd"
    key: str = ""
    window: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one process says about one account in one round trip: what it has spent, returns and wants.

    `lease` names the process's lease for ever. `number` counts its messages: one that arrives late or twice changes
    nothing, so it is the fencing token too. `granted` (all that it was ever granted, less what it has returned) and
    `spent` (all that it has ever spent of it) are totals as the process knows them, so that a store that has lost its
    last writes is put right. `returns` is given back now; `wants` is asked for, and less than `least` is of no use.
    After `ttl_s` without a message the lease is lost. `limit` is what the program says the limit is; a limit that was
    set in the store comes before it, unless it is this key's `own`. `rolling_s`: for so long an amount counts as spent.
    `ends_at`: when the window ends (seconds since 1970); the store may forget the account a month later.
    """

    lease: str
    number: int
    limit: Decimal
    own: bool = False
    granted: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    returns: Decimal = Decimal(0)
    wants: Decimal = Decimal(0)
    least: Decimal = Decimal(0)
    ttl_s: float = 60.0
    lost_lease: Literal["spent", "free"] = "spent"
    rolling_s: float | None = None
    ends_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a store knows of an account: `limit` = `spent` + `leased` + `free`, whatever happens.

    `spent` counts what lost leases held, where the budget says so. `leased` is what living leases may still spend,
    `leases` their number. `free` is below 0 if the limit was lowered, or the store has lost writes. `now` is the
    store's clock (seconds since 1970, never going back). `wanted`: another process is short of money.
    `opens_at`: when a rolling window next lets go of something; `ends_at`: when the window ends, as the last message said.
    """

    limit: Decimal
    spent: Decimal
    leased: Decimal
    leases: int
    now: float
    wanted: bool = False
    opens_at: float | None = None
    ends_at: float | None = None

    @property
    def free(self) -> Decimal:
        return EXACT.subtract(EXACT.subtract(self.limit, self.spent), self.leased)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a Message: what the lease is granted in total now (`granted` less `spent` may be spent), and the state."""

    granted: Decimal
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of the audit log: who has changed what, when (seconds since 1970), from what, to what."""

    at: float
    who: str
    what: Literal["created", "set", "declared", "top-up", "reset"]
    budget: str
    unit: str = "usd"
    key: str = ""
    window: str = ""
    before: Decimal | None = None
    after: Decimal | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready; amounts are strings, so that no digit is lost."""
        said = asdict(self)
        return said | {name: None if said[name] is None else plain(said[name]) for name in ("before", "after")}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Change:
        """Return what `to_dict` has written."""
        amounts = {name: None if said[name] is None else Decimal(said[name]) for name in ("before", "after")}
        return cls(**{**said, **amounts})


class LimitConflict(Exception):
    """The program declares another limit than the one that was declared before. `before` and `after` are the two."""

    def __init__(self, budget: str, unit: str, key: str, before: Decimal, after: Decimal) -> None:
        super().__init__(budget, unit, key, before, after)
        self.budget, self.unit, self.key, self.before, self.after = budget, unit, key, before, after

    def __str__(self) -> str:
        return f"its limit there is {self.before} {self.unit}, the program says {self.after}"


class StoreLost(Exception):
    """The store no longer has an account that this process has used: it was evicted, flushed, or another file is there."""


class Store(Protocol):
    """Where budgets are shared. Every method is one atomic step (one round trip), is called from one thread at a time by us,
    and raises any exception where the store cannot do it; `rlm_obs.testing.StoreContract` holds a store to all of this.
    """

    def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: OnChange, who: str) -> None:
        """Say what the program takes for its limits, by (unit, key). What was declared first, or `set` since, holds.

        Declaring the same again changes nothing, even if somebody has `set` another limit since. Another declaration is
        refused (raises LimitConflict, nothing is changed), or taken over ("set"), or ignored ("keep").
        """

    def exchange(self, account: AccountId, message: Message) -> Reply:
        """Take in what was spent and returned, and grant what is wanted if it is there: at least `least`, or nothing.

        A message whose number is not above the last one changes nothing and gets the state as it is. A lease whose time
        has passed has lost what it had left: under "spent" that counts as spent until its owner comes back and has it
        again (in a rolling window no longer than anything spent); under "free" it went back, and what its owner spent
        of it counts all the same. A store that has lost messages (the number jumps) takes the totals of the message,
        but for what went back and its owner may not know yet. Raises StoreLost where a lease with a grant finds that
        nothing is known of its account.
        """

    def read(self, account: AccountId) -> State | None:
        """Return the state of an account, or None where nothing was ever spent or leased and no limit is known."""

    def accounts(self, budget: str | None = None) -> Sequence[AccountId]:
        """Return the accounts of one budget, or of all, sorted by budget, unit, key, window."""

    def change(self, account: AccountId, what: Literal["set", "top-up", "reset"], amount: Decimal, who: str) -> State:
        """Set the limit (of the account's key, or with the key "" of every key without its own, from now on, in each
        window), top this one account up by `amount`, or reset it: nothing is spent, nothing is held but by living leases,
        and no mark is set. Raises KeyError for a budget that was never declared, ValueError where a limit is not known.
        """

    def history(self, budget: str) -> Sequence[Change]:
        """Return the audit log of a budget, oldest first."""

    def once(self, account: AccountId, mark: str) -> bool:
        """Return True the first time that anybody asks for this mark of this account, else False: for alerts."""

    def close(self) -> None:
        """Let go of connections and files; again, it does nothing."""


def plain(amount: Decimal) -> str:
    """Write an amount with all its digits, no exponent, and no zeros at its end."""
    return f"{amount.normalize(EXACT):f}"


def up(amount: Decimal, unit: str) -> Decimal:
    """Round what was spent up to what stores keep."""
    return amount.quantize(GRAIN if unit == "usd" else Decimal(1), ROUND_CEILING, EXACT)


def down(amount: Decimal, unit: str) -> Decimal:
    """Round what is granted down to what stores keep."""
    return amount.quantize(GRAIN if unit == "usd" else Decimal(1), ROUND_FLOOR, EXACT)
