"""When a file of lines is full or old, and what becomes of it then: a name with the time, gzip, and its end."""

from __future__ import annotations

import bisect
import gzip
import itertools
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rlm_obs import _guard
from rlm_obs._file_lock import locked

STAMP = "%Y%m%dT%H%M%S.%fZ"
STAMPED = r"\d{8}T\d{6}\.\d{6}Z"
#: How long a file that is to be zipped is waited for, since who has just written to it may have it open still, in seconds.
LONGEST_WAIT_S = 2.0
#: How long the end of the program waits for a file that is being zipped, in seconds; the next run takes it up again.
LONGEST_PACKING_S = 2.0


@dataclass
class Rotation:
    """The limits of a file, in bytes and seconds, and how many old ones are kept; None: no limit, and all of them."""

    max_bytes: int | None = None
    rotate_every_s: float | None = None
    backup_count: int | None = None
    compress: bool = False
    _packing: threading.Thread | None = field(default=None, repr=False)

    def fit(self, lines: Sequence[bytes], size: int, written_at: float) -> int:
        """Return how many of the lines go into the file as it is; 0: begin a new one first.

        A period begins at a multiple of `rotate_every_s` since 1970 in UTC. A line longer than a whole file has one of
        its own.
        """
        every, most = self.rotate_every_s, self.max_bytes
        if size and every is not None and written_at // every < time.time() // every:
            return 0
        if most is None:
            return len(lines)
        ends = list(itertools.accumulate(map(len, lines), initial=size))[1:]
        return bisect.bisect_right(ends, most) or (0 if size else 1)

    def move(self, path: Path) -> bool:
        """Give the file the name of an old one, so that the next line begins a new one; False where that cannot be."""
        stem, suffix = _split(path)
        old = path.with_name(f"{stem}.{datetime.now(UTC).strftime(STAMP)}{suffix}")
        try:
            if not old.exists():
                os.rename(path, old)
        except FileNotFoundError:
            return True  # another has just moved it
        except OSError as error:
            _guard.say_once(f"rotate {path}", "cannot rotate %s (%s): it goes on growing", path, error.strerror)
            return False
        self._clear(path)
        return True

    def _clear(self, path: Path) -> None:
        olds = list(old_files(path))
        stamps = sorted({stamp for stamp, _ in olds})
        for stamp, old in olds:
            if self.backup_count is not None and stamp not in stamps[-self.backup_count :]:
                try:
                    old.unlink(missing_ok=True)
                    _part(old).unlink(missing_ok=True)
                except OSError as error:
                    _guard.say_once(f"delete {path}", "cannot delete %s (%s): it is kept", old, error.strerror)
        if self.compress and (self._packing is None or not self._packing.is_alive()):
            self._packing = threading.Thread(target=self._pack_all, args=(path,), name="rlm_obs-gzip", daemon=True)
            with suppress(RuntimeError):  # no thread starts any more at the end of the program: the next run packs it
                self._packing.start()

    def _pack_all(self, path: Path) -> None:
        _guard.guarded("gzip of old files", self._pack_each, path)

    def _pack_each(self, path: Path) -> None:
        while unpacked := [old for _, old in old_files(path) if old.suffix != ".gz"]:
            if not all([_packed(old) for old in unpacked]):
                return

    def wait(self) -> None:
        """Wait for a file that is being zipped, for a while."""
        if self._packing is not None and self._packing.is_alive():
            self._packing.join(LONGEST_PACKING_S)


def old_files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that were rotated away from `path`, with the time in their names, oldest first."""
    stem, suffix = _split(path)
    name = re.compile(rf"{re.escape(stem)}\.({STAMPED}){re.escape(suffix)}(\.gz)?")
    with suppress(FileNotFoundError):
        for entry in sorted(path.parent.iterdir()):
            if found := name.fullmatch(entry.name):
                yield found[1], entry


def _split(path: Path) -> tuple[str, str]:
    zipped = ".gz" if path.suffix == ".gz" else ""
    name = path.name.removesuffix(zipped)
    stem, dot, suffix = name.rpartition(".")
    return (stem, f"{dot}{suffix}{zipped}") if stem else (name, zipped)


def _part(old: Path) -> Path:
    """Return what stands for the zipped file until it is whole."""
    return old.with_name(f"{old.name}.gz.part")


def _packed(old: Path) -> bool:
    """Zip one old file, unless another process is at it; False where it stays as it is."""
    target, part = old.with_name(f"{old.name}.gz"), _part(old)
    try:
        with open(old, "rb") as source, locked(source.fileno(), LONGEST_WAIT_S) as alone:
            if not alone:
                return False  # another process is at it, or the file system has no locks
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw:
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                    shutil.copyfileobj(source, packed)
                raw.flush()
                os.fsync(raw.fileno())  # else a loss of power could leave neither of the two
            os.replace(part, target)
            if sys.platform != "win32":
                old.unlink()
        old.unlink(missing_ok=True)
        return True
    except FileNotFoundError:
        return False  # another process has done it
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        _guard.say_once(f"gzip {old.parent}", "cannot gzip %s (%s): it stays as it is", old, error.strerror)
        return False
