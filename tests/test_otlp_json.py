"""Spans as OTLP-JSON: as the specification writes them, as protobuf reads them, and back without a loss."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from rlm_obs._otlp_json import decode, encode

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
KEY = TEXT.filter(bool)
INT64 = st.integers(-(2**63), 2**63 - 1)
PLAIN = TEXT | st.booleans() | INT64 | st.floats(allow_nan=False)
#: Whether the SDK takes mappings, bytes and mixed sequences as attributes.
RICH = "a" in BoundedAttributes(attributes={"a": {"b": (None, b"c")}})
VALUE = (
    st.recursive(
        PLAIN | st.binary(max_size=5) | st.none(),
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEY, inner, max_size=2),
        max_leaves=5,
    )
    if RICH
    else PLAIN | st.lists(TEXT, max_size=3).map(tuple) | st.lists(INT64, max_size=3).map(tuple)
)
COUNT = st.integers(0, 2) | st.integers(0, 2**32 - 1)
TIME = st.integers(0, 2**63)
STATE = st.sampled_from([TraceState(), TraceState([("vendor", "a=b:1"), ("other", "x")])])


def bounded(said: Mapping[str, Any], dropped: int) -> Mapping[str, Any]:
    kept = BoundedAttributes(attributes=said)
    kept.dropped = dropped
    return kept


def listed(some: list[Any], dropped: int) -> BoundedList:
    kept = BoundedList.from_seq(None, some)
    kept.dropped = dropped
    return kept


ATTRIBUTES = st.builds(bounded, st.dictionaries(KEY, VALUE, max_size=4), COUNT)
CONTEXT = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.integers(0, 255).map(TraceFlags),
    STATE,
)
EVENT = st.builds(Event, TEXT, ATTRIBUTES, TIME)
LINK = st.builds(Link, CONTEXT, ATTRIBUTES)
STATUS = st.sampled_from([Status(), Status(StatusCode.OK), Status(StatusCode.ERROR)]) | TEXT.filter(bool).map(
    lambda why: Status(StatusCode.ERROR, why)
)
RESOURCE = st.builds(
    Resource, st.dictionaries(KEY, TEXT | INT64 | st.booleans(), max_size=2), st.sampled_from(["", "u"])
)
SCOPE = st.none() | st.builds(InstrumentationScope, TEXT, st.sampled_from([None, "1"]), st.sampled_from([None, "url"]))


@st.composite
def any_span(draw: st.DrawFn) -> ReadableSpan:
    context, above = draw(CONTEXT), draw(st.none() | st.tuples(st.integers(1, 2**64 - 1), st.booleans()))
    context = SpanContext(context.trace_id, context.span_id, False, context.trace_flags, context.trace_state)
    return ReadableSpan(
        name=draw(TEXT),
        context=context,
        parent=above and SpanContext(context.trace_id, *above, context.trace_flags, context.trace_state),
        resource=draw(RESOURCE),
        attributes=draw(ATTRIBUTES),
        events=listed(draw(st.lists(EVENT, max_size=2)), draw(COUNT)),
        links=listed(draw(st.lists(LINK, max_size=2)), draw(COUNT)),
        kind=draw(st.sampled_from(SpanKind)),
        status=draw(STATUS),
        start_time=draw(st.none() | TIME),
        end_time=draw(st.none() | TIME),
        instrumentation_scope=draw(SCOPE),
    )


def context_facts(context: SpanContext | None) -> Any:
    return context and (*context[:4], context.trace_state.to_header())


def facts(span: ReadableSpan) -> dict[str, Any]:
    """Return all that a span says, to compare."""
    scope = span.instrumentation_scope
    return {
        "name": span.name,
        "context": context_facts(span.context),
        "parent": context_facts(span.parent),
        "kind": span.kind,
        "times": (span.start_time, span.end_time),
        "attributes": dict(span.attributes or {}),
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "events": [(e.name, e.timestamp, dict(e.attributes or {}), e.dropped_attributes) for e in span.events],
        "links": [(context_facts(k.context), dict(k.attributes or {}), k.dropped_attributes) for k in span.links],
        "status": (span.status.status_code, span.status.description),
        "resource": (dict(span.resource.attributes), span.resource.schema_url),
        "scope": scope and (scope.name, scope.version or None, scope.schema_url, dict(scope.attributes or {})),
    }


def typed(value: Any) -> Any:
    """Return a value with its types: 1, 1.0 and True are equal, and are not the same attribute."""
    if isinstance(value, tuple | list):
        return tuple(typed(one) for one in value)
    if isinstance(value, Mapping):
        return {key: typed(one) for key, one in value.items()}
    return type(value), value


@settings(max_examples=150, deadline=None)
@given(st.lists(any_span(), max_size=4))
def test_round_trip(spans: list[ReadableSpan]) -> None:
    """What is decoded is what was encoded, in its order: ids, times, types of attributes, events, links, all of it."""
    line = encode(spans)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert typed([facts(span) for span in decode(line)]) == typed([facts(span) for span in spans])
    assert encode(decode(line)) == line


def as_protobuf(line: bytes) -> Any:
    """Read a line by protobuf's own JSON, for which OTLP's hex ids have to be base64."""
    json_format = pytest.importorskip("google.protobuf.json_format")
    proto = pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")
    said = json.loads(line)
    for group in said["resourceSpans"]:
        for span in (span for scoped in group["scopeSpans"] for span in scoped["spans"]):
            for one in (span, *span.get("links", ())):
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in one:
                        one[name] = base64.b64encode(bytes.fromhex(one[name])).decode()
    return json_format.ParseDict(said, proto.TracesData())


@settings(max_examples=60, deadline=None)
@given(any_span())
def test_protobuf_reads_the_same(span: ReadableSpan) -> None:
    """Protobuf's JSON takes each line, and finds in it what OpenTelemetry's own encoder makes of the span."""
    encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")
    (ours,), (theirs,) = as_protobuf(encode([span])).resource_spans, encoder.encode_spans([span]).resource_spans
    for one in (ours, theirs):
        sent = one.scope_spans[0].spans[0]
        assert sent.flags & 0x300 == (0x300 if span.parent and span.parent.is_remote else 0x100)
        sent.flags = 0  # the Python encoder leaves out the flags of W3C trace context, and a link's trace state
        for link in sent.links:
            link.flags, link.trace_state = 0, ""
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_as_the_specification_writes_it() -> None:
    """Ids are hex, enums numbers, 64-bit integers text; what is empty is left out."""
    context = SpanContext(0x5B8EFFF798038103D269B633813FC60C, 0xEEE19B7EC3C1B174, False, TraceFlags(1))
    span = ReadableSpan(
        name="chat gpt-4o",
        context=context,
        parent=SpanContext(context.trace_id, 0xEEE19B7EC3C1B173, True),
        resource=Resource({"service.name": "shop"}),
        attributes={"n": 7, "ok": True, "cost": 0.5, "tags": ("a", "b"), "raw": b"\xff", "worst": math.inf},
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, "RateLimitError"),
        start_time=1544712660000000000,
        end_time=1544712661000000000,
        instrumentation_scope=InstrumentationScope("rlm_obs", "0.1"),
    )
    assert json.loads(encode([span])) == {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "rlm_obs", "version": "0.1"},
                        "spans": [
                            {
                                "traceId": "5b8efff798038103d269b633813fc60c",
                                "spanId": "eee19b7ec3c1b174",
                                "parentSpanId": "eee19b7ec3c1b173",
                                "flags": 0x301,
                                "name": "chat gpt-4o",
                                "kind": 3,
                                "startTimeUnixNano": "1544712660000000000",
                                "endTimeUnixNano": "1544712661000000000",
                                "attributes": [
                                    {"key": "n", "value": {"intValue": "7"}},
                                    {"key": "ok", "value": {"boolValue": True}},
                                    {"key": "cost", "value": {"doubleValue": 0.5}},
                                    {
                                        "key": "tags",
                                        "value": {
                                            "arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}
                                        },
                                    },
                                    {"key": "raw", "value": {"bytesValue": "/w=="}},
                                    {"key": "worst", "value": {"doubleValue": "Infinity"}},
                                ],
                                "status": {"message": "RateLimitError", "code": 2},
                            }
                        ],
                    }
                ],
            }
        ]
    }


def test_what_otlp_has_no_word_for() -> None:
    """An int past 64 bits is text, half a surrogate pair a question mark, an object its `str`; NaN stays NaN."""
    said = {"big": 2**64, "half": "a\ud83d", "odd": object, "nan": math.nan, "key\ud83d": 1}
    (read,) = decode(encode([ReadableSpan("x", trace.INVALID_SPAN_CONTEXT, attributes=said)]))
    attributes = dict(read.attributes or {})
    assert math.isnan(float(str(attributes.pop("nan"))))
    assert attributes == {"big": str(2**64), "half": "a?", "odd": str(object), "key?": 1}


def test_a_span_of_the_sdk() -> None:
    """A span as the SDK made it comes back whole, with what its limits have dropped."""
    provider = TracerProvider(span_limits=SpanLimits(max_attributes=2, max_events=1, max_links=1))
    other = Link(SpanContext(7, 8, True), {"why": "retry"})
    span = provider.get_tracer("t", "1").start_span("work", links=[other, other])
    span.set_attributes({"a": (1, 2), "b": "x", "c": 0.1})
    span.add_event("one")
    span.record_exception(ValueError("no"))
    span.end()
    assert isinstance(span, ReadableSpan)
    (read,) = decode(encode([span]))
    assert facts(read) == facts(span)
    assert (read.dropped_attributes, read.dropped_events, read.dropped_links) == (1, 1, 1)


def test_lines_of_others() -> None:
    """Upper-case ids, numbers instead of text, missing and unknown fields: all that the specification allows is read."""
    line = {
        "resourceSpans": [
            {
                "entityRefs": [],
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "traceId": "5B8EFFF798038103D269B633813FC60C",
                                "spanId": "EEE19B7EC3C1B174",
                                "parentSpanId": "",
                                "name": "op",
                                "startTimeUnixNano": 5,
                                "newField": {},
                                "attributes": [{"key": "n", "value": {"intValue": 3}}, {"key": "none"}],
                            }
                        ]
                    },
                    {},
                ],
            },
            {"resource": {}},
        ]
    }
    (span,) = decode(json.dumps(line))
    assert span.context.trace_id == 0x5B8EFFF798038103D269B633813FC60C
    assert (span.parent, span.start_time, span.kind, span.instrumentation_scope) == (None, 5, SpanKind.INTERNAL, None)
    assert dict(span.attributes or {}) == {"n": 3, "none": None}
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b"1",
        b'{"resourceMetrics":[]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xyz"}]}]}]}',
        b'{"resourceSpans":null}',
        b'{"v":1,"kind":"call"}',
        b"\xff\xfe",
        b'{"resourceSpans":' + b"[" * 100_000,
    ],
)
def test_what_is_no_such_line(wrong: bytes) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError, match="OTLP-JSON"):
        decode(wrong)


def test_half_a_line() -> None:
    """Cut at any byte, a line is a ValueError, never fewer spans."""
    line = encode([ReadableSpan("работа", SpanContext(1, 2, False), attributes={"a": (1, "ж")})])
    for size in range(len(line) - 1):
        with pytest.raises(ValueError, match="OTLP-JSON"):
            decode(line[:size])
