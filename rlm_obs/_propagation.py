"""Carries a trace and whom it is for from one service to the next: W3C traceparent and baggage, in any kind of headers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.propagators.textmap import Getter

from rlm_obs import _guard, _runtime, _scope

Headers = Mapping[str, Any] | Iterable[tuple[bytes, bytes]]
EMPTY = otel.Context()


class _Lowered(Getter[Mapping[str, str]]):
    """Reads headers whose names are in lower case already."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


LOWERED = _Lowered()


def inject(headers: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Write the current trace, and whom it is for, into `headers`, and return them: for an HTTP request or a queue's message.

    `traceparent` is the current span; `baggage` is the user, the session and the tenant of `rlm_obs.context` (the setting
    `baggage` names others), beside what the program's own OpenTelemetry baggage holds. None makes a new dict. The formats
    are those of OTEL_PROPAGATORS. Never fails: what cannot be written is left out.
    """
    into: MutableMapping[str, str] = {} if headers is None else headers
    _guard.guarded("inject", _inject, into)
    return into


def _inject(headers: MutableMapping[str, str]) -> None:
    from opentelemetry import propagate

    said, context = _scope.current().attributes, otel.get_current()
    for name in _runtime.runtime().settings.baggage:
        if isinstance(said.get(name), str | int | float):
            context = baggage.set_baggage(name, str(said[name]), context)
    propagate.inject(headers, context)


@contextmanager
def extract(headers: Headers | None) -> Iterator[None]:
    """Go on, for a block, with the trace that `headers` bring, and with whom it is for: the other side of `inject`.

    `headers`: any mapping, upper or lower case, or ASGI's pairs of bytes; None and headers that say nothing change
    nothing. Only the names in the setting `baggage` are taken over, as attributes of everything below. What is sent to a
    service can be made up by the sender: use it where you trust the caller. A span that is open already in the same
    trace stays the parent. Never fails: headers that make no sense are passed over.
    """
    context = _guard.guarded("extract", extracted, headers)
    if context is None:
        yield
    else:
        token = otel.attach(context)
        try:
            yield
        finally:
            _scope.detach(token)


def extracted(headers: Headers | None) -> otel.Context | None:
    """Return the current context with what `headers` bring; None where they bring nothing."""
    from opentelemetry import propagate

    found = propagate.extract(_lowered(headers), EMPTY, LOWERED)
    if not found:
        return None
    context = otel.get_current()
    for name, value in baggage.get_all(found).items():
        context = baggage.set_baggage(name, value, context)
    above, around = trace.get_current_span(found), trace.get_current_span(context)
    came, here = above.get_span_context(), around.get_span_context()
    joins = came.is_valid and came.trace_id != here.trace_id
    names = _runtime.runtime().settings.baggage
    said = {name: str(value) for name, value in baggage.get_all(found).items() if name in names}
    token = otel.attach(trace.set_span_in_context(above, context) if joins else context)
    try:
        return _scope.with_scope(_scope.widened(attributes=said, top=True if joins else None))
    finally:
        otel.detach(token)


def _lowered(headers: Headers | None) -> dict[str, str]:
    pairs: Iterable[tuple[Any, Any]] = headers.items() if isinstance(headers, Mapping) else headers or ()
    return {_text(name).lower(): _text(value) for name, value in pairs if value is not None}


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
