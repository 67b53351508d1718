"""From a line of a file back to what it was: a call's record digit for digit, a span as near as the line tells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rlm_obs import _attributes
from rlm_obs._exporters._lines import VERSION, spelled
from rlm_obs._record import Cost, Record, Usage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
#: What reading a line that is not what it seems to be may raise.
WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class UnknownVersionError(ValueError):
    """The line is of a newer rlm_obs; `version` is what it says."""

    def __init__(self, version: object) -> None:
        super().__init__(version)
        self.version = version


def spans_of(raw: bytes) -> Sequence[ReadableSpan]:
    """Return the spans of one line of either format. Raises ValueError where it is of neither."""
    try:
        line = json.loads(raw)
        if "resourceSpans" in line:
            from rlm_obs._otlp_json import spans_in

            return spans_in(line)
        return [_span_from(line)]
    except UnknownVersionError:
        raise
    except WRONG as error:
        raise ValueError(f"no line of spans ({type(error).__name__})") from None


def records_of(raw: bytes) -> Sequence[Record]:
    """Return the calls of one line of either format, none for other spans. Raises ValueError where it is of neither."""
    try:
        line = json.loads(raw)
        if "resourceSpans" in line:
            return [record for span in spans_of(raw) if (record := _attributes.record_of(span)) is not None]
        return [_record_from(line)] if _kind(line) == "call" else []
    except UnknownVersionError:
        raise
    except WRONG as error:
        raise ValueError(f"no line of calls ({type(error).__name__})") from None


def _kind(line: Mapping[str, Any]) -> str:
    if line["v"] != VERSION:
        raise UnknownVersionError(line["v"])
    return str(line["kind"])


def _record_from(line: Mapping[str, Any]) -> Record:
    said = {"model": None, "requested_model": None} | {f.name: line[f.name] for f in fields(Record) if f.name in line}
    usage, cost = said.get("usage"), said.get("cost")
    if usage is not None:
        said["usage"] = Usage.from_dict(usage)
    if cost is not None:
        parts = {part: Decimal(cost[part]) for part in _attributes.COST_PARTS if part in cost}
        said["cost"] = Cost(**parts, source=cost["source"], caveats=tuple(cost["caveats"]))
    said["started_at"] = datetime.fromisoformat(said["started_at"])
    said["attributes"] = {name: _tuples(value) for name, value in said.get("attributes", {}).items()}
    return Record(**said)


def _span_from(line: Mapping[str, Any]) -> ReadableSpan:
    """Make a span: its times are right to a microsecond, its events have no times of their own, it has no links."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    kind, sampled = _kind(line), TraceFlags(TraceFlags.SAMPLED)
    context = SpanContext(int(line["trace_id"], 16), int(line["span_id"], 16), False, sampled)
    above, remote = line.get("parent_id"), bool(line.get("remote_parent"))
    parent = SpanContext(context.trace_id, int(above, 16), remote, sampled) if above else None
    start = (datetime.fromisoformat(line["started_at"]) - BEGINNING) // timedelta(microseconds=1) * 1000
    end = start + round(line.get("duration_s", 0) * 1e9)
    error = line.get("error") if line.get("status") in ("error", "refused") else None
    usual = SpanKind.CLIENT if kind == "call" else SpanKind.INTERNAL
    events = [
        Event(one["name"], {"exception.type": one["type"]} if "type" in one else {}, end)
        for one in line.get("events", ())
    ]
    return ReadableSpan(
        name=f"score {line['name']}" if kind == "score" else line["name"],
        context=context,
        parent=parent,
        resource=Resource({name: _tuples(value) for name, value in line.get("resource", {}).items()}),
        attributes=_SPELLED[kind](line),
        events=events,
        kind=SpanKind[line["span_kind"].upper()] if "span_kind" in line else usual,
        status=Status(StatusCode.ERROR, error) if error else Status(),
        start_time=start,
        end_time=end,
    )


def _of_call(line: Mapping[str, Any]) -> dict[str, Any]:
    said = spelled(_record_from(line))
    said |= {attribute: line[name] for name, attribute in _attributes.CONTENT.items() if name in line}
    said |= {name: _tuples(value) for name, value in line.get("more", {}).items()}
    return {name: value for name, value in said.items() if value is not None}


def _of_score(line: Mapping[str, Any]) -> dict[str, Any]:
    value = line["value"]
    said = {
        _attributes.SCORE_ID: line["id"],
        _attributes.SCORED_SPAN: line.get("scored_span_id"),
        _attributes.EVALUATION_NAME: line["name"],
        _attributes.EVALUATION_VALUE: None if isinstance(value, str) else float(value),
        _attributes.EVALUATION_LABEL: {True: "true", False: "false"}[value] if isinstance(value, bool) else None,
        _attributes.EVALUATION_COMMENT: line.get("comment"),
    }
    if isinstance(value, str):
        said[_attributes.EVALUATION_LABEL] = value
    own = {name: _tuples(one) for name, one in line.get("attributes", {}).items()}
    return own | {name: one for name, one in said.items() if one is not None}


def _of_span(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in line.get("attributes", {}).items()}


_SPELLED = {"call": _of_call, "score": _of_score, "span": _of_span}


def _tuples(value: Any) -> Any:
    """Return sequences as OpenTelemetry has them."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
