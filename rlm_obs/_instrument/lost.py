"""Ends the calls of streams that nobody will: garbage-collected, or left by `break` while a name still holds them."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

from rlm_obs import _guard, _runtime, _tracker

if TYPE_CHECKING:
    from rlm_obs._call import Call
    from rlm_obs._instrument.watch import Watch

#: How long a stream that was left by `break` may be taken up again before its call is ended.
LEFT_FOR_S = 1.0


class Lost:
    """One quiet thread. A finaliser may run inside any lock, so `gone` and `left` take none: they only append."""

    def __init__(self) -> None:
        self._gone: deque[Call] = deque()
        self._left: deque[tuple[float, weakref.ref[Watch]]] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # re-entrant; read by the thread alone
        self._lock = threading.RLock()  # held while calls are ended, so that who reads a sum waits for them
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the thread running in this process."""
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    thread = threading.Thread(target=self._run, name="rlm_obs-lost", daemon=True)
                    thread.start()
                    self._thread = thread

    def gone(self, call: Call) -> None:
        """Take the call of a collected stream; safe inside a finaliser."""
        self._gone.append(call)
        self._wake.put(None)

    def left(self, watch: Watch) -> None:
        """Take a stream that was left by `break`; it is ended unless it is taken up again within LEFT_FOR_S."""
        self._left.append((time.monotonic() + LEFT_FOR_S, weakref.ref(watch)))
        self._wake.put(None)

    def end_gone(self) -> None:
        """End the calls of collected streams now, in this thread."""
        with self._lock:
            while self._gone:
                _guard.guarded("stream", self._gone.popleft().abort)

    def end_all(self) -> None:
        """End the calls of collected streams, and of those that were left, without waiting for their time."""
        self.end_gone()
        self._end_left(math.inf)

    def _end_left(self, now: float) -> None:
        with self._lock:
            while self._left and self._left[0][0] <= now:
                watch = self._left.popleft()[1]()
                if watch is not None:
                    _guard.guarded("stream", watch.end_if_left)

    def _run(self) -> None:
        while True:
            with self._lock:
                pause = max(0.0, self._left[0][0] - time.monotonic()) if self._left else None
            with contextlib.suppress(queue.Empty):  # the first of those that were left is due
                self._wake.get(timeout=pause)
            self.end_gone()
            self._end_left(time.monotonic())


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
