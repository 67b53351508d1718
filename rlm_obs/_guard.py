"""The one guard: our own code that runs inside the user's call fails quietly and visibly, and never hurts the call."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from rlm_obs.errors import CallRefused

log = logging.getLogger("rlm_obs")
T = TypeVar("T")

#: How often each kind of our own code has failed, for `rlm_obs.stats()`.
failures: Counter[str] = Counter()
#: Tests set this, so that nothing is swallowed unseen.
reraise: bool = False
_said: set[str] = set()
_lock = threading.Lock()


def guarded(kind: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T | None:
    """Call `function`, and return None where it fails: one log line per kind, a counter, and the user's call goes on.

    Only a refusal (`CallRefused` and kin) gets out.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        caught(kind, error)
        return None


def held_back(kind: str, function: Callable[..., T], /, *args: Any) -> T | None:
    """Call as `guarded` does, but let no refusal out either: the call is over, and its outcome is the user's."""
    try:
        return function(*args)
    except Exception as error:
        failed(kind, error)
        return None


def caught(kind: str, error: Exception) -> None:
    """Let a refusal out; count and log anything else, as `guarded` does, for a loop that catches by itself."""
    if isinstance(error, CallRefused):
        raise error
    failed(kind, error)


def failed(kind: str, error: BaseException) -> None:
    """Count a failure of ours under `kind`, and log the first of each kind; the message never holds the user's data."""
    with _lock:
        failures[kind] += 1
        first = kind not in _said
        _said.add(kind)
    if reraise:
        raise error
    if first:
        log.warning(
            "%s failed and was skipped; your call was not touched (logged once, counted in rlm_obs.stats()): %s",
            kind,
            type(error).__name__,
            exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
        )


def say_once(key: str, message: str, *args: object) -> None:
    """Log a warning the first time that `key` comes up in this process, so that a loop does not fill the log."""
    with _lock:
        if key in _said:
            return
        _said.add(key)
    log.warning(message, *args)


def forget() -> None:
    """Start the counters and the once-only log lines anew."""
    with _lock:
        failures.clear()
        _said.clear()


def _fresh_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)
