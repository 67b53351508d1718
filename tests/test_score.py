"""`rlm_obs.score`: which trace it is about, what is no score, and what the file, the console and others get."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import rlm_obs
from rlm_obs.testing import SpanList

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_the_file_has_a_line_for_it(tmp_path: Path) -> None:
    """One line of kind "score", with the value as it was given; reading the calls passes over it."""
    path = tmp_path / "calls.jsonl"
    with rlm_obs.instrument(exporters=[rlm_obs.FileExporter(path)]), rlm_obs.context(user_id="u"):
        for value in (0.5, True, "friendly"):
            assert rlm_obs.score("tone", value, "why not", trace_id=TRACE, span_id=SPAN)
        assert rlm_obs.flush()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["kind"], line["value"]) for line in lines] == [("score", 0.5), ("score", True), ("score", "friendly")]
    first = lines[0]
    assert (first["v"], first["name"], first["comment"]) == (1, "tone", "why not")
    assert (first["trace_id"], first["scored_span_id"], first["attributes"]) == (TRACE, SPAN, {"user.id": "u"})
    assert list(rlm_obs.read_records(path)) == []


def test_other_exporters_get_a_span() -> None:
    """It is in the words of OpenTelemetry's conventions, inside the span that was open."""
    kept = SpanList()
    tracer = rlm_obs.Tracer("t", exporter=kept)
    with tracer.span("answer") as around:
        rlm_obs.score("helpful", 1, comment="good")
    tracer.shutdown()
    scored = next(span for span in kept.spans if span.name == "score helpful")
    said = scored.attributes or {}
    assert said["gen_ai.evaluation.name"] == "helpful"
    assert (said["gen_ai.evaluation.score.value"], said["gen_ai.evaluation.explanation"]) == (1.0, "good")
    assert scored.parent is not None
    assert scored.parent.span_id == around.get_span_context().span_id


def test_a_foreign_provider_gets_it_too() -> None:
    """On the program's own provider it is a span there, in the trace that it is about."""
    kept, provider = SpanList(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    with rlm_obs.instrument(tracer_provider=provider):
        assert rlm_obs.score("helpful", 1, trace_id=TRACE)
    (span,) = kept.spans
    assert format(span.context.trace_id, "032x") == TRACE


def test_the_console_shows_it() -> None:
    """As a span with its value, and no call."""
    shown = io.StringIO()
    tracer = rlm_obs.Tracer("t", exporter=rlm_obs.ConsoleExporter(file=shown))
    with tracer.span("answer"):
        rlm_obs.score("helpful", 0.5)
    tracer.shutdown()
    assert "[SPAN] score helpful" in shown.getvalue()
    assert "evaluation.score.value: 0.5" in shown.getvalue()
    assert "cost" not in shown.getvalue()


def test_where_nothing_traces_it_is_nothing() -> None:
    """A program that has not switched anything on runs as before."""
    assert rlm_obs.score("helpful", 1) is False
    assert rlm_obs.score("helpful", 1, trace_id=TRACE) is False


def test_outside_of_a_trace_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows what it would be about: one line in the log says so, and the program goes on."""
    with rlm_obs.instrument(exporters=[SpanList()]):
        assert [rlm_obs.score("helpful", 1), rlm_obs.score("helpful", 2)] == [False, False]
    assert len(caplog.records) == 1
    assert "trace_id" in caplog.text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(value: float) -> None:
    """An evaluator that divides by zero does not stop the program, and spoils no average."""
    with rlm_obs.instrument(exporters=[SpanList()]):
        assert rlm_obs.score("helpful", value, trace_id=TRACE) is False


def test_a_trace_that_is_not_sampled_has_no_score() -> None:
    """There is nothing that it could stand on."""
    kept = SpanList()
    tracer = rlm_obs.Tracer("t", exporter=kept, sample_rate=0)
    with tracer.span("answer"):
        rlm_obs.score("helpful", 1)
    tracer.shutdown()
    assert kept.spans == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"value": None}, "None is no value"),
        ({"value": [1]}, "no value"),
        ({"name": ""}, "give it a name"),
        ({"trace_id": "abc"}, "32 hexadecimal"),
        ({"trace_id": "0" * 32}, "32 hexadecimal"),
        ({"trace_id": TRACE, "span_id": 5}, "16 hexadecimal"),
    ],
)
def test_what_is_no_score_is_told(arguments: dict[str, Any], said: str) -> None:
    """A mistake in the program is an error where it stands, whether or not anything is switched on."""
    with pytest.raises(rlm_obs.ConfigError, match=said):
        rlm_obs.score(**{"name": "x", "value": 1, **arguments})
