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
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
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


class Exporting(Protocol):
    """What exports ended spans."""

    def take(self, span: ReadableSpan) -> None:
        """Take a span that is to be exported."""


class CallSpan(trace.Span, ReadableSpan):
    """An OpenTelemetry span that keeps plain values, and is exported as it is when it ends, read-only from then on.

    Its record is made, and spelled as attributes, when an exporter first reads them, in the exporter's thread.
    """

    # What `ReadableSpan.__init__` assigns and is the same for each of them.
    _instrumentation_info = None
    _instrumentation_scope = SCOPE
    _events = _links = ()
    _status = UNSET
    _end_time: int | None = None
    _spelled: Mapping[str, Any] | None = None
    _own: SpanContext | None = None
    #: The call that has ended.
    told: Told | None = None

    def __init__(
        self,
        name: str,
        ids: tuple[int, int, int],
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
        exporting: Sequence[Exporting],
        resource: Resource,
    ) -> None:
        #: Those of its trace, of itself and of the span above it, 0 where there is none.
        self.ids = ids
        self._name, self._parent, self._kind = name, parent, kind
        self._said, self._exporting, self._resource = attributes, exporting, resource
        self._start_time = time.time_ns()

    @classmethod
    def of(cls, context: SpanContext, name: str, parent: SpanContext | None, *rest: Any) -> CallSpan:
        """Return the span of a context that was made already."""
        span = cls(name, (context.trace_id, context.span_id, 0 if parent is None else parent.span_id), parent, *rest)
        span._own = context
        return span

    @property
    def _context(self) -> SpanContext:  # type: ignore[override]  # made when somebody asks: of most, in the exporter's thread
        if self._own is None:
            trace_id, span_id, _ = self.ids
            state = None if self._parent is None else self._parent.trace_state
            self._own = SpanContext(trace_id, span_id, False, SAMPLED, state)
        return self._own

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
        return self._context

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
            for exporting in self._exporting:
                exporting.take(self)


class Maker:
    """Starts the spans of calls as `opentelemetry.sdk.trace.Tracer.start_span` does: ids by the provider's generator, the
    decision by its sampler. Source: OpenTelemetry specification, trace/sdk.md, "SDK span creation"."""

    def __init__(self, provider: TracerProvider, exporting: Sequence[Exporting]) -> None:
        self._ids, self._sampler, self._resource = provider.id_generator, provider.sampler, provider.resource
        self._exporting = exporting
        #: What these two would say is known without asking them.
        self._plain = type(self._ids) is RandomIdGenerator and self._sampler is DEFAULT_ON

    def start(self, name: str, attributes: dict[str, Any], parent: SpanContext | None) -> trace.Span:
        """Start the span of a call as a child of `parent`."""
        if self._plain and parent is None:
            ids = _bits(128) or 1, _bits(64) or 1, 0
            return CallSpan(name, ids, None, SpanKind.CLIENT, attributes, self._exporting, self._resource)
        if self._plain and parent is not None and parent.trace_flags.sampled:
            ids = parent.trace_id, _bits(64) or 1, parent.span_id
            return CallSpan(name, ids, parent, SpanKind.CLIENT, attributes, self._exporting, self._resource)
        trace_id = self._ids.generate_trace_id() if parent is None else parent.trace_id
        kind = SpanKind.CLIENT
        decided = self._sampler.should_sample(_scope.get_current(), trace_id, name, kind, attributes, ())
        sampled = decided.decision is Decision.RECORD_AND_SAMPLE
        span_id = self._ids.generate_span_id()
        own = SpanContext(trace_id, span_id, False, SAMPLED if sampled else DROPPED, decided.trace_state)
        if decided.decision is Decision.DROP:
            return trace.NonRecordingSpan(own)
        return CallSpan.of(own, name, parent, kind, attributes, self._exporting if sampled else (), self._resource)


_bits = random.getrandbits
