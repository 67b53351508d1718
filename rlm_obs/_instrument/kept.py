"""Bytes of a stream that have passed and may have to be read: as they came, or packed where they have become many."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PACKED_FROM = 32_000
#: Bytes that may wait, packed or not.
MOST = 128_000


class Kept:
    """Keeps the pieces of a stream in their order until they are taken; its length is that of those not joined yet."""

    __slots__ = ("_joined", "_packed", "_pieces")

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self._joined = b""
        self._packed: list[bytes] = []

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, piece: bytes) -> None:
        """Keep a piece."""
        self._pieces[len(self._pieces)] = piece

    def passing(self, source: Iterator[bytes], many: int) -> Iterator[bytes]:
        """Pass on so many pieces, keeping each. Nothing but C runs for a piece: it is what `setdefault` keeps and returns."""
        at = len(self._pieces)
        return map(self._pieces.setdefault, range(at, at + many), source)

    def join(self) -> bytes:
        """Return the pieces that were added since the last time, and keep them as one."""
        pieces, self._pieces = self._pieces, {}
        piece = b"".join(pieces.values())
        self._joined += piece
        return piece

    def pack(self) -> bool:
        """Make many bytes few: the events of a stream resemble each other. False where too many are left, to be taken."""
        if len(self._joined) >= PACKED_FROM:
            self._packed.append(zlib.compress(self._joined, 1))
            self._joined = b""
        return len(self._joined) + sum(map(len, self._packed)) < MOST

    def take(self) -> bytes:
        """Return all that has been kept since the last time."""
        pieces, self._pieces = self._pieces, {}
        before, self._joined = self._joined, b""
        packed, self._packed = self._packed, []
        return b"".join([*map(zlib.decompress, packed), before, *pieces.values()])

    def put_back(self, data: bytes) -> None:
        """Keep the end of what was taken."""
        self._joined = data
