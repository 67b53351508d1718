"""From an ended span to an exporter: OpenTelemetry's batch processor, with every span counted and every wait bounded."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from rlm_obs import _exit, _guard, _lost
from rlm_obs._plugins import Plugins
from rlm_obs._settings import Settings, near
from rlm_obs.errors import CallRefused, ConfigError

LOSSES = ("failed", "queue full", "shut down")


class _Counted(SpanExporter):
    """Stands before an exporter and tells its pipeline what became of each batch."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        pipeline, taken = self._pipeline, False
        pipeline.move(len(spans), "waiting", "sending")
        try:
            taken = pipeline.asks("export", spans) is SpanExportResult.SUCCESS
        finally:
            pipeline.move(len(spans), "sending", "sent" if taken else "failed")
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Do nothing: the pipeline shuts its exporter down itself, within its bound."""


class Pipeline(SpanProcessor):
    """One exporter with its own bounded queue and thread, so that a hanging one delays nobody.

    Queue, batches and delay are `OTEL_BSP_*`; an exporter's `delay_s` attribute asks for a shorter delay.
    """

    def __init__(self, name: str, exporter: SpanExporter) -> None:
        self.name, self.exporter = name, exporter
        delay_s = getattr(exporter, "delay_s", None)
        self._batches = BatchSpanProcessor(
            _Counted(self),
            schedule_delay_millis=None
            if delay_s is None or "OTEL_BSP_SCHEDULE_DELAY" in os.environ
            else delay_s * 1000,
        )
        self._queue = self._batches._batch_processor
        self._room = self._queue._max_queue_size
        self._lock = threading.Lock()
        self._flusher: threading.Thread | None = None
        self._flushed = True
        self.counts = dict.fromkeys(("waiting", "sending", "sent", *LOSSES), 0)
        self._lost_before = 0
        self._closed = self._given_up = False
        with _lock:
            _pipelines.add(self)
        _exit.at_end(at_exit)

    def asks(self, what: str, *args: Any) -> Any:
        """Call a method of the exporter under the guard; None where it fails, and where it has no such method."""
        try:
            return _guard.guarded(f"exporter {self.name}", getattr(self.exporter, what, _nothing), *args)
        except CallRefused as refusal:  # an exporter may call models itself, under a budget
            _guard.failed(f"exporter {self.name}", refusal)
            return None

    def move(self, spans: int, source: str, to: str) -> None:
        """Count `spans` spans as gone from one state to another."""
        with self._lock:
            self.counts["shut down" if self._given_up else source] -= spans
            self.counts[to] += spans

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        with self._lock:
            lost = "shut down" if self._closed else "queue full" if self.counts["waiting"] >= self._room else None
            self.counts[lost or "waiting"] += 1
        if lost is None:
            self._queue.emit(span)  # as `BatchSpanProcessor.on_end` does behind the same check
        else:
            _guard.say_once(
                f"{id(self)} {lost}",
                "exporter %r: spans are dropped (%s); logged once, counted in rlm_obs.stats()",
                self.name,
                lost,
            )

    def begin_flush(self) -> threading.Thread | None:
        """Have what is queued sent by a thread of its own, or by the one that is at it already.

        None where no thread starts any more, at the end of the program: `at_exit` sends it then.
        """
        with self._lock:
            flusher = self._flusher
            if flusher is None or not flusher.is_alive():
                flusher = threading.Thread(target=self._flush, name="rlm_obs-flush", daemon=True)
                try:
                    flusher.start()
                except RuntimeError:
                    return None
                self._flusher = flusher
            return flusher

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued; True if, within `timeout_s`, all of it was accepted and nothing was lost since the last flush."""
        ends = time.monotonic() + timeout_s
        with self._lock:
            asked = self._left() + self.counts["waiting"] + self.counts["sending"]
        for _ in range(2):  # a flush that others had begun may have passed our spans already
            if self._closed:
                break
            flusher = self.begin_flush()
            if flusher is None:
                return False
            flusher.join(max(0.0, ends - time.monotonic()))
            if flusher.is_alive():
                return False
            if self._left() >= asked:
                break
        with self._lock:
            lost = sum(self.counts[why] for why in LOSSES)
            clean, self._lost_before = lost == self._lost_before, lost
            return clean and self._flushed and self._left() >= asked

    def _flush(self) -> None:
        self._batches.force_flush()
        self._flushed = self.asks("force_flush") is not False

    def _left(self) -> int:
        """Return how many spans have come to their end; they do in the order in which they came."""
        return self.counts["sent"] + self.counts["failed"]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.flush(timeout_millis / 1000)

    def close(self, timeout_s: float) -> bool:
        """Send what is queued, within `timeout_s`, and stop; what could not be sent is counted. True if nothing was lost."""
        ends = time.monotonic() + timeout_s
        with self._lock:
            if self._closed:
                return not self.losses()
            self._closed = True
        self._queue.shutdown(timeout_millis=int(timeout_s * 1000))
        self._shut_exporter(max(0.0, ends - time.monotonic()))
        with self._lock:
            self._given_up = True
            self.counts["shut down"] += self.counts["waiting"] + self.counts["sending"]
            self.counts["waiting"] = self.counts["sending"] = 0
            losses = self.losses()
        with _lock:
            _pipelines.discard(self)
        if losses:
            _guard.log.warning("exporter %r: %d spans were not delivered (%s)", self.name, sum(losses.values()), losses)
        return not losses

    def _shut_exporter(self, timeout_s: float) -> None:
        """Shut the exporter down in a thread, since it may hang on what its `export` hangs on."""
        closing = threading.Thread(target=self.asks, args=("shutdown",), name="rlm_obs-close", daemon=True)
        try:
            closing.start()
        except RuntimeError:  # no thread starts at the end of the program (Python 3.12 and later)
            if not self._queue._worker_thread.is_alive():
                self.asks("shutdown")
        else:
            closing.join(timeout_s)

    def shutdown(self) -> None:
        self.close(_exit_timeout_s)

    @property
    def closed(self) -> bool:
        """Tell whether it has stopped, or is about to."""
        return self._closed

    def losses(self) -> dict[str, int]:
        """Return how many spans were lost, by reason."""
        return {why: n for why in LOSSES if (n := self.counts[why])}

    def stats(self) -> dict[str, Any]:
        """Return how many spans are queued, sent and dropped (by reason), JSON-ready."""
        with self._lock:
            queued = self.counts["waiting"] + self.counts["sending"]
            return {"exporter": self.name, "queued": queued, "sent": self.counts["sent"], "dropped": self.losses()}

    def after_fork(self) -> None:
        """Start anew in a forked child: what was queued belongs to the parent, which sends it."""
        self._lock = threading.Lock()
        self._flusher = None
        self.counts = dict.fromkeys(self.counts, 0)
        self._lost_before = 0


