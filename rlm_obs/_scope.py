"""What holds for the calls of a block: it rides in the OpenTelemetry context, so whatever carries a trace carries it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel

if TYPE_CHECKING:
    from rlm_obs._tracer import Tracer
    from rlm_obs._tracker import CostTracker

KEY = "rlm_obs.scope"


@dataclass(frozen=True, slots=True)
class Scope:
    """The tracer, the budgets, the operations and the attributes in force; each `with` of ours adds to them."""

    tracer: Tracer | None = None
    trackers: tuple[CostTracker, ...] = ()
    operations: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


EMPTY = Scope()


def current() -> Scope:
    """Return the scope of the running code, or the empty one."""
    found = otel.get_value(KEY)
    return found if isinstance(found, Scope) else EMPTY


def with_scope(scope: Scope) -> otel.Context:
    """Return the current OpenTelemetry context with `scope` in it; attach it, or run generators in it step by step."""
    return otel.set_value(KEY, scope)


def widened(
    *,
    tracer: Tracer | None = None,
    trackers: tuple[CostTracker, ...] = (),
    operation: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Scope:
    """Return the current scope with what is given added; a tracker that holds already is not added twice."""
    held = current()
    return replace(
        held,
        tracer=tracer or held.tracer,
        trackers=held.trackers + tuple(t for t in trackers if t not in held.trackers),
        operations=held.operations if operation is None else (*held.operations, operation),
        attributes={**held.attributes, **attributes} if attributes else held.attributes,
    )


@contextmanager
def attached(context: otel.Context) -> Iterator[None]:
    """Make `context` the current one for a block. Never hold it across a `yield` of a generator."""
    token = otel.attach(context)
    try:
        yield
    finally:
        otel.detach(token)
