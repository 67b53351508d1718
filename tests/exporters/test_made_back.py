"""From records back to spans: what a later exporter gets is what an earlier one got, as far as a record says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

import rlm_obs
from rlm_obs import FileExporter, _attributes, read_records
from rlm_obs._exporters._lines import record_line
from rlm_obs._exporters._made_back import records_of, spans_of
from rlm_obs._exporters._observation import observation
from rlm_obs._record import Cost, Usage
from rlm_obs.testing import Answer, fake_openai
from tests.exporters.test_file import COSTS, USAGES, call
from tests.test_otlp_json import facts


class Kept(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ReadableSpan], Path, Path]:
    """Return the spans of a run with all kinds of calls, scores and steps, and the two files that it has written."""
    folder, kept = tmp_path_factory.mktemp("run"), Kept()
    records, otlp = folder / "records.jsonl", folder / "otlp.jsonl"
    with fake_openai(lambda seen: Answer(status=429 if b"fail" in seen.body else 200)) as server:
        tracer = rlm_obs.Tracer("shop", exporters=[kept, FileExporter(records), FileExporter(otlp, format="otlp")])
        client = openai.OpenAI(base_url=server.base_url, api_key="sk-test", max_retries=0)
        messages: Any = [{"role": "user", "content": "hello"}]
        with rlm_obs.instrument(exporters=[], capture_content=True), rlm_obs.context(user_id="u-1", tags=["a", "b"]):
            with tracer.span("answer", {"n": 1, "share": 0.5, "on": True}):
                client.chat.completions.create(model="gpt-4o", messages=messages, temperature=0.2, seed=7, stop=["x"])
                list(client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True))
                client.embeddings.create(model="text-embedding-3-small", input="a text")
                with pytest.raises(openai.RateLimitError):
                    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "fail"}])
                with rlm_obs.CostTracker(budget_usd="0.0000001", name="tiny"), pytest.raises(rlm_obs.BudgetExceeded):
                    client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=100)
                rlm_obs.score("helpful", 0.9, "good")
                rlm_obs.score("right", True)
                rlm_obs.score("tone", "kind")
                with pytest.raises(ValueError, match="sk-secret"), tracer.span("step"):
                    raise ValueError("sk-secret")
        assert tracer.shutdown()
    assert len(kept.spans) == 10
    return kept.spans, records, otlp


def made_back(path: Path) -> list[ReadableSpan]:
    return [span for line in path.read_bytes().splitlines() for span in spans_of(line)]


def test_of_records(a_run: tuple[list[ReadableSpan], Path, Path]) -> None:
    """From records: ids, parent, name, kind, status, attributes and service are the same; times to the microsecond."""
    spans, records, _ = a_run
    for made, span in zip(made_back(records), spans, strict=True):
        was, now = facts(span), facts(made)
        assert now["attributes"] == was["attributes"]
        assert (now["name"], now["kind"], now["context"][:2]) == (was["name"], was["kind"], was["context"][:2])
        assert (made.parent and made.parent[:3]) == (span.parent and span.parent[:3])
        assert made.status.status_code is span.status.status_code
        assert made.resource.attributes["service.name"] == "shop"
        assert span.start_time is not None and made.start_time is not None
        assert abs(span.start_time - made.start_time) < 1000
        assert span.end_time is not None and made.end_time is not None
        if _attributes.SCORE_ID not in now["attributes"]:  # a score is a moment
            assert abs(span.end_time - made.end_time) < 1010
        assert [event.name for event in made.events] == [event.name for event in span.events]


def test_of_otlp(a_run: tuple[list[ReadableSpan], Path, Path]) -> None:
    """From OTLP-JSON: all of it is the same, to the nanosecond, but for the messages of exceptions."""
    spans, _, otlp = a_run
    for made, span in zip(made_back(otlp), spans, strict=True):
        was, now = facts(span), facts(made)
        for same in was.keys() - {"events", "status", "parent"}:
            assert now[same] == was[same]
        assert (made.parent and made.parent[:3]) == (span.parent and span.parent[:3])
        assert made.status.status_code is span.status.status_code
        assert "sk-secret" not in str(now)


def test_langfuse_sees_the_same(a_run: tuple[list[ReadableSpan], Path, Path]) -> None:
    """What Langfuse is told of a span made back is what it would have been told at once, from either format."""
    spans, records, otlp = a_run
    for path, exact in ((records, False), (otlp, True)):
        for made, span in zip(made_back(path), spans, strict=True):
            now, was = (dict(observation(one).attributes or {}) for one in (made, span))
            if not exact:
                for said in (now, was):
                    said.pop("langfuse.observation.completion_start_time", None)  # to the microsecond
            assert now == was


def test_records_are_read_from_both(a_run: tuple[list[ReadableSpan], Path, Path]) -> None:
    """`read_records` gives the same records of both formats, equal to those that were exported."""
    spans, records, otlp = a_run
    exported = [record for span in spans if (record := _attributes.record_of(span)) is not None]
    assert list(read_records(records)) == list(read_records(otlp)) == exported
    assert {record.status for record in exported} == {"ok", "error", "refused"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(usage=USAGES, cost=COSTS)
def test_any_call(usage: Usage, cost: Cost) -> None:
    """Whatever a call has used and cost, its attributes come back from its line, to the last digit."""
    span = call(usage, cost, **{"user.id": "u", "seq": (1, 2), "gen_ai.request.top_k": 5})
    (made,) = spans_of(record_line(span))
    assert dict(made.attributes or {}) == dict(span.attributes or {})
    assert made.context[:2] == span.context[:2]


def test_lines_before_these_fields(tmp_path: Path) -> None:
    """A line of a version without `more`, `resource` and `span_kind` is a span all the same."""
    line = (
        b'{"v":1,"kind":"call","name":"chat gpt-4o","id":"c1","provider":"openai","endpoint":"/chat/completions",'
        b'"operation":"chat","model":"gpt-4o","requested_model":"gpt-4o","status":"ok",'
        b'"started_at":"2026-11-26T00:00:00+00:00","duration_s":0.5,"streamed":false,"usage":null,"cost":null,'
        b'"trace_id":"9aff33a6e3f317ffc15d7f87f89d990f","span_id":"8b5846f5ab990b53","attributes":{},"cost_usd":null}'
    )
    (span,) = spans_of(line)
    assert (span.kind, span.parent, span.end_time) == (SpanKind.CLIENT, None, 1795651200500000000)
    assert [_attributes.record_of(span)] == records_of(line)


@pytest.mark.parametrize(
    "wrong",
    [b"[]", b"1", b"null", b'{"a":1}', b'{"v":1}', b'{"v":1,"kind":"other"}', b'{"v":1,"kind":"span","name":"x"}', b"\xff",
     b'{"resourceSpans":1}', b'{"v":1,"kind":"call","trace_id":5}'],
)  # fmt: skip
def test_lines_of_others(wrong: bytes) -> None:
    """A line of neither format is a ValueError."""
    with pytest.raises(ValueError, match="no line of spans"):
        spans_of(wrong)