def build_pipelines(wanted: Iterable[str | SpanExporter], plugins: Plugins, settings: Settings) -> list[Pipeline]:
    """Return a running pipeline for each exporter, given by name or as an object.

    Raises ConfigError for an unknown name (with the near ones), and for an object that cannot export.
    """
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise ConfigError(f"exporters={wanted!r}: give a list, such as exporters=['console']")
    offered = plugins.collect("register_exporters")
    built: list[tuple[str, SpanExporter]] = []
    for one in wanted:
        if not isinstance(one, str):
            if not callable(getattr(one, "export", None)) or isinstance(one, type):
                raise ConfigError(
                    f"exporters: {one!r} is no exporter: give a name, or an OpenTelemetry SpanExporter object"
                )
            built.append((type(one).__name__, one))
        elif one in offered:
            built.append((one, offered[one](settings)))
        else:
            raise ConfigError(f"exporters: there is no exporter {one!r}{near(one, offered)}")
    return [Pipeline(name, exporter) for name, exporter in built]


def flush_all(pipelines: Iterable[Pipeline], timeout_s: float) -> bool:
    """Flush several pipelines within one `timeout_s`; True if all of them delivered everything."""
    ends = time.monotonic() + timeout_s
    waiting = list(pipelines)
    for pipeline in waiting:
        if not pipeline.closed:
            pipeline.begin_flush()  # all of them at once, then wait for each
    return all([pipeline.flush(max(0.0, ends - time.monotonic())) for pipeline in waiting])


def close_all(pipelines: Iterable[Pipeline], timeout_s: float) -> bool:
    """Close several pipelines within one `timeout_s`; each gets a fair share of what is left, so none starves another."""
    ends = time.monotonic() + timeout_s
    waiting = list(pipelines)
    share = range(len(waiting), 0, -1)
    return all([p.close(max(0.0, ends - time.monotonic()) / left) for p, left in zip(waiting, share, strict=True)])


_pipelines: weakref.WeakSet[Pipeline] = weakref.WeakSet()
_exit_timeout_s = 5.0
_lock = threading.Lock()


def every_pipeline() -> list[Pipeline]:
    """Return the pipelines of this process that are not closed."""
    with _lock:
        return list(_pipelines)


def bound_exit(timeout_s: float) -> None:
    """Set the longest that the end of the program waits for all exporters together."""
    global _exit_timeout_s
    _exit_timeout_s = timeout_s


def at_exit() -> None:
    """Deliver what is queued within the bound; registered for the end of the program, however it comes."""
    _guard.guarded("exit", _lost.lost.end_all)  # streams and generators that were left are delivered too
    close_all(every_pipeline(), _exit_timeout_s)


def _nothing(*_: object) -> None: ...


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for pipeline in every_pipeline():
        pipeline.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
