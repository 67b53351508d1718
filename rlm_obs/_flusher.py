"""The thread that flushes a pipeline, so that a flush can be given up while an exporter hangs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Flush:
    """One flush, and its end: what `threading.Event` tells, with one lock instead of three, and a fraction of the work."""

    def __init__(self) -> None:
        self.ended = False
        self._under_way = threading.Lock()
        self._under_way.acquire()

    def end(self) -> None:
        """Let all go on who wait for it; once."""
        self.ended = True
        self._under_way.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if that takes longer than `timeout_s`."""
        ended = self._under_way.acquire(timeout=timeout_s)
        if ended:
            self._under_way.release()
        return ended


class Flusher:
    """A thread that flushes when it is asked to, and rests between: to start one takes longer than most flushes."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._asked: queue.SimpleQueue[Flush | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: Flush | None = None

    def begin(self) -> Flush | None:
        """Begin a flush, if none is under way; returns the one that is. Asked by one thread at a time.

        None where no thread starts any more, at the end of the program.
        """
        last = self._last
        if last is None or last.ended:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="rlm_obs-flush", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return None
                self._thread = thread
            last = self._last = Flush()
            self._asked.put(last)
        return last

    def stop(self) -> None:
        """Have the thread end, behind a flush that is under way."""
        self._asked.put(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            try:
                self._flush()
            finally:
                asked.end()
