"""What the events of a stream say: read as they pass, or kept and read later; counted, and held to their room."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import compress, islice, repeat
from operator import length_hint
from typing import TYPE_CHECKING, Any

from rlm_obs import _guard
from rlm_obs._instrument.events import data_of, parsed, split_events
from rlm_obs._instrument.kept import Kept
from rlm_obs.errors import BudgetExceeded

if TYPE_CHECKING:
    from rlm_obs._instrument.gate import Passing

SLACK = 16  # events that bring no output: of the role, the end, the usage
MANY = 64  # events may pass unread before what is kept of them is looked after
NONE_LEFT = repeat(True, 0)


class Hearing:
    """The events of one stream; its subclass ends the call, and has what was kept read before."""

    _items: Any = None  # the SDK's stream, where it reads the response and its objects pass
    _size = _envelope = 0  # bytes so far, and of the first event
    _first = True  # no event has been read yet
    _count = 0  # events so far, but for those of the last part: see `_passed`
    _many, _unpassed = 0, NONE_LEFT  # events that the last part lets pass, and what is left of these
    _read = 0  # events of those kept that were read

    def __init__(self, passing: Passing) -> None:
        call, asked, self._reader = passing.call, passing.asked, passing.reader
        self._call, self._asked = call, asked
        self._hides_usage, self._keeps_all = asked.ask_usage, call.answer.captures
        #: Whether its events may be read later than they pass.
        self.patient = asked.request.endpoint in passing.reader.patient
        self._room = room = call.output_room  # tokens that the stream may write; None: as many as it likes
        self._most = sys.maxsize if room is None else room + SLACK  # from more on, its output is counted
        self._kept = Kept()  # what is still to be read, for the texts that it brings if for nothing else
        self._texts: list[str] = []  # what was brought, where it has a room, as far as it was read

    def _end(self, error: BaseException | None, *, complete: bool = False) -> None:
        raise NotImplementedError

    @property
    def _passed(self) -> int:
        """How many events have passed."""
        return self._count + self._many - length_hint(self._unpassed)

    # -- bytes, read as they pass ------------------------------------------------------------------------------------

    def _look(self, whole: bytes) -> bytes:
        """Read whole events, and return what the user gets of them."""
        events = whole.count(b"data:")
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
        elif not self._keeps_all:
            for sign in self._reader.signs:
                if sign in whole:
                    break
            else:
                return whole
        shown: list[bytes] = []
        for event in split_events(whole):
            shown.append(event)
            said = self._said(event)
            if self._hides_usage and self._reader.only_usage(said):
                shown.pop()
            if said is not None and self._reader.event(said, self._call.answer):
                self._end(None, complete=True)
        return b"".join(shown)

    def _said(self, event: bytes) -> Any:
        """Return what an event says, if it may be more than a text."""
        if self._first:
            if b"data:" not in event:
                return None
            self._first, self._envelope = False, self._envelope or len(event)
        elif not self._keeps_all and not any(sign in event for sign in self._reader.signs):
            return None
        data = data_of(event)
        if data.startswith(b"[DONE]"):
            if self._items is None:
                self._end(None, complete=True)
            return None
        return parsed(data)

    # -- objects of the SDK, whose bytes are kept and read later -----------------------------------------------------

    def part(self, items: Iterator[Any]) -> Iterator[Any]:
        """Return an iterator over some of the items, which passes on what the user gets; no code of ours runs for each."""
        self._count = count = self._passed
        many = min(self._most - count, MANY)
        if many < 1:  # the next one may be one too many
            self._many, self._unpassed = 0, NONE_LEFT
            return filter(self.lets_pass, islice(items, 1))
        if count:
            _guard.guarded("stream", self._look_after)
        self._many, self._unpassed = many, repeat(True, many)
        passing = compress(islice(items, many), self._unpassed)
        return filter(self._shows, passing) if self._hides_usage else passing

    def lets_pass(self, item: Any) -> bool:
        """Count an event whose bytes are kept, and tell whether the user gets it. Raises BudgetExceeded."""
        self._count += 1
        if self._count > self._most:
            _guard.guarded("stream", self._outgrow)
        elif not self._count % MANY:
            _guard.guarded("stream", self._look_after)
        return not self._hides_usage or self._shows(item)

    def _count_part(self) -> None:
        self._count, self._many, self._unpassed = self._passed, 0, NONE_LEFT

    def _shows(self, item: Any) -> bool:
        """Tell whether the user gets an event: all but the one that only we asked for."""
        return getattr(item, "choices", None) != [] or not _guard.guarded("stream", self._reader.only_usage, item)

    def _look_after(self) -> None:
        if not self._kept.pack():
            self._read_kept()

    def _read_kept(self) -> None:
        """Read what was kept of the events that have passed: what they bring, and what they say if it was not heard yet."""
        events = split_events(self._kept.take())
        for at, event in enumerate(events):
            if self._read == self._count:
                self._kept.put_back(b"".join(events[at:]))
                break
            if b"data:" not in event:
                continue
            self._read += 1
            if self._items is not None and (said := self._said(event)) is not None:
                self._reader.event(said, self._call.answer)
            if self._room is not None and (text := self._reader.written(parsed(data_of(event)))) is not None:
                self._texts.append(text)

    def _read_rest(self) -> None:
        """Read what the events say that were kept: the stream is over, and what they bring counts no more."""
        data = self._kept.take()
        if self._read or not self._reader.at_once(data, self._asked, self._call.answer):
            for event in split_events(data):
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
        if self._reader.event(item, self._call.answer):
            self._end(None, complete=True)
        return self._hides_usage and self._reader.only_usage(item)

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
