"""What a message does to an account: the one place where a shared budget's arithmetic is written. Does no I/O.

Stores in Python keep a `Ledger` an account and run `exchange` under their own lock or transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from rlm_obs._budgets.store import WANTED_S, AccountId, Change, Message, Reply, State, StoreLost, down, up

NONE = Decimal(0)
#: A rolling window lets go of what was spent in steps of this share of it.
SLICES = 60
#: A lease with nothing left is forgotten so long after its time; no process uses one that it has not been heard of since.
FORGET_S = 7200.0


@dataclass(slots=True)
class Lease:
    """What one process was granted, has spent of it, and until when; `number` is its last message's."""

    number: int = 0
    granted: Decimal = NONE
    spent: Decimal = NONE
    expires_at: float = 0.0
    free_if_lost: bool = False
    freed: bool = False

    @property
    def left(self) -> Decimal:
        return self.granted - self.spent


@dataclass(slots=True)
class Ledger:
    """One account as a store keeps it. `spent` is the truth; `extra` tops the limit up; `own` is the program's for this key."""

    id: AccountId
    limit: Decimal = NONE
    own: Decimal | None = None
    spent: Decimal = NONE
    extra: Decimal = NONE
    leases: dict[str, Lease] = field(default_factory=dict)
    slices: list[tuple[float, Decimal]] = field(default_factory=list)
    rolling_s: float | None = None
    ends_at: float | None = None
    wanted_by: str = ""
    wanted_until: float = 0.0
    marks: set[str] = field(default_factory=set)

    def exchange(self, message: Message, limit: Decimal, now: float) -> Reply:
        """Do what `Store.exchange` says; `limit` is the one that holds, `now` the store's clock."""
        self.limit, self.rolling_s, self.ends_at = limit, message.rolling_s, message.ends_at
        self._let_go(now)
        lease = self.leases.get(message.lease)
        if lease is None:
            if message.number > 1 and not self.leases and not self.spent:
                raise StoreLost(f"the store no longer knows what was spent of {self.id}")
            lease = self.leases[message.lease] = Lease()
        if message.number > lease.number:
            if lease.number < message.number - 1 and not lease.freed:
                lease.granted = message.granted  # the store has lost messages: the process knows better
            spent = max(lease.spent, up(message.spent, self.id.unit))
            self._spend(spent - lease.spent, now)
            lease.number, lease.spent, lease.freed = message.number, spent, False
            lease.granted = max(lease.granted, spent)  # what was spent without a grant counts all the same
            lease.granted -= down(min(message.returns, lease.left), self.id.unit)
            lease.expires_at, lease.free_if_lost = now + message.ttl_s, message.lost_lease == "free"
            lease.granted += self._grant(message, now)
        return Reply(lease.granted, self.state(now, message.lease))

    def state(self, now: float, asks: str = "") -> State:
        """Return the account as it is at `now`, for the process whose lease is `asks`."""
        self._let_go(now)
        living = [lease for lease in self.leases.values() if lease.expires_at > now and lease.left]
        lost = sum((lease.left for lease in self.leases.values() if lease.expires_at <= now), NONE)
        return State(
            limit=self.limit + self.extra,
            spent=self.spent + lost,
            leased=sum((lease.left for lease in living), NONE),
            leases=len(living),
            now=now,
            wanted=self.wanted_until > now and self.wanted_by != asks,
            opens_at=self.slices[0][0] if self.slices else None,
        )

    def change(self, what: Literal["top-up", "reset"], amount: Decimal, who: str, now: float) -> Change:
        """Top the limit up, or forget what was spent (what living leases hold stays held); returns the line for the audit log."""
        self._let_go(now)
        if what == "top-up":
            before, after = self.limit + self.extra, self.limit + self.extra + amount
            self.extra += amount
        else:
            before, after = self.spent, NONE
            self.spent, self.slices = NONE, []
            self.marks.clear()
            for lease in self.leases.values():
                if lease.expires_at <= now and lease.left:
                    lease.granted, lease.freed = lease.spent, True
        name = self.id
        return Change(
            at=now,
            who=who,
            what=what,
            budget=name.budget,
            unit=name.unit,
            key=name.key,
            window=name.window,
            before=before,
            after=after,
        )

    def _grant(self, message: Message, now: float) -> Decimal:
        """Return what a lease gets: all that it wants while there is much, a share of what is left when there is little."""
        if not message.wants:
            return NONE
        state = self.state(now)
        share = state.free / (2 * max(1, state.leases))
        least = up(message.least, self.id.unit)
        amount = down(min(state.free, max(least, min(message.wants, share))), self.id.unit)
        if amount <= 0 or amount < least:
            self.wanted_by, self.wanted_until = message.lease, now + WANTED_S
            return NONE
        return amount

    def _let_go(self, now: float) -> None:
        """Take back what lost leases had left, where it is free, and what a rolling window no longer counts."""
        for name, lease in list(self.leases.items()):
            if lease.free_if_lost and lease.expires_at <= now and lease.left:
                lease.granted, lease.freed = lease.spent, True
            if not lease.left and lease.expires_at + FORGET_S <= now:
                del self.leases[name]  # its owner starts a new one long before
        while self.slices and self.slices[0][0] <= now:
            self.spent -= self.slices.pop(0)[1]

    def _spend(self, amount: Decimal, now: float) -> None:
        self.spent += amount
        if self.rolling_s is not None and amount:
            step = self.rolling_s / SLICES
            until = (now // step + 1) * step + self.rolling_s
            if self.slices and self.slices[-1][0] >= until:
                self.slices[-1] = (self.slices[-1][0], self.slices[-1][1] + amount)
            else:
                self.slices.append((until, amount))

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready; amounts are strings, so that no digit is lost."""
        return {
            "limit": str(self.limit),
            "own": None if self.own is None else str(self.own),
            "spent": str(self.spent),
            "extra": str(self.extra),
            "leases": {
                name: [x.number, str(x.granted), str(x.spent), x.expires_at, x.free_if_lost, x.freed]
                for name, x in self.leases.items()
            },
            "slices": [[until, str(amount)] for until, amount in self.slices],
            "rolling_s": self.rolling_s,
            "ends_at": self.ends_at,
            "wanted": [self.wanted_by, self.wanted_until],
            "marks": sorted(self.marks),
        }

    @classmethod
    def from_dict(cls, account: AccountId, said: dict[str, Any]) -> Ledger:
        """Return what `to_dict` has written."""
        return cls(
            id=account,
            limit=Decimal(said["limit"]),
            own=None if said["own"] is None else Decimal(said["own"]),
            spent=Decimal(said["spent"]),
            extra=Decimal(said["extra"]),
            leases={
                name: Lease(number, Decimal(granted), Decimal(spent), *rest)
                for name, (number, granted, spent, *rest) in said["leases"].items()
            },
            slices=[(until, Decimal(amount)) for until, amount in said["slices"]],
            rolling_s=said["rolling_s"],
            ends_at=said["ends_at"],
            wanted_by=said["wanted"][0],
            wanted_until=said["wanted"][1],
            marks=set(said["marks"]),
        )
