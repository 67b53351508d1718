"""The thread that flushes a pipeline, so that a flush can be given up while an exporter hangs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Flusher:
    """A thread that flushes when it is asked to, and rests between: to start one takes longer than most flushes."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._asked: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._done: threading.Event | None = None

    def begin(self) -> threading.Event | None:
        """Begin a flush, if none is under way; returns what is set at its end. Asked by one thread at a time.

        None where no thread starts any more, at the end of the program.
        """
        done = self._done
        if done is None or done.is_set():
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="rlm_obs-flush", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return None
                self._thread = thread
            done = self._done = threading.Event()
            self._asked.put(done)
        return done

    def stop(self) -> None:
        """Have the thread end, behind a flush that is under way."""
        self._asked.put(None)

    def _run(self) -> None:
        while (done := self._asked.get()) is not None:
            try:
                self._flush()
            finally:
                done.set()
