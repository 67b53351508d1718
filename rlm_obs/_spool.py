"""Keeps spans on disk that could not be sent: whole lines in files of one folder for each destination, bounded by size and age.

A file is `.open` while its process writes it (and holds its lock), `.jsonl` when it waits, `.sending` while somebody sends it.
A process that is killed between any two bytes leaves whole lines, and at most one that is torn and is passed over. Each step
from one state to the next is a rename, which the system does wholly or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_obs import _file_lock, _guard, _otlp_json
from rlm_obs._exporters._copying import copied
from rlm_obs._exporters.base import error_type

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

OPEN, WAITING, SENDING = ".open", ".jsonl", ".sending"
NAME = re.compile(r"(\d{20})-(\d+)-([0-9a-f]+)(\.open|\.jsonl|\.sending)")
#: So many spans or bytes make a file, which is sent as one batch.
MOST_SPANS, MOST_BYTES = 512, 1_000_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of spans, by what its name and its size tell."""

    path: Path
    written_ns: int
    spans: int
    state: str
    size: int

    def named(self, state: str, spans: int | None = None) -> Path:
        """Return the file's name in another state."""
        time_ns, count, chance = self.path.stem.split("-")
        return self.path.with_name(f"{time_ns}-{count if spans is None else spans}-{chance}{state}")

    def removed(self) -> bool:
        """Remove it; False where another has."""
        with suppress(FileNotFoundError):
            self.path.unlink()
            return True
        return False


