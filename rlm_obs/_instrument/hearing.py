"""What the events of a stream say: read as they pass, or kept and read later; counted, and held to their room."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rlm_obs import _guard
from rlm_obs._instrument.events import count_events, data_of, events_with, parsed, split_events, whole_events
from rlm_obs._instrument.kept import ROOM, Kept
from rlm_obs.errors import BudgetExceeded

if TYPE_CHECKING:
    from rlm_obs._instrument.gate import Passing

SLACK = 16  # events that bring no output: of the role, the end, the usage
#: So many pieces may pass before what is kept of them is looked after.
MANY = 256


class Hearing(ABC):
    """The events of one stream; its subclass ends the call, and has what was kept read before."""

    #: The SDK's stream, where it reads the response: its objects pass, not only bytes.
    _items: Any = None
    #: What counts the events that it gives, where that is counted: its next number is one more than those.
    _passed: Iterator[int] | None = None
    _size = _envelope = 0  # bytes so far, and of the first event
    _started = False  # the first event has come
    _first = True  # no event has been read yet
    _count = 0  # events so far
    _read = 0  # events of those kept that were read
    _pieces, _soon = 0, 1  # that have passed one by one, and that may before what is kept is looked after

    def __init__(self, passing: Passing) -> None:
        call, asked, self._reader = passing.call, passing.asked, passing.reader
        self._call, self._asked = call, asked
        self._hides_usage, self._reads_all = asked.ask_usage, call.answer.captures
        self.keeps = passing.keeps
        self._room = room = call.output_room  # tokens that the stream may write; None: as many as it likes
        self._most = sys.maxsize if room is None else room + SLACK  # from more on, its output is counted
        self._kept = Kept(self.keeps)  # what is still to be read, for the texts that it brings if for nothing else
        self._texts: list[str] = []  # what was brought, where it has a room, as far as it was read

    @abstractmethod
    def _end(self, error: BaseException | None, *, complete: bool = False) -> None:
        """End the call: the event that is the last one was read."""

    # -- bytes, read as they pass ------------------------------------------------------------------------------------

    def _look(self, whole: bytes) -> bytes:
        """Read whole events, and return what the user gets of them."""
        events = count_events(whole)
        if not events:
            return whole  # nothing yet, or a comment that keeps the line alive
        self._size += len(whole)
        self._count += events
        if self._room is not None:
            self._kept.add(whole)
            if self._count > self._most:
                self._outgrow()
            elif not self._kept.pack():
                self._read_kept()
        if self._first:
            self._call.first_chunk()
        elif not self._reads_all:
            for sign in self._reader.signs:
                if sign in whole:
                    break
            else:
                return whole
        shown: list[bytes] = []
        for event in split_events(whole):
            shown.append(event)
            said = self._said(event)
            if said is None:
                continue
            if self._hides_usage and self._reader.only_usage(said):
                shown.pop()
            if self._reader.event(said, self._call.answer):
                self._end(None, complete=True)
        return b"".join(shown)

    def _said(self, event: bytes) -> Any:
        """Return what an event says, if it may be more than a text."""
        if self._first:
            if b"data:" not in event:
                return None
            self._first, self._envelope = False, len(event)
        elif not self._reads_all and not any(sign in event for sign in self._reader.signs):
            return None
        data = data_of(event)
        if data.startswith(b"[DONE]"):
            if self._items is None:
                self._end(None, complete=True)
            return None
        return parsed(data)

    # -- bytes that are kept and read later --------------------------------------------------------------------------

    def _passing(self, source: Iterator[bytes]) -> Iterator[Iterable[bytes]]:
        """Return what comes, in parts, of which no code of ours sees a piece, once the first event has come."""
        while not self._started:
            data = next(source, None)
            if data is None:
                return
            self._begin(data)
            yield (data,)
        many = max(1, min(MANY, self._most // 2, ROOM // len(self._kept)))
        while True:
            before = len(self._kept)
            yield self._kept.passing(source, many)
            if len(self._kept) == before:  # nothing has come, or nothing but empty pieces
                data = next(source, None)
                if data is None:
                    return
                self._kept.add(data)
                yield (data,)
            many = _guard.guarded("stream", self._look_after, many) or 1

    def _begin(self, data: bytes) -> None:
        """Keep a piece, and note when the first event comes."""
        self._kept.add(data)
        if b"data:" in data or b"data:" in self._kept.unseen():
            self._started = True
            self._call.first_chunk()

    def _keep(self, data: bytes) -> None:
        """Keep a piece, one of those that are passed one by one."""
        if not self._started:
            self._begin(data)
            return
        self._kept.add(data)
        self._pieces += 1
        if self._pieces >= self._soon:
            self._soon, self._pieces = _guard.guarded("stream", self._look_after, self._pieces) or 1, 0

    def _look_after(self, pieces: int) -> int:
        """Count the events that have come with so many pieces, about; return how many may pass before the next time."""
        data = self._kept.unseen()
        events = count_events(data)
        self._count += events
        if self._count > self._most:
            self._outgrow()
        elif not self._kept.pack():
            self._read_kept()
        left = (self._most - self._count) // 2
        room = ROOM - len(self._kept)
        return max(1, min(MANY, left * pieces // (events or 1), room * pieces // (len(data) or 1)))

    def _read_kept(self) -> None:
        """Read what was kept: what it says if that was not heard, what it brings if there is a room for it."""
        whole, rest = whole_events(bytes(self._kept.take()))
        self._kept.add(rest)
        self._read += count_events(whole)
        for event in split_events(whole):
            if self._items is not None and (said := self._said(event)) is not None:
                self._reader.event(said, self._call.answer)
            if self._room is not None and (text := self._reader.written(parsed(data_of(event)))) is not None:
                self._texts.append(text)

    def _read_rest(self, complete: bool) -> None:
        """Read what the events say that were kept: the stream is over, and what they bring counts no more. To count them
        in the bytes is what takes longest here, and all have passed if it is complete."""
        data, start = self._kept.last()
        told = not self._read and self._reader.at_once(data, start, self._asked, self._call.answer)
        if told and self._passed is not None and complete:
            self._count = next(self._passed) - (not data[-16:].strip().endswith(b"[DONE]"))  # which is an event too
            return
        self._count = self._read + count_events(data, start)
        if not told:
            for event in events_with(bytes(data[start:]), self._reader.signs):
                if (said := self._said(event)) is not None:
                    self._reader.event(said, self._call.answer)

    # -- objects of the SDK, heard as they pass ----------------------------------------------------------------------

    def passes(self, item: Any) -> bool:
        """Hear an event, and tell whether the user gets it: all but the one that only we asked for. Raises BudgetExceeded."""
        self._count += 1
        try:
            text = None if self._count == 1 or self._count > self._most else self._reader.mere_text(item)
            if text is None:
                return not self._hears(item)
            if self._room is not None:
                self._texts.append(text)
        except Exception as error:
            _guard.caught("stream", error)
        return True

    def _hears(self, item: Any) -> bool:
        """Read an event that is no mere text, is the first one, or may be one too many; True for one that only we asked for."""
        if self._room is not None:
            if (text := self._reader.written(item)) is not None:
                self._texts.append(text)
            if self._count > self._most:
                self._outgrow()
        self._call.first_chunk()
        hidden = self._hides_usage and self._reader.only_usage(item)
        if self._reader.event(item, self._call.answer):
            self._end(None, complete=True)
        return hidden

    # -- the room ----------------------------------------------------------------------------------------------------

    def _outgrow(self) -> None:
        """See whether the stream has written more than was held for it. Raises BudgetExceeded where there is no more room.

        An event that brings output is a token at least; others bring none, so they are told apart here, where it matters.
        """
        self._read_kept()
        tokens = len(self._texts)
        if self._room is None or tokens - SLACK <= self._room:
            self._most = self._count + SLACK
            return
        try:
            self._room = self._call.outgrown(tokens)
        except BudgetExceeded as refusal:
            refusal.partial = "".join(self._texts)
            raise
        self._most = self._count - tokens + self._room + SLACK
