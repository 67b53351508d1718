"""Appends whole lines to a file that threads and processes share: one at a time, none torn, all of a piece or none."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rlm_obs._exporters._rotation import Rotation
from rlm_obs._file_lock import BINARY, locked

LONGEST_WAIT_S = 2.0
#: How often a file that was rotated away while it was being opened is opened anew.
MOST_TRIES = 100
#: What ends each piece of a gzip file: an empty member. Where it is missing, a crash has cut the last piece short. Spelled
#: out, since Python's own differs from version to version. Source: RFC 1952, section 2.3.
WHOLE = bytes.fromhex("1f8b08000000000000ff 0300 00000000 00000000")


class Stdout:
    """The standard output in a file's place: whatever `sys.stdout` is at the time."""

    def check(self) -> str:
        """Return what it is. Raises OSError where it is closed."""
        self.append([])
        return "the standard output is open"

    def append(self, lines: Sequence[bytes]) -> None:
        """Write the lines in one piece. Raises OSError where nobody reads them, or it is closed."""
        out, data = sys.stdout, b"".join(lines)
        try:
            out.flush()
            raw = getattr(out, "buffer", None)
            if raw is None:  # a notebook's, or one that a test has put there
                out.write(data.decode())
            else:
                raw.write(data)
                raw.flush()
            out.flush()
        except (ValueError, AttributeError):
            raise OSError(0, "the standard output is closed") from None


class LineFile:
    """A file on a disk. It is opened for each piece, since it may have been moved, and we may have forked."""

    def __init__(self, path: Path, rotation: Rotation, fsync: bool) -> None:
        self.path, self.rotation, self._fsync = path, rotation, fsync
        self._zipped = path.suffix == ".gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(_opened(path))

    def check(self) -> str:
        """Return where lines go and what room there is. Raises OSError where they cannot go there."""
        os.close(_opened(self.path))
        return f"{self.path} can be written, {shutil.disk_usage(self.path.parent).free / 1e9:.1f} GB are free"

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines, under the file's lock. Raises OSError where that cannot be: what was begun is taken back."""
        waiting = [gzip.compress(b"".join(lines), mtime=0) + WHOLE] if self._zipped and lines else list(lines)
        movable, tries = True, 0
        while waiting:
            with _alone_in(self.path) as (file, alone):
                tries += 1
                if tries < MOST_TRIES and not _stands_at(self.path, file):
                    continue  # another process has just rotated it away
                size, torn, written_at = self._state(file)
                fit = 0 if torn and self._zipped else self.rotation.fit(waiting, size, written_at)
                if fit or not movable:
                    some = waiting[: fit or len(waiting)]
                    self._write(file, b"\n" * (torn and not self._zipped) + b"".join(some), size, alone)
                    del waiting[: len(some)]
                    continue
                if sys.platform != "win32":
                    movable = self.rotation.move(self.path)
                    continue
            movable = self.rotation.move(self.path)  # an open file cannot be moved there

    def _state(self, file: int) -> tuple[int, bool, float]:
        """Return the size of the file, whether its last piece is torn, and when it was written last."""
        now = os.fstat(file)
        if not stat.S_ISREG(now.st_mode) or not now.st_size:
            return 0, False, time.time()
        end = WHOLE if self._zipped else b"\n"
        os.lseek(file, max(0, now.st_size - len(end)), os.SEEK_SET)
        return now.st_size, os.read(file, len(end)) != end, now.st_mtime

    def _write(self, file: int, data: bytes, size: int, alone: bool) -> None:
        regular = stat.S_ISREG(os.fstat(file).st_mode)
        try:
            while data:
                data = data[os.write(file, data) :]
            if self._fsync and regular:
                os.fsync(file)
                if not size:
                    _keep_name(self.path)
        except OSError:
            if alone and regular:
                with suppress(OSError):
                    os.ftruncate(file, size)  # a full disk: no half lines
            raise


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | BINARY, 0o600)


def _stands_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _keep_name(path: Path) -> None:
    """Have the folder remember a new file through a loss of power; where folders cannot be opened, it needs no asking."""
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _alone_in(path: Path) -> Iterator[tuple[int, bool]]:
    """Open a file and hold its lock; False where there is no holding it."""
    file = _opened(path)
    try:
        with locked(file, LONGEST_WAIT_S) as alone:
            yield file, alone
    finally:
        os.close(file)
