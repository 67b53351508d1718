"""What a call needs, what is held for it, and the accounts it is held in: a budget's dollars, tokens or calls. Does no I/O."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any

from rlm_obs._budgets.crowd import Crowd, Kind, One
from rlm_obs._budgets.rolling import Rolling
from rlm_obs._record import EXACT

if TYPE_CHECKING:
    from rlm_obs._budgets.lease import Lease

NONE, ONE = Decimal(0), Decimal(1)
#: Sums are exact whatever precision the program counts with; each costs what `+` and `-` do.
plus, minus, times = EXACT.add, EXACT.subtract, EXACT.multiply
#: Sums of holds stay exact, and none is too small.
GRAIN = Decimal("1e-12")
#: Who waits for whom: the thread and the asyncio task. Weak, so that no id is taken for a dead one's, and nobody is kept alive.
Owner = tuple["weakref.ref[threading.Thread]", "weakref.ref[asyncio.Task[Any]] | None"]


@dataclass(slots=True)
class Need:
    """What a call may cost: `least` is its input alone, `most` with all the output it may write (US dollars).

    `least` may be left open (None) with `find_least` to ask: it is asked only where money is short, never under a lock.
    `tokens` is that output; `lowerable` if the user set no output limit, so that it may be lowered to what is left.
    `input_tokens` is the bound of the input. A `free` call passes a budget of dollars that is used up. `kind` is what
    such calls have cost, where a budget holds that.
    """

    least: Decimal | None
    most: Decimal
    tokens: int = 0
    lowerable: bool = False
    free: bool = False
    find_least: Callable[[], Decimal | None] | None = None
    input_tokens: int = 0
    kind: Kind | None = None

    def settle_least(self) -> bool:
        """Ask what the input alone costs, if that is still open and matters; True if it was."""
        if self.least is not None or not self.lowerable:
            return False
        found = None if self.find_least is None else self.find_least()
        self.least = self.most if found is None else found
        return True

    def most_of(self, unit: str) -> Decimal:
        """Return the most that the call can use of a unit."""
        if unit == "usd":
            return self.most
        return ONE if unit == "calls" else Decimal(self.input_tokens + self.tokens)

    def affordable(self, left: Decimal, unit: str = "usd") -> int:
        """Return how many output tokens `left` pays for, beside the input."""
        if unit == "tokens":
            return min(self.tokens, max(0, int(left) - self.input_tokens))
        if unit == "calls":
            return self.tokens if left >= 1 else 0
        least = self.most if self.least is None else self.least
        if self.most <= least or not self.tokens:
            return 0 if self.most > left else self.tokens
        room = times(minus(minus(left, least), GRAIN), self.tokens)
        return max(0, int(EXACT.divide(room, minus(self.most, least))))

    def cost(self, tokens: int, unit: str = "usd") -> Decimal:
        """Return what the call uses at most, with its output limited to `tokens`."""
        if unit == "usd" and tokens >= self.tokens:
            return self.most
        if tokens >= self.tokens or unit == "calls":
            return self.most_of(unit)
        if unit == "tokens":
            return Decimal(self.input_tokens + tokens)
        if self.least is None:
            return self.most
        share = EXACT.divide(times(minus(self.most, self.least), tokens), self.tokens)
        return plus(self.least, share).quantize(GRAIN, ROUND_CEILING, EXACT)


@dataclass(slots=True, eq=False)
class Hold:
    """One call's reservation: `amount` in US dollars, `amounts` in each account. `tokens` is its output limit where that
    was lowered, `number` the call's among those of its `kind`."""

    accounts: tuple[Account, ...]
    amount: Decimal
    owner: Owner
    label: str
    amounts: tuple[Decimal, ...] = ()
    tokens: int | None = None
    settled: bool = False
    kind: Kind | None = None
    number: int = 0


