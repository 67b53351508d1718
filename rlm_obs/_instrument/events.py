"""Server-sent events as bytes: where one ends, and what its data says. Source: WHATWG HTML, "Server-sent events", 9.2.6."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

MOST_EVENT_BYTES = 4_000_000  # an event without an end is not waited for beyond this
SEPARATORS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def whole_events(data: bytes) -> tuple[bytes, bytes]:
    """Split into whole events and the beginning of the next one."""
    if data.endswith(SEPARATORS):
        return data, b""
    end = max((data.rfind(s) + len(s) for s in SEPARATORS if s in data), default=0)
    if not end and len(data) > MOST_EVENT_BYTES:
        return data, b""
    return data[:end], data[end:]


def count_events(data: bytes | bytearray, start: int = 0) -> int:
    """Return how many events of `data`, from `start` on, bring something."""
    returns = data.count(b"\rdata:", start) if data.find(b"\r", start) >= 0 else 0
    return data.startswith(b"data:", start) + data.count(b"\ndata:", start) + returns


def split_events(whole: bytes) -> list[bytes]:
    """Return the events of `whole`, each with its separator."""
    if b"\r" not in whole:
        *parts, rest = whole.split(b"\n\n")
        return [part + b"\n\n" for part in parts] + ([rest] if rest else [])
    events, start = [], 0
    while start < len(whole):
        ends = [(at + len(s)) for s in SEPARATORS if (at := whole.find(s, start)) >= 0]
        end = min(ends, default=len(whole))
        events.append(whole[start:end])
        start = end
    return events


def events_with(whole: bytes, signs: Iterable[bytes]) -> list[bytes]:
    """Return the events of `whole` that have any of the signs, and the first one that has data, in their order.

    To look for each sign in all of it is quicker than to look for all of them in each event.
    """
    if b"\r" in whole:
        return split_events(whole)
    ends: dict[int, int] = {}  # by where an event begins
    for sign in (b"data:", *signs):
        at = whole.find(sign)
        while at >= 0:
            before, end = whole.rfind(b"\n\n", 0, at), whole.find(b"\n\n", at)
            end = len(whole) if end < 0 else end + 2
            ends[0 if before < 0 else before + 2] = end
            at = -1 if sign == b"data:" else whole.find(sign, end)
    return [whole[begin : ends[begin]] for begin in sorted(ends)]


def data_of(event: bytes) -> bytes:
    """Return what an event carries, its lines of data joined."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def parsed(data: bytes) -> Any:
    """Return the JSON that data is, or None."""
    try:
        return json.loads(data.decode() if data[:1] == b"{" else data)  # telling how it is written takes time
    except ValueError:
        return None  # the SDK will say so to the user
