"""Locks of the operating system on files: they end with their process, however it ends, so nobody has to guess who is alive."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BINARY = getattr(os, "O_BINARY", 0)


class FileLock:
    """A lock of its own file, for one process at a time, and one object in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Take the lock, or answer False where another has it, or where there are no locks."""
        if self._file is not None:
            return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | BINARY, 0o600)
        except OSError:
            return False
        with suppress(OSError):  # there are no locks: then it is never our turn
            self._file = file if lock(file) else None
        if self._file is None:
            os.close(file)
        return self._file is not None

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            file, self._file = self._file, None
            unlock(file)
            os.close(file)

    def forget(self) -> None:
        """Leave the lock, in a forked child, to the parent who has it."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


@contextmanager
def locked(file: int, longest_s: float) -> Iterator[bool]:
    """Hold the lock of an open file, or go on without it (False): where there are none, or it is not to be had in time."""
    until, held = time.monotonic() + longest_s, False
    with suppress(OSError):
        while not (held := lock(file)) and time.monotonic() < until:
            time.sleep(0.002)
    try:
        yield held
    finally:
        if held:
            unlock(file)


if sys.platform == "win32":
    import msvcrt

    BYTE = 2**31 - 2  # one that nobody reads: locks bind readers too

    def lock(file: int) -> bool:
        """Lock an open file at once; False where another has it. Raises OSError where the file system has no locks."""
        os.lseek(file, BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def unlock(file: int) -> None:
        """Give the lock of an open file back."""
        os.lseek(file, BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def lock(file: int) -> bool:
        """Lock an open file at once; False where another has it. Raises OSError where the file system has no locks."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(file: int) -> None:
        """Give the lock of an open file back."""
        fcntl.flock(file, fcntl.LOCK_UN)
