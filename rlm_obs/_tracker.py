"""CostTracker: one budget and its book: what was spent, on what, and whether the next call may go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from opentelemetry import context as otel

from rlm_obs import _lost, _scope
from rlm_obs._budget import Budget, Receiver
from rlm_obs._budgets import alerts
from rlm_obs._budgets.account import NONE, Account, Need, total
from rlm_obs._budgets.alerts import Alert
from rlm_obs._budgets.book import Book, read_limits, read_own, read_spelled
from rlm_obs._budgets.runaway import Guards
from rlm_obs._budgets.sharing import Terms, keeper_of
from rlm_obs._budgets.store import Store
from rlm_obs._budgets.windows import Window
from rlm_obs._plugins import gates
from rlm_obs._record import Record, Request, dollars
from rlm_obs._report import Balance, CostReport, Ended
from rlm_obs.errors import BudgetExceeded, ConfigError, amount_of, money

ENFORCEMENTS = ("reserve", "expected", "check", "warn", "off")
MILLION = Decimal(1_000_000)


class CostTracker(Budget):
    """Count what calls cost, and stop the next one before it overspends.

    Calls fall under a tracker inside `with tracker:`, `with tracker.track("operation"):`, a function decorated with
    `@rlm_obs.cost_tracked(tracker=tracker)`, or an `RLM` bound to it; trackers nest, and a call must fit in all of them.

    **How much.** `budget_usd`, `budget_tokens` (input and output) and `budget_calls` are the limits; without any it only
    counts. `budget` says them in words: "$10/day", "200k tokens/hour". `window`: "hour", "day", "week" (from Monday) or
    "month" in `time_zone`, or a timedelta for a rolling window; None is for all time. `per`: one budget for each value of
    an attribute ("user.id", see `rlm_obs.context`) or of a function of the Request; `limits` are those of single keys, as
    a mapping or a function (US dollars, or {"tokens": …}).

    **How strict.** `enforcement`: "reserve" holds the most a call can cost before it is sent, so that concurrent calls
    cannot overspend together; "expected" holds what such calls have cost so far, with a margin; "check" looks at what is
    spent only; "warn" never refuses; "off" only counts. `wait_s`: how long a call waits for what others hold (None: the
    request's own timeout). `clamp`: lower the output limit of a call that set none to what is left, down to
    `min_output_tokens`. `unknown_price`: what to do with a model without a price: "block", "warn", or US dollars per
    million tokens to assume. `unseen_usage`: how a stream that was left early is settled: by an "estimate" or the "hold".

    **Where.** `store`: a URL ("sqlite:///budgets.db", "redis://host/0") or a store object, by which processes share the
    budget under its `name`; `lease_s` after a process was last heard of, what it had left counts as "spent" or goes back
    ("free"): `lost_lease`. While the store is silent for `store_timeout_s` calls are refused (`fail="closed"`) or let
    through ("open"). `on_limit_change`: "refuse", "set" or "keep" where the store has another limit.

    **Who is told.** `alert_threshold`: the share of the budget (or several) at which `on_alert` (a function, a coroutine
    function, or an "https://…" address) and the `budget_alert` hook are called, once each. `on_budget_exceeded`: called
    before a refusal; a number it returns is the new limit, and the call is tried again. `on_low`: the model (or a function
    of the Request that returns one) that calls get from the first threshold on.

    **Runaways.** `max_repeats` of one request in a row, `max_calls_per_minute`, `max_spend_rate` (times the usual
    spending of a minute): past them calls raise Runaway.

    Raises ConfigError for a bad argument; calls under it raise BudgetExceeded, BudgetUnavailable, UnknownPrice or Runaway,
    and then nothing is sent.
    """

    def __init__(
        self,
        budget_usd: Decimal | float | str | None = None,
        alert_threshold: float | Sequence[float] = 0.8,
        name: str = "default",
        *,
        budget: str | None = None,
        budget_tokens: int | None = None,
        budget_calls: int | None = None,
        per: str | Callable[[Request], object] | None = None,
        limits: Mapping[str, Any] | Callable[[str], Any] | None = None,
        window: str | timedelta | None = None,
        time_zone: str = "UTC",
        enforcement: str = "reserve",
        wait_s: float | None = None,
        clamp: bool = True,
        min_output_tokens: int = 256,
        unknown_price: str | Decimal | float = "block",
        unseen_usage: str = "estimate",
        store: str | Store | None = None,
        fail: Literal["closed", "open"] = "closed",
        store_timeout_s: float = 2.0,
        lease_s: float = 60.0,
        lost_lease: Literal["spent", "free"] = "spent",
        on_limit_change: Literal["refuse", "set", "keep"] = "refuse",
        on_alert: Receiver | None = None,
        on_budget_exceeded: Callable[[BudgetExceeded], object] | None = None,
        on_low: str | Callable[[Request], str | None] | None = None,
        max_repeats: int | None = None,
        max_calls_per_minute: int | None = None,
        max_spend_rate: float | None = None,
    ) -> None:
        given = read_limits(budget_usd, budget_tokens, budget_calls)
        if budget is not None:
            if given or window is not None or not isinstance(budget, str):
                raise ConfigError('budget="$10/day" says limits and window in words: give it alone')
            given, window = read_spelled(budget)
        _one_of("enforcement", enforcement, ENFORCEMENTS)
        _one_of("unseen_usage", unseen_usage, ("estimate", "hold"))
        _one_of("fail", fail, ("closed", "open"))
        _one_of("lost_lease", lost_lease, ("spent", "free"))
        _one_of("on_limit_change", on_limit_change, ("refuse", "set", "keep"))
        for argument, seconds, least, most in (
            ("wait_s", wait_s, 0, 86_400),
            ("store_timeout_s", store_timeout_s, 0.01, 600),
            ("lease_s", lease_s, 1, 86_400),
        ):
            if seconds is not None and not (_is_number(seconds) and least <= seconds <= most):
                raise ConfigError(f"{argument}={seconds!r}: give seconds, {least} to {most}")
        if isinstance(min_output_tokens, bool) or not isinstance(min_output_tokens, int) or min_output_tokens < 1:
            raise ConfigError(f"min_output_tokens={min_output_tokens!r}: give a number of tokens, 1 or more")
        if on_budget_exceeded is not None and not callable(on_budget_exceeded):
            raise ConfigError(f"on_budget_exceeded={on_budget_exceeded!r}: give a function of one argument")
        if per is not None and not callable(per) and not isinstance(per, str):
            raise ConfigError(
                f'per={per!r}: give the name of an attribute, such as "user.id", or a function of the Request'
            )
        if limits is not None and per is None:
            raise ConfigError('limits=… gives keys limits of their own: say what a key is, such as per="user.id"')
        if on_low is not None and not callable(on_low) and not isinstance(on_low, str):
            raise ConfigError(f"on_low={on_low!r}: give the name of a model, or a function of the Request")
        alerts.check_receiver("on_alert", on_alert)
        own, turns = read_own(limits), Window.read(window, time_zone)
        terms = None
        if store is not None:
            if not given:
                raise ConfigError("store=… shares a budget: give it a limit, such as budget_usd=10")
            terms = Terms(
                keeper_of(store),
                name,
                {(unit, ""): limit for unit, limit in given.items()},
                lambda unit, key: None if own is None or not key else own(key).get(unit),
                ttl_s=float(lease_s),
                timeout_s=float(store_timeout_s),
                lost_lease=lost_lease,
                fail=fail,
                on_change=on_limit_change,
                rolling_s=None if turns is None else turns.rolling_s,
            )
        rules = Account(name, None, enforcement, clamp, min_output_tokens)
        guards = Guards(name, max_repeats, max_calls_per_minute, max_spend_rate)
        thresholds = alerts.read_thresholds(alert_threshold)
        super().__init__(name, Book(rules, given, turns, own, terms), guards, per, thresholds)
        self.wait_s, self.unseen_usage, self.unknown_price = wait_s, unseen_usage, _assumed(unknown_price)
        self.on_alert, self.on_budget_exceeded, self.on_low = on_alert, on_budget_exceeded, on_low
        if terms is not None:
            terms.declare_now()

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def budget_usd(self) -> Decimal | None:
        """The limit in US dollars (per key, the default one); set it to give the running program more (or less), at once.

        In a shared budget the store's limit is read, and setting it changes the store, with a line in its audit log.
        """
        if self._per is None:
            return self._account.limit
        return self._book.limits.get("usd")

    @budget_usd.setter
    def budget_usd(self, value: Decimal | float | str | None) -> None:
        self._set_limit("usd", None if value is None else dollars(value, "budget_usd"))

    @property
    def spent(self) -> Decimal:
        """US dollars settled so far, in the window that holds; by all processes that share the budget.

        Per key: of the key that is in force here (see `rlm_obs.context`), or of all keys where none is.
        """
        return total(a.spent for a in self._here())

    @property
    def held(self) -> Decimal:
        """US dollars that calls in flight may still cost, and that other processes have taken to spend."""
        return total(Balance.of(a).held for a in self._here())

    @property
    def remaining(self) -> Decimal | None:
        """US dollars left to spend, never below 0; None without a budget, and per key where no key is in force here.

        What is held is still in it.
        """
        here = self._here()
        return Balance.of(here[0]).remaining if len(here) == 1 and not self._is_any_key() else None

    @property
    def reset_at(self) -> datetime | None:
        """When the window ends, or a rolling one next lets go of something; None where time alone brings nothing back."""
        turn = self._book.turn()
        here = self._here()
        if here and (self._book.window is None or self._book.window.rolling_s is not None):
            return Balance.of(here[0]).reset_at
        return None if turn.ends_at is None else datetime.fromtimestamp(turn.ends_at, UTC)

    def balance(self, key: str | None = None, unit: str = "usd") -> Balance:
        """Return one amount of the budget: for a key (None: the one in force here), in "usd", "tokens" or "calls".

        Raises ConfigError for a unit that the budget does not count.
        """
        _lost.lost.end_gone()
        accounts = self._book.accounts((self._key_here() or "") if key is None else key)
        for account in accounts:
            if account.unit == unit:
                self._refresh([account])
                return Balance.of(account)
        raise ConfigError(
            f"budget {self.name!r} has no limit in {unit!r}; it counts: {', '.join(a.unit for a in accounts)}"
        )

    def is_near_limit(self) -> bool:
        """Tell whether the (first) share `alert_threshold` of the budget is spent, in any unit; False without a budget."""
        _lost.lost.end_gone()
        accounts = self._book.accounts(self._key_here() or "")
        self._refresh(accounts)
        return any(self._is_low(a) for a in accounts)

    def would_fit(
        self, request: Request | Mapping[str, Any], endpoint: str | None = None, base_url: str | None = None
    ) -> bool:
        """Tell whether a call would go out now, without waiting, and with its output as it asks for it; nothing is held.

        The arguments are those of `rlm_obs.estimate`, which see. A model without a price fits where `unknown_price` lets
        it. Other budgets around the call are not asked. Raises ConfigError as `estimate` does.
        """
        import rlm_obs

        host = {} if base_url is None else {"base_url": base_url}
        estimate = rlm_obs.estimate(request, endpoint, **host)
        accounts = self._book.accounts(self._key_here() or "")
        self._refresh(accounts)
        most = estimate.most_usd
        if most is None and self.unknown_price == "block" and accounts[0].limit is not None:
            return False
        cost = most or NONE
        need = Need(cost, cost, estimate.output_tokens or 0, free=not cost, input_tokens=estimate.input_tokens or 0)
        return all([account.fits(need) for account in accounts])

    def get_report(self) -> CostReport:
        """Return what was spent so far, on which models and operations; a snapshot that does not change."""
        accounts = [a for many in self._accounts_of_all() for a in many if a.unit == "usd"]
        self._refresh(accounts)
        return CostReport(
            name=self.name,
            budget_usd=self.budget_usd if self._per is None else None,
            spent=total(a.spent for a in accounts),
            held=total(Balance.of(a).held for a in accounts),
            reset_at=self.reset_at,
            **self._tally_now().figures(),
        )

    def get_operation_cost(self, operation: str) -> Decimal:
        """Return what the calls inside `track(operation)` have cost, nested ones included; 0 if there were none."""
        _lost.lost.end_gone()
        return self._tally_now().of_operation(operation)

    # -- blocks ------------------------------------------------------------------------------------------------------

    @contextmanager
    def track(self, operation: str) -> Iterator[CostTracker]:
        """Count the calls of a block under `operation` (and under this tracker, if they were not already)."""
        with _entered(_scope.widened(trackers=(self,), operation=operation)):
            yield self

    def __enter__(self) -> CostTracker:
        gates.hold()
        token = otel.attach(_scope.with_scope(_scope.widened(trackers=(self,))))
        _tokens.set((*_tokens.get(), token))
        return self

    def __exit__(self, *_: object) -> None:
        *others, token = _tokens.get() or (None,)  # None: entered in another context, whose own it stays
        _tokens.set(tuple(others))
        if token is not None:
            _scope.detach(token)
        gates.release()

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Decorate a function: its calls fall under this tracker, as with `@rlm_obs.cost_tracked(tracker=self)`."""
        import rlm_obs

        return rlm_obs.cost_tracked(tracker=self)(function)

    def __repr__(self) -> str:
        limits = ", ".join(amount_of(limit, unit) for unit, limit in self._book.limits.items())
        of = f" of {limits}" if limits else ""
        return f"<CostTracker {self.name!r}: {money(total(a[0].spent for a in self._book.all()))}{of} spent>"

    def _is_any_key(self) -> bool:
        return self._per is not None and self._key_here() is None

    def _accounts_of_all(self) -> list[tuple[Account, ...]]:
        _lost.lost.end_gone()
        return self._book.all() if self._per is not None else [self._book.accounts()]

    def _here(self) -> list[Account]:
        """Return the accounts in dollars that a reader means here: of the key in force, or of all keys."""
        many = self._accounts_of_all() if self._is_any_key() else [self._book.accounts(self._key_here() or "")]
        _lost.lost.end_gone()
        accounts = [a for one in many for a in one if a.unit == "usd"]
        self._refresh(accounts)
        return accounts


class Collector(CostTracker):
    """A tracker without a budget that keeps the records themselves, for one run or one test."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.records: list[Record] = []

    def book(
        self,
        call: Ended,
        charge: Decimal,
        operations: tuple[str, ...],
        accounts: tuple[Account, ...] = (),
        tokens: int = 0,
    ) -> None:
        if call.record is not None:
            self.records.append(call.record)
        super().book(call, charge, operations, accounts, tokens)


@contextmanager
def _entered(scope: _scope.Scope) -> Iterator[None]:
    gates.hold()
    try:
        with _scope.attached(_scope.with_scope(scope)):
            yield
    finally:
        gates.release()


def _is_number(given: object) -> bool:
    return isinstance(given, int | float | Decimal) and not isinstance(given, bool)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: there is {', '.join(map(repr, allowed))}")


def _assumed(given: object) -> str | Decimal:
    """Read `unknown_price`: a policy's name, or US dollars per million tokens."""
    if given in ("block", "warn"):
        return str(given)
    try:
        return dollars(given, "unknown_price")
    except ConfigError:
        raise ConfigError(f'unknown_price={given!r}: give "block", "warn", or US dollars per million tokens') from None


_tokens: ContextVar[tuple[Token[Any], ...]] = ContextVar("rlm_obs_tokens", default=())
__all__ = ["Alert", "Balance", "CostReport", "CostTracker"]
