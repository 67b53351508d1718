"""Copies of spans for receivers that want them spelled their way: with other attributes, and nothing that protobuf refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status

from rlm_obs._otlp_json import counted, listed

MESSAGES = ("exception.message", "exception.stacktrace")


def copied(span: ReadableSpan, attributes: Mapping[str, Any], error: str | None) -> ReadableSpan:
    """Return a copy with other attributes; `error` stands for the messages of exceptions, which may hold prompts."""
    return ReadableSpan(
        name=clean(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=counted({clean(key): clean(value) for key, value in attributes.items()}, span.dropped_attributes),
        events=listed([_without_message(event, clean) for event in span.events], span.dropped_events),
        links=listed(span.links, span.dropped_links),
        kind=span.kind,
        status=Status(span.status.status_code, None if span.status.is_ok else clean(error or "error")),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def quiet(span: ReadableSpan, error: str | None) -> ReadableSpan:
    """Return the span without the messages of exceptions, all else as it is; itself where it has none."""
    if span.status.is_ok and not any(name in (event.attributes or {}) for event in span.events for name in MESSAGES):
        return span
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=counted(span.attributes or {}, span.dropped_attributes),
        events=listed([_without_message(event) for event in span.events], span.dropped_events),
        links=listed(span.links, span.dropped_links),
        kind=span.kind,
        status=Status(span.status.status_code, None if span.status.is_ok else error or "error"),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def clean(value: Any) -> Any:
    """Return what protobuf takes: half a surrogate pair, or one int past 64 bits, would cost the whole batch."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list | tuple):
        return tuple(clean(v) for v in value)
    if isinstance(value, bool | float | bytes) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    return clean(text(value) if isinstance(value, Mapping) else str(value))


def text(value: Any) -> str:
    """Return text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _without_message(event: Event, spelled: Callable[[Any], Any] = lambda value: value) -> Event:
    kept = {k: spelled(v) for k, v in (event.attributes or {}).items() if k not in MESSAGES}
    return Event(spelled(event.name), counted(kept, event.dropped_attributes), event.timestamp)
