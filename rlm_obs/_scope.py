"""What holds for the calls of a block: it rides in the OpenTelemetry context, so what carries a trace carries it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry import trace

from rlm_obs._frozen import quick_to_make

if TYPE_CHECKING:
    from rlm_obs._tracer import Tracer
    from rlm_obs._tracker import CostTracker

KEY = "rlm_obs.scope"
#: Where OpenTelemetry keeps the current span in a context.
(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, otel.Context())


def _variable() -> ContextVar[otel.Context] | None:
    """Return the variable in which OpenTelemetry keeps its current context; None where it keeps it elsewhere."""
    token = otel.attach(otel.get_current())
    otel.detach(token)
    found = getattr(token, "var", None)
    return found if isinstance(found, ContextVar) else None


_kept_in = _variable()
#: What OpenTelemetry's own functions of these names do, without the two calls between, on the way of each call.
get_current: Callable[[], otel.Context] = otel.get_current if _kept_in is None else _kept_in.get
attach: Callable[[otel.Context], Token[otel.Context]] = otel.attach if _kept_in is None else _kept_in.set


@quick_to_make
@dataclass(frozen=True, slots=True)
class Scope:
    """The tracer, the budgets, the operations and the attributes in force; each `with` of ours adds to them."""

    tracer: Tracer | None = None
    trackers: tuple[CostTracker, ...] = ()
    operations: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    #: The name of the topmost span above, where it names the trace.
    trace_name: str | None = None
    #: No span of the tracer is open yet: the next one is the topmost.
    top: bool = True


EMPTY = Scope()
#: What `instrument()` has switched on for the whole process; the scope of a block comes before it.
default = EMPTY


def set_default(scope: Scope) -> None:
    """Switch on (or off, with an empty scope) what holds for every call of the process."""
    global default
    default = scope


def tracer_in_force(tracer: Tracer | None = None) -> Tracer | None:
    """Return `tracer`, or the innermost block's, or `instrument()`'s; None where nothing traces."""
    return tracer or current().tracer or default.tracer


def current() -> Scope:
    """Return the scope of the running code, or the empty one."""
    found = get_current().get(KEY)
    return found if isinstance(found, Scope) else EMPTY


def of(context: otel.Context) -> Scope:
    """Return the scope in a context, or the empty one."""
    found = context.get(KEY)
    return found if isinstance(found, Scope) else EMPTY


def span_of(context: otel.Context) -> trace.Span:
    """Return the span that is current in a context, or OpenTelemetry's invalid one."""
    found: trace.Span | None = context.get(SPAN_KEY)  # type: ignore[assignment]  # nobody else writes there
    return trace.INVALID_SPAN if found is None else found


def with_span(span: trace.Span, context: otel.Context) -> otel.Context:
    """Return a context with `span` as its current one, as `trace.set_span_in_context` does."""
    return otel.Context({**context, SPAN_KEY: span})


def with_scope(scope: Scope) -> otel.Context:
    """Return the current OpenTelemetry context with `scope` in it; attach it, or run generators in it step by step."""
    return otel.set_value(KEY, scope)


def widened(
    *,
    tracer: Tracer | None = None,
    trackers: tuple[CostTracker, ...] = (),
    operation: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    top: bool | None = None,
    trace_name: str | None = None,
) -> Scope:
    """Return the current scope with what is given added; a tracker that holds already is not added twice."""
    held = current()
    return Scope(  # not by `dataclasses.replace`, which takes twice as long
        tracer=tracer or held.tracer,
        trackers=held.trackers + tuple([t for t in trackers if t not in held.trackers]) if trackers else held.trackers,
        operations=held.operations if operation is None else (*held.operations, operation),
        attributes={**held.attributes, **attributes} if attributes else held.attributes,
        trace_name=held.trace_name if top is None else trace_name,
        top=held.top if top is None else top,
    )


def detach(token: Token[otel.Context]) -> None:
    """Undo an `attach`, quietly where the code was moved to another context (a generator closed by the loop)."""
    try:
        token.var.reset(token)
    except ValueError:
        token.var.set(otel.Context() if token.old_value is Token.MISSING else token.old_value)
    except AttributeError:  # not the default runtime context
        otel.detach(token)


@contextmanager
def attached(context: otel.Context) -> Iterator[None]:
    """Make `context` the current one for a block. Never hold it across a `yield` of a generator."""
    token = otel.attach(context)
    try:
        yield
    finally:
        detach(token)
