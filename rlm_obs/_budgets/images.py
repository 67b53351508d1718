"""The most tokens that an image can cost: by its width and height where the request shows them, else by the model's most.

Source: OpenAI, "Images and vision", calculating costs (read November 2026): patches of 32 pixels or tiles of 512 pixels.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

PATCH, TILE = 32, 512
#: How much of a data URL is read at once: every header but that of a JPEG, whose frame stands after its metadata.
HEADER = 64
#: A JPEG has at most this many segments before its frame: metadata comes in pieces of 64 kB.
MOST_SEGMENTS = 1_024
SIZED_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, slots=True)
class Tiles:
    """A model that pays `base` for an image and `each` for every tile of it; `detail="low"` is the base alone."""

    base: int
    each: int

    def tokens(self, size: tuple[int, int] | None, detail: object) -> int:
        if detail == "low":
            return self.base
        if size is None:
            return self.base + 8 * self.each  # 2048 x 768
        width, height = _within(*size, 2048)
        if min(width, height) > 768:
            short = min(width, height)
            width, height = _up(width * 768, short), _up(height * 768, short)
        return self.base + _up(width, TILE) * _up(height, TILE) * self.each


@dataclass(frozen=True, slots=True)
class Patches:
    """A model that pays `hundredths` / 100 of a token for each patch, after the image was shrunk to its budget.

    `patches` and `side` are the budget of an image; `wide` is that of `detail="original"`, which "auto" may turn out to
    be. No budget (`patches` None): the API refuses above 30,000 patches. "low" changes nothing.
    """

    hundredths: int
    patches: int | None = 1_536
    side: int | None = None
    wide: tuple[int, int] | None = None

    def tokens(self, size: tuple[int, int] | None, detail: object) -> int:
        most, side = self.patches, self.side
        if self.wide is not None and detail not in ("high", "low"):
            most, side = self.wide
        if most is None:
            count = MOST_PATCHES if size is None else min(_up(size[0], PATCH) * _up(size[1], PATCH), MOST_PATCHES)
        elif size is None:
            count = most
        else:
            count = _fitted(*(size if side is None else _within(*size, side)), most)
        return _up(count * self.hundredths, 100)


MOST_PATCHES = 30_000
#: Models by name, longest first where one begins another. A dated snapshot is its model; any other name is not known.
MODELS: dict[str, Tiles | Patches] = {
    "chatgpt-4o-latest": Tiles(85, 170),
    "codex-mini": Patches(172),
    "codex-mini-latest": Patches(172),
    "computer-use-preview": Tiles(65, 129),
    "gpt-4-turbo": Tiles(85, 170),
    "gpt-4-vision-preview": Tiles(85, 170),
    "gpt-4.1": Tiles(85, 170),
    "gpt-4.1-mini": Patches(162),
    "gpt-4.1-nano": Patches(246),
    "gpt-4.5-preview": Tiles(85, 170),
    "gpt-4o": Tiles(85, 170),
    "gpt-4o-mini": Tiles(2_833, 5_667),
    "gpt-5": Tiles(70, 140),
    "gpt-5-chat-latest": Tiles(70, 140),
    "gpt-5-mini": Patches(120),
    "gpt-5-nano": Patches(150),
    "gpt-5.1": Tiles(70, 140),
    "gpt-5.1-chat-latest": Tiles(70, 140),
    "gpt-5.2": Patches(120, 2_500, 2_048),
    "gpt-5.4": Patches(120, 2_500, 2_048, (10_000, 6_000)),
    "gpt-5.4-mini": Patches(120, 2_500, 2_048, (10_000, 6_000)),
    "gpt-5.4-nano": Patches(120, 2_500, 2_048, (10_000, 6_000)),
    "gpt-5.5": Patches(120, 2_500, 2_048, (10_000, 6_000)),
    "gpt-5.6-luna": Patches(120, None),
    "gpt-5.6-sol": Patches(120, None),
    "gpt-5.6-terra": Patches(120, None),
    "o1": Tiles(75, 150),
    "o3": Tiles(75, 150),
    "o4-mini": Patches(172),
}
#: What is taken for a model without a published formula: whichever of the dearest of both kinds costs more.
DEAREST = (Tiles(2_833, 5_667), Patches(246, None))


def image_tokens(model: str, size: tuple[int, int] | None, detail: object = None) -> tuple[int, bool]:
    """Return the most tokens that one image can cost, and whether the model's formula is known.

    `size` is width and height in pixels, None where they are not known: then the model's most. Where the formula is not
    known, it is that of the dearest model that has one, which another may exceed.
    """
    formula = _formula(model)
    if formula is not None:
        return formula.tokens(size, detail), True
    return max(one.tokens(size, None) for one in DEAREST), False


@lru_cache(maxsize=1024)
def _formula(model: str) -> Tiles | Patches | None:
    name = model.strip().lower().removeprefix("ft:").split(":")[0].rsplit("/")[-1]
    found = MODELS.get(name)
    while found is None and "-" in name:  # a snapshot: "-2026-03-05", "-0613"
        name, _, last = name.rpartition("-")
        if not last.isdigit():
            return None
        found = MODELS.get(name)
    return found


def size_of(url: object) -> tuple[int, int] | None:
    """Return width and height of the PNG, JPEG, GIF or WebP in a data URL, or None; only its header is decoded.

    A string without "data:" is taken as bare base64. Anything else, or malformed: None, never an error.
    """
    if not isinstance(url, str):
        return None
    start = 0
    if url.startswith("data:"):
        start = url.find(",", 0, 256) + 1
        if not start or ";base64" not in url[:start].lower():
            return None
    head = _decoded(url, start, 0, HEADER)
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        return _real(int.from_bytes(head[16:20]), int.from_bytes(head[20:24]))
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _real(int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little"))
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp(head)
    return _jpeg(url, start) if head.startswith(b"\xff\xd8\xff") else None


def _webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return _real(int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1)
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
        return _real(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and head[20:21] == b"\x2f":
        bits = int.from_bytes(head[21:25], "little")
        return _real((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return None


def _jpeg(url: str, start: int) -> tuple[int, int] | None:
    """Return the size in the first frame, found from segment to segment: what lies between is not decoded."""
    at = 2
    for _ in range(MOST_SEGMENTS):
        part = _decoded(url, start, at, 9)
        if len(part) < 9 or part[0] != 0xFF:
            return None
        kind = part[1]
        if kind == 0xFF:  # padding
            at += 1
        elif kind in SIZED_FRAMES:
            return _real(int.from_bytes(part[7:9]), int.from_bytes(part[5:7]))
        elif kind in STANDALONE:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(part[2:4]))
    return None


def _decoded(url: str, start: int, first: int, count: int) -> bytes:
    """Return `count` bytes from the byte `first` on of the base64 that begins at the character `start`, or fewer."""
    skip = first % 3
    begin = start + first // 3 * 4
    part = url[begin : begin + (skip + count + 2) // 3 * 4]
    try:
        return b64decode(part[: len(part) // 4 * 4], validate=True)[skip : skip + count]
    except (binascii.Error, ValueError):
        return b""


def _real(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if width > 0 and height > 0 else None


def _within(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the size that an image is shrunk to, to fit a square of `side` pixels; never less than it is."""
    longest = max(width, height)
    return (width, height) if longest <= side else (_up(width * side, longest), _up(height * side, longest))


def _fitted(width: int, height: int, most: int) -> int:
    """Return the patches of an image after it was shrunk to `most` patches, its short side to a whole number of them."""
    count = _up(width, PATCH) * _up(height, PATCH)
    if count <= most:
        return count
    columns, rows = isqrt(most * width // height), isqrt(most * height // width)
    if not columns or not rows:
        return most
    if columns * height <= rows * width:  # the width is rounded down further, so it decides
        return min(most, columns * _up(columns * height, width))
    return min(most, rows * _up(rows * width, height))


def _up(number: int, by: int) -> int:
    return -(-number // by)
