"""Call: one request from its reservation to its record. A state machine without I/O that ends exactly once."""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import context as otel
from opentelemetry.trace import Span, SpanContext, Status, StatusCode

from rlm_obs import _attributes as names
from rlm_obs import _guard
from rlm_obs._budgets.account import NONE, Account, Expected, Hold, Need, in_event_loop
from rlm_obs._budgets.bound import Bound
from rlm_obs._budgets.desk import desk
from rlm_obs._budgets.line import Waiting
from rlm_obs._budgets.seen import seen
from rlm_obs._callspan import CallSpan
from rlm_obs._content import recorded
from rlm_obs._pricing.dearest import Dearest, likely_usage
from rlm_obs._record import Cost, Record, Request, Usage
from rlm_obs._record import Status as CallStatus
from rlm_obs._tracker import MILLION, CostTracker
from rlm_obs.errors import BudgetExceeded, CallRefused, UnknownPrice

if TYPE_CHECKING:
    from rlm_obs._plugins import Plugins
    from rlm_obs._tracer import Tracer

#: `pid-random-` before each record's id: unique over processes, and renewed in a forked child.
_prefix = f"call_{secrets.token_hex(6)}_"
_numbers = itertools.count(1)
_ending = threading.Lock()
T = TypeVar("T")
FROM_STREAM = "output counted from the stream"
INPUT_BOUND = "input estimated from its bytes"
#: From so many calls of its kind on, `enforcement="expected"` holds what they have cost.
ENOUGH_SEEN = 20


