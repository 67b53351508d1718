"""The budget side of a call: what it may cost, the hold for it, another model, the room of its stream, the settlement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

from rlm_obs import _guard
from rlm_obs._budgets.account import NONE, Account, Hold, Need, running_loop
from rlm_obs._budgets.bound import Bound
from rlm_obs._budgets.crowd import kinds
from rlm_obs._budgets.desk import desk
from rlm_obs._budgets.line import Waiting
from rlm_obs._budgets.seen import seen
from rlm_obs._pricing.dearest import likely_usage
from rlm_obs._record import EXACT, Request, Usage
from rlm_obs._report import Ended
from rlm_obs._tracker import MILLION, CostTracker
from rlm_obs.errors import BudgetExceeded, UnknownPrice

#: The most that a call with this bound can cost, in US dollars, with so many output tokens (None: the bound's own).
Most = Callable[[Request, Bound, int | None], Decimal | None]


@dataclass(slots=True)
class Needs:
    """What the gate knows of a call before it: its bound (None: not known), the client's own timeout, its colour, and what
    tells it apart from another call."""

    bound: Callable[[Request], Bound] | None
    timeout_s: Callable[[], float] = lambda: 600.0
    awaits: bool = False
    fingerprint: Callable[[], int | None] = lambda: None


class Needing(Protocol):
    """What `Needs` tells, by whatever tells it."""

    @property
    def bound(self) -> Callable[[Request], Bound] | None: ...
    @property
    def timeout_s(self) -> Callable[[], float]: ...
    @property
    def awaits(self) -> bool: ...
    @property
    def fingerprint(self) -> Callable[[], int | None]: ...


NOTHING = Needs(None)


class Admission:
    """`enter -> ask -> granted? -> settle | release`, of one call in all budgets that it falls under."""

    hold: Hold | None = None
    bound: Bound | None = None
    _accounts: tuple[Account, ...] = ()
    #: Each tracker with its own of these accounts.
    _shares: Sequence[tuple[CostTracker, tuple[Account, ...]]] = ()

    def __init__(self, request: Request, needs: Needing, trackers: tuple[CostTracker, ...], most: Most) -> None:
        self.request, self.trackers, self._most = request, trackers, most
        self._needs: Needing = needs
        if len(trackers) == 1 and (plain := trackers[0].plain) is not None:  # what `_renewed` finds, of most calls
            self._accounts, self._shares = plain, ((trackers[0], plain),)
        elif trackers:
            self._renewed()

    # -- before the call ---------------------------------------------------------------------------------------------

    def enter(self) -> Request | None:
        """Let the call pass the guards against runaways, or raise Runaway; returns the request with the cheaper model of a
        budget that runs low (`on_low`), None where its own holds."""
        for tracker in self.trackers:
            if tracker.guards.on or tracker.on_low is not None:
                return self._enter()
        return None

    def _enter(self) -> Request | None:
        asked = self.request
        for tracker in self.trackers:
            if tracker.guards.on:
                tracker.guards.admit(None if tracker.guards.max_repeats is None else self._needs.fingerprint())
        for tracker in self.trackers:
            if tracker.on_low is not None and self.request.model is not None:
                model = _guard.guarded("on_low", tracker.cheaper, self.request)
                if model is not None and model != self.request.model:
                    self.request = replace(self.request, model=model)
        return None if self.request is asked else self.request

    def ask(self) -> Waiting | None:
        """Hold what the call may cost; None: go on. A `Waiting` is to be waited for. Raises CallRefused and kin."""
        for account in self._accounts:
            if account.limit is not None:
                break
        else:
            return None
        request, needs = self.request, self._needs
        label, bound, most = request.model or request.operation, None, None
        if needs.bound is not None:
            try:
                bound = self.bound = needs.bound(request)
            except Exception as error:
                _guard.caught("bound", error)
            if bound is not None:
                most = self._most(request, bound, None)
                if most is not None:
                    self.hold = desk.hold_at_once(most, self._accounts, label)
                    if self.hold is not None:
                        return None
        return self._ask(self._need(bound, most), label)

    def _ask(self, need: Need, label: str) -> Waiting | None:
        """Hold what the call needs where that is more than to see that there is room for it."""
        may_wait = self._needs.awaits or running_loop() is None
        while True:
            try:
                asked = desk.ask(need, self._accounts, label, may_wait=may_wait, renew=self._renewed)
            except BudgetExceeded as refusal:
                if not self._raised(refusal):
                    raise
                continue
            if isinstance(asked, Waiting):
                return asked
            self.hold = asked
            return None

    def appeal(self, refusal: BudgetExceeded) -> Waiting | None:
        """Ask for the money again where somebody has raised the budget meanwhile; else raise the refusal."""
        if not self._raised(refusal):
            raise refusal
        return self.ask()

    def _raised(self, refusal: BudgetExceeded) -> bool:
        return any([tracker.raised(refusal) for tracker in self.trackers])

    def _renewed(self) -> tuple[Account, ...]:
        """Return the accounts that hold now; also when a window has ended while the call stood in line."""
        self._shares = [(tracker, tracker.plain or tracker.accounts(self.request)) for tracker in self.trackers]
        self._accounts = tuple([account for _, accounts in self._shares for account in accounts])
        return self._accounts

    @property
    def wait_s(self) -> float:
        """How long this call may wait for room: the shortest `wait_s` of its budgets, or the request's own timeout."""
        own = [t.wait_s for t in self.trackers if t.wait_s is not None]
        return min(own) if own else self._needs.timeout_s()

    @property
    def output_limit(self) -> int | None:
        """The output limit to send per choice, where the budget lowered it; None leaves the request as it is."""
        if self.hold is None or self.hold.tokens is None:
            return None
        return self.hold.tokens // (1 if self.bound is None else self.bound.choices)

    def _need(self, bound: Bound | None, most: Decimal | None) -> Need:
        """Return what the call may cost at most."""
        if bound is None:  # it has none, or it could not be read: it goes out while there is any room
            return Need(NONE, NONE)
        if most is None:
            return self._need_without_price(bound)
        lowerable = bound.output_tokens > 0 and not bound.limit_is_users
        find_least = functools.partial(self._most, self.request, bound, 0) if lowerable else None
        expects = any([a.limit is not None and a.enforcement == "expected" for a in self._accounts])
        kind = kinds.of(self.request.model, self.request.operation) if expects else None
        return Need(None, most, bound.output_tokens, lowerable, not most, find_least, bound.input_tokens, kind)

    def _need_without_price(self, bound: Bound) -> Need:
        limiting = [tracker for tracker, accounts in self._shares if accounts[0].limit is not None]
        for tracker in limiting:
            if tracker.unknown_price == "block":
                raise UnknownPrice(self.request.model or "?", self.request.provider, tracker.name)
        rate = max((t.unknown_price for t in limiting if isinstance(t.unknown_price, Decimal)), default=NONE)
        least, most = _at(rate, bound.input_tokens), _at(rate, bound.input_tokens + bound.output_tokens)
        lowerable = not bound.limit_is_users
        return Need(least, most, bound.output_tokens, lowerable, free=not rate, input_tokens=bound.input_tokens)

    # -- during the call ---------------------------------------------------------------------------------------------

    @property
    def output_room(self) -> int | None:
        """How many output tokens a stream may write before it has outgrown its hold; None where nothing limits it."""
        hold, bound = self.hold, self.bound
        if hold is None or bound is None or not bound.output_tokens:
            return None
        return bound.output_tokens if hold.tokens is None else hold.tokens

    def outgrown(self, tokens: int) -> int:
        """Hold a quarter more for a stream that has written `tokens`; returns its new room. Raises BudgetExceeded."""
        hold, more = self.hold, max(1, tokens // 4)
        if hold is not None:
            bound = self.bound or Bound(0, 0)  # long input makes output dearer
            price, least = self._most(self.request, bound, more), self._most(self.request, bound, 0)
            added = NONE if price is None or least is None else EXACT.subtract(price, least)
            refusal = desk.extend(hold, added, more)
            if refusal is not None:
                raise refusal
        return tokens + more

    # -- after the call ----------------------------------------------------------------------------------------------

    def out_of_room(self, refusal: BudgetExceeded) -> None:
        """Tell the budget that has refused the call."""
        for tracker in self.trackers:
            _guard.held_back("budget", tracker.out_of_room, refusal)

    def likely_bound(self) -> Bound | None:
        """Return the bound of the call, for one whose answer does not say what it used; None: not known."""
        if self.bound is None and self._needs.bound is not None:
            return self._needs.bound(self.request)
        return self.bound

    def release(self, call: Ended, operations: tuple[str, ...]) -> None:
        """Return the hold of a call that was never sent, and count it as refused."""
        if self.hold is not None:
            desk.release(self.hold)
        for tracker in self.trackers:
            _guard.held_back("budget", tracker.book, call, NONE, operations)

    def settle(self, call: Ended, charge: Decimal, tokens: int, operations: tuple[str, ...]) -> None:
        """Replace the hold with what the call cost its budgets (US dollars, tokens), and enter it in their books."""
        if self.hold is not None:
            desk.settle(self.hold, charge, tokens)
        else:
            desk.spend(self._accounts, charge, tokens)
        for tracker, accounts in self._shares:
            try:
                tracker.book(call, charge, operations, accounts, tokens)
            except Exception as error:
                _guard.failed("budget", error)
        if call.exact is not None and call.status == "ok":
            seen.add(self.request.model, self.request.operation, charge)

    def begin(self, call: Ended, operations: tuple[str, ...]) -> None:
        """Enter a call that goes on behind its answer, and go on holding what it may cost."""
        for tracker, accounts in self._shares:
            _guard.held_back("budget", tracker.book, call, NONE, operations, accounts)

    def leave_open(self) -> None:
        """Let go of the request alone."""
        self._needs = NOTHING

    def close(self) -> None:
        """Settle a hold that is still open at what was held: whatever of ours has failed, no hold outlives its call."""
        if self.hold is not None:
            _guard.guarded("budget", desk.settle, self.hold, self.hold.amount)

    def charge_of_the_unseen(
        self, usage: Usage | None, estimate: Decimal, likely: Callable[[], Decimal | None]
    ) -> Decimal:
        """Return what a call whose cost nobody told costs its budgets: an estimate, or all that was held for it."""
        if self.hold is None:
            return estimate
        if self._holds_the_unseen():
            return self.hold.amount
        rate = max((t.unknown_price for t in self.trackers if isinstance(t.unknown_price, Decimal)), default=None)
        if usage is not None and rate is not None:
            return _at(rate, (usage.input_tokens or 0) + (usage.output_tokens or 0))
        if usage is None and not estimate:
            return likely() or NONE  # it may have been billed: at least its input is counted
        return estimate

    def _holds_the_unseen(self) -> bool:
        return any([t.unseen_usage == "hold" for t in self.trackers])

    def tokens_used(self, call: Ended, streamed_tokens: int) -> int:
        """Return the input and output of a call; where it does not say, what was seen of it, or what was held."""
        usage, bound = call.usage, self.bound
        if usage is not None and (usage.input_tokens is not None or usage.output_tokens is not None):
            return (usage.input_tokens or 0) + (usage.output_tokens or 0)
        if bound is None or (call.cost is not None and not call.cost.total and call.cost.exact):
            return 0  # it was not answered, or its answer counts no tokens
        if self._holds_the_unseen():
            return bound.input_tokens + bound.output_tokens
        return (likely_usage(bound, 0).input_tokens or 0) + streamed_tokens


#: That of a call that is over.
CLOSED = Admission(Request(provider="", endpoint="", operation=""), NOTHING, (), lambda *_: None)


def _at(rate: Decimal, tokens: int) -> Decimal:
    """Return what tokens cost at a rate in US dollars per million."""
    return EXACT.divide(EXACT.multiply(rate, tokens), MILLION)