@dataclass(slots=True, eq=False, weakref_slot=True)
class Account:
    """One amount that calls may use up: of one budget, in one unit, for one key, in one window.

    `spent` is settled, `held` is what calls in flight may still use. With a `lease` the amount is shared with other
    processes: `limit` and `spent` are what the store last said and what was spent here since.
    """

    name: str
    limit: Decimal | None
    enforcement: str = "reserve"
    clamp: bool = True
    min_output_tokens: int = 256
    unit: str = "usd"
    key: str = ""
    ends_at: float | None = None
    rolling: Rolling | None = None
    spent: Decimal = NONE
    held: Decimal = NONE
    holds: dict[int, Hold] = field(default_factory=dict)
    lease: Lease | None = None
    crowd: Crowd | None = None
    #: Dollars of this process alone, each of which is held before it is spent: see `Desk.hold_at_once`.
    simple: bool = False

    def binds(self, need: Need) -> bool:
        """Tell whether this account can refuse the call."""
        if self.limit is None or self.enforcement in ("warn", "off"):
            return False
        return not (need.free and self.unit == "usd")

    def fits_now(self, need: Need) -> bool:
        """Tell whether a call may go out here at once, all of it; False is to be looked at more closely."""
        limit, unit = self.limit, self.unit
        if limit is None or self.enforcement in ("warn", "off") or (need.free and unit == "usd"):
            return True
        if self.rolling is not None:
            return False
        room, lease = minus(limit, self.spent), self.lease
        if lease is not None:
            room = NONE if lease.state is None else min(room, lease.room())
        if room <= 0 or self.enforcement == "expected":
            return False
        return (
            self.enforcement == "check" or plus(self.held, need.most if unit == "usd" else need.most_of(unit)) <= room
        )

    def left(self) -> Decimal:
        """Return what is not spent yet, by anybody: what is held is still in it."""
        assert self.limit is not None
        if self.rolling is not None:
            self.spent = minus(self.spent, self.rolling.let_go(time.time()))
        return minus(self.limit, self.spent)

    def room(self) -> Decimal:
        """Return what may be held here, at this moment, without asking a store."""
        return self.left() if self.lease is None else min(self.left(), self.lease.room())

    def held_by(self, owner: Owner) -> Decimal:
        """Return what calls of this very thread or task hold: nobody may wait for that."""
        mine = NONE
        for hold in self.holds.values():
            if hold.owner == owner:
                mine = plus(mine, hold.amounts[hold.accounts.index(self)])
                if self.crowd is not None:
                    mine = plus(mine, self.crowd.calls[id(hold)].extra)
        return mine

    def held_with(self, need: Need, tokens: int) -> Decimal:
        """Return what would be held in all, with this call too."""
        if self.enforcement != "expected" or self.unit != "usd":
            return plus(self.held, need.cost(tokens, self.unit))
        return (self.crowd or Crowd()).total(One.of(need.kind, need.cost(tokens)))

    def fits(self, need: Need) -> bool:
        """Tell whether a call would be let out here without waiting, and without its output being lowered."""
        if not self.binds(need):
            return True
        left = self.left()
        elsewhere = NONE if self.lease is None else self.lease.elsewhere
        return left > 0 and (self.enforcement == "check" or plus(self.held_with(need, need.tokens), elsewhere) <= left)

    def take(self, hold: Hold, need: Need, amount: Decimal) -> Decimal:
        """Hold `amount` (or what such calls are expected to cost), and return how much it is."""
        if self.enforcement == "expected" and self.unit == "usd":
            crowd, one = self.crowd or Crowd(), One.of(need.kind, amount)
            self.crowd = crowd
            crowd.add(id(hold), one)
            self.held, amount = crowd.total(), one.mean
        else:
            self.held = plus(self.held, amount)
        self.holds[id(hold)] = hold
        return amount

    def give_back(self, hold: Hold, amount: Decimal) -> None:
        """End a hold."""
        if self.holds.pop(id(hold), None) is None:
            return
        crowd = self.crowd
        if crowd is not None:
            crowd.remove(id(hold), amount)
            self.held = crowd.total() if self.holds else NONE
            if not self.holds:
                self.crowd = None
        else:
            self.held = minus(self.held, amount) if self.holds else NONE

    def enlarge(self, hold: Hold, more: Decimal) -> None:
        """Hold more for a call that is held already."""
        if id(hold) in self.holds:
            if self.crowd is not None:
                self.crowd.means = plus(self.crowd.means, more)
            self.held = plus(self.held, more)

    def use(self, charge: Decimal, tokens: int) -> None:
        """Enter what a call has used: of its dollars, its tokens or itself, what is counted here."""
        unit = self.unit
        amount = charge if unit == "usd" else Decimal(tokens) if unit == "tokens" else ONE
        self.spent = plus(self.spent, amount)
        if self.lease is not None:
            self.lease.spend(amount)
        elif self.rolling is not None and amount:
            self.rolling.add(amount, time.time())

    def now(self) -> float:
        """Return the time by which its windows turn (seconds since 1970): the store's, where it is shared."""
        return time.time() if self.lease is None else self.lease.now()

    def ended(self) -> bool:
        """Tell whether its window is over."""
        return self.ends_at is not None and self.now() >= self.ends_at

    def opens_at(self) -> float | None:
        """Return when more can be spent (seconds since 1970), where time alone brings that about."""
        if self.rolling is not None:
            return self.rolling.opens_at()
        if self.lease is not None and self.lease.state is not None and self.lease.state.opens_at is not None:
            return self.lease.state.opens_at
        return self.ends_at

    def forget_calls(self) -> None:
        """In a forked child: the parent's calls in flight are not the child's."""
        self.held, self.crowd = NONE, None
        self.holds.clear()
        if self.lease is not None:
            self.lease.start_anew()


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum."""
    return reduce(plus, amounts, NONE)


class _Here(threading.local):
    """The thread that looks, found once for each."""

    def __init__(self) -> None:
        self.thread = weakref.ref(threading.current_thread())
        hash(self.thread)  # kept by the reference: it can be looked for when its thread is gone


here = _Here()
running_loop = asyncio._get_running_loop


def whoever() -> Owner:
    """Return who is running: the thread, and the asyncio task if there is one."""
    task = None if running_loop() is None else asyncio.current_task()
    if task is None:
        return here.thread, None
    reference = weakref.ref(task)
    hash(reference)
    return here.thread, reference


def in_event_loop() -> bool:
    """Tell whether a blocking wait here would stop an event loop."""
    return running_loop() is not None
