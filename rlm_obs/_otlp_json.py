"""Spans as lines of OTLP-JSON, and back: what the file exporter writes, the collector reads, and a disk keeps.

Source: OpenTelemetry's "OTLP file exporter" and "OTLP specification, JSON Protobuf encoding": ids in hex, enums as
numbers, integers of 64 bits as text, everything else as protobuf's own JSON mapping has it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

#: Bits of `flags`: the low eight are those of W3C trace context, then whether it is known that the parent (of a link:
#: its span) is remote, and whether it is.
TRACE_FLAGS, REMOTE_KNOWN, REMOTE = 0xFF, 0x100, 0x200


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans as one line, its line break included, in their order; `decode` gives them back.

    What OTLP has no word for is said another way: an int past 64 bits as text, half a surrogate pair as `?`, a value of
    no type of OpenTelemetry's by its `str`; the parent's own trace state and flags are taken to be the span's.
    """
    groups = []
    for resource, those in groupby(spans, key=lambda span: span.resource):
        scoped = [
            {**_scope_said(scope), "spans": [_span_said(span) for span in some]}
            for scope, some in groupby(those, key=lambda span: span.instrumentation_scope)
        ]
        said = {"resource": _some(attributes=_attributes_said(resource.attributes)), "scopeSpans": scoped}
        groups.append(said | _some(schemaUrl=_text(resource.schema_url)))
    text = json.dumps({"resourceSpans": groups}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def decode(line: bytes | str) -> list[ReadableSpan]:
    """Return the spans of one line, of ours or of another's; fields that OTLP may get later are passed over.

    Raises ValueError for anything that is no line of traces in OTLP-JSON: half a line, metrics, another format.
    """
    try:
        return spans_in(json.loads(line))
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"no OTLP-JSON of traces ({type(error).__name__})") from None


def spans_in(said: Mapping[str, Any]) -> list[ReadableSpan]:
    """Return the spans of a line that is JSON already. Raises what anything that is no such line leads to."""
    return [
        _span(span, resource, scope)
        for group in said["resourceSpans"]
        for resource in [_resource(group)]
        for scoped in group.get("scopeSpans", ())
        for scope in [_scope(scoped)]
        for span in scoped.get("spans", ())
    ]


def _span_said(span: ReadableSpan) -> dict[str, Any]:
    context, parent = span.context or INVALID_SPAN_CONTEXT, span.parent
    status = span.status
    return {
        "traceId": _hex(context.trace_id, 32),
        "spanId": _hex(context.span_id, 16),
        **_some(
            traceState=context.trace_state.to_header(),
            parentSpanId="" if parent is None else _hex(parent.span_id, 16),
            flags=_flags_said(context, parent is not None and parent.is_remote),
        ),
        "name": _text(span.name),
        "kind": span.kind.value + 1,
        **({} if span.start_time is None else {"startTimeUnixNano": str(span.start_time)}),
        **({} if span.end_time is None else {"endTimeUnixNano": str(span.end_time)}),
        **_some(
            attributes=_attributes_said(span.attributes),
            droppedAttributesCount=span.dropped_attributes,
            events=[_event_said(event) for event in span.events],
            droppedEventsCount=span.dropped_events,
            links=[_link_said(link) for link in span.links],
            droppedLinksCount=span.dropped_links,
        ),
        "status": _some(message=_text(status.description), code=status.status_code.value),
    }


def _event_said(event: Event) -> dict[str, Any]:
    return {
        "timeUnixNano": str(event.timestamp),
        "name": _text(event.name),
        **_some(attributes=_attributes_said(event.attributes), droppedAttributesCount=event.dropped_attributes),
    }


def _link_said(link: Link) -> dict[str, Any]:
    context = link.context
    return {
        "traceId": _hex(context.trace_id, 32),
        "spanId": _hex(context.span_id, 16),
        **_some(
            traceState=context.trace_state.to_header(),
            attributes=_attributes_said(link.attributes),
            droppedAttributesCount=link.dropped_attributes,
            flags=_flags_said(context, context.is_remote),
        ),
    }


def _scope_said(scope: InstrumentationScope | None) -> dict[str, Any]:
    if scope is None:
        return {"scope": {}}
    more = _some(version=_text(scope.version), attributes=_attributes_said(scope.attributes))
    return {"scope": {"name": _text(scope.name), **more}, **_some(schemaUrl=_text(scope.schema_url))}


def _some(**said: Any) -> dict[str, Any]:
    """Return what is not empty: protobuf's JSON leaves out what has its type's first value."""
    return {name: value for name, value in said.items() if value}


def _hex(number: int, digits: int) -> str:
    return format(number, f"0{digits}x")


def _text(text: str | None) -> str:
    return (text or "").encode("utf-8", "replace").decode("utf-8")


