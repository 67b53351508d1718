"""Contracts: pytest classes that a plugin's author inherits, so that their part is held to the rules ours is held to."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs._record import Request, Usage
from rlm_obs.testing._collect import collect


class ExporterContract:
    """What every exporter keeps to. Inherit it in a test file and write `make_exporter`; pytest runs the rest.

    `secret` is a text that your exporter is configured with and must never show (a key); None if it has none.
    """

    secret: str | None = None

    def make_exporter(self) -> SpanExporter:
        """Return a new exporter, ready to export."""
        raise AssertionError("write make_exporter(self) in your test class")

    @staticmethod
    def spans(calls: int = 1) -> list[ReadableSpan]:
        """Return the spans of real calls under a span of one's own, made through the real pipeline."""
        from rlm_obs import _runtime
        from rlm_obs._call import Needs

        with collect() as collected:
            holds = _runtime.in_force()
            assert holds is not None and holds.tracer is not None
            with holds.tracer.span("contract"):
                for _ in range(calls):
                    held = _runtime.in_force()
                    assert held is not None
                    asked = Request(provider="openai", endpoint="/chat/completions", operation="chat", model="gpt-4o")
                    call = held.call(asked, Needs(None))
                    call.start()
                    call.answer.usage = Usage(input_tokens=10, output_tokens=5)
                    call.answer.http_status = 200
                    call.finish()
        assert [r.cost_usd for r in collected.records] == [Decimal("0.000075")] * calls
        return collected.spans

    def test_it_accepts_a_batch(self) -> None:
        """A batch of calls and other spans is accepted, and the answer says so."""
        assert self.make_exporter().export(self.spans(3)) is SpanExportResult.SUCCESS

    def test_it_accepts_an_empty_batch(self) -> None:
        """An empty batch is no failure."""
        assert self.make_exporter().export([]) is SpanExportResult.SUCCESS

    def test_it_leaves_the_spans_alone(self) -> None:
        """Other exporters get the same spans: nothing on them is changed."""
        spans = self.spans()
        before = [dict(span.attributes or {}) for span in spans]
        self.make_exporter().export(spans)
        assert [dict(span.attributes or {}) for span in spans] == before

    def test_it_shuts_down_twice(self) -> None:
        """Shutting down again does no harm."""
        exporter = self.make_exporter()
        exporter.export(self.spans())
        exporter.shutdown()
        exporter.shutdown()

    def test_it_shows_no_secret(self, caplog: Any, capsys: Any) -> None:
        """The secret is in no repr, no log line, and nothing printed."""
        exporter = self.make_exporter()
        exporter.export(self.spans())
        exporter.force_flush()
        printed = capsys.readouterr()
        if self.secret:
            assert self.secret not in repr(exporter) + str(exporter) + caplog.text + printed.out + printed.err
