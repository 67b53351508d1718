"""The watch on a streamed answer: sees the bytes as they pass to the user, and ends the call when the response ends.

It shadows `iter_bytes` and `close` on the one response object, below the SDK's stream: whatever reads the response (the
stream, `iter_lines`, `read`, a library) passes it, and the user keeps the SDK's own objects. Nothing is read ahead.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from rlm_obs import _guard, _lost
from rlm_obs._instrument.events import data_of, parsed, split_events, whole_events
from rlm_obs.errors import BudgetExceeded

if TYPE_CHECKING:
    from rlm_obs._instrument.gate import Passing

MOST_JSON_BYTES = 32_000_000  # a plain answer that is read as a stream is kept up to here, to read its usage at the end
MOST_KEPT_BYTES = 4_000_000  # of a stream with a limit, for what it had brought if it outgrows it
SLACK = 16  # events that bring no output: of the role, the end, the usage


class Watch:
    """One response under watch. They hold each other until the call ends, and are collected together.

    A weak reference would be empty by the time that the finaliser of a collected stream closes its response.
    """

    def __init__(self, response: Any, passing: Passing) -> None:
        self._call, self._reader, self._awaits = passing.call, passing.reader, passing.awaits
        self._response = response
        self._type = type(response)
        kind = response.headers.get("content-type", "")
        self._lines = passing.line if passing.asked.lines else None
        self._events = self._lines is None and (passing.stream or "event-stream" in kind)
        self._json = self._lines is None and not self._events and "json" in kind
        self._hides_usage = passing.asked.ask_usage
        self._begun = passing.asked.begun
        self._keeps_all = passing.call.answer.captures
        #: Whether its events may be heard a little later than they pass.
        self.patient = passing.asked.request.endpoint in self._reader.patient
        self._items: Any = None  # the SDK's stream, where it reads the response and tells what its events say
        self._inside = self._left = False
        self._left_at = 0
        self._loop: Any = None
        self._handled = id(sys.exception())  # what the user's code handled before; the id keeps nothing alive
        self._tail = b""
        self._room = passing.call.output_room  # tokens that the stream may write; None: as many as it likes
        self._kept: list[bytes] = []  # what it has brought, while it has a room that it may outgrow
        self._kept_size = 0
        self._body: list[bytes] | None = []
        self._body_size = self._size = self._envelope = 0
        self._unheard: list[Any] = []  # events that have passed, and are heard by `catch_up`
        self._count = 0  # events so far
        self._most = sys.maxsize if self._room is None else self._room + SLACK  # from more on, its output is counted
        self._texts: list[str] | None = None  # what was written, where it has a room

    @classmethod
    def over(cls, response: Any, passing: Passing) -> None:
        """Put a response under watch."""
        watch = cls(response, passing)
        shadows = response.__dict__
        if passing.awaits:
            shadows["aiter_bytes"], shadows["aclose"] = watch._aiter_bytes, watch._aclose
        else:
            shadows["iter_bytes"], shadows["close"] = watch._iter_bytes, watch._close
        shadows["_rlm_obs_watch"] = watch
        _lost.lost.start()

    def __del__(self) -> None:
        self._drop()

    # -- what stands in the response's place; the two colours differ by `await` alone --------------------------------

    def _iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        source = self._type.iter_bytes(self._response, chunk_size)
        if self._items is None:
            return self._seen(source)
        # What is heard need not be seen, but for the first event.
        return itertools.chain(self._measured(source), source)

    def _measured(self, source: Iterator[bytes]) -> Iterator[bytes]:
        while not self._envelope:
            data = next(source, None)
            if data is None:
                return
            self._measure(data)
            yield data

    def _seen(self, source: Iterator[bytes]) -> Iterator[bytes]:
        try:
            self._inside = True
            for data in source:
                passed = self._see(data)
                self._inside = False
                if passed:
                    yield passed
                self._inside = True
            rest = self._eof()
            if rest:
                yield rest
        except GeneratorExit:
            raise
        except BaseException as error:
            rest = self._failed(error)
            if rest:
                yield rest
            if isinstance(error, BudgetExceeded):
                self._type.close(self._response)  # the provider need not write on
            raise
        finally:
            self._inside = False

    async def _aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        source = self._type.aiter_bytes(self._response, chunk_size)
        try:
            self._inside = True
            async for data in source:
                passed = self._see(data)
                self._inside = False
                if passed:
                    yield passed
                self._inside = True
            rest = self._eof()
            if rest:
                yield rest
        except GeneratorExit:
            raise
        except BaseException as error:
            rest = self._failed(error)
            if rest:
                yield rest
            if isinstance(error, BudgetExceeded):
                await self._type.aclose(self._response)
            raise
        finally:
            self._inside = False
            await source.aclose()  # or it would be left to the event loop, which closes it later

    def _close(self) -> None:
        error = sys.exception()
        try:
            self._type.close(self._response)
        finally:
            self._closed(error)

    async def _aclose(self) -> None:
        error = sys.exception()
        try:
            await self._type.aclose(self._response)
        finally:
            self._closed(error)

    # -- what passes -------------------------------------------------------------------------------------------------

    def _see(self, data: bytes) -> bytes:
        """Look at what has arrived and return what the user gets: all, but a usage event that only we asked for."""
        self._left = False
        if self._items is not None:
            if not self._envelope:
                self._measure(data)
            return data
        if self._lines is not None:
            *lines, self._tail = (self._tail + data).split(b"\n")
            self._read_lines(lines)
            return data
        if not self._events:
            self._keep(data)
            return data
        if self._hides_usage:
            whole, self._tail = whole_events(self._tail + data if self._tail else data)
            found = _guard.guarded("stream", self._look, whole)
            return whole if found is None else found
        whole, self._tail = whole_events(self._tail + data if self._tail else data)
        _guard.guarded("stream", self._look, whole)
        return data

    def _look(self, whole: bytes) -> bytes:
        events = whole.count(b"data:")
        if not events:
            return whole  # nothing yet, or a comment that keeps the line alive
        first = not self._count
        self._size += len(whole)
        self._count += events
        if self._room is not None:
            self._keep_written(whole)
            if self._count > self._most:
                self._outgrow(*self._written())
        if first:
            self._call.first_chunk()
        elif not self._keeps_all:
            for sign in self._reader.signs:
                if sign in whole:
                    break
            else:
                return whole
        return self._read_events(whole, first)

    def _read_events(self, whole: bytes, first: bool) -> bytes:
        """Read the events that say something, and return all of them but the one that only we asked for."""
        kept: list[bytes] = []
        for event in split_events(whole):
            kept.append(event)
            if first:
                if b"data:" not in event:
                    continue
                first, self._envelope = False, len(event)
            elif not self._keeps_all and not any(sign in event for sign in self._reader.signs):
                continue
            data = data_of(event)
            if data.startswith(b"[DONE]"):
                self._end(None, complete=True)
                continue
            said = parsed(data)
            if said is None:
                continue
            if self._hides_usage and self._reader.only_usage(said):
                kept.pop()
            if self._reader.event(said, self._call.answer):
                self._end(None, complete=True)
        return b"".join(kept)

    def _keep_written(self, data: bytes) -> None:
        if self._kept_size <= MOST_KEPT_BYTES:
            self._kept.append(data)
            self._kept_size += len(data)

    def _written(self) -> tuple[list[str], int]:
        """Return the texts that were written so far, and how many tokens they are at least.

        An event that brings output is a token at least; others bring none, so they are told apart here, where it matters.
        """
        events = (parsed(data_of(event)) for event in split_events(b"".join(self._kept)))
        written = [text for event in events if (text := self._reader.written(event)) is not None]
        return written, len(written) if self._kept_size <= MOST_KEPT_BYTES else self._count

    def _outgrow(self, written: list[str], tokens: int) -> None:
        """See whether the stream has written more than was held for it. Raises BudgetExceeded where there is no more room."""
        if self._room is None or tokens - SLACK <= self._room:
            self._most = self._count + SLACK
            return
        try:
            self._room = self._call.outgrown(tokens)
        except BudgetExceeded as refusal:
            refusal.partial = "".join(written)
            raise
        self._most = self._count - tokens + self._room + SLACK

    def _measure(self, data: bytes) -> None:
        """Take the first event's length."""
        self._left = False
        self._size += len(data)
        whole, self._tail = whole_events(self._tail + data)
        self._envelope = next((len(event) for event in split_events(whole) if b"data:" in event), 0)
        if self._envelope:
            self._call.first_chunk()

    def _read_lines(self, lines: list[bytes]) -> None:
        for line in lines:
            said = parsed(line)
            if said is not None and self._lines is not None:
                self._count += 1
                _guard.guarded("batch", self._lines, said, self._count)

    def _keep(self, data: bytes) -> None:
        self._call.first_chunk()
        if self._json and self._body is not None:
            self._body.append(data)
            self._body_size += len(data)
            if self._body_size > MOST_JSON_BYTES:
                self._body = None

    # -- what the SDK has made of it ---------------------------------------------------------------------------------

    def listen(self, items: Any) -> bool:
        """Read the events as the SDK's stream has parsed them, ten times cheaper than their bytes; False if those are needed."""
        if not self._events or self._keeps_all:
            return False
        if not hasattr(items, "ag_frame" if self._awaits else "gi_frame"):
            return False  # a stream of somebody's own, which is no generator
        self._items = items
        self._texts = None if self._room is None else []
        return True

    def passes(self, item: Any) -> bool:
        """Hear an event, and tell whether the user gets it: all but the one that only we asked for. Raises BudgetExceeded."""
        self._count += 1
        try:
            if self._count > self._most or self._count == 1 or not self._reader.mere_texts((item,), self._texts):
                return not self._hears(item)
        except Exception as error:
            _guard.caught("stream", error)
        return True

    def unheard(self, items: Any) -> Iterator[Any]:
        """Pass on what the user gets of the events, which are to be heard by `catch_up`."""
        return filter(self.keeps, items) if self._hides_usage else itertools.filterfalse(self._unheard.append, items)

    def keeps(self, item: Any) -> bool:
        """Keep an event for `catch_up`, and tell whether the user gets it."""
        self._unheard.append(item)
        if not self._hides_usage or getattr(item, "choices", None) != []:
            return True
        return not _guard.guarded("stream", self._reader.only_usage, item)

    @property
    def room(self) -> int:
        """How many events may pass before one has to be heard at once: it may be one too many."""
        return self._most - self._count

    def catch_up(self) -> None:
        """Hear the events that have passed."""
        passed = self._unheard[:]
        del self._unheard[: len(passed)]
        while passed:
            texts = (
                0 if not self._count else _guard.guarded("stream", self._reader.mere_texts, passed, self._texts) or 0
            )
            self._count += texts
            if texts < len(passed):
                self.passes(passed[texts])
            del passed[: texts + 1]

    def _hears(self, item: Any) -> bool:
        """Read an event that is no mere text, is the first one, or may be one too many; True for one that only we asked for."""
        if self._texts is not None:
            if (text := self._reader.written(item)) is not None:
                self._texts.append(text)
            if self._count > self._most:
                self._outgrow(self._texts, len(self._texts))
        return self._hear(item)

    def all_heard(self, error: BaseException | None = None) -> None:
        """The SDK's stream has come to its end, has broken off, or was dropped."""
        if isinstance(error, GeneratorExit):
            self._drop()
            self._unshadow()
            return
        self.catch_up()
        self._count += error is None  # `[DONE]` is an event too
        self._end(error, complete=error is None)

    def _hear(self, item: Any) -> bool:
        """Read an event that says something; True for one that only we asked for."""
        self._call.first_chunk()
        hidden = self._hides_usage and self._reader.only_usage(item)
        if self._reader.event(item, self._call.answer):
            self._end(None, complete=True)
        return hidden

    # -- the end -----------------------------------------------------------------------------------------------------

    def _eof(self) -> bytes:
        """The answer has been read to its end: return what was held back of it."""
        rest, self._tail = self._tail, b""
        if self._items is not None:
            return b""  # the call ends behind the last event: see `all_heard`
        if self._lines is not None:
            self._read_lines([rest])
            rest = b""
        elif rest and self._events:
            found = _guard.guarded("stream", self._look, rest)
            rest = found if self._hides_usage and found is not None else rest if self._hides_usage else b""
        elif self._json and self._body:
            _guard.guarded("stream", self._read_body, self._body)
        self._end(None, complete=True)
        return rest

    def _read_body(self, body: list[bytes]) -> None:
        said = parsed(b"".join(body))
        if said is not None:
            self._reader.answered(said, self._call.answer)

    def _failed(self, error: BaseException) -> bytes:
        """The answer broke off: return what was held back of it, since it arrived before the error did."""
        self._end(error)
        return self._tail if self._hides_usage and self._items is None and isinstance(error, Exception) else b""

    def _closed(self, error: BaseException | None) -> None:
        if self._inside or self._is_heard():
            return  # the response closes itself behind its last byte, which is still to be seen
        if isinstance(error, GeneratorExit):
            self._drop()
            self._unshadow()
        else:
            self._end(error if isinstance(error, Exception) and id(error) != self._handled else None)

    def _is_heard(self) -> bool:
        """Tell whether the SDK's stream is closing what it has read itself: `all_heard` is told how that ended."""
        items, kind = self._items, "ag" if self._awaits else "gi"
        return items is not None and (getattr(items, f"{kind}_running") or getattr(items, f"{kind}_frame") is None)

    def _drop(self) -> None:
        """Have the call ended by another thread: this may run in a finaliser, so anywhere, inside any lock."""
        if not self._call.ended:
            self._tell()
            _lost.lost.gone(self._abort)

    def _end(self, error: BaseException | None, *, complete: bool = False) -> None:
        self.catch_up()
        if self._call.ended:
            return
        self._tell()
        if error is not None:
            self._call.fail(error)
        elif complete:
            self._call.finish()
        else:
            self._abort()
        self._unshadow()

    def _abort(self) -> None:
        self.catch_up()
        if self._begun is not None:
            _guard.guarded("stream", self._begun, self._call.answer)
        self._call.abort()

    def _tell(self) -> None:
        """Say how many tokens have come: one an event, or more where events carry more than the first one did."""
        if self._events:
            if self._items is not None:
                self._size = getattr(self._response, "num_bytes_downloaded", self._size)
            count = self._passed
            extra = max(0, self._size - count * self._envelope) // 4
            self._call.answer.streamed_tokens = max(count - 1, extra, 0)
            self._call.answer.chunks = count

    @property
    def _passed(self) -> int:
        """How many events have passed, heard or not."""
        return self._count + len(self._unheard)

    def _unshadow(self) -> None:
        for name in ("iter_bytes", "aiter_bytes", "close", "aclose", "_rlm_obs_watch"):
            self._response.__dict__.pop(name, None)

    # -- left by `break` ---------------------------------------------------------------------------------------------

    def take_up(self, loop: Any) -> None:
        """A loop of the user's reads the stream, maybe again, by this generator: which dies when it is left."""
        self._left = False
        leave = weakref.WeakMethod(self._leave)
        with contextlib.suppress(TypeError):  # an iterator of somebody's own, whose end nobody can watch
            self._loop = weakref.ref(loop, lambda _: (left := leave()) is not None and left())

    def _leave(self) -> None:
        """The user's loop has left the stream, maybe for good. Runs in a finaliser."""
        if not self._call.ended:
            self._left, self._left_at = True, self._passed
            _lost.lost.left(self.end_if_left)

    def end_if_left(self) -> None:
        """End the call if nobody has taken the stream up again."""
        if self._left and self._left_at == self._passed and not self._inside and not self._is_heard():
            self._end(None)
