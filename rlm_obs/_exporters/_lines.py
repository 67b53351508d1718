"""How a span is written as one line of a file: as a record that people and spreadsheets read, or as OTLP-JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind

from rlm_obs import _attributes, _otlp_json
from rlm_obs._exporters._copying import quiet
from rlm_obs._exporters.base import error_type, is_score
from rlm_obs._record import Record, Request

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

#: The format of a record's line, under "v". Fields may be added to it; it counts up when a reader of the old one would
#: be wrong.
VERSION = 1
#: What every SDK says of itself, and no line repeats.
UNSAID = "telemetry.sdk."


def record_line(span: ReadableSpan) -> bytes:
    """Return a call as its record, a score or any other span as the facts about it; an error is there by its class."""
    record, said = _attributes.record_of(span), span.attributes or {}
    if is_score(span):
        return _written(_score_of(span) | _around(span, SpanKind.INTERNAL))
    line: dict[str, Any] = {"v": VERSION, "kind": "span" if record is None else "call", "name": span.name}
    if record is not None:
        line |= record.to_dict()
        line |= {name: said[attribute] for name, attribute in _attributes.CONTENT.items() if attribute in said}
        line |= _around(span, SpanKind.CLIENT)
        if more := _more(said, spelled(record)):
            line["more"] = more
    else:
        start, error = span.start_time or 0, error_type(span)
        line |= {
            "trace_id": format(span.context.trace_id, "032x"),
            "span_id": format(span.context.span_id, "016x"),
            "parent_id": None if span.parent is None else format(span.parent.span_id, "016x"),
            "started_at": datetime.fromtimestamp(start / 1e9, UTC).isoformat(),
            "duration_s": ((span.end_time or start) - start) / 1e9,
            "status": "error" if error else "ok",
            "error": error,
            "attributes": dict(said),
            **_around(span, SpanKind.INTERNAL),
        }
    if span.events:
        line["events"] = [
            {"name": e.name, "type": kind} if (kind := (e.attributes or {}).get("exception.type")) else {"name": e.name}
            for e in span.events
        ]
    return _written(line)


def otlp_line(span: ReadableSpan) -> bytes:
    """Return a span as OTLP-JSON, but for the messages of its exceptions, which may hold prompts and keys."""
    return _otlp_json.encode([quiet(span, error_type(span))])


#: How a span is written, by the name that `format=` takes.
FORMATS: Mapping[str, Callable[[ReadableSpan], bytes]] = {"records": record_line, "otlp": otlp_line}


def spelled(record: Record) -> dict[str, Any]:
    """Return a record as the attributes of its span, as far as it says them."""
    into: dict[str, Any] = {}
    _attributes.of_request(
        Request(
            provider=record.provider,
            endpoint=record.endpoint,
            operation=record.operation,
            model=record.requested_model,
            streamed=record.streamed,
        ),
        into,
    )
    _attributes.of_record(record, into)
    return into


def _more(said: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that no field of the line says; null is one that a reader would think of, and is not there."""
    content = _attributes.CONTENT.values()
    more = {name: value for name, value in said.items() if name not in content and known.get(name) != value}
    return more | {name: None for name in known if name not in said}


def _around(span: ReadableSpan, usual: SpanKind) -> dict[str, Any]:
    """Return what a reader needs to make the span again, where it is not the usual."""
    resource = {k: v for k, v in span.resource.attributes.items() if not k.startswith(UNSAID)}
    around = {
        "span_kind": None if span.kind is usual else span.kind.name.lower(),
        "remote_parent": span.parent is not None and span.parent.is_remote,
        "resource": resource,
    }
    return {name: value for name, value in around.items() if value}


def _score_of(span: ReadableSpan) -> dict[str, Any]:
    said = dict(span.attributes or {})
    number, label = said.pop(_attributes.EVALUATION_VALUE, None), said.pop(_attributes.EVALUATION_LABEL, None)
    return {
        "v": VERSION,
        "kind": "score",
        "name": said.pop(_attributes.EVALUATION_NAME),
        "value": label if number is None else number if label is None else label == "true",
        "comment": said.pop(_attributes.EVALUATION_COMMENT, None),
        "id": said.pop(_attributes.SCORE_ID),
        "trace_id": format(span.context.trace_id, "032x"),
        "span_id": format(span.context.span_id, "016x"),
        "parent_id": None if span.parent is None else format(span.parent.span_id, "016x"),
        "scored_span_id": said.pop(_attributes.SCORED_SPAN, None),
        "started_at": datetime.fromtimestamp((span.start_time or 0) / 1e9, UTC).isoformat(),
        "attributes": _attributes.users_own(said),
    }


def _written(line: Mapping[str, Any]) -> bytes:
    text = json.dumps(_plain(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"  # half a surrogate pair is written \ud83d, as JSON has it


def _plain(value: Any) -> Any:
    """Return `value` as JSON can say it: NaN and the infinities as text, anything unknown by its `str`."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else str(value)
