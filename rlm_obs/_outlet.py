"""An exporter as its pipeline sees it: asked under the guard, by one thread at a time, and for no more than it knows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _guard
from rlm_obs.errors import CallRefused


class Outlet:
    """What is asked of an exporter; all but `export` are asked where they are there."""

    def __init__(self, name: str, exporter: SpanExporter) -> None:
        self.name, self.exporter = name, exporter
        self._turn = threading.Lock()

    def asks(self, what: str, *args: Any) -> Any:
        """Call a method of the exporter under the guard; None where it fails, and where it has no such method."""
        try:
            return _guard.guarded(f"exporter {self.name}", getattr(self.exporter, what, _nothing), *args)
        except CallRefused as refusal:  # an exporter may call models itself, under a budget
            _guard.failed(f"exporter {self.name}", refusal)
            return None

    def export(self, spans: Sequence[ReadableSpan]) -> tuple[int, Sequence[ReadableSpan]]:
        """Hand spans to the exporter; returns how many were taken, and which of the others may be exported again.

        An exporter that knows no better than FAILURE has, by OpenTelemetry's word for it, exported none of them.
        """
        with self._turn:
            said = self.asks("export", spans)
            if said is SpanExportResult.SUCCESS:
                return len(spans), ()
            if said is not SpanExportResult.FAILURE:
                return 0, ()
            if not hasattr(self.exporter, "outcome"):
                return 0, spans
            return self.asks("outcome") or (0, ())

    def awake(self) -> bool:
        """Ask whether the receiver would take spans now; True of an exporter that cannot ask."""
        with self._turn:
            return not hasattr(self.exporter, "awake") or bool(self.asks("awake"))

    @property
    def retried(self) -> int:
        """How many requests the exporter has sent again by itself."""
        return int(getattr(self.exporter, "retried", 0))

    @property
    def idempotent(self) -> bool:
        """Whether the receiver counts a span once that comes twice."""
        return bool(getattr(self.exporter, "idempotent", False))

    def shut(self, timeout_s: float, worker: threading.Thread) -> None:
        """Shut the exporter down in a thread, since it may hang on what its `export` hangs on."""
        closing = threading.Thread(target=self.asks, args=("shutdown",), name="rlm_obs-close", daemon=True)
        try:
            closing.start()
        except RuntimeError:  # no thread starts at the end of the program (Python 3.12 and later)
            if not worker.is_alive():
                self.asks("shutdown")
        else:
            closing.join(timeout_s)

    def after_fork(self) -> None:
        """Start with a lock that nobody holds in a forked child."""
        self._turn = threading.Lock()


def _nothing(*_: object) -> None: ...