@dataclass(slots=True)
class Answer:
    """What an answer has said so far; a plain answer fills it at once, a stream chunk by chunk. The last word wins."""

    provider: str = "openai"
    endpoint: str = ""
    model: str | None = None
    response_id: str | None = None
    usage: Usage | None = None
    service_tier: str | None = None
    fingerprint: str | None = None
    finish_reasons: tuple[str, ...] = ()
    request_id: str | None = None
    http_status: int | None = None
    error: str | None = None
    streamed_tokens: int = 0
    chunks: int | None = None
    tool_calls: int | None = None
    retries: int | None = None
    limits: Mapping[str, Any] | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)  # what a reader keeps for itself between the events
    captures: bool = False
    content: Any = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What the gate knows of a call before it: its bound (None: not known), the client's own timeout, its colour, and what
    tells it apart from another call."""

    bound: Callable[[Request], Bound] | None
    timeout_s: Callable[[], float] = lambda: 600.0
    awaits: bool = False
    fingerprint: Callable[[], int | None] = lambda: None


class Call:
    """`admit -> start -> first_chunk? -> finish | fail | abort`; ending it again is harmless and changes nothing."""

    __slots__ = (
        "_accounts",
        "_began",
        "_bound",
        "_content",
        "_first_chunk_s",
        "_hold",
        "_most",
        "_needs",
        "_operations",
        "_parent_id",
        "_pid",
        "_plugins",
        "_price",
        "_shares",
        "_span",
        "_started_at",
        "_tracer",
        "_trackers",
        "_waited_s",
        "answer",
        "ended",
        "record",
        "request",
        "switched_from",
    )

    def __init__(
        self,
        request: Request,
        needs: Needs,
        *,
        tracer: Tracer | None,
        trackers: tuple[CostTracker, ...],
        operations: tuple[str, ...],
        plugins: Plugins,
        price: Callable[..., Cost | None],
        most: Callable[[Request, Bound, int | None], Cost | None] | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> None:
        self.request, self._needs, self._tracer, self._trackers = request, needs, tracer, trackers
        self._operations, self._plugins, self._price, self._content = operations, plugins, price, content
        self._most = most or Dearest(price).cost
        self._shares = self._found_shares()
        self._accounts = _joined(self._shares)
        self.answer = Answer(request.provider, request.endpoint, captures=content is not None)
        self.record: Record | None = None
        self.ended = False
        self.switched_from: str | None = None
        self._hold: Hold | None = None
        self._bound: Bound | None = None
        self._span: Span | None = None
        self._parent_id: str | None = None
        self._first_chunk_s: float | None = None
        self._waited_s = 0.0
        self._pid = os.getpid()
        self._started_at = time.time()
        self._began = time.perf_counter()

    # -- before the call ---------------------------------------------------------------------------------------------

    def admit(self) -> Waiting | None:
        """Ask plugins and budgets; None: go on. A `Waiting` is to be waited for (or awaited) and given to `granted`.

        Raises CallRefused (and kin), which the caller lets out after `fail`; anything else of ours is guarded.
        """
        self._plugins.notify("call_starting", request=self.request)
        for tracker in self._trackers:
            tracker.admit(self.request, self._needs.fingerprint)
        self._switch_model()
        return self._ask()

    def appeal(self, refusal: BudgetExceeded) -> Waiting | None:
        """Ask for the money again where somebody has raised the budget meanwhile; else raise the refusal."""
        if not any([tracker.raised(refusal) for tracker in self._trackers]):
            raise refusal
        return self._ask()

    def _ask(self) -> Waiting | None:
        need = self._need()
        if need is None:
            return None
        label = self.request.model or self.request.operation
        while True:
            try:
                asked = desk.ask(need, self._accounts, label, may_wait=self._may_wait(), renew=self._renewed)
            except BudgetExceeded as refusal:
                if not any([tracker.raised(refusal) for tracker in self._trackers]):
                    raise
                continue
            if isinstance(asked, Waiting):
                return asked
            self._hold = asked
            return None

    def _found_shares(self) -> tuple[tuple[Account, ...], ...]:
        """Return the accounts in which the call is held and settled, of each tracker."""
        return tuple([tracker.accounts(self.request) for tracker in self._trackers])

    def _renewed(self) -> tuple[Account, ...]:
        """Return the accounts that hold now: a window has ended while the call stood in line."""
        self._shares = self._found_shares()
        self._accounts = _joined(self._shares)
        return self._accounts

    def _switch_model(self) -> None:
        """Take the cheaper model of a budget that runs low (`on_low`)."""
        for tracker in self._trackers:
            if tracker.on_low is not None and self.request.model is not None:
                model = _guard.guarded("on_low", tracker.cheaper, self.request)
                if model is not None and model != self.request.model:
                    self.switched_from = self.switched_from or self.request.model
                    self.request = replace(self.request, model=model)

    def granted(self, hold: Hold) -> None:
        """Take over the reservation that a wait has brought."""
        self._hold = hold
        self._waited_s = time.perf_counter() - self._began
        self._started_at = time.time()

    @property
    def wait_s(self) -> float:
        """How long this call may wait for room: the shortest `wait_s` of its budgets, or the request's own timeout."""
        own = [t.wait_s for t in self._trackers if t.wait_s is not None]
        return min(own) if own else self._needs.timeout_s()

    @property
    def output_limit(self) -> int | None:
        """The output limit to send per choice, where the budget lowered it; None leaves the request as it is."""
        if self._hold is None or self._hold.tokens is None:
            return None
        return self._hold.tokens // (1 if self._bound is None else self._bound.choices)

    def _may_wait(self) -> bool:
        return self._needs.awaits or not in_event_loop()

    def _need(self) -> Need | None:
        """Return what the call may cost at most; None where no budget is in force and nothing needs to be known."""
        if all([account.limit is None for account in self._accounts]):
            return None
        if self._needs.bound is None:
            return Need(NONE, NONE)
        bound = self._bound = self._needs.bound(self.request)
        most = self._price_of(bound)
        if most is None:
            return self._need_without_price(bound)
        lowerable = bool(bound.output_tokens) and not bound.limit_is_users
        find_least = functools.partial(self._price_of, bound, 0) if lowerable else None
        return Need(
            None,
            most,
            bound.output_tokens,
            lowerable,
            free=not most,
            find_least=find_least,
            input_tokens=bound.input_tokens,
            expected=self._expected(),
        )

    def _expected(self) -> Expected | None:
        """Return what such calls have cost so far, where a budget holds that, and enough were seen."""
        if not any([account.enforcement == "expected" for account in self._accounts]):
            return None
        costs = seen.of(self.request.model, self.request.operation)
        if costs is None or costs.count < ENOUGH_SEEN:
            return None
        return Expected(costs.mean, float(costs.deviation) ** 2)

    def _price_of(self, bound: Bound, output_tokens: int | None = None) -> Decimal | None:
        cost = self._most(self.request, bound, output_tokens)
        return None if cost is None else cost.total

    def _need_without_price(self, bound: Bound) -> Need:
        policies = [t.unknown_price for t in self._trackers if t.budget_usd is not None]
        if "block" in policies:
            blocker = next(t for t in self._trackers if t.budget_usd is not None and t.unknown_price == "block")
            raise UnknownPrice(self.request.model or "?", self.request.provider, blocker.name)
        rate = max((p for p in policies if isinstance(p, Decimal)), default=NONE) / MILLION
        least, most = bound.input_tokens * rate, (bound.input_tokens + bound.output_tokens) * rate
        lowerable = not bound.limit_is_users
        return Need(least, most, bound.output_tokens, lowerable, free=not rate, input_tokens=bound.input_tokens)

    # -- during the call ---------------------------------------------------------------------------------------------

    def start(self) -> otel.Context | None:
        """Start the span; returns the context in which the HTTP call runs (the span is current only there)."""
        if self._tracer is None:
            return None
        return _guard.guarded("span", self._start_span, self._tracer)

    def _start_span(self, tracer: Tracer) -> otel.Context:
        first: dict[str, Any] = {}
        names.of_request(self.request, first)
        model = self.request.model
        self._span = tracer.start_call(
            self.request.operation if model is None else f"{self.request.operation} {model}", first
        )
        return tracer.context_of(self._span)

    @property
    def output_room(self) -> int | None:
        """How many output tokens a stream may write before it has outgrown its hold; None where nothing limits it."""
        hold, bound = self._hold, self._bound
        if (
            hold is None
            or bound is None
            or not bound.output_tokens
            or not any([a.limit is not None for a in self._accounts])
        ):
            return None
        return bound.output_tokens if hold.tokens is None else hold.tokens

    def outgrown(self, tokens: int) -> int:
        """Hold a quarter more for a stream that has written `tokens`; returns its new room. Raises BudgetExceeded."""
        hold, more = self._hold, max(1, tokens // 4)
        if hold is not None:
            bound = self._bound or Bound(0, 0)
            price, least = self._price_of(bound, more), self._price_of(bound, 0)  # long input makes output dearer
            refusal = desk.extend(hold, NONE if price is None or least is None else price - least, more)
            if refusal is not None:
                raise refusal
        return tokens + more

    def first_chunk(self) -> None:
        """Note that the first part of a stream has arrived."""
        if self._first_chunk_s is None:
            self._first_chunk_s = time.perf_counter() - self._began - self._waited_s

    # -- the end, once -----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The answer is complete."""
        self._end("error" if self.answer.error else "ok", self.answer.error)

    def fail(self, error: BaseException) -> None:
        """The call ended in an exception, which the caller raises on; a refusal is a call that was never sent."""
        if self.ended:
            return
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            self.answer.http_status = status
        request_id = getattr(error, "request_id", None)
        if isinstance(request_id, str):
            self.answer.request_id = request_id
        if isinstance(error, BudgetExceeded):
            for tracker in self._trackers:
                _held_back("budget", tracker.out_of_room, error)
        left = isinstance(error, GeneratorExit)
        kind: CallStatus = "aborted" if left else "error"
        if isinstance(error, CallRefused):
            kind = "aborted" if isinstance(error, BudgetExceeded) and error.sent else "refused"
        self._end(kind, None if left else type(error).__name__)

    def abort(self) -> None:
        """The stream was left before its end."""
        self._end("aborted", None)

    def _end(self, status: CallStatus, error: str | None) -> None:
        with _ending:
            if self.ended:
                return
            self.ended = True
        if self._pid != os.getpid():
            return  # a forked child inherited the call; its parent ends it
        duration_s = time.perf_counter() - self._began - self._waited_s
        _held_back("call", self._conclude, status, error, duration_s)
        if self._hold is not None and not self._hold.settled:  # whatever failed above, no hold outlives its call
            _guard.guarded("budget", desk.settle, self._hold, self._hold.amount)
        self._content = None

    def _conclude(self, status: CallStatus, error: str | None, duration_s: float) -> None:
        cost = None if status == "refused" else _held_back("price", self._cost, status, error, duration_s)
        if status == "refused":
            cost = Cost(total=NONE, source="not sent")
            self.start()  # a refused call is a span too, so that a trace shows why it stopped
        record = self.record = self._record(status, error, duration_s, cost)
        self._settle(record)
        for name, function, wanted in self._plugins.callers("call_finished"):
            _held_back(f"{name}.call_finished", function, *(record for _ in wanted))
        self._end_span(record)

    def _cost(self, status: CallStatus, error: str | None, duration_s: float) -> Cost | None:
        answer = self.answer
        usage = answer.usage
        if usage is not None:
            return self._price(self._answered(), usage, duration_s)
        if answer.http_status is not None and answer.http_status >= 400:
            return Cost(total=NONE, source="status")
        if status == "error" and error in _NEVER_ANSWERED and not answer.streamed_tokens and answer.http_status is None:
            return Cost(total=NONE, source="not answered")
        if self.request.streamed and answer.http_status is not None:
            return self._estimated()
        return None

    def _estimated(self) -> Cost | None:
        """Price a stream that brought no usage: output by what was received, input by its bytes; the caveats say so."""
        if self._needs.bound is None:
            return None
        bound = self._bound or self._needs.bound(self.request)
        cost = self._price(self._answered(), likely_usage(bound, self.answer.streamed_tokens))
        return None if cost is None else replace(cost, caveats=(*cost.caveats, FROM_STREAM, INPUT_BOUND))

    def _answered(self) -> Request:
        """Return the request as it was answered: the answered model and tier are what is billed."""
        answer, request = self.answer, self.request
        if answer.model is None and answer.service_tier is None:
            return request
        params = request.params
        if answer.service_tier is not None:
            params = {**params, "service_tier": answer.service_tier}
        return Request(
            provider=request.provider,
            endpoint=request.endpoint,
            operation=request.operation,
            model=answer.model or request.model,
            params=params,
            streamed=request.streamed,
            base_url=request.base_url,
            attributes=request.attributes,
        )

    def _record(self, status: CallStatus, error: str | None, duration_s: float, cost: Cost | None) -> Record:
        answer, request, span = self.answer, self.request, self._span
        context = None if span is None else span.get_span_context()
        parent: SpanContext | None = getattr(span, "parent", None)
        return Record(
            id=f"{_prefix}{next(_numbers)}",
            provider=request.provider,
            endpoint=request.endpoint,
            operation=request.operation,
            model=answer.model or request.model,
            requested_model=request.model,
            status=status,
            error=error,
            started_at=datetime.fromtimestamp(self._started_at, UTC),
            duration_s=duration_s,
            time_to_first_chunk_s=self._first_chunk_s,
            streamed=request.streamed,
            service_tier=answer.service_tier,
            usage=answer.usage,
            cost=cost,
            trace_id=None if context is None else f"{context.trace_id:032x}",
            span_id=None if context is None else f"{context.span_id:016x}",
            parent_id=None if parent is None else f"{parent.span_id:016x}",
            request_id=answer.request_id,
            attributes=self._facts(),
        )

    def _facts(self) -> dict[str, Any]:
        """Return what a record says beside its fields: the user's attributes, and the rest of what the answer told."""
        answer, hold = self.answer, self._hold
        facts: dict[str, Any] = {**names.server_of(self.request.base_url), **self.request.attributes}
        if answer.limits:
            facts.update(answer.limits)
        for attribute, count in (
            (names.RETRIES, answer.retries),
            (names.CHUNKS, answer.chunks),
            (names.TOOL_CALLS, answer.tool_calls),
        ):
            if count is not None:
                facts[attribute] = count
        if answer.response_id is not None:
            facts[names.RESPONSE_ID] = answer.response_id
        if answer.finish_reasons:
            facts[names.FINISH_REASONS] = answer.finish_reasons
        if answer.http_status is not None:
            facts[names.HTTP_STATUS] = answer.http_status
        if answer.fingerprint is not None:
            facts[names.FINGERPRINT] = answer.fingerprint
        if self._operations:
            facts[names.OPERATIONS] = self._operations
        if hold is not None and hold.tokens is not None:
            facts[names.CLAMPED] = self.output_limit
        if self.switched_from is not None:
            facts[names.SWITCHED_FROM] = self.switched_from
        if self._waited_s:
            facts[names.WAITED] = self._waited_s
        return facts

    def _settle(self, record: Record) -> None:
        if record.status == "refused":
            if self._hold is not None:
                desk.release(self._hold)
            for tracker in self._trackers:
                _held_back("budget", tracker.book, record, NONE, self._operations)
            return
        charge = NONE if record.cost is None else record.cost.total
        if record.cost is None or FROM_STREAM in record.cost.caveats:
            charge = self._charge_of_the_unseen(charge)
        tokens = self._tokens_used(record)
        if self._hold is not None:
            desk.settle(self._hold, charge, tokens)
        else:
            desk.spend(self._accounts, charge, tokens)
        for tracker, accounts in zip(self._trackers, self._shares, strict=True):
            _held_back("budget", tracker.book, record, charge, self._operations, accounts, tokens)
        if record.cost is not None and record.status == "ok":
            seen.add(self.request.model, self.request.operation, charge)

    def _tokens_used(self, record: Record) -> int:
        """Return the input and output of a call; where it does not say, what was seen of it, or what was held."""
        usage, bound = record.usage, self._bound
        if usage is not None and (usage.input_tokens is not None or usage.output_tokens is not None):
            return (usage.input_tokens or 0) + (usage.output_tokens or 0)
        if bound is None or (record.cost is not None and not record.cost.total and record.cost.exact):
            return 0  # it was not answered, or its answer counts no tokens
        if any(t.unseen_usage == "hold" for t in self._trackers):
            return bound.input_tokens + bound.output_tokens
        return (likely_usage(bound, 0).input_tokens or 0) + self.answer.streamed_tokens

    def _charge_of_the_unseen(self, estimate: Decimal) -> Decimal:
        """Return what a call whose cost nobody told costs its budgets: an estimate, or all that was held for it."""
        if self._hold is None:
            return estimate
        if any(t.unseen_usage == "hold" for t in self._trackers):
            return self._hold.amount
        usage = self.answer.usage
        rate = max((t.unknown_price for t in self._trackers if isinstance(t.unknown_price, Decimal)), default=None)
        if usage is not None and rate is not None:
            return ((usage.input_tokens or 0) + (usage.output_tokens or 0)) * rate / MILLION
        if usage is None and not estimate:
            known = self._estimated()  # it may have been billed: at least its input is counted
            return NONE if known is None else known.total
        return estimate

    def _end_span(self, record: Record) -> None:
        span = self._span
        if span is None:
            return
        if span.is_recording():
            if isinstance(span, CallSpan):
                span.record = record  # spelled when it is exported
            else:
                said: dict[str, Any] = {}
                names.of_record(record, said)
                span.set_attributes(said)
            if self._content is not None:
                content = {**self._content, "output": self.answer.content}
                span.set_attributes(_held_back("content", recorded, self._plugins, self.request, content) or {})
            if record.status in ("error", "refused"):
                span.set_status(Status(StatusCode.ERROR, record.error))
        span.end()


def _joined(shares: tuple[tuple[Account, ...], ...]) -> tuple[Account, ...]:
    return shares[0] if len(shares) == 1 else tuple([account for share in shares for account in share])


def _held_back(kind: str, function: Callable[..., T], /, *args: Any) -> T | None:
    """Call as `guarded` does, but let no refusal out either: the call is over, and its outcome is the user's."""
    try:
        return function(*args)
    except Exception as error:
        _guard.failed(kind, error)
        return None


#: Exceptions after which nothing is billed. After any other (a time-out, an answer that cannot be read) nobody knows.
_NEVER_ANSWERED = frozenset({"APIConnectionError", "OpenAIError"})


def _after_fork() -> None:
    global _prefix, _ending
    _prefix, _ending = f"call_{secrets.token_hex(6)}_", threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
