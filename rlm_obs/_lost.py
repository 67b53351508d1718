"""Ends what nobody else will: what was garbage-collected, or left by `break`, or is open at the end of the program."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from rlm_obs import _exit, _guard

#: How long a stream that was left by `break` may be taken up again before its call is ended.
LEFT_FOR_S = 1.0
_kinds: set[type] = set()
K = TypeVar("K", bound="type[Open]")


class Open(Protocol):
    """What is open for a while, and ended once."""

    @property
    def begun(self) -> float:
        """When it was begun, in seconds since the epoch."""

    def end_now(self) -> None:
        """End it, if it is still open and was begun in this process."""


def ends_with_the_program(kind: K) -> K:
    """Have all that is open of this class at the end of the program ended then, from the first `Lost.start` on."""
    _kinds.add(kind)
    return kind


def end_open() -> None:
    """End all that is open: the program ends."""
    lost.end_all()
    still: list[Any] = [thing for thing in gc.get_objects() if type(thing) in _kinds]
    # What was begun inside of another comes first; what a thread is just making has no beginning yet.
    for thing in sorted(still, key=lambda one: getattr(one, "begun", 0.0), reverse=True):
        _guard.guarded("exit", thing.end_now)


class Lost:
    """One quiet thread. A finaliser may run anywhere, inside any lock, so `gone` and `left` take none: they only append."""

    def __init__(self) -> None:
        self._gone: deque[Callable[[], object]] = deque()
        self._left: deque[tuple[float, weakref.WeakMethod[Callable[[], object]]]] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # re-entrant; read by the thread alone
        self._lock = threading.RLock()  # held while something is ended, so that who reads a sum waits for it
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the thread running in this process."""
        if self._thread is None:
            _exit.at_end(end_open, first=True)
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="rlm_obs-lost", daemon=True)
                    with contextlib.suppress(RuntimeError):  # at the end of the program no thread starts any more
                        thread.start()
                        self._thread = thread

    def gone(self, end: Callable[[], object]) -> None:
        """Have `end` called soon, outside of the finaliser that asks for it."""
        self._gone.append(end)
        self._wake.put(None)

    def left(self, end_if_left: Callable[[], object]) -> None:
        """Have the method `end_if_left` called in LEFT_FOR_S, if its object still lives then."""
        self._left.append((time.monotonic() + LEFT_FOR_S, weakref.WeakMethod(end_if_left)))
        self._wake.put(None)

    def end_gone(self) -> None:
        """End what was collected now, in this thread."""
        with self._lock:
            while self._gone:
                _guard.guarded("stream", self._gone.popleft())

    def end_all(self) -> None:
        """End what was collected, and what was left, without waiting for its time."""
        self.end_gone()
        self._end_left(math.inf)

    def _end_left(self, now: float) -> None:
        with self._lock:
            while self._left and self._left[0][0] <= now:
                end = self._left.popleft()[1]()
                if end is not None:
                    _guard.guarded("stream", end)

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    pause = max(0.0, self._left[0][0] - time.monotonic()) if self._left else None
                with contextlib.suppress(queue.Empty):  # then the first of those that were left is due
                    self._wake.get(timeout=pause)
                self.end_gone()
                self._end_left(time.monotonic())
        finally:
            self._thread = None  # the next stream starts another


lost = Lost()


def _after_fork() -> None:
    global lost
    lost = Lost()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
