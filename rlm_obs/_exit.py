"""Does what has to be done at the end of the program, however it comes: by its last line, an error, or multiprocessing."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from rlm_obs import _guard

_first: list[Callable[[], object]] = []
_last: list[Callable[[], object]] = []
_anchor = threading.Event()  # any weakly referable object: multiprocessing keys its after-fork calls by it


def at_end(job: Callable[[], object], *, first: bool = False) -> None:
    """Have `job` done at the end of this program, and of its forked children; those that were asked for last come first.

    `first`: before all others, which deliver and give back what it makes.
    """
    jobs = _first if first else _last
    if job in jobs:
        return
    if not _first and not _last:
        atexit.register(do_all)
        _watch_multiprocessing()
    jobs.append(job)


def do_all() -> None:
    """Do all of it now, each under the guard."""
    for job in (*_first, *reversed(_last)):
        _guard.guarded("exit", job)


def _watch_multiprocessing() -> None:
    """A child of multiprocessing ends by os._exit, past atexit: hook into the list of its own that it does run."""
    util: Any = sys.modules.get("multiprocessing.util")
    process: Any = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, do_all, exitpriority=10)


def _after_fork() -> None:
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and (_first or _last):
        # multiprocessing clears its list first, then runs what is registered here
        util.register_after_fork(_anchor, lambda _: util.Finalize(None, do_all, exitpriority=10))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