class Spool:
    """The spans of one destination on this disk, of all processes that are given the same folder; no key is in it.

    `dropped` counts what this process has taken out again unsent, by reason. Only who holds `turn` may send and `recover`.
    """

    def __init__(self, folder: Path, name: str, destination: str, most_bytes: int, most_age_s: float) -> None:
        told = hashlib.sha256(destination.encode()).hexdigest()[:12]
        self.folder = folder.expanduser().absolute() / f"{re.sub('[^A-Za-z0-9_]', '_', name)}-{told}"
        self._most_bytes, self._most_age_ns = most_bytes, int(most_age_s * 1e9)
        self.dropped: Counter[str] = Counter()
        self.turn = _file_lock.FileLock(self.folder / "lock")
        self._lock = threading.RLock()
        self._open: OpenFile | None = None

    def put(self, spans: Sequence[ReadableSpan]) -> int:
        """Keep spans, safely on the disk when this returns; returns how many: the others cannot be kept."""
        lines = [line for span in spans if (line := _guard.guarded("spool", _line_of, span)) is not None]
        kept = 0
        try:
            with self._lock:
                self._make_room(sum(map(len, lines)))
                while kept < len(lines):
                    kept += self._append(lines[kept:])
        except OSError as error:
            why = error.strerror or type(error).__name__
            _guard.say_once(f"spool {self.folder}", "spans cannot be kept in %s: %s", self.folder, why)
        return kept

    def seal(self) -> None:
        """Let what this process has written be sent."""
        with self._lock:
            if self._open is not None:
                opened, self._open = self._open, None
                opened.seal()

    def waiting(self) -> list[Kept]:
        """Return the files that wait to be sent, the oldest first; those that are too old are dropped."""
        oldest = time.time_ns() - self._most_age_ns
        found = [kept for kept in self._files() if kept.state == WAITING]
        for kept in found:
            if kept.written_ns < oldest:
                self._drop(kept, "too old")
        return [kept for kept in found if kept.written_ns >= oldest]

    def recover(self, again: bool) -> None:
        """Take up what dead processes have left; what they were sending is sent `again`, or dropped: it may have arrived."""
        for kept in self._files():
            if kept.state == SENDING and again:
                self.put_back(kept)
            elif kept.state == SENDING:
                self._drop(kept, "may have arrived")
            elif kept.state == OPEN:
                _seal_of_the_dead(kept)

    def take(self, kept: Kept) -> tuple[Kept, list[ReadableSpan]] | None:
        """Claim a file, and read its spans; None where it is gone. Torn lines are counted as dropped."""
        claimed = Kept(kept.named(SENDING), kept.written_ns, kept.spans, SENDING, kept.size)
        try:
            kept.path.rename(claimed.path)
        except FileNotFoundError:
            return None
        spans: list[ReadableSpan] = []
        try:
            lines = claimed.path.read_bytes().splitlines()
        except OSError:
            self.put_back(claimed)
            raise
        for line in lines:
            try:
                spans.extend(_otlp_json.decode(line))
            except ValueError:
                self.dropped["torn"] += 1
        return claimed, spans

    def put_back(self, claimed: Kept) -> None:
        """Let a claimed file wait again, as it was."""
        claimed.path.replace(claimed.named(WAITING))

    def done(self, claimed: Kept, lost: int, left: Sequence[ReadableSpan]) -> None:
        """Remove a claimed file: its spans were sent, but for those that are lost, and those that are `left` for later."""
        if left:
            lost += len(left) - self.put(left)
        if lost:
            self.dropped["refused"] += lost
        claimed.removed()

    def holds(self) -> tuple[int, int]:
        """Return how many spans and bytes there are, but for what other processes write just now."""
        with self._lock:
            spans, size = (0, 0) if self._open is None else (self._open.spans, self._open.size)
        files = [kept for kept in self._files() if kept.state != OPEN]
        return spans + sum(kept.spans for kept in files), size + sum(kept.size for kept in files)

    def after_fork(self) -> None:
        """Leave to the parent what it writes and what it sends."""
        self._lock = threading.RLock()
        self.dropped = Counter()
        self.turn.forget()
        if self._open is not None:
            self._open.forget()
            self._open = None

    def _append(self, lines: Sequence[bytes]) -> int:
        """Write as many lines as the open file takes, one at least; returns how many."""
        if self._open is None:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._open = OpenFile(self.folder)
        most, size, count = min(MOST_BYTES, self._most_bytes // 4), self._open.size, 0
        for line in lines[: MOST_SPANS - self._open.spans]:
            size, count = size + len(line), count + 1
            if size >= most:
                break
        self._open.append(lines[:count])
        if self._open.spans >= MOST_SPANS or size >= most:
            self.seal()
        return count

    def _make_room(self, size: int) -> None:
        """Drop the oldest files until `size` bytes more are within the bound. Raises OSError where they never are."""
        files = self._files()
        over = size + sum(kept.size for kept in files) - self._most_bytes
        for kept in files:
            if over > 0 and kept.state == WAITING and self._drop(kept, "no room"):
                over -= kept.size
        if over > 0:
            raise OSError(0, "it is full of what is newer")

    def _drop(self, kept: Kept, why: str) -> bool:
        gone = kept.removed()
        if gone:
            self.dropped[why] += kept.spans
        return gone

    def _files(self) -> list[Kept]:
        found = []
        with suppress(OSError), os.scandir(self.folder) as entries:  # no folder, no files
            for entry in entries:
                told = NAME.fullmatch(entry.name)
                with suppress(FileNotFoundError):
                    if told is not None:
                        found.append(
                            Kept(Path(entry.path), int(told[1]), int(told[2]), told[4], os.stat(entry.path).st_size)
                        )
        return sorted(found, key=lambda kept: kept.path.name)


class OpenFile:
    """The file that this process writes, locked as long as it does: a file whose lock is free is nobody's."""

    def __init__(self, folder: Path) -> None:
        self.spans = self.size = 0
        while True:
            self.path = folder / f"{time.time_ns():020}-0-{uuid.uuid4().hex[:12]}{OPEN}"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | _file_lock.BINARY
            self._file = os.open(self.path, flags, 0o600)
            try:
                if _file_lock.lock(self._file) and self.path.exists():
                    break
            except OSError:
                os.close(self._file)
                self.path.unlink(missing_ok=True)
                raise
            os.close(self._file)  # somebody took it for a dead one's, before it was locked

    def append(self, lines: Sequence[bytes]) -> None:
        """Write whole lines, safely on the disk when this returns. Raises OSError, and none of them is there."""
        data = b"".join(lines)
        try:
            left = data
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self.size)  # a full disk: no half lines
            raise
        self.spans, self.size = self.spans + len(lines), self.size + len(data)

    def seal(self) -> None:
        """Let it be sent."""
        _file_lock.unlock(self._file)
        os.close(self._file)
        mine = Kept(self.path, 0, 0, OPEN, self.size)
        with suppress(FileNotFoundError):  # another has, in this moment
            if self.spans:
                self.path.rename(mine.named(WAITING, self.spans))
            else:
                self.path.unlink()

    def forget(self) -> None:
        """Leave it, in a forked child, to the parent."""
        os.close(self._file)


def _seal_of_the_dead(kept: Kept) -> None:
    try:
        file = os.open(kept.path, os.O_RDWR | _file_lock.BINARY)
    except OSError:
        return
    try:
        if not _file_lock.lock(file):
            return  # its writer lives
        lines = len(kept.path.read_bytes().splitlines())
        _file_lock.unlock(file)
    finally:
        os.close(file)
    with suppress(FileNotFoundError):
        if lines:
            kept.path.rename(kept.named(WAITING, lines))
        else:
            kept.path.unlink()


def _line_of(span: ReadableSpan) -> bytes:
    return _otlp_json.encode([copied(span, span.attributes or {}, error_type(span))])