def _flags_said(context: SpanContext, remote: bool) -> int:
    return context.trace_flags & TRACE_FLAGS | REMOTE_KNOWN | (REMOTE if remote else 0)


def _attributes_said(attributes: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return [{"key": _text(str(key)), "value": _value_said(value)} for key, value in (attributes or {}).items()]


def _value_said(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"stringValue": _text(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return {"intValue": str(int(value))}
    if isinstance(value, float):
        return {"doubleValue": _double_said(value)}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"kvlistValue": _some(values=_attributes_said(value))}
    if isinstance(value, Sequence):
        return {"arrayValue": _some(values=[_value_said(one) for one in value])}
    return {"stringValue": _text(str(value))}


def _double_said(number: float) -> float | str:
    if math.isfinite(number):
        return float(number)
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _span(said: Mapping[str, Any], resource: Resource, scope: InstrumentationScope | None) -> ReadableSpan:
    context, status = _context(said, remote=False), said.get("status") or {}
    code = StatusCode(int(status.get("code", 0)))
    return ReadableSpan(
        name=said.get("name", ""),
        context=context,
        parent=_parent(said, context),
        resource=resource,
        attributes=_attributes(said),
        events=listed(map(_event, said.get("events", ())), int(said.get("droppedEventsCount", 0))),
        links=listed(map(_link, said.get("links", ())), int(said.get("droppedLinksCount", 0))),
        kind=SpanKind(max(int(said.get("kind", 0)) - 1, 0)),
        status=Status(code, status.get("message") if code is StatusCode.ERROR else None),
        start_time=_number(said.get("startTimeUnixNano")),
        end_time=_number(said.get("endTimeUnixNano")),
        instrumentation_scope=scope,
    )


def _context(said: Mapping[str, Any], remote: bool) -> SpanContext:
    trace_id, span_id = (int(said.get(name) or "0", 16) for name in ("traceId", "spanId"))
    state = TraceState.from_header([said["traceState"]]) if said.get("traceState") else None
    return SpanContext(trace_id, span_id, remote, TraceFlags(int(said.get("flags", 0)) & TRACE_FLAGS), state)


def _parent(said: Mapping[str, Any], span: SpanContext) -> SpanContext | None:
    if not said.get("parentSpanId"):
        return None
    span_id, remote = int(said["parentSpanId"], 16), _is_remote(said)
    return SpanContext(span.trace_id, span_id, remote, span.trace_flags, span.trace_state)


def _is_remote(said: Mapping[str, Any]) -> bool:
    return bool(int(said.get("flags", 0)) & REMOTE)


def _event(said: Mapping[str, Any]) -> Event:
    return Event(said.get("name", ""), _attributes(said), int(said.get("timeUnixNano", 0)))


def _link(said: Mapping[str, Any]) -> Link:
    return Link(_context(said, remote=_is_remote(said)), _attributes(said))


def _resource(group: Mapping[str, Any]) -> Resource:
    return Resource(_pairs((group.get("resource") or {}).get("attributes", ())), group.get("schemaUrl"))


def _scope(scoped: Mapping[str, Any]) -> InstrumentationScope | None:
    said = scoped.get("scope") or {}
    if not said:
        return None
    return InstrumentationScope(
        said.get("name", ""), said.get("version"), scoped.get("schemaUrl"), _pairs(said.get("attributes", ()))
    )


def _attributes(said: Mapping[str, Any]) -> Mapping[str, Any]:
    return counted(_pairs(said.get("attributes", ())), int(said.get("droppedAttributesCount", 0)))


def counted(attributes: Mapping[str, Any], dropped: int) -> Mapping[str, Any]:
    """Return attributes as the SDK keeps them where some were dropped: it counts them there."""
    if not dropped:
        return attributes
    kept = BoundedAttributes(attributes=attributes)
    kept.dropped = dropped
    return kept


def listed(some: Iterable[Any], dropped: int) -> Sequence[Any]:
    """Return events or links as the SDK keeps them where some were dropped."""
    if not dropped:
        return tuple(some)
    kept = BoundedList.from_seq(None, some)
    kept.dropped = dropped
    return kept


def _pairs(said: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value") or {}) for pair in said}


def _value(said: Mapping[str, Any]) -> Any:
    for kind, value in said.items():
        if kind in ("stringValue", "boolValue"):
            return value
        if kind == "intValue":
            return int(value)
        if kind == "doubleValue":
            return float(value)
        if kind == "bytesValue":
            return base64.b64decode(value, validate=True)
        if kind == "arrayValue":
            return tuple(_value(one) for one in value.get("values", ()))
        if kind == "kvlistValue":
            return _pairs(value.get("values", ()))
    return None


def _number(said: str | int | None) -> int | None:
    return None if said is None else int(said)
