"""Call: one request from its reservation to its record. A state machine without I/O that ends exactly once."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry.trace import Span, Status, StatusCode

from rlm_obs import _attributes as names
from rlm_obs import _guard, _scope
from rlm_obs._admission import CLOSED, Admission
from rlm_obs._admission import Most as Most
from rlm_obs._admission import Needing as Needing
from rlm_obs._admission import Needs as Needs
from rlm_obs._budgets.account import NONE, Hold
from rlm_obs._budgets.line import Waiting
from rlm_obs._callspan import CallSpan
from rlm_obs._content import recorded
from rlm_obs._pricing.dearest import likely_usage
from rlm_obs._record import Cost, Record, Request, Usage
from rlm_obs._record import Status as CallStatus
from rlm_obs.errors import BudgetExceeded, CallRefused

if TYPE_CHECKING:
    from rlm_obs._plugins import Plugins
    from rlm_obs._pricing.finding import Found
    from rlm_obs._tracer import Tracer
    from rlm_obs._tracker import CostTracker

#: `pid-random-` before each record's id: unique over processes, and renewed in a forked child.
_prefix = f"call_{secrets.token_hex(6)}_"
_numbers = itertools.count(1)
_ending = threading.Lock()
#: What a request has cost with this usage, in so many seconds, answered by this model and tier (None: not said).
Charge = Callable[[Request, Usage, float | None, str | None, str | None], Cost | None]
#: The total of that, exactly, of counts of text alone, and what tells the rest of it; None where it takes more to say.
Total = Callable[[Request, Mapping[str, int], str | None, str | None], tuple[Decimal, "Found"] | None]
FROM_STREAM = "output counted from the stream"
INPUT_BOUND = "input estimated from its bytes"


class Answer:
    """What an answer has said so far; a plain answer fills it at once, a stream chunk by chunk. The last word wins."""

    model: str | None = None
    response_id: str | None = None
    #: What was used, where that is text alone, by the names of `Usage`; the last said of the two counts.
    counts: Mapping[str, int] | None = None
    _counted: Mapping[str, int] | None = None  # what `_usage` was made of
    _usage: Usage | None = None
    service_tier: str | None = None
    fingerprint: str | None = None
    finish_reasons: tuple[str, ...] = ()
    request_id: str | None = None
    http_status: int | None = None
    error: str | None = None
    streamed_tokens: int = 0
    cost: Cost | None = None  # where it is known without the usage: of many calls at once, or billed before
    chunks: int | None = None
    tool_calls: int | None = None
    retries: int | None = None
    limits: Mapping[str, Any] | None = None
    kept: Mapping[str, Any] = MappingProxyType({})  # what a reader keeps for itself between the events
    content: Any = None
    goes_on: bool = False  # behind the answer: a later one tells what it cost
    #: What is held for a call that goes on: whoever reads its bill settles it.
    open: Admission | None = None

    def __init__(self, provider: str = "openai", endpoint: str = "", captures: bool = False) -> None:
        self.provider, self.endpoint, self.captures = provider, endpoint, captures

    @property
    def usage(self) -> Usage | None:
        """What was used."""
        counts = self.counts
        if counts is not None and counts is not self._counted:
            self._usage, self._counted = Usage(**counts), counts  # type: ignore[arg-type]  # its fields of counts
        return self._usage

    @usage.setter
    def usage(self, used: Usage | None) -> None:
        self._usage, self.counts = used, None


class Call:
    """`admit -> start -> first_chunk? -> finish | fail | abort`; ending it again is harmless and changes nothing."""

    ended = False
    status: CallStatus | None = None  # None: it goes on
    error: str | None = None
    #: Whether its cost is exact; None: nobody knows what it cost.
    exact: bool | None = None
    #: The model that has answered; the one that was asked for, where the answer names none.
    model: str | None = None
    #: Whether it tells what another call has cost, which was counted as one without a price.
    told_later = False
    switched_from: str | None = None
    _lowered_to: int | None = None
    _cost: Cost | None = None
    _found: Found | None = None  # tells the parts of a cost of which the total alone was needed
    _record: Record | None = None
    _span: Span | None = None  # while the call goes on
    #: The ids of its trace, of its span that was, and of the one above (0: none).
    _place: tuple[int, int, int] | None = None
    _first_chunk_s: float | None = None
    _waited_s = 0.0
    _number = 0
    _duration_s = 0.0

    def __init__(
        self,
        request: Request,
        needs: Needing,
        tracer: Tracer | None,
        trackers: tuple[CostTracker, ...],
        operations: tuple[str, ...],
        plugins: Plugins,
        price: Charge,
        most: Most,
        content: Mapping[str, Any] | None = None,
        total: Total | None = None,
    ) -> None:
        self.request, self._tracer, self._operations = request, tracer, operations
        self._plugins, self._price, self._total, self._content = plugins, price, total, content
        self._budget = Admission(request, needs, trackers, most)
        self.answer = Answer(request.provider, request.endpoint, content is not None)
        self._process = _prefix
        self._started_at = time.time()
        self._began = time.perf_counter()

    # -- before the call ---------------------------------------------------------------------------------------------

    def admit(self) -> Waiting | None:
        """Ask plugins and budgets; None: go on. A `Waiting` is to be waited for (or awaited) and given to `granted`.

        Raises CallRefused (and kin), which the caller lets out after `fail`; anything else of ours is guarded.
        """
        try:
            if self._plugins.known.get("call_starting") != ():
                self._plugins.notify("call_starting", request=self.request)
            budget = self._budget
            switched = budget.enter()
            if switched is not None:
                self.switched_from, self.request = self.request.model, switched
            return budget.ask()
        except Exception as error:
            _guard.caught("budget", error)
            return None

    def appeal(self, refusal: BudgetExceeded) -> Waiting | None:
        """Ask for the money again where somebody has raised the budget meanwhile; else raise the refusal."""
        return self._budget.appeal(refusal)

    def granted(self, hold: Hold) -> None:
        """Take over the reservation that a wait has brought."""
        self._budget.hold = hold
        self._waited_s = time.perf_counter() - self._began

    @property
    def wait_s(self) -> float:
        """How long this call may wait for room: the shortest `wait_s` of its budgets, or the request's own timeout."""
        return self._budget.wait_s

    @property
    def output_limit(self) -> int | None:
        """The output limit to send per choice, where the budget lowered it; None leaves the request as it is."""
        hold = self._budget.hold
        return None if hold is None or hold.tokens is None else self._budget.output_limit

    # -- during the call ---------------------------------------------------------------------------------------------

    def start(self, held: Mapping[str, object] = MappingProxyType({})) -> otel.Context:
        """Start the span; returns the context in which the HTTP call runs, in which the span is current, and `held` is too."""
        if not self.ended:  # as one that was refused has; what we have done before now is no time of the model's
            self._started_at, self._began = time.time(), time.perf_counter() - self._waited_s
        if self._tracer is not None:
            try:
                span, context = self._tracer.start_call(self.request, held)
            except Exception as error:
                _guard.caught("span", error)
            else:
                self._span = span
                return context
        return otel.Context({**_scope.get_current(), **held})

    @property
    def output_room(self) -> int | None:
        """How many output tokens a stream may write before it has outgrown its hold; None where nothing limits it."""
        return self._budget.output_room

    def outgrown(self, tokens: int) -> int:
        """Hold more for a stream that has written `tokens`; returns its new room. Raises BudgetExceeded."""
        return self._budget.outgrown(tokens)

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
            self._budget.out_of_room(error)
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
        if self._process is not _prefix:
            return  # a forked child inherited the call; its parent ends it
        answer = self.answer
        self._duration_s = time.perf_counter() - self._began - self._waited_s
        self.error, self._number = error, next(_numbers)
        if answer.open is not None:
            self._budget = answer.open  # those that it was begun under pay for it
            self.told_later = not answer.goes_on
        try:
            self._price_and_settle(status, answer)
            plugins = self._plugins
            for name, function, wanted in plugins.known.get("call_finished") or plugins.callers("call_finished"):
                asleep = getattr(function, "is_asleep", None)  # see `asleep_while`
                if asleep is None or asleep() is not True:
                    _guard.held_back(f"{name}.call_finished", function, *((self.record,) if wanted else ()))
            self._end_span()
        except Exception as failure:
            _guard.failed("call", failure)
        budget, self._content, answer.content = self._budget, None, None
        hold = budget.hold
        if hold is not None and hold.tokens is not None:
            self._lowered_to = budget.output_limit
        if answer.goes_on:
            answer.open = budget
            budget.leave_open()
        elif hold is not None and not hold.settled:
            budget.close()
        self._budget = CLOSED  # the rest would be kept as long as the span

    def _price_and_settle(self, status: CallStatus, answer: Answer) -> None:
        counts, priced, self.model = answer.counts, None, answer.model or self.request.model
        try:
            if counts is not None and status == "ok" and answer.cost is None and self._total is not None:
                priced = self._total(self.request, counts, answer.model, answer.service_tier)
            if priced is None:
                self._cost = self._priced(status)
        except Exception as failure:
            _guard.failed("price", failure)
        if priced is not None and counts is not None:  # as of most calls; the rest is told when somebody asks
            charge, self._found = priced
            self.exact, self.status = True, status
            self._budget.settle(self, charge, counts["input_tokens"] + counts["output_tokens"], self._operations)
            return
        if status == "refused":
            self.start()  # a refused call is a span too, so that a trace shows why it stopped
        self.status, cost = status, self._cost
        self.exact = None if cost is None else cost.exact
        self._settle()

    @property
    def started_at(self) -> float:
        """When it was sent, in seconds since the epoch."""
        return self._started_at

    @property
    def cost(self) -> Cost | None:
        """What it cost, once it has ended; None: nobody knows."""
        if self._cost is None and self._found is not None and self.usage is not None:
            self._cost = self._found.cost(self.usage, self._duration_s)
        return self._cost

    @property
    def usage(self) -> Usage | None:
        """What it used, as its answer says."""
        return self.answer.usage

    def _priced(self, status: CallStatus) -> Cost | None:
        answer, error = self.answer, self.error
        if status == "refused":
            return Cost(total=NONE, source="not sent")
        if answer.cost is not None:
            return answer.cost
        if answer.usage is not None:
            return self._price(self.request, answer.usage, self._duration_s, answer.model, answer.service_tier)
        if answer.http_status is not None and answer.http_status >= 400:
            return Cost(total=NONE, source="status")
        if status == "error" and error in _NEVER_ANSWERED and not answer.streamed_tokens and answer.http_status is None:
            return Cost(total=NONE, source="not answered")
        goes_on = self.request.params.get("background") is True  # whoever reads its end learns what it cost
        if self.request.streamed and answer.http_status is not None and not goes_on:
            return self._estimated()
        return None

    def _estimated(self) -> Cost | None:
        """Price a stream that brought no usage: output by what was received, input by its bytes; the caveats say so."""
        bound = self._budget.likely_bound()
        if bound is None:
            return None
        answer, usage = self.answer, likely_usage(bound, self.answer.streamed_tokens)
        cost = self._price(self.request, usage, None, answer.model, answer.service_tier)
        return None if cost is None else replace(cost, caveats=(*cost.caveats, FROM_STREAM, INPUT_BOUND))

    @property
    def record(self) -> Record | None:
        """The record of the call, once it has ended; made when it is first asked for, as most are by an exporter's thread."""
        if self._record is None and self.status is not None:
            self._record = self._made(self.status)
        return self._record

    def _made(self, status: CallStatus) -> Record:
        answer, request = self.answer, self.request
        place = self._place if self._span is None else _place_of(self._span)
        trace_id, span_id, parent_id = place or (0, 0, 0)
        return Record(
            id=f"{self._process}{self._number}",
            provider=request.provider,
            endpoint=request.endpoint,
            operation=request.operation,
            model=answer.model or request.model,
            requested_model=request.model,
            status=status,
            error=self.error,
            started_at=datetime.fromtimestamp(self._started_at, UTC),
            duration_s=self._duration_s,
            time_to_first_chunk_s=self._first_chunk_s,
            streamed=request.streamed,
            service_tier=answer.service_tier,
            usage=answer.usage,
            cost=self.cost,
            trace_id=f"{trace_id:032x}" if place else None,
            span_id=f"{span_id:016x}" if place else None,
            parent_id=f"{parent_id:016x}" if parent_id else None,
            request_id=answer.request_id,
            attributes=self._facts(),
        )

    def _facts(self) -> dict[str, Any]:
        """Return what a record says beside its fields: the user's attributes, and the rest of what the answer told."""
        answer, limit = self.answer, self.output_limit if self._lowered_to is None else self._lowered_to
        facts: dict[str, Any] = {**names.server_of(self.request.base_url), **self.request.attributes}
        if answer.limits:
            facts.update(answer.limits)
        if answer.retries is not None:
            facts[names.RETRIES] = answer.retries
        if answer.chunks is not None:
            facts[names.CHUNKS] = answer.chunks
        if answer.tool_calls is not None:
            facts[names.TOOL_CALLS] = answer.tool_calls
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
        if limit is not None:
            facts[names.CLAMPED] = limit
        if self.switched_from is not None:
            facts[names.SWITCHED_FROM] = self.switched_from
        if self._waited_s:
            facts[names.WAITED] = self._waited_s
        return facts

    def _settle(self) -> None:
        budget, cost, streamed = self._budget, self._cost, self.answer.streamed_tokens
        if self.status == "refused":
            budget.release(self, self._operations)
            return
        if self.answer.goes_on:
            budget.begin(self, self._operations)
            return
        charge = NONE if cost is None else cost.total
        if cost is None or FROM_STREAM in cost.caveats:
            charge = budget.charge_of_the_unseen(self.answer.usage, charge, self._likely_usd)
        budget.settle(self, charge, budget.tokens_used(self, streamed), self._operations)

    def _likely_usd(self) -> Decimal | None:
        cost = self._estimated()
        return None if cost is None else cost.total

    def _end_span(self) -> None:
        span = self._span
        if span is None:
            return
        self._place, self._span = _place_of(span), None  # or the two would hold each other, for the garbage collector
        if type(span) is CallSpan:
            span.told = self  # spelled when it is exported
        elif span.is_recording() and self.record is not None:
            said: dict[str, Any] = {}
            names.of_record(self.record, said)
            span.set_attributes(said)
        if self._content is not None and span.is_recording():
            content = {**self._content, "output": self.answer.content}
            span.set_attributes(_guard.held_back("content", recorded, self._plugins, self.request, content) or {})
        if self.status in ("error", "refused"):
            span.set_status(Status(StatusCode.ERROR, self.error))
        span.end()


def _place_of(span: Span) -> tuple[int, int, int]:
    """Return the ids of a span's trace, of itself, and of the one above it (0: none)."""
    if type(span) is CallSpan:
        return span.ids
    context, parent = span.get_span_context(), getattr(span, "parent", None)
    return context.trace_id, context.span_id, 0 if parent is None else parent.span_id


#: Exceptions after which nothing is billed. After any other (a time-out, an answer that cannot be read) nobody knows.
_NEVER_ANSWERED = frozenset({"APIConnectionError", "OpenAIError"})


def _after_fork() -> None:
    global _prefix, _ending
    _prefix, _ending = f"call_{secrets.token_hex(6)}_", threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
