"""Who may spend what is left: reserve before the call, settle after it, wait in line in between. Does no I/O.

One lock guards every budget in memory, so a call is held in all the budgets it falls under, or in none.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any

from rlm_obs._guard import log
from rlm_obs.errors import BudgetExceeded, RlmObsError, money

NONE = Decimal(0)
GRAIN = Decimal("1e-12")
LOG_WAIT_AFTER_S = 5.0
#: Who waits for whom: the thread and the asyncio task. Weak, so that no id is taken for a dead one's, and nobody is kept alive.
Owner = tuple["weakref.ref[threading.Thread]", "weakref.ref[asyncio.Task[Any]] | None"]


@dataclass(slots=True, eq=False)
class Account:
    """One budget's money: `spent` is settled, `held` is what calls in flight may still cost (US dollars)."""

    name: str
    limit: Decimal | None
    enforcement: str = "reserve"
    clamp: bool = True
    min_output_tokens: int = 256
    spent: Decimal = NONE
    held: Decimal = NONE
    holds: dict[int, Hold] = field(default_factory=dict)

    def held_by(self, owner: Owner) -> Decimal:
        """Return what calls of this very thread or task hold: nobody may wait for that."""
        return sum((h.amount for h in self.holds.values() if h.owner == owner), NONE)


@dataclass(slots=True)
class Need:
    """What a call may cost: `least` is its input alone, `most` with all the output it may write.

    `least` may be left open (None) with `find_least` to ask: it is asked only where money is short, never under a lock.
    `tokens` is that output; `lowerable` if the user set no output limit, so that it may be lowered to what is left.
    A `free` call passes a budget that is used up.
    """

    least: Decimal | None
    most: Decimal
    tokens: int = 0
    lowerable: bool = False
    free: bool = False
    find_least: Callable[[], Decimal | None] | None = None

    def settle_least(self) -> bool:
        """Ask what the input alone costs, if that is still open and matters; True if it was."""
        if self.least is not None or not self.lowerable:
            return False
        found = None if self.find_least is None else self.find_least()
        self.least = self.most if found is None else found
        return True

    def affordable(self, left: Decimal) -> int:
        """Return how many output tokens `left` dollars pay for, beside the input."""
        least = self.most if self.least is None else self.least
        if self.most <= least or not self.tokens:
            return 0 if self.most > left else self.tokens
        return max(0, int((left - least - GRAIN) * self.tokens / (self.most - least)))

    def cost(self, tokens: int) -> Decimal:
        """Return what the call costs at most, with its output limited to `tokens`."""
        if tokens >= self.tokens or self.least is None:
            return self.most
        exact = self.least + (self.most - self.least) * tokens / self.tokens
        return exact.quantize(GRAIN, ROUND_CEILING)  # sums of holds stay exact, and none is too small


@dataclass(slots=True, eq=False)
class Hold:
    """One call's reservation in every account it falls under. `tokens` is its output limit where that was lowered."""

    accounts: tuple[Account, ...]
    amount: Decimal
    owner: Owner
    label: str
    tokens: int | None = None
    since: float = 0.0
    settled: bool = False


class Waiting:
    """A call that waits in line for money held by others; ends granted, refused, timed out or cancelled, once."""

    __slots__ = ("_desk", "_done", "_wake", "accounts", "began", "gone", "hold", "label", "need", "owner", "refusal")

    def __init__(self, desk: Desk, need: Need, accounts: tuple[Account, ...], owner: Owner, label: str) -> None:
        self._desk, self.need, self.accounts, self.owner, self.label = desk, need, accounts, owner, label
        self.hold: Hold | None = None
        self.refusal: BudgetExceeded | None = None
        self.gone = False
        self._done = threading.Event()
        self._wake: Callable[[], object] = self._done.set
        self.began = time.monotonic()

    def resolve(self, hold: Hold | None, refusal: BudgetExceeded | None) -> None:
        """Tell the waiting call its outcome, under the desk's lock. Raises RuntimeError if its event loop is gone."""
        self.hold, self.refusal = hold, refusal
        self._wake()

    def wait(self, timeout_s: float) -> Hold:
        """Block this thread until there is room. Raises BudgetExceeded where there will be none, or after a while."""
        try:
            first = min(LOG_WAIT_AFTER_S, timeout_s)
            if not self._done.wait(first) and timeout_s > first:
                self._desk.tell_why(self)
                self._done.wait(timeout_s - first)
        except BaseException:
            self._desk.give_up(self)
            raise
        return self._desk.take(self, timeout_s)

    async def wait_async(self, timeout_s: float) -> Hold:
        """Await until there is room, as `wait` does; a cancelled task leaves the line and holds nothing."""
        first = min(LOG_WAIT_AFTER_S, timeout_s)
        try:
            loop = asyncio.get_running_loop()
            woken = asyncio.Event()
            with self._desk.lock:
                self._wake = lambda: loop.call_soon_threadsafe(woken.set)
                if self.hold is not None or self.refusal is not None:
                    woken.set()
            if not await _set_within(woken, first) and timeout_s > first:
                self._desk.tell_why(self)
                await _set_within(woken, timeout_s - first)
        except BaseException:
            self._desk.give_up(self)
            raise
        return self._desk.take(self, timeout_s)


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


