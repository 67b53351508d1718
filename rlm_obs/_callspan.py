"""The span of a call on our own provider: a few facts while it runs, one OpenTelemetry ReadableSpan made once, at its end.

The SDK's own span cleans, copies and locks per attribute while nobody reads it yet, which would be half of all that a
call costs. What exporters get is the same class; on somebody else's provider the SDK's own span is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from rlm_obs._attributes import of_record
from rlm_obs._record import Record

SCOPE = InstrumentationScope("rlm_obs")
UNSET = Status(StatusCode.UNSET)
SAMPLED, DROPPED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


class EndedCall(ReadableSpan):
    """A finished call's span, whose record is spelled as attributes when an exporter first reads them, in its own thread."""

    _record: Record | None = None

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        record, said = self._record, self._attributes
        if record is not None:
            spelled: dict[str, Any] = dict(said or {})
            of_record(record, spelled)
            plain = {key: _plain(value) for key, value in spelled.items() if value is not None}
            self._attributes, self._record = MappingProxyType(plain), None
        return self._attributes or {}


def _plain(value: Any) -> Any:
    """Return a value as an attribute may be: a scalar or a tuple of them; anything else as its text."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return tuple(v if isinstance(v, str | bool | int | float) else str(v) for v in value)
    return str(value)


class CallSpan(trace.Span):
    """An OpenTelemetry span that keeps plain values and hands one finished `ReadableSpan` to its processors."""

    __slots__ = (
        "_attributes",
        "_context",
        "_ended",
        "_kind",
        "_name",
        "_processors",
        "_started",
        "_status",
        "parent",
        "record",
        "resource",
    )

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
        processors: Sequence[SpanProcessor],
        resource: Resource,
    ) -> None:
        self._name, self._context, self.parent, self._kind = name, context, parent, kind
        self._attributes, self._processors, self.resource = attributes, processors, resource
        self.record: Record | None = None
        self._status, self._ended = UNSET, False
        self._started = time.time_ns()

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return not self._ended

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        if not self._ended:
            self._attributes.update(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if not self._ended:
            self._attributes[key] = value

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Leave events out: a call has none of ours, and others' may hold prompts."""

    def update_name(self, name: str) -> None:
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """Keep the exception's type alone: its message may hold a prompt or a key."""
        self.set_attribute("error.type", type(exception).__qualname__)

    def end(self, end_time: int | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        readable = EndedCall(
            name=self._name,
            context=self._context,
            parent=self.parent,
            resource=self.resource,
            attributes=MappingProxyType(self._attributes),
            kind=self._kind,
            status=self._status,
            start_time=self._started,
            end_time=end_time or time.time_ns(),
            instrumentation_scope=SCOPE,
        )
        readable._record = self.record
        for processor in self._processors:
            processor.on_end(readable)


def start(
    provider: TracerProvider,
    processors: Sequence[SpanProcessor],
    name: str,
    attributes: dict[str, Any],
    kind: SpanKind,
    parent: SpanContext,
) -> trace.Span:
    """Start a call's span as a child of `parent`, as `opentelemetry.sdk.trace.Tracer.start_span` does: ids by the provider's
    generator, the decision by its sampler. Source: OpenTelemetry specification, trace/sdk.md, "SDK span creation"."""
    ids, sampler = provider.id_generator, provider.sampler
    above = parent if parent.is_valid else None
    trace_id = ids.generate_trace_id() if above is None else above.trace_id
    if sampler is DEFAULT_ON and (above is None or above.trace_flags.sampled):  # what it would decide, without asking
        own = SpanContext(
            trace_id, ids.generate_span_id(), False, SAMPLED, None if above is None else above.trace_state
        )
        return CallSpan(name, own, above, kind, attributes, processors, provider.resource)
    decided = sampler.should_sample(otel.get_current(), trace_id, name, kind, attributes, ())
    flags = SAMPLED if decided.decision is Decision.RECORD_AND_SAMPLE else DROPPED
    own = SpanContext(trace_id, ids.generate_span_id(), False, flags, decided.trace_state)
    if decided.decision is Decision.DROP:
        return trace.NonRecordingSpan(own)
    return CallSpan(name, own, above, kind, attributes, processors, provider.resource)
