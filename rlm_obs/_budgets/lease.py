"""One process's share of one account of a shared budget: spent here, told to the store now and then. Does no I/O."""

from __future__ import annotations

import secrets
import time
import weakref
from decimal import Decimal
from typing import TYPE_CHECKING

from rlm_obs._budgets.account import minus, plus, times
from rlm_obs._budgets.store import AccountId, Message, Reply, State

if TYPE_CHECKING:
    from rlm_obs._budgets.account import Account
    from rlm_obs._budgets.sharing import Terms

NONE = Decimal(0)
#: A refusal rests on what the store has said within so long.
FRESH_S = 1.0
#: The first share asked for, in times of what is short; it doubles with each that is used up.
FIRST = 8
#: After so long without an answer a lease is given up for a new one: a store forgets those with nothing left after two hours.
ABANDON_S = 1800.0
#: While less than this part of the limit is free, shares that nobody uses go back soon.
SCARCE = Decimal("0.1")
#: How often a store hears of what was spent, of a share that is not used up, and of one that others want.
SPENT_S, LEFT_S, SCARCE_S = 2.0, 5.0, 1.0
#: After so long without a call a share goes back; soon, where others want it.
IDLE_S, IDLE_SCARCE_S = 30.0, 2.0


def clock() -> float:
    """Return seconds that go on while the machine sleeps, where the system has such a clock."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Lease:
    """What this process may still spend of one account. Every method is called under the desk's lock."""

    __slots__ = (
        "_expires",
        "_expires_wall",
        "_next_try",
        "_owner",
        "_reported",
        "_share",
        "_tries",
        "account",
        "asked",
        "elsewhere",
        "failed",
        "granted",
        "learnt_at",
        "name",
        "number",
        "pending_since",
        "replied_at",
        "sending",
        "short",
        "spent",
        "state",
        "terms",
        "used_at",
    )

    def __init__(self, account: AccountId, terms: Terms, owner: Account) -> None:
        self.account, self.terms = account, terms
        self._owner = weakref.ref(owner)
        self.start_anew()

    def start_anew(self) -> None:
        """Be a lease that nobody has heard of: at first, in a forked child, and after a long silence."""
        self.name, self.number = secrets.token_hex(8), 0
        self.granted = self.spent = self._reported = self.short = self._share = self.elsewhere = NONE
        self._expires = self._expires_wall = self._next_try = self.replied_at = self.learnt_at = self.used_at = 0.0
        self._tries = 0
        self.asked = self.sending = False
        self.pending_since: float | None = None
        self.failed: Exception | None = None
        self.state: State | None = None

    # -- what calls do with it ---------------------------------------------------------------------------------------

    def room(self) -> Decimal:
        """Return what may be spent and held here; nothing once its time has passed: then the store is asked again."""
        return self._left() if self.living() else NONE

    def living(self) -> bool:
        """Tell whether it holds: by a clock that never stops, and by the wall's, whichever is further."""
        return clock() < self._expires and time.time() < self._expires_wall

    def spend(self, amount: Decimal) -> None:
        """Enter what a call has cost."""
        clean = self.spent == self._reported
        self.spent = plus(self.spent, amount)
        self.used_at = clock()
        if clean:
            self._wake(urgent=False)

    def ask(self, amount: Decimal) -> None:
        """Ask the store for `amount` more, as soon as that makes sense."""
        self.short, self.asked = max(NONE, amount), True
        if self.pending_since is None:
            self.pending_since = max(clock(), self._next_try)
        self._wake(urgent=True)

    def fresh(self) -> bool:
        """Tell whether what is known of the account is new enough to refuse a call by."""
        return self.state is not None and clock() - self.learnt_at <= FRESH_S

    def down(self) -> Exception | None:
        """Return why the store cannot be asked, or None while it can, or its answer may still come."""
        if self.failed is not None:
            return self.failed
        if self.pending_since is not None and clock() - self.pending_since >= self.terms.timeout_s:
            return TimeoutError(f"no answer within {self.terms.timeout_s:g} s")
        return None

    def patience_s(self) -> float | None:
        """Return in how many seconds an answer of the store is overdue; None while none is waited for."""
        return None if self.pending_since is None else self.pending_since + self.terms.timeout_s - clock()

    def now(self) -> float:
        """Return the store's time (seconds since 1970), as it went on since its last answer."""
        return time.time() if self.state is None else self.state.now + clock() - self.learnt_at

    # -- what its keeper does with it --------------------------------------------------------------------------------

    def due_in(self, held: Decimal, pace: float = 1.0) -> float | None:
        """Return in how many seconds the store should hear of it; None while there is nothing to say.

        `pace` stretches the times of those that nobody waits for: a process with many accounts is no load on its store.
        """
        now = clock()
        if self.sending:
            return None
        if self.asked:
            return max(0.0, self._next_try - now)
        every = self.terms.ttl_s / 3
        if self.spent != self._reported:
            every = min(every, SPENT_S * pace)
        elif self._left():
            every = min(every, (SCARCE_S if self._is_scarce() else LEFT_S) * pace)
        elif not held:
            return None
        return max(0.0, self._next_try - now, self.replied_at + every - now)

    def message(self, held: Decimal, *, closing: bool = False) -> Message:
        """Return the next message: what was spent, what goes back, what is wanted; in a `closing` one, nothing is.

        Whoever waits in line asks again once it is answered.
        """
        now, asked = clock(), self.asked and not closing
        if self.number and now - self.replied_at > ABANDON_S:
            unreported, short = self.unreported(), self.short
            self.start_anew()
            self.spent, self.short = unreported, short
        idle_s = IDLE_SCARCE_S if self._is_scarce() else IDLE_S
        idle = not held and not asked and now - self.used_at >= idle_s
        wanted = self.state is not None and self.state.wanted and not asked
        in_vain = asked and self._tries > 0  # what is too little for this process may be enough for another
        returns = max(NONE, minus(self._left(), held)) if closing or idle or wanted or in_vain else NONE
        least = plus(self.short, returns) if asked else NONE
        wants = self._share = max(times(self._share, 2), times(least, FIRST)) if least else NONE
        self.number += 1
        message = Message(
            lease=self.name,
            number=self.number,
            limit=self.terms.limit_of(self.account),
            own=self.terms.is_own(self.account),
            granted=self.granted,
            spent=self.spent,
            returns=returns,
            wants=wants,
            least=least,
            ttl_s=self.terms.ttl_s,
            lost_lease=self.terms.lost_lease,
            rolling_s=self.terms.rolling_s,
            ends_at=None if (owner := self._owner()) is None else owner.ends_at,
        )
        self.granted = minus(self.granted, returns)  # given away with the message, whether its answer comes or not
        self.asked, self.sending = False, True
        if self.pending_since is None:
            self.pending_since = now
        return message

    def replied(self, message: Message, reply: Reply, sent_at: float, wall_sent_at: float) -> None:
        """Take in an answer. The time of the lease runs from before the message was sent.

        What was asked for meanwhile is forgotten: whoever waits in line asks again, once this answer does not do.
        """
        got_more = reply.granted > minus(message.granted, message.returns)
        if message.wants and not got_more:
            self._tries += 1
            self._share = NONE
            self._next_try = clock() + min(0.5, 0.02 * 2 ** min(self._tries, 5))
        else:
            self._tries, self._next_try = 0, 0.0
        self.granted, self._reported = reply.granted, message.spent
        self.learnt(reply.state)
        self._expires, self._expires_wall = sent_at + message.ttl_s, wall_sent_at + message.ttl_s
        self.replied_at, self.asked, self.sending = clock(), False, False
        self.failed = self.pending_since = None

    def learnt(self, state: State) -> None:
        """Take in how the account stands, as a reader has asked the store; the lease itself is what it was."""
        mine = max(NONE, minus(self.granted, self._reported)) if self.number else NONE
        self.elsewhere = max(NONE, minus(state.leased, mine))
        self.state, self.learnt_at = state, clock()
        owner = self._owner()
        if owner is not None:
            owner.limit, owner.spent = state.limit, plus(state.spent, self.unreported())

    def failed_with(self, error: Exception) -> None:
        """Note that the store could not be asked; it is tried again soon."""
        self.failed, self.sending, self.pending_since = error, False, None
        self._tries += 1
        self._next_try = clock() + min(2.0, 0.1 * 2 ** min(self._tries, 5))

    def unreported(self) -> Decimal:
        """Return what was spent since the last message that was answered."""
        return minus(self.spent, self._reported)

    def _wake(self, *, urgent: bool) -> None:
        owner = self._owner()
        if owner is not None:
            self.terms.keeper.wake(owner, urgent=urgent)

    def _left(self) -> Decimal:
        return minus(self.granted, self.spent)

    def _is_scarce(self) -> bool:
        """Tell whether others want what this process has."""
        state = self.state
        if state is None:
            return False
        return state.wanted or (state.leases > 1 and state.free < max(times(state.limit, SCARCE), self._left()))