class Desk:
    """Where calls ask for money. First come, first served: a call that waits is never overtaken by a later one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._line: dict[Waiting, None] = {}

    def ask(self, need: Need, accounts: tuple[Account, ...], label: str, *, may_wait: bool) -> Hold | Waiting:
        """Hold the most that a call can cost in all `accounts`, or stand in line for it.

        Raises BudgetExceeded where the money is spent, the call could never fit, or waiting would wait for itself.
        `may_wait=False` (a blocking call inside a running event loop) refuses instead of waiting.
        """
        owner = whoever()
        found = self._ask(need, accounts, owner, label, may_wait)
        if found is None:
            need.settle_least()
            found = self._ask(need, accounts, owner, label, may_wait)
        assert found is not None
        return found

    def _ask(
        self, need: Need, accounts: tuple[Account, ...], owner: Owner, label: str, may_wait: bool
    ) -> Hold | Waiting | None:
        """Do what `ask` does; None if the call cannot go at once, and could be lowered by a `least` still open."""
        with self.lock:
            tokens, refusal = self._judge(need, accounts, owner)
            if tokens is not None and not (self._line and need.most and self._is_behind(accounts, owner)):
                return self._grant(need, accounts, owner, label, tokens)
            if need.lowerable and need.least is None:
                return None
            if refusal is None and not may_wait:
                refusal = self._refusal(
                    need,
                    self._short(need, accounts),
                    "its money is held by calls in flight, and a blocking call must not wait inside a running event loop",
                    "use AsyncOpenAI, or call it in a thread (asyncio.to_thread)",
                )
            if refusal is not None:
                raise refusal
            waiting = Waiting(self, need, accounts, owner, label)
            self._line[waiting] = None
            return waiting

    def settle(self, hold: Hold, charge: Decimal) -> None:
        """Replace a hold with what the call cost. Raises RlmObsError if it was settled before."""
        with self.lock:
            if hold.settled:
                raise RlmObsError(f"the hold of {hold.label!r} was settled before")
            self._return(hold)
            for account in hold.accounts:
                account.spent += charge
            if self._line:
                self._serve()

    def spend(self, accounts: tuple[Account, ...], charge: Decimal) -> None:
        """Enter what a call cost that was never held: no budget was in force when it began."""
        with self.lock:
            for account in accounts:
                account.spent += charge

    def change_limit(self, account: Account, limit: Decimal | None) -> None:
        """Give a budget another limit, at once and for those in line too."""
        with self.lock:
            account.limit = limit
            self._serve()

    def give_up(self, waiting: Waiting) -> None:
        """Leave the line; what was granted meanwhile is returned."""
        if waiting.gone:  # also in a finaliser, which may run while this very thread has the lock
            return
        with self.lock:
            self._line.pop(waiting, None)
            if waiting.hold is not None:
                self._return(waiting.hold)
                waiting.hold = None
            self._serve()

    def take(self, waiting: Waiting, timeout_s: float) -> Hold:
        """Return what a waiting call was granted. Raises BudgetExceeded if it was refused, or waited too long."""
        with self.lock:
            if waiting.hold is not None:
                return waiting.hold
            if waiting.refusal is not None:
                raise waiting.refusal
            refusal = self._refusal(
                waiting.need,
                self._short(waiting.need, waiting.accounts),
                f"its money was still held by other calls after a wait of {timeout_s:g} s",
                "set an output limit on the calls (max_completion_tokens), so that each holds less; or a longer wait_s",
            )
            del self._line[waiting]
            self._serve()
            raise refusal

    def tell_why(self, waiting: Waiting) -> None:
        """Log who holds the money that a call has been waiting for."""
        with self.lock:
            account = self._short(waiting.need, waiting.accounts)
            if next((w for w in self._line if account in w.accounts), None) is not waiting:
                return  # who stands in front has said it
            holders = sorted(account.holds.values(), key=lambda h: -h.amount)[:3]
            held, several = account.held, len(account.holds)
        log.warning(
            "budget %r: a call (%s) has been waiting %.0f s for money that is only held: %d calls in flight hold %s (%s). "
            "Set an output limit on the calls (max_completion_tokens), so that each holds less.",
            account.name,
            waiting.label,
            time.monotonic() - waiting.began,
            several,
            money(held),
            ", ".join(f"{h.label} {money(h.amount)}" for h in holders),
        )

    def after_fork(self) -> None:
        """Start anew in a forked child: its parent's calls in flight are not its own."""
        self.lock = threading.Lock()
        self._line.clear()

    def _is_behind(self, accounts: tuple[Account, ...], owner: Owner) -> bool:
        """Tell whether a call has to stand behind others: it wants the same money, and none of them waits for it."""
        mine = set(accounts)
        if self._is_waited_for(accounts, owner):
            return False
        return any(not mine.isdisjoint(w.accounts) for w in self._line)

    @staticmethod
    def _is_waited_for(accounts: tuple[Account, ...], owner: Owner) -> bool:
        """Tell whether those in line may be waiting for this very caller, who holds some of the money already."""
        return any(a.holds and a.held_by(owner) for a in accounts)

    def _judge(
        self, need: Need, accounts: tuple[Account, ...], owner: Owner
    ) -> tuple[int | None, BudgetExceeded | None]:
        """Return how much output there is room for, or why there will be none; neither: the call has to wait."""
        tokens, must_wait = need.tokens, False
        for account in accounts:
            if account.limit is None or need.free or account.enforcement in ("warn", "off"):
                continue
            left = account.limit - account.spent
            if left <= 0:
                return None, self._refusal(need, account, "its money is spent", "raise budget_usd")
            if account.enforcement == "check" or need.most <= left - account.held:
                continue
            own = account.held_by(owner) if account.held else NONE
            others = account.held - own
            if need.most <= left - own:
                must_wait = True  # it fits once others have settled
            elif not (need.lowerable and account.clamp):
                return None, self._too_large(need, account, own)
            else:
                affordable = need.affordable(left - own)  # once the others have settled, and cost nothing
                if affordable < account.min_output_tokens:
                    return None, self._too_large(need, account, own)
                must_wait = must_wait or others > 0
                tokens = min(tokens, affordable)
        return (None, None) if must_wait else (tokens, None)

    @staticmethod
    def _grant(need: Need, accounts: tuple[Account, ...], owner: Owner, label: str, tokens: int) -> Hold:
        """Hold what the call costs at most, with its output limited to `tokens`."""
        lowered = tokens < need.tokens
        hold = Hold(accounts, need.cost(tokens), owner, label, tokens if lowered else None, time.monotonic())
        for account in accounts:
            account.held += hold.amount
            account.holds[id(hold)] = hold
        return hold

    def _return(self, hold: Hold) -> None:
        hold.settled = True
        for account in hold.accounts:
            if account.holds.pop(id(hold), None) is not None:
                account.held = account.held - hold.amount if account.holds else NONE

    def _serve(self) -> None:
        """Go through the line from its head; who still has to wait keeps the later ones off the same money."""
        blocked: set[Account] = set()
        for waiting in list(self._line):
            behind = not blocked.isdisjoint(waiting.accounts)
            if behind and not self._is_waited_for(waiting.accounts, waiting.owner):
                blocked.update(waiting.accounts)  # nobody overtakes it on the rest of its money either
                continue
            tokens, refusal = self._judge(waiting.need, waiting.accounts, waiting.owner)
            if tokens is None and refusal is None:
                blocked.update(waiting.accounts)
                continue
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

    def _short(self, need: Need, accounts: tuple[Account, ...]) -> Account:
        """Return the budget with the least room, to name in an error."""
        limited = [a for a in accounts if a.limit is not None] or list(accounts)
        return min(limited, key=lambda a: (a.limit or NONE) - a.spent - a.held)

    def _too_large(self, need: Need, account: Account, own: Decimal) -> BudgetExceeded:
        if own:
            why = f"{money(own)} of it is held by an open call of this very thread or task, which cannot be waited for"
            return self._refusal(need, account, why, "finish or close that stream first, or set output limits")
        if not need.lowerable:
            why = "this call alone could cost more than is left"
            what = "lower the call's output limit" if need.tokens else "shorten the input"
            return self._refusal(need, account, why, f"raise budget_usd, or {what}")
        if not account.clamp:
            why = "this call alone could cost more than is left, and clamp=False keeps its output from being limited"
            return self._refusal(need, account, why, "set max_completion_tokens, raise budget_usd, or clamp=True")
        why = f"what is left pays for fewer than {account.min_output_tokens} tokens of output"
        return self._refusal(need, account, why, "raise budget_usd, shorten the input, or lower min_output_tokens")

    @staticmethod
    def _refusal(need: Need, account: Account, why: str, advice: str) -> BudgetExceeded:
        limit = NONE if account.limit is None else account.limit
        refusal = BudgetExceeded(account.name, account.spent, account.held, limit, need.most, why, advice)
        refusal.account = account  # names may be given twice, and the tracker has to know its own
        return refusal


def whoever() -> Owner:
    """Return who is running: the thread, and the asyncio task if there is one."""
    task = asyncio.current_task() if in_event_loop() else None
    return weakref.ref(threading.current_thread()), None if task is None else weakref.ref(task)


def in_event_loop() -> bool:
    """Tell whether a blocking wait here would stop an event loop."""
    return asyncio._get_running_loop() is not None


desk = Desk()
if hasattr(os, "register_at_fork"):
    # Taken around the fork, so that the child never inherits a half-made change.
    os.register_at_fork(
        before=lambda: desk.lock.acquire(),
        after_in_parent=lambda: desk.lock.release(),
        after_in_child=lambda: desk.after_fork(),
    )
