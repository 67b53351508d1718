"""Bytes of a stream that have passed and may have to be read: as they came, or packed where they have become many."""

from __future__ import annotations

import zlib

MANY_PIECES, MANY_BYTES = 32, 64_000
#: Bytes that may wait, packed or not.
MOST_BYTES = 1_000_000


class Kept:
    """Keeps pieces of a stream in their order until they are taken; `add` is a list's own `append`."""

    __slots__ = ("_packed", "_pieces", "add")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._packed: list[bytes] = []
        self.add = self._pieces.append

    def pack(self) -> bool:
        """Make many bytes few: the events of a stream resemble each other. False where too many are left, to be taken."""
        if len(self._pieces) < MANY_PIECES:
            return True
        size = sum(map(len, self._pieces))
        if size >= MANY_BYTES:
            self._packed.append(zlib.compress(self._unpacked(), 1))
            size = 0
        return size + sum(map(len, self._packed)) < MOST_BYTES

    def take(self) -> bytes:
        """Return all that has been kept since the last time."""
        packed = self._packed[:]
        del self._packed[: len(packed)]
        return b"".join([*map(zlib.decompress, packed), self._unpacked()]) if packed else self._unpacked()

    def put_back(self, data: bytes) -> None:
        """Keep something that was taken, before all others."""
        self._pieces.insert(0, data)

    def _unpacked(self) -> bytes:
        pieces = self._pieces[:]
        del self._pieces[: len(pieces)]  # another thread may have added one meanwhile
        return b"".join(pieces)
