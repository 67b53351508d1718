"""From an ended span to an exporter: OpenTelemetry's batch processor, with every span counted and every wait bounded."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from rlm_obs import _ending, _guard
from rlm_obs._flusher import Flush, Flusher
from rlm_obs._outlet import Outlet
from rlm_obs._resending import Resending
from rlm_obs._spool import Spool

LOSSES = ("failed", "queue full", "shut down")
#: What has become of the spans of pipelines that are closed, by the exporter's name, for the metrics.
ended: Counter[tuple[str, str]] = Counter()


class SampledOut:
    """How many spans a tracer has not made, since their traces are not kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.spans = 0

    def add(self) -> None:
        """Count one."""
        with self._lock:
            self.spans += 1

    def after_fork(self) -> None:
        """Start anew in a forked child."""
        self._lock, self.spans = threading.Lock(), 0


class _Counted(SpanExporter):
    """Stands before an exporter and tells its pipeline what became of each batch."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._pipeline.deliver(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Do nothing: the pipeline shuts its exporter down itself, within its bound."""


class Pipeline(SpanProcessor):
    """One exporter with its own bounded queue and thread, so that a hanging one delays nobody.

    Queue, batches and delay are `OTEL_BSP_*`; an exporter's `delay_s` attribute asks for a shorter delay.
    """

    def __init__(self, name: str, exporter: SpanExporter, sampled_out: SampledOut, spool: Spool | None = None) -> None:
        self.name, self.exporter, self.sampled_out = name, exporter, sampled_out
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
        self._flusher = Flusher(self._flush)
        self._flushed = True
        self.counts = dict.fromkeys(("waiting", "sending", "sent", "spooled", *LOSSES), 0)
        self._lost_before = 0
        self._closed = self._given_up = False
        self._outlet = Outlet(name, exporter)
        self._resending: Resending | None = None
        if spool is not None:
            self._outlet.asks("try_once")  # the disk waits better
            self._resending = Resending(spool, self._outlet)
            self._resending.start()
        _ending.register(self)

    def deliver(self, spans: Sequence[ReadableSpan]) -> None:
        """Hand a batch to the exporter, or to the disk while its receiver is down, and count what becomes of it."""
        resending, taken, kept = self._resending, 0, 0
        again: Sequence[ReadableSpan] = spans
        self.move(len(spans), "waiting", "sending")
        try:
            if resending is None or not resending.down:
                again = ()
                taken, again = self._outlet.export(spans)
            if resending is not None:
                kept = resending.keep(again, len(again) == len(spans)) if again else 0
                if not taken and not again:
                    resending.suspect()
                if self._given_up:
                    resending.spool.seal()
                resending.start()  # in a forked child nobody has yet
        finally:
            self.move(taken, "sending", "sent")
            self.move(kept, "sending", "spooled")
            self.move(len(spans) - taken - kept, "sending", "failed")

    def move(self, spans: int, source: str, to: str) -> None:
        """Count `spans` spans as gone from one state to another."""
        with self._lock:
            if self._given_up:
                source = "shut down"
                ended[self.name, source] -= spans
                ended[self.name, to] += spans
            self.counts[source] -= spans
            self.counts[to] += spans

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is not None and context.trace_flags.sampled:
            self.take(span)

    def take(self, span: ReadableSpan) -> None:
        """Queue a span that is to be exported, or count it as lost."""
        with self._lock:
            counts = self.counts
            if not self._closed and counts["waiting"] < self._room:
                counts["waiting"] += 1
                lost = None
            else:
                lost = "shut down" if self._closed else "queue full"
                counts[lost] += 1
        if lost is None:
            self._queue.emit(span)  # as `BatchSpanProcessor.on_end` does behind the same check
        else:
            self._tell_lost(lost)

    def _tell_lost(self, why: str) -> None:
        if self._given_up:
            ended[self.name, why] += 1
        _guard.say_once(
            f"{id(self)} {why}",
            "exporter %r: spans are dropped (%s); logged once, counted in rlm_obs.stats()",
            self.name,
            why,
        )

    def begin_flush(self) -> Flush | None:
        """Have what is queued sent by a thread of its own, or by a flush that is under way; returns that.

        None where no thread starts any more, at the end of the program: `at_exit` sends it then.
        """
        with self._lock:
            return self._flusher.begin()

    def flush(self, timeout_s: float, kept: bool = True) -> bool:
        """Send what is queued, and try what is `kept` on disk; True if, within `timeout_s`, all of it was accepted and nothing
        was lost since the last flush."""
        ends = time.monotonic() + timeout_s
        with self._lock:
            asked = self._left() + self.counts["waiting"] + self.counts["sending"]
        if not self._flush_queue(asked, ends):
            return False
        empty = not kept or self._resending is None or self._resending.flush(max(0.0, ends - time.monotonic()))
        with self._lock:
            lost = sum(self._all_losses().values())
            clean, self._lost_before = lost == self._lost_before, lost
            return clean and empty and self._flushed and self._left() >= asked

    def _flush_queue(self, asked: int, ends: float) -> bool:
        """Have the queue sent; False where that takes too long."""
        for _ in range(2):  # a flush that others had begun may have passed our spans already
            if self._closed:
                break
            flush = self.begin_flush()
            if flush is None or not flush.wait(max(0.0, ends - time.monotonic())):
                return False
            if self._left() >= asked:
                break
        return True

    def _flush(self) -> None:
        self._batches.force_flush()
        self._flushed = self._outlet.asks("force_flush") is not False

    def _left(self) -> int:
        """Return how many spans have come to their end; they do in the order in which they came."""
        return self.counts["sent"] + self.counts["failed"] + self.counts["spooled"]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.flush(timeout_millis / 1000)

    def close(self, timeout_s: float) -> bool:
        """Send what is queued, within `timeout_s`, and stop; what could not be sent is counted. True if nothing was lost."""
        ends = time.monotonic() + timeout_s
        with self._lock:
            if self._closed:
                return not self.losses()
            self._closed = True
        share = 1.0 if self._resending is None else 0.7  # the rest is for the disk
        self._queue.shutdown(timeout_millis=int(timeout_s * share * 1000))
        if self._resending is not None:
            self._resending.stop(max(0.0, ends - timeout_s * (1 - share) - time.monotonic()))
        self._outlet.shut(max(0.0, ends - time.monotonic()), self._queue._worker_thread)
        if self._resending is not None:
            self._keep_the_rest(self._resending, ends)
        with self._lock:
            self._given_up = True
            self._flusher.stop()
            self.counts["shut down"] += self.counts["waiting"] + self.counts["sending"]
            self.counts["waiting"] = self.counts["sending"] = 0
            ended.update(
                {(self.name, state): n for state, n in self.all_counts().items() if state not in ("room", "on disk")}
            )
            return not self.losses()

    def _keep_the_rest(self, resending: Resending, ends: float) -> None:
        """Keep on disk what is still in the queue; what is on its way may have arrived."""
        worker, left = self._queue._worker_thread, []
        if worker is not threading.current_thread():
            worker.join(max(0.0, ends - time.monotonic()) / 2)  # its export ends soon: the exporter is shut down
        with suppress(IndexError):
            while True:
                left.append(self._queue._queue.pop())
        if left:
            self.move(resending.keep(left), "waiting", "spooled")
        _guard.guarded("spool", resending.spool.seal)

    def shutdown(self) -> None:
        _ending.close_all([self], _ending.exit_timeout_s())

    @property
    def closed(self) -> bool:
        """Tell whether it has stopped, or is about to."""
        return self._closed

    def all_counts(self) -> dict[str, int]:
        """Return the counts of every state, and what else is counted, for the metrics."""
        again = self._resending
        more = {"sampled out": self.sampled_out.spans, "retried": self._retried(), "room": self._room}
        if again is None:
            return {**self.counts, **more}
        return {**self.counts, **more, "sent": self.counts["sent"] + again.sent, "on disk": again.spool.holds()[0]}

    def _retried(self) -> int:
        return self._outlet.retried + (0 if self._resending is None else self._resending.retried)

    def lost(self) -> str | None:
        """Say what was lost, for the one line at the end of the program; None where nothing was."""
        losses = self._all_losses()
        reasons = ", ".join(f"{count} {why}" for why, count in losses.items())
        return f"{sum(losses.values())} spans of {self.name} ({reasons})" if losses else None

    def _all_losses(self) -> dict[str, int]:
        on_disk = {} if self._resending is None else dict(self._resending.spool.dropped)
        return self.losses() | {f"{why} on disk": count for why, count in on_disk.items() if count}

    def losses(self) -> dict[str, int]:
        """Return how many spans were lost, by reason."""
        return {why: n for why in LOSSES if (n := self.counts[why])}

    def stats(self) -> dict[str, Any]:
        """Return how many spans were made and what became of them, and how many batches were sent again; JSON-ready."""
        with self._lock:
            counts, losses = dict(self.counts), self.losses()
        return {
            "exporter": self.name,
            "made": sum(counts.values()),
            "sampled_out": self.sampled_out.spans,
            "queued": counts["waiting"] + counts["sending"],
            "sent": counts["sent"],
            "dropped": losses,
            "spooled": counts["spooled"],
            "retried": self._retried(),
        } | ({} if self._resending is None else {"spool": self._resending.stats()})

    def after_fork(self) -> None:
        """Start anew in a forked child: what was queued belongs to the parent, which sends it."""
        self._lock = threading.Lock()
        self._flusher = Flusher(self._flush)
        self._outlet.after_fork()
        if self._resending is not None:
            self._resending.after_fork()
        self.counts = dict.fromkeys(self.counts, 0)
        self._lost_before = 0
        self.sampled_out.after_fork()
        ended.clear()
