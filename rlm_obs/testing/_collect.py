"""collect: the records and spans of a block, and of nothing else, so that tests may run side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _lost, _scope
from rlm_obs._plugins import gates
from rlm_obs._record import Record
from rlm_obs._tracer import Tracer
from rlm_obs._tracker import Collector


class SpanList(SpanExporter):
    """An exporter that keeps what it gets in `spans`."""

    delay_s = 0.01

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self.spans.extend(spans)
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


class Collected:
    """What the calls of a block left behind: `records` in the order of their ends, and `spans`, the user's own too."""

    def __init__(self, collector: Collector, tracer: Tracer, exporter: SpanList) -> None:
        self._collector, self._tracer, self._exporter = collector, tracer, exporter

    @property
    def records(self) -> list[Record]:
        """The finished calls; a stream that was left or dropped is ended first."""
        _lost.lost.end_all()
        return list(self._collector.records)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The ended spans."""
        _lost.lost.end_all()
        self._tracer.flush()
        return list(self._exporter.spans)


@contextmanager
def collect() -> Iterator[Collected]:
    """Collect the records and spans of the calls in a block; bound to its context, and to its threads and tasks.

    Spans of the block go nowhere else meanwhile. Works without `instrument()`, and beside it.
    """
    exporter, collector = SpanList(), Collector("collect")
    tracer = Tracer("collect", exporter=exporter, sample_rate=1.0)
    collected = Collected(collector, tracer, exporter)
    gates.hold()
    try:
        with _scope.attached(_scope.with_scope(_scope.widened(tracer=tracer, trackers=(collector,), top=True))):
            yield collected
    finally:
        _lost.lost.end_all()
        tracer.shutdown()
        gates.release()
