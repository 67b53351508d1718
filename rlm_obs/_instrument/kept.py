"""Bytes of a stream that have passed and may have to be read: as they came, or packed where they have become many."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import filterfalse, islice

PACKED_FROM = 32_000
#: Bytes that may wait, packed or not.
MOST = 128_000


class Kept:
    """Keeps the pieces of a stream, joined, until they are taken; its length is that of those that are not packed."""

    __slots__ = ("_bytes", "_packed", "_seen", "add")

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._renew()

    def _renew(self) -> None:
        # One place for all: many small ones would drive what the client works with out of the processor's caches.
        # No file in memory: a collected one is closed, and what was dropped is still to be read.
        self._bytes = bytearray()
        self.add = self._bytes.extend
        self._seen = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def passing(self, source: Iterator[bytes], many: int) -> Iterator[bytes]:
        """Pass on so many pieces, keeping each; nothing but C runs for a piece."""
        return filterfalse(self._bytes.extend, islice(source, many))

    def unseen(self) -> bytearray:
        """Return what was added since the last time, and keep it."""
        at, self._seen = self._seen, len(self._bytes)
        return self._bytes[at:]

    def pack(self) -> bool:
        """Make many bytes few: the events of a stream resemble each other. False where too many are left, to be taken."""
        if len(self._bytes) >= PACKED_FROM:
            self._packed.append(zlib.compress(self._bytes, 1))
            self._renew()
        return len(self._bytes) + sum(map(len, self._packed)) < MOST

    def take(self) -> bytearray:
        """Return all that has been kept since the last time."""
        data, packed, self._packed = self._bytes, self._packed, []
        self._renew()
        return bytearray().join([*map(zlib.decompress, packed), data]) if packed else data
