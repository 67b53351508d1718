"""The span of a call on our own provider: a few facts while it runs, spelled as attributes once, when it is exported.

The SDK's own span cleans, copies and locks per attribute while nobody reads it yet, which would be half of all that a
call costs. What exporters get is the same class; on somebody else's provider the SDK's own span is used.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from rlm_obs import _scope
from rlm_obs._attributes import ERROR_TYPE, of_record
from rlm_obs._record import Record

SCOPE = InstrumentationScope("rlm_obs")
UNSET = Status(StatusCode.UNSET)
NOBODY = trace.INVALID_SPAN_CONTEXT
SAMPLED, DROPPED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


def _plain(value: Any) -> Any:
    """Return a value as an attribute may be: a scalar or a tuple of them; anything else as its text."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return tuple(v if isinstance(v, str | bool | int | float) else str(v) for v in value)
    return str(value)


class Told(Protocol):
    """A call that has ended."""

    @property
    def record(self) -> Record | None:
        """What is to be told of it."""


class CallSpan(trace.Span, ReadableSpan):
    """An OpenTelemetry span that keeps plain values, and goes to its processors as it is when it ends, read-only from then on.

    Its record is made, and spelled as attributes, when an exporter first reads them, in the exporter's thread.
    """

    # What `ReadableSpan.__init__` assigns and is the same for each of them.
    _instrumentation_info = None
    _instrumentation_scope = SCOPE
    _events = _links = ()
    _status = UNSET
    _end_time: int | None = None
    _spelled: Mapping[str, Any] | None = None
    #: The call that has ended.
    told: Told | None = None

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
        self._name, self._context, self._parent, self._kind = name, context, parent, kind
        self._said, self._processors, self._resource = attributes, processors, resource
        self._start_time = time.time_ns()

    @property
    def record(self) -> Record | None:
        """The record of the call, once it has ended."""
        return None if self.told is None else self.told.record

    @property  # what `to_json` reads
    def _attributes(self) -> Mapping[str, AttributeValue]:  # type: ignore[override]
        return self.attributes

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        if self._spelled is not None:
            return self._spelled
        said, record = dict(self._said), self.record
        if record is not None:
            of_record(record, said)
        plain = MappingProxyType({key: _plain(value) for key, value in said.items() if value is not None})
        if self._end_time is not None:
            self._spelled = plain
        return plain

    def get_span_context(self) -> SpanContext:
        return self._context  # type: ignore[return-value]  # always given

    def is_recording(self) -> bool:
        return self._end_time is None

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        if self._end_time is None:
            self._said.update(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if self._end_time is None:
            self._said[key] = value

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Leave events out: a call has none of ours, and others' may hold prompts."""

    def update_name(self, name: str) -> None:
        if self._end_time is None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if self._end_time is None:
            self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """Keep the exception's type alone: its message may hold a prompt or a key."""
        self.set_attribute(ERROR_TYPE, type(exception).__qualname__)

    def end(self, end_time: int | None = None) -> None:
        if self._end_time is None:
            self._end_time = end_time or time.time_ns()
            for processor in self._processors:
                processor.on_end(self)


def start(
    provider: TracerProvider,
    resource: Resource,
    processors: Sequence[SpanProcessor],
    name: str,
    attributes: dict[str, Any],
    kind: SpanKind,
    parent: SpanContext,
) -> trace.Span:
    """Start a call's span as a child of `parent`, as `opentelemetry.sdk.trace.Tracer.start_span` does: ids by the provider's
    generator, the decision by its sampler. Source: OpenTelemetry specification, trace/sdk.md, "SDK span creation"."""
    ids, sampler = provider.id_generator, provider.sampler
    above = parent if parent is not NOBODY and parent.is_valid else None
    if type(ids) is RandomIdGenerator:  # what it does, without the calls
        trace_id = above.trace_id if above is not None else _bits(128) or 1
        span_id = _bits(64) or 1
    else:
        trace_id = above.trace_id if above is not None else ids.generate_trace_id()
        span_id = ids.generate_span_id()
    if sampler is DEFAULT_ON and (above is None or above.trace_flags.sampled):  # what it would decide, without asking
        own = SpanContext(trace_id, span_id, False, SAMPLED, None if above is None else above.trace_state)
        return CallSpan(name, own, above, kind, attributes, processors, resource)
    decided = sampler.should_sample(_scope.get_current(), trace_id, name, kind, attributes, ())
    flags = SAMPLED if decided.decision is Decision.RECORD_AND_SAMPLE else DROPPED
    own = SpanContext(trace_id, span_id, False, flags, decided.trace_state)
    if decided.decision is Decision.DROP:
        return trace.NonRecordingSpan(own)
    return CallSpan(name, own, above, kind, attributes, processors, resource)


_bits = random.getrandbits
