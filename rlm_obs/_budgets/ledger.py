"""What a message does to an account: the one place where a shared budget's arithmetic is written. Does no I/O.

Stores in Python keep a `Ledger` an account and run `exchange` under their own lock or transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Any, Literal

from rlm_obs._budgets.limits import Limits
from rlm_obs._budgets.store import EXACT, WANTED_S, AccountId, Change, Message, Reply, State, StoreLost, down, up

NONE = Decimal(0)
#: A rolling window lets go of what was spent in steps of this share of it.
SLICES = 60
#: A lease is forgotten so long after its time, and what it had left stays spent; no process uses one for so long unheard.
FORGET_S = 7200.0
#: An account is forgotten so long after its window has ended.
KEEP_ENDED_S = 31 * 86_400.0


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

    def give_back(self) -> None:
        """Lose what is left to the account; its owner may not know yet."""
        if self.left:
            self.granted, self.freed = self.spent, True


@dataclass(slots=True)
class Ledger:
    """One account as a store keeps it. `spent` is the truth; `extra` tops the limit up.

    `said` is the limit that the program said last, `own` whether it meant this key alone: the limit that holds depends on
    what is declared and set too. `slices`: until when -> what a rolling window counts until then.
    """

    id: AccountId
    said: Decimal | None = None
    own: bool = False
    spent: Decimal = NONE
    extra: Decimal = NONE
    leases: dict[str, Lease] = field(default_factory=dict)
    slices: dict[float, Decimal] = field(default_factory=dict)
    rolling_s: float | None = None
    ends_at: float | None = None
    wanted_by: str = ""
    wanted_until: float = 0.0
    marks: set[str] = field(default_factory=set)

    def exchange(self, message: Message, limits: Limits, now: float) -> Reply:
        """Do what `Store.exchange` says; `limits` are the budget's, `now` is the store's clock."""
        with localcontext(EXACT):
            self._let_go(now)
            lease = self.leases.get(message.lease)
            if lease is None:
                if message.granted > 0 and not self.leases and not self.spent:
                    raise StoreLost(f"the store no longer knows what was spent of {self.id}")
                lease = self.leases[message.lease] = Lease()
            if message.number > lease.number:
                self.said, self.own = message.limit, message.own
                self.rolling_s, self.ends_at = message.rolling_s, message.ends_at
                self._take_in(lease, message, now)
                lease.granted += self._grant(message, limits, now)
            return Reply(lease.granted, self.state(limits, now, message.lease))

    def limit(self, limits: Limits) -> Decimal | None:
        """Return the limit that holds without what tops it up, None where nobody has ever said one."""
        return limits.of(self.id, self.said if self.own else None, self.said)

    def state(self, limits: Limits, now: float, asks: str = "") -> State:
        """Return the account as it is at `now`, for the process whose lease is `asks`."""
        with localcontext(EXACT):
            self._let_go(now)
            living = [lease for lease in self.leases.values() if lease.expires_at > now and lease.left]
            lost = [lease for lease in self.leases.values() if lease.expires_at <= now and lease.left]
            opens = [*self.slices, *(lease.expires_at + self.rolling_s for lease in lost if self.rolling_s is not None)]
            return State(
                limit=(self.limit(limits) or NONE) + self.extra,
                spent=self.spent + sum((lease.left for lease in lost), NONE),
                leased=sum((lease.left for lease in living), NONE),
                leases=len(living),
                now=now,
                wanted=self.wanted_until > now and self.wanted_by != asks,
                opens_at=min(opens, default=None),
                ends_at=self.ends_at,
            )

    def change(
        self, what: Literal["top-up", "reset"], amount: Decimal, who: str, limits: Limits, now: float
    ) -> tuple[Change, State]:
        """Top the limit up, or forget what was spent (what living leases hold stays held); returns the audit log's line too."""
        before = self.state(limits, now)
        if what == "top-up":
            self.extra = EXACT.add(self.extra, amount)
        else:
            self.spent = NONE
            self.slices.clear()
            self.marks.clear()
            for lease in self.leases.values():
                if lease.expires_at <= now:
                    lease.give_back()
        after = self.state(limits, now)
        name = self.id
        change = Change(
            at=now,
            who=who,
            what=what,
            budget=name.budget,
            unit=name.unit,
            key=name.key,
            window=name.window,
            before=before.limit if what == "top-up" else before.spent,
            after=after.limit if what == "top-up" else after.spent,
        )
        return change, after

    def has_ended(self, now: float) -> bool:
        """Tell whether its window ended so long ago that it may be forgotten."""
        return self.ends_at is not None and self.ends_at + KEEP_ENDED_S <= now

    def _take_in(self, lease: Lease, message: Message, now: float) -> None:
        """Enter what the owner of a lease has spent and gives back."""
        lease.freed = lease.freed and message.granted > lease.granted  # until its owner has learned of it
        if lease.number < message.number - 1 and not lease.freed:
            lease.granted = down(message.granted, self.id.unit)  # the store has lost messages: the process knows better
        spent = max(lease.spent, up(message.spent, self.id.unit))
        self._spend(spent - lease.spent, now)
        lease.number, lease.spent = message.number, spent
        lease.granted = max(lease.granted, spent)  # what was spent without a grant counts all the same
        lease.granted -= down(max(NONE, min(message.returns, lease.left)), self.id.unit)
        lease.expires_at, lease.free_if_lost = now + message.ttl_s, message.lost_lease == "free"

    def _grant(self, message: Message, limits: Limits, now: float) -> Decimal:
        """Return what a lease gets: all that it wants while there is much, a share of what is left when there is little."""
        if message.wants <= 0:
            return NONE
        state = self.state(limits, now)
        share = state.free / (2 * max(1, state.leases))
        least = up(message.least, self.id.unit)
        amount = down(min(state.free, max(least, min(message.wants, share))), self.id.unit)
        if amount <= 0 or amount < least:
            self.wanted_by, self.wanted_until = message.lease, now + WANTED_S
            return NONE
        return amount

    def _let_go(self, now: float) -> None:
        """Take back what lost leases had left, where it is free by now, and what a rolling window no longer counts."""
        for name, lease in list(self.leases.items()):
            if lease.expires_at > now:
                continue
            if lease.free_if_lost or (self.rolling_s is not None and lease.expires_at + self.rolling_s <= now):
                lease.give_back()
            if lease.expires_at + FORGET_S <= now:
                self._spend(lease.left, lease.expires_at)
                del self.leases[name]  # its owner starts a new one long before
        for until in [until for until in self.slices if until <= now]:
            self.spent -= self.slices.pop(until)

    def _spend(self, amount: Decimal, at: float) -> None:
        self.spent += amount
        if self.rolling_s is not None and amount:
            step = self.rolling_s / SLICES
            until = (at // step + 1) * step + self.rolling_s
            self.slices[until] = self.slices.get(until, NONE) + amount

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready; amounts are strings, so that no digit is lost."""
        return {
            "said": None if self.said is None else str(self.said),
            "own": self.own,
            "spent": str(self.spent),
            "extra": str(self.extra),
            "leases": {
                name: [x.number, str(x.granted), str(x.spent), x.expires_at, x.free_if_lost, x.freed]
                for name, x in self.leases.items()
            },
            "slices": [[until, str(amount)] for until, amount in self.slices.items()],
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
            said=None if said["said"] is None else Decimal(said["said"]),
            own=said["own"],
            spent=Decimal(said["spent"]),
            extra=Decimal(said["extra"]),
            leases={
                name: Lease(number, Decimal(granted), Decimal(spent), *rest)
                for name, (number, granted, spent, *rest) in said["leases"].items()
            },
            slices={until: Decimal(amount) for until, amount in said["slices"]},
            rolling_s=said["rolling_s"],
            ends_at=said["ends_at"],
            wanted_by=said["wanted"][0],
            wanted_until=said["wanted"][1],
            marks=set(said["marks"]),
        )
