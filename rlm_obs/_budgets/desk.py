"""Who may spend what is left: reserve before the call, settle after it, wait in line in between. Does no I/O.

One lock guards every budget in memory, so a call is held in all the budgets it falls under, or in none.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from decimal import Decimal

from rlm_obs._budgets import refusals
from rlm_obs._budgets.account import NONE, Account, Hold, Need, Owner, here, minus, plus, running_loop, whoever
from rlm_obs._budgets.line import Waiting
from rlm_obs._guard import log
from rlm_obs.errors import CallRefused, RlmObsError, amount_of

LOG_WAIT_AFTER_S = 5.0
#: The shortest pause of a call in line between two looks at what it waits for.
LOOK_S = 0.02
Verdict = tuple[int | None, CallRefused | None]  # the output there is room for, or why there is none; neither: wait


class Desk:
    """Where calls ask for money. First come, first served: a call that waits is never overtaken by a later one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._line: dict[Waiting, None] = {}

    # -- what calls ask ----------------------------------------------------------------------------------------------

    def hold_at_once(self, most: Decimal, accounts: tuple[Account, ...], label: str) -> Hold | None:
        """Hold what a call costs at most, in dollars of this process alone: the way of most calls. None where there is not
        room for all of it, where somebody waits, or where an account counts anything else: then `ask`."""
        owner = (here.thread, None) if running_loop() is None else whoever()
        with self.lock:
            if self._line:
                return None
            for account in accounts:
                limit = account.limit
                if not account.simple or (limit is not None and plus(account.held, most) > minus(limit, account.spent)):
                    return None
            hold = Hold(accounts, most, owner, label)
            for account in accounts:
                account.held = plus(account.held, most)
                account.holds[id(hold)] = hold
                hold.amounts += (most,)
        return hold

    def ask(
        self,
        need: Need,
        accounts: tuple[Account, ...],
        label: str,
        *,
        may_wait: bool,
        renew: Callable[[], tuple[Account, ...]] | None = None,
    ) -> Hold | Waiting:
        """Hold the most that a call can cost in all `accounts`, or stand in line for it.

        Raises BudgetExceeded where the money is spent, the call could never fit, or waiting would wait for itself, and
        BudgetUnavailable where a store cannot be asked. `may_wait=False` (a blocking call inside a running event loop)
        waits for a store's answer only. `renew` gives the accounts of the next window, if one ends meanwhile.
        """
        owner = whoever()
        found = self._ask(need, accounts, owner, label, may_wait, renew)
        if found is None:
            need.settle_least()
            found = self._ask(need, accounts, owner, label, may_wait, renew)
        assert found is not None
        return found

    def _ask(
        self,
        need: Need,
        accounts: tuple[Account, ...],
        owner: Owner,
        label: str,
        may_wait: bool,
        renew: Callable[[], tuple[Account, ...]] | None,
    ) -> Hold | Waiting | None:
        """Do what `ask` does; None if the call cannot go at once, and could be lowered by a `least` still open."""
        with self.lock:
            tokens, refusal = self._judge(need, accounts, owner)
            if tokens is not None and not (self._line and self._is_behind(need, accounts, owner)):
                return self._grant(need, accounts, owner, label, tokens)
            if need.lowerable and need.least is None:
                return None
            brief = refusal is None and not may_wait
            if brief and not any(a.lease is not None and a.lease.pending_since is not None for a in accounts):
                refusal = refusals.in_event_loop(need, self._short(need, accounts))
            if refusal is not None:
                raise refusal
            waiting = Waiting(self, need, accounts, owner, label, brief=brief, renew=renew)
            self._line[waiting] = None
            return waiting

    def extend(self, hold: Hold, amount: Decimal, tokens: int) -> CallRefused | None:
        """Hold `amount` dollars and `tokens` more for a call that is still running, or return why there is no room."""
        with self.lock:
            need = Need(amount, amount, tokens)
            for account in hold.accounts:
                more = NONE if account.unit == "calls" else need.most_of(account.unit)
                if account.binds(need) and account.enforcement != "check" and plus(account.held, more) > account.room():
                    return refusals.outgrown(need, account)
            amounts = []
            for account, held in zip(hold.accounts, hold.amounts, strict=True):
                more = NONE if account.unit == "calls" else need.most_of(account.unit)
                account.enlarge(hold, more)
                amounts.append(plus(held, more))
            hold.amount = plus(hold.amount, amount)
            hold.amounts = tuple(amounts)
            return None

    def settle(self, hold: Hold, charge: Decimal, tokens: int = 0) -> None:
        """Replace a hold with what the call cost, in dollars and tokens. Raises RlmObsError if it was settled before."""
        with self.lock:
            if hold.settled:
                raise RlmObsError(f"the hold of {hold.label!r} was settled before")
            hold.settled = True
            if hold.kind is not None:  # a lowered call, and one that cost nothing, say little of what others cost
                hold.kind.end(hold.number, None if hold.tokens is not None else charge or None)
            for account, amount in zip(hold.accounts, hold.amounts, strict=True):
                if account.simple and account.holds.pop(id(hold), None) is hold:  # as the two below do, in one go
                    account.held = minus(account.held, amount) if account.holds else NONE
                    account.spent = plus(account.spent, charge)
                else:
                    account.give_back(hold, amount)
                    account.use(charge, tokens)
            if self._line:
                self.serve()

    def spend(self, accounts: tuple[Account, ...], charge: Decimal, tokens: int = 0) -> None:
        """Enter what a call cost that was never held: no budget was in force when it began."""
        with self.lock:
            for account in accounts:
                account.use(charge, tokens)

    def release(self, hold: Hold) -> None:
        """Return a hold whose call was never sent."""
        with self.lock:
            if not hold.settled:
                self._return(hold)
                self.serve()

    def change_limit(self, account: Account, limit: Decimal | None) -> None:
        """Give a budget another limit, at once and for those in line too."""
        with self.lock:
            account.limit = limit
            self.serve()

    # -- what those in line ask --------------------------------------------------------------------------------------

    def pause(self, waiting: Waiting, ends: float) -> float:
        """Return in how many seconds a call in line should be looked after, if nothing has woken it before."""
        now = time.monotonic()
        pauses = [ends - now]
        if not waiting.told:
            pauses.append(waiting.began + LOG_WAIT_AFTER_S - now)
        for account in waiting.accounts:
            if account.lease is not None and (left := account.lease.patience_s()) is not None:
                pauses.append(left)
            if account.ends_at is not None:
                pauses.append(account.ends_at - account.now())
        return min(max(LOOK_S, min(pauses)), max(0.0, pauses[0]))

    def look_after(self, waiting: Waiting) -> None:
        """See whether a window has ended or a store is silent; say once who holds the money that is waited for."""
        if not waiting.told and time.monotonic() - waiting.began >= LOG_WAIT_AFTER_S:
            waiting.told = True
            self.tell_why(waiting)
        with self.lock:
            if waiting.renew is not None and any(a.ended() for a in waiting.accounts):
                waiting.accounts = waiting.renew()
            self.serve()

    def give_up(self, waiting: Waiting) -> None:
        """Leave the line; what was granted meanwhile is returned."""
        if waiting.gone:  # also in a finaliser, which may run while this very thread has the lock
            return
        with self.lock:
            self._line.pop(waiting, None)
            if waiting.hold is not None:
                self._return(waiting.hold)
                waiting.hold = None
            self.serve()

    def take(self, waiting: Waiting, timeout_s: float) -> Hold:
        """Return what a waiting call was granted. Raises CallRefused (and kin) if it was refused, or waited too long."""
        with self.lock:
            if waiting.hold is not None:
                return waiting.hold
            if waiting.refusal is not None:
                raise waiting.refusal
            refusal = refusals.waited(waiting.need, self._short(waiting.need, waiting.accounts), timeout_s)
            del self._line[waiting]
            self.serve()
            raise refusal

    def tell_why(self, waiting: Waiting) -> None:
        """Log who holds the money that a call has been waiting for."""
        with self.lock:
            account = self._short(waiting.need, waiting.accounts)
            if next((w for w in self._line if account in w.accounts), None) is not waiting:
                return  # who stands in front has said it
            holders = sorted(account.holds.values(), key=lambda h: -h.amount)[:3]
            held, several = account.held, len(account.holds)
            elsewhere = NONE if account.lease is None else account.lease.elsewhere
        log.warning(
            "budget %r: a call (%s) has been waiting %.0f s for money that is only held: %d calls in flight hold %s (%s)%s. "
            "Set an output limit on the calls (max_completion_tokens), so that each holds less.",
            account.name,
            waiting.label,
            time.monotonic() - waiting.began,
            several,
            amount_of(held, account.unit),
            ", ".join(f"{h.label} {amount_of(h.amounts[h.accounts.index(account)], account.unit)}" for h in holders),
            f", other processes {amount_of(elsewhere, account.unit)}" if elsewhere else "",
        )

    # -- what is decided, under the lock -----------------------------------------------------------------------------

    def serve(self) -> None:
        """Go through the line from its head; who still has to wait keeps the later ones off the same money."""
        blocked: set[Account] = set()
        waited_for: set[Owner] | None = None
        for waiting in list(self._line):
            wanted = _wanted(waiting.need, waiting.accounts)
            behind = not blocked.isdisjoint(wanted)
            if behind and waited_for is None:
                waited_for = self._waited_for()
            if behind and waiting.owner not in waited_for:  # type: ignore[operator]  # found above
                blocked.update(wanted)  # nobody overtakes it on the rest of its money either
                continue
            tokens, refusal = self._judge(waiting.need, waiting.accounts, waiting.owner)
            if tokens is None and refusal is None:
                asked = any(a.lease is not None and a.lease.pending_since is not None for a in waiting.accounts)
                if not waiting.brief or asked:
                    blocked.update(wanted)
                    continue
                refusal = refusals.in_event_loop(waiting.need, self._short(waiting.need, waiting.accounts))
            del self._line[waiting]
            hold = None
            if tokens is not None:
                hold = self._grant(waiting.need, waiting.accounts, waiting.owner, waiting.label, tokens)
            try:
                waiting.resolve(hold, refusal)
            except RuntimeError:  # its event loop was closed under it: nobody will come for the hold
                waiting.gone = True
                if hold is not None:
                    self._return(hold)

    def _judge(self, need: Need, accounts: tuple[Account, ...], owner: Owner) -> Verdict:
        """Return how much output there is room for, or why there will be none; neither: the call has to wait."""
        tokens, must_wait = need.tokens, False
        for account in accounts:
            if account.fits_now(need) or not account.binds(need):
                continue
            left, lease = account.left(), account.lease
            if left > 0 and (lease is None or lease.state is not None):
                room = left if lease is None else min(left, lease.room())
                if account.enforcement == "check" or account.held_with(need, need.tokens) <= room:
                    continue
            affordable, refusal = self._judge_alone(need, account, left, owner)
            if refusal is None and affordable is not None:
                tokens = min(tokens, affordable)
                if account.held_with(need, affordable) <= account.room():
                    continue
            if account.lease is not None and (refusal is None or not account.lease.fresh()):
                down = account.lease.down()
                if down is not None and account.lease.terms.lets_through(down):
                    continue  # counted, and told to the store later
                account.lease.ask(
                    minus(account.held_with(need, need.tokens if affordable is None else affordable), account.room())
                )
                refusal = None if down is None else refusals.unavailable(account, down)
            if refusal is not None:
                return None, refusal
            must_wait = True
        return (None, None) if must_wait else (tokens, None)

    @staticmethod
    def _judge_alone(need: Need, account: Account, left: Decimal, owner: Owner) -> Verdict:
        """Return the output that there is room for once all others have settled, and cost nothing; or why there is none."""
        if left <= 0:
            return None, refusals.spent(need, account)
        if account.enforcement == "check":
            return need.tokens, None
        own = account.held_by(owner) if account.holds else NONE
        if need.most_of(account.unit) <= minus(left, own):
            return need.tokens, None
        if not (need.lowerable and account.clamp) or account.unit == "calls":
            return None, refusals.too_large(need, account, own)
        affordable = need.affordable(minus(left, own), account.unit)
        if affordable < account.min_output_tokens:
            return None, refusals.too_large(need, account, own)
        return affordable, None

    @staticmethod
    def _grant(need: Need, accounts: tuple[Account, ...], owner: Owner, label: str, tokens: int) -> Hold:
        """Hold what the call costs at most, with its output limited to `tokens`."""
        whole = tokens >= need.tokens
        amount = need.most if whole else need.cost(tokens)
        hold = Hold(accounts, amount, owner, label)
        if not whole:
            hold.tokens = tokens
        if need.kind is not None:
            hold.kind, hold.number = need.kind, need.kind.begin()
        for account in accounts:
            held = amount if account.unit == "usd" else need.cost(tokens, account.unit)
            hold.amounts += (account.take(hold, need, held),)
        return hold

    @staticmethod
    def _return(hold: Hold) -> None:
        hold.settled = True
        if hold.kind is not None:
            hold.kind.end(hold.number, None)
        for account, amount in zip(hold.accounts, hold.amounts, strict=True):
            account.give_back(hold, amount)

    def _is_behind(self, need: Need, accounts: tuple[Account, ...], owner: Owner) -> bool:
        """Tell whether a call has to stand behind others: it wants the same money, and none of them waits for it."""
        mine = _wanted(need, accounts)
        if all(mine.isdisjoint(_wanted(w.need, w.accounts)) for w in self._line):
            return False
        return owner not in self._waited_for(mine)

    def _waited_for(self, too: Iterable[Account] = ()) -> set[Owner]:
        """Return who holds some of the money that is wanted in line (and `too`): those in line may be waiting for these,
        whatever they ask for."""
        wanted = {account for waiting in self._line for account in _wanted(waiting.need, waiting.accounts)}.union(too)
        return {hold.owner for account in wanted for hold in account.holds.values() if any(hold.amounts)}

    @staticmethod
    def _short(need: Need, accounts: tuple[Account, ...]) -> Account:
        """Return the budget with the least room for the call, to name in an error."""
        limited = [a for a in accounts if a.limit is not None] or list(accounts)
        return min(limited, key=lambda a: minus(minus(a.limit or NONE, a.spent), plus(a.held, need.most_of(a.unit))))

    def after_fork(self) -> None:
        """Start anew in a forked child: its parent's calls in flight are not its own."""
        self.lock = threading.Lock()
        self._line.clear()


def _wanted(need: Need, accounts: tuple[Account, ...]) -> set[Account]:
    """Return the accounts of which a call wants something that may not be there: who only counts it keeps nobody waiting."""
    return {account for account in accounts if account.binds(need) and need.most_of(account.unit)}


desk = Desk()
if hasattr(os, "register_at_fork"):
    # Taken around the fork, so that the child never inherits a half-made change.
    os.register_at_fork(
        before=lambda: desk.lock.acquire(),
        after_in_parent=lambda: desk.lock.release(),
        after_in_child=lambda: desk.after_fork(),
    )
