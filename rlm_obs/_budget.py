"""Budget: what a tracker is to the calls under it: their accounts, guards and limits, and who is told. The engine's side."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as Late
from decimal import Decimal

from rlm_obs import _guard, _scope
from rlm_obs._budgets import alerts
from rlm_obs._budgets.account import Account, in_event_loop, times
from rlm_obs._budgets.alerts import Alert, messenger
from rlm_obs._budgets.book import Book
from rlm_obs._budgets.desk import desk
from rlm_obs._budgets.runaway import Guards
from rlm_obs._budgets.store import Store
from rlm_obs._plugins import loaded
from rlm_obs._record import Request, dollars
from rlm_obs._report import MOST_WAITING, Ended, Tally
from rlm_obs.errors import BudgetExceeded, ConfigError

Receiver = str | Callable[[Alert], object]


class Budget:
    """The part of a CostTracker that calls deal with. `wait_s`, `unknown_price`, `unseen_usage` and `on_low` are its policies."""

    wait_s: float | None = None
    unknown_price: str | Decimal = "block"
    unseen_usage: str = "estimate"
    on_low: str | Callable[[Request], str | None] | None = None
    on_alert: Receiver | None = None
    on_budget_exceeded: Callable[[BudgetExceeded], object] | None = None

    def __init__(
        self,
        name: str,
        book: Book,
        guards: Guards,
        per: str | Callable[[Request], object] | None,
        thresholds: tuple[float, ...],
    ) -> None:
        self.name, self.thresholds = name, thresholds
        self.alert_threshold = thresholds[0]
        self._book, self.guards, self._per = book, guards, per
        self._alert_from = min(Decimal(str(self.alert_threshold)), alerts.PACE_FROM)
        #: The accounts of every call, where neither its time nor its key makes a difference.
        self.plain = book.accounts() if book.window is None and per is None else None
        self._tally, self._tally_of = Tally(), book.turn().name
        self._alerted: set[tuple[str, str, str]] = set()
        self._lock = threading.Lock()
        _budgets.add(self)

    def accounts(self, request: Request) -> tuple[Account, ...]:
        """Return the accounts in which a call is held and settled."""
        return self.plain or self._book.accounts(self._key_of(request) or "")

    def cheaper(self, request: Request) -> str | None:
        """Return the model that a call gets instead of its own, from the first threshold on; None: its own."""
        if self.on_low is None or not any(self._is_low(a) for a in self.accounts(request)):
            return None
        return self.on_low if isinstance(self.on_low, str) else self.on_low(request)

    def book(
        self,
        call: Ended,
        charge: Decimal,
        operations: tuple[str, ...],
        accounts: tuple[Account, ...] = (),
        tokens: int = 0,
    ) -> None:
        """Enter a finished call: `charge` is what it costs this budget, also where the call's own cost is unknown."""
        key = None if self._per is None else accounts[0].key if accounts else ""
        tally, status = self._tally if self._book.window is None else self._tally_now(), call.status
        kind, new = call.request.operation, tally.new
        new.append((status, call.model, kind, call.exact, charge, tokens, operations, key, call.told_later))
        if len(new) >= MOST_WAITING:
            tally.count()
        if status == "refused":
            return
        if self.guards.on:
            self.guards.spend(charge)
        for account in accounts:
            if account.limit and account.spent >= times(account.limit, self._alert_from):
                self._alert_if_due(account)

    def raised(self, refusal: BudgetExceeded) -> bool:
        """Ask `on_budget_exceeded` about a refusal of this budget; True if it has raised the limit."""
        if self.on_budget_exceeded is None or not self._is_mine(refusal):
            return False
        answer = _guard.guarded("on_budget_exceeded", self.on_budget_exceeded, refusal)
        if answer is None or isinstance(answer, bool) or not isinstance(answer, int | float | str | Decimal):
            return False
        limit = _guard.guarded("on_budget_exceeded", dollars, answer, "on_budget_exceeded")
        if limit is None or limit <= refusal.limit:
            return False
        _guard.guarded("on_budget_exceeded", self._set_limit, refusal.unit, limit, refusal.key or "")
        return True

    def out_of_room(self, refusal: BudgetExceeded) -> None:
        """Tell those who asked to know that this budget has refused a call, if it was this one."""
        account = refusal.account
        if isinstance(account, Account) and self._is_mine(refusal):
            self._alert(
                account, f"exhausted@{refusal.limit.normalize():f}", alerts.about(account, 1.0, kind="exhausted")
            )

    @property
    def _account(self) -> Account:
        """The dollars, of no key, in the window that holds."""
        return self._book.accounts()[0]

    def _is_mine(self, refusal: BudgetExceeded) -> bool:
        account = refusal.account
        return isinstance(account, Account) and any(a is account for a in self._book.accounts(account.key))

    def _key_of(self, request: Request) -> str | None:
        per = self._per
        if per is None:
            return None
        found = request.attributes.get(per) if isinstance(per, str) else _guard.guarded("per", per, request)
        return None if found is None else str(found)

    def _key_here(self) -> str | None:
        found = _scope.current().attributes.get(self._per) if isinstance(self._per, str) else None
        return None if found is None else str(found)

    def _is_low(self, account: Account) -> bool:
        return account.limit is not None and account.spent >= times(account.limit, Decimal(str(self.alert_threshold)))

    def _tally_now(self) -> Tally:
        name = self._book.turn().name
        if name != self._tally_of:
            with self._lock:
                if name != self._tally_of:
                    self._tally, self._tally_of = Tally(), name
                    self._alerted.clear()
        return self._tally

    def _refresh(self, accounts: Iterable[Account]) -> None:
        """Ask the store how a shared account stands, where that was long ago; inside an event loop the answer comes later."""
        for account in accounts:
            lease = account.lease
            if lease is None or lease.fresh():
                continue

            def read(store: Store, account: Account = account) -> None:
                assert account.lease is not None
                state = store.read(account.lease.account)
                if state is not None:
                    with desk.lock:
                        account.lease.learnt(state)

            asked = lease.terms.keeper.do(read)
            if not in_event_loop():
                try:
                    asked.result(lease.terms.timeout_s)
                except Late:
                    lease.terms.say_down(TimeoutError(f"no answer within {lease.terms.timeout_s:g} s"))
                except Exception as error:
                    lease.terms.say_down(error)

    def _set_limit(self, unit: str, limit: Decimal | None, key: str = "") -> None:
        """Give the budget another limit, in its store too. Raises what the store raises."""
        terms = self._book.terms
        if terms is not None:
            if limit is None:
                raise ConfigError("a shared budget cannot lose its limit: set another one")
            terms.change(unit, key, limit)
        changed = self._book.set_limit(unit, limit) if not key else []
        for account in changed or [a for a in self._book.accounts(key) if a.unit == unit]:
            desk.change_limit(account, limit)

    def _alert_if_due(self, account: Account) -> None:
        for mark, alert in alerts.due(account, self.thresholds, self._book.turn().starts_at):
            self._alert(account, mark, alert)

    def _alert(self, account: Account, mark: str, alert: Alert) -> None:
        """Send an alert unless it was sent: by this process, or by another one that shares the budget."""
        known = (account.unit, account.key, mark)
        with self._lock:
            if known in self._alerted:
                return
            self._alerted.add(known)
        lease = account.lease
        if lease is None:
            self._send(alert)
            return

        def send_if_first(store: Store) -> None:
            try:
                first = store.once(lease.account, mark)
            except Exception as error:
                lease.terms.say_down(error)
                first = True  # rather told twice than not at all
            if first:
                messenger.later(lambda: self._send(alert))

        lease.terms.keeper.do(send_if_first)

    def _send(self, alert: Alert) -> None:
        _guard.log.warning("%s", alert)
        if self.on_alert is not None:
            _guard.guarded("on_alert", messenger.send, self.on_alert, alert)
        loaded().notify("budget_alert", alert=alert)


_budgets: weakref.WeakSet[Budget] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: the parent's calls in flight are not the child's, and no lock is held."""
    for budget in list(_budgets):
        budget._lock = threading.Lock()
        budget._tally.after_fork()
        budget._book.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
