"""Ends the calls of streams that nobody will: garbage-collected, or left by `break` while a name still holds them."""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import threading
import time
import weakref
from typing import TYPE_CHECKING

from rlm_obs import _runtime, _tracker

if TYPE_CHECKING:
    from rlm_obs._call import Call
    from rlm_obs._instrument.watch import Watch

#: How long a stream that was left by `break` may be taken up again before its call is ended.
LEFT_FOR_S = 1.0


class Lost:
    """One quiet thread. A finaliser may run anywhere, inside any lock, so it only puts its call into a re-entrant queue."""

    def __init__(self) -> None:
        self._gone: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._left: list[tuple[float, int, weakref.ref[Watch]]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the thread running in this process."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="rlm_obs-lost", daemon=True)
                    thread.start()
                    self._thread = thread

    def gone(self, call: Call) -> None:
        """Take the call of a collected stream; safe inside a finaliser."""
        self._gone.put(call)

    def left(self, watch: Watch) -> None:
        """Take a stream that was left by `break`; it is ended unless it is taken up again within LEFT_FOR_S."""
        with self._lock:
            heapq.heappush(self._left, (time.monotonic() + LEFT_FOR_S, next(self._numbers), weakref.ref(watch)))
        self._gone.put(None)  # wake the thread, so that it knows the new deadline

    def end_gone(self) -> None:
        """End the calls of collected streams now, in this thread."""
        while True:
            try:
                call = self._gone.get_nowait()
            except queue.Empty:
                return
            if call is not None:
                call.abort()

    def end_all(self) -> None:
        """End the calls of collected streams, and of those that were left, without waiting for their time."""
        self.end_gone()
        self._end_left(everything=True)

    def _end_left(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            due: list[weakref.ref[Watch]] = []
            while self._left and (everything or self._left[0][0] <= now):
                due.append(heapq.heappop(self._left)[2])
        for reference in due:
            watch = reference()
            if watch is not None:
                watch.end_if_left()

    def _run(self) -> None:
        while True:
            with self._lock:
                pause = None if not self._left else max(0.0, self._left[0][0] - time.monotonic())
            try:
                call = self._gone.get(timeout=pause)
            except queue.Empty:
                call = None
            if call is not None:
                call.abort()
            del call  # or the last one would live until the next
            self._end_left()


lost = Lost()


def _after_fork() -> None:
    global lost
    lost = Lost()
    _watch_reads()


def _watch_reads() -> None:
    _tracker.before_reading(lost.end_gone)
    _runtime.before_flush(lost.end_all)


_watch_reads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
