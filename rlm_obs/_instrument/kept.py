"""Bytes of a stream that have passed and may have to be read: as they came, or packed where they have become many."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from itertools import filterfalse, islice

#: About so many bytes may wait as they came; from how many on they are packed when they are looked after.
ROOM, PACKED_FROM = 70_000, 60_000
#: Half the size of a place: a bytearray keeps its size while half of it is in use, so the first half is a filling.
HALF = 80_000
#: Bytes that may wait, packed or not.
MOST = 128_000
#: The places of so many streams at a time wait for the next ones: they need not grow again, and are in the processor's caches.
_spare: list[bytearray | None] = [None] * 8


def _sized() -> bytearray:
    place = bytearray(2 * HALF)
    del place[HALF:]
    return place


class Kept:
    """Keeps the pieces of a stream, joined, until they are taken; its length is that of those that are not packed.

    In one place: many small ones would drive what the client works with out of the processor's caches.
    """

    __slots__ = ("_from", "_over", "_packed", "_place", "_seen", "add")

    def __init__(self, sized: bool = False) -> None:
        try:
            self._place = (_spare.pop() or _sized()) if sized else bytearray()
        except IndexError:  # too many at a time
            self._place = bytearray()
        self._from = self._seen = len(self._place)
        self.add = self._place.extend
        self._packed: list[bytes] = []
        self._over = False

    def __del__(self) -> None:
        if self._from:  # who still writes there would hold this; who still has to read it has not said that all is over
            if self._over:
                del self._place[self._from :]
            whole = self._over and sys.getsizeof(self._place) >= 2 * HALF  # what had grown has shrunk
            _spare.append(self._place if whole else None)

    def __len__(self) -> int:
        return len(self._place) - self._from

    def passing(self, source: Iterator[bytes], many: int) -> Iterator[bytes]:
        """Pass on so many pieces, keeping each; nothing but C runs for a piece."""
        return filterfalse(self.add, islice(source, many))

    def unseen(self) -> bytearray:
        """Return what was added since the last time, and keep it."""
        at, self._seen = self._seen, len(self._place)
        return self._place[at:]

    def pack(self) -> bool:
        """Make many bytes few: the events of a stream resemble each other. False where too many are left, to be taken."""
        if len(self) >= PACKED_FROM:
            self._packed.append(zlib.compress(self._emptied(), 1))
        return len(self) + sum(map(len, self._packed)) < MOST

    def take(self) -> bytearray:
        """Return all that has been kept since the last time."""
        packed, self._packed = self._packed, []
        rest = self._emptied()
        return bytearray().join([*map(zlib.decompress, packed), rest]) if packed else rest

    def last(self) -> tuple[bytearray, int]:
        """Return a place where all is that has been kept since the last time, and where in it that begins.

        To be read while this object lives: then the place goes to another stream.
        """
        self._over = True
        return (self.take(), 0) if self._packed else (self._place, self._from)

    def _emptied(self) -> bytearray:
        data = self._place[self._from :]
        del self._place[self._from :]
        self._seen = self._from
        return data
