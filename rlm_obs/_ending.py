"""Flushes and closes all that delivers in this process, within one bound, and says in one line what was lost."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from rlm_obs import _exit, _guard


class Delivering(Protocol):
    """What sends in the background: the pipeline of an exporter, or the reader of metrics."""

    @property
    def name(self) -> str:
        """What the log calls it."""

    @property
    def closed(self) -> bool:
        """Whether it has stopped, or is about to."""

    def begin_flush(self) -> Any:
        """Have what is queued sent, without waiting for it."""

    def flush(self, timeout_s: float, kept: bool = True) -> bool:
        """Send what is queued, and what is kept on disk; True if, within `timeout_s`, all of it was accepted and nothing was
        lost since the last flush."""

    def close(self, timeout_s: float) -> bool:
        """Send what is queued, within `timeout_s`, and stop; True if nothing was lost."""

    def stats(self) -> dict[str, Any]:
        """Return what became of what it has got."""

    def lost(self) -> str | None:
        """Say what was lost; None where nothing was."""

    def after_fork(self) -> None:
        """Start anew in a forked child."""


_all: weakref.WeakSet[Delivering] = weakref.WeakSet()
_exit_timeout_s = 5.0
_lock = threading.Lock()


def register(one: Delivering) -> None:
    """Have `one` delivered at the end of the program, and by `rlm_obs.flush`, until it is closed."""
    with _lock:
        _all.add(one)
    _exit.at_end(at_exit)


def every() -> list[Delivering]:
    """Return all that delivers in this process and is not closed."""
    with _lock:
        return list(_all)


def flush_all(these: Iterable[Delivering], timeout_s: float, kept: bool = True) -> bool:
    """Flush several within one `timeout_s`; True if all of them delivered everything. `kept`: what is on disk, too."""
    ends = time.monotonic() + timeout_s
    waiting = list(these)
    for one in waiting[1:]:
        if not one.closed:
            one.begin_flush()  # all of them at once, then wait for each; the first begins by itself
    return all([one.flush(max(0.0, ends - time.monotonic()), kept) for one in waiting])


def close_all(these: Iterable[Delivering], timeout_s: float) -> bool:
    """Close several within one `timeout_s`; each gets a fair share of what is left, so none starves another.

    What was lost since they were made is one warning in the log, for all of them together; True if nothing was.
    """
    ends = time.monotonic() + timeout_s
    waiting = list(these)
    open_ones = [one for one in waiting if not one.closed]
    share = range(len(waiting), 0, -1)
    clean = all([o.close(max(0.0, ends - time.monotonic()) / left) for o, left in zip(waiting, share, strict=True)])
    with _lock:
        _all.difference_update(open_ones)
    lost = [said for one in open_ones if (said := one.lost())]
    if lost:
        _guard.log.warning("not delivered: %s", "; ".join(lost))
    return clean


def bound_exit(timeout_s: float) -> None:
    """Set the longest that the end of the program waits for all of them together."""
    global _exit_timeout_s
    _exit_timeout_s = timeout_s


def exit_timeout_s() -> float:
    """Return the longest that the end of the program waits."""
    return _exit_timeout_s


def at_exit() -> None:
    """Deliver what is queued within the bound; registered for the end of the program, however it comes."""
    close_all(every(), _exit_timeout_s)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for one in every():
        one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
