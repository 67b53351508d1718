"""The watch on a streamed answer: sees the bytes as they pass to the user, and ends the call when the response ends.

It shadows `iter_bytes` and `close` on the one response object, below the SDK's stream: whatever reads the response (the
stream, `iter_lines`, `read`, a library) passes it, and the user keeps the SDK's own objects. Nothing is read ahead.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from rlm_obs import _guard, _lost
from rlm_obs._instrument.events import parsed, split_events, whole_events
from rlm_obs._instrument.hearing import Hearing
from rlm_obs._instrument.raw import is_raw
from rlm_obs.errors import BudgetExceeded

if TYPE_CHECKING:
    from rlm_obs._instrument.gate import Passing

MOST_JSON_BYTES = 32_000_000  # a plain answer that is read as a stream is kept up to here, to read its usage at the end
#: Where a response keeps what reads it and what counts that, if they are made before the watch.
ITEMS = "_rlm_obs_items"
#: What stands in a response's place while it is watched, where nobody awaits and where somebody does.
SHADOWS = ("_rlm_obs_watch", "iter_bytes", "close"), ("_rlm_obs_watch", "aiter_bytes", "aclose")


@_lost.ends_with_the_program
class Watch(Hearing):
    """One response under watch. They hold each other until the call ends, and are collected together.

    A weak reference would be empty by the time that the finaliser of a collected stream closes its response.
    """

    _source: Any = None
    _inside = _left = False
    _left_at: tuple[tuple[int, int], list[Any]] = (0, 0), []  # see `_moved`
    _loop: Any = None
    _tail = b""
    _lines: Callable[[Any, int], None] | None = None
    _events, _json = True, False
    _body: list[bytes] | None = None
    _body_size = 0

    def __init__(self, response: Any, passing: Passing) -> None:
        super().__init__(passing)
        self._awaits = passing.awaits
        self._response = response
        self._type = type(response)
        self._begun = passing.asked.begun
        self._quiet = passing.quiet
        self._handled = id(sys.exception())  # what the user's code handled before; the id keeps nothing alive
        if passing.asked.lines:
            self._lines, self._events = passing.line, False
        elif not passing.stream:
            kind = response.headers.get("content-type", "")
            self._events = "event-stream" in kind
            self._json = not self._events and "json" in kind
            self._body = []

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
        if (reads := shadows.pop(ITEMS, None)) is not None:
            watch.listen(*reads)
        _lost.lost.start()

    def __del__(self) -> None:
        self._drop()

    # -- what stands in the response's place; the two colours differ by `await` alone --------------------------------

    def _iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        own, response = self._type.iter_bytes, self._response
        raw = chunk_size is None and is_raw(response, own)
        source = response.iter_raw() if raw else own(response, chunk_size)
        self._source = source
        if not self._is_heard():
            self._items = None  # the user reads the bytes, and no stream
            return self._seen(source)
        if self.keeps:
            return itertools.chain.from_iterable(self._passing(source))
        return itertools.chain(self._beginning(source), source)  # what is heard need not be seen, but for the beginning

    def _beginning(self, source: Iterator[bytes]) -> Iterator[bytes]:
        while not self._started:
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
        own, response = self._type.aiter_bytes, self._response
        raw = chunk_size is None and is_raw(response, own)
        source = response.aiter_raw() if raw else own(response, chunk_size)
        if not self._is_heard():
            self._items = None
        keeps, add = self.keeps and self._items is not None, self._kept.add
        try:
            self._inside = True
            async for data in source:
                if keeps and self._pieces + 1 < self._soon:  # what `_see` does with most pieces, two calls less
                    add(data)
                    self._pieces += 1
                    passed = data
                else:
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
            if self.keeps:
                self._keep(data)
            elif not self._started:
                self._measure(data)
            return data
        if self._lines is not None:
            *lines, self._tail = (self._tail + data).split(b"\n")
            self._read_lines(lines)
            return data
        if not self._events:
            self._keep_body(data)
            return data
        if self._hides_usage:
            whole, self._tail = whole_events(self._tail + data if self._tail else data)
            found = _guard.guarded("stream", self._look, whole)
            return whole if found is None else found
        whole, self._tail = whole_events(self._tail + data if self._tail else data)
        _guard.guarded("stream", self._look, whole)
        return data

    def _measure(self, data: bytes) -> None:
        """Note when the first event comes, and how long it is."""
        self._size += len(data)
        whole, self._tail = whole_events(self._tail + data)
        self._envelope = next((len(event) for event in split_events(whole) if b"data:" in event), 0)
        if self._envelope:
            self._started = True
            self._call.first_chunk()

    def _read_lines(self, lines: list[bytes]) -> None:
        for line in lines:
            said = parsed(line)
            if said is not None and self._lines is not None:
                self._count += 1
                _guard.guarded("batch", self._lines, said, self._count)

    def _keep_body(self, data: bytes) -> None:
        self._call.first_chunk()
        if self._json and self._body is not None:
            self._body.append(data)
            self._body_size += len(data)
            if self._body_size > MOST_JSON_BYTES:
                self._body = None

    # -- what the SDK has made of it ---------------------------------------------------------------------------------

    def listen(self, items: Any, count: Iterator[int] | None = None) -> bool:
        """Take what the SDK's stream reads the response with, which is cheaper to hear than the bytes, and what counts it;
        False if the bytes are needed."""
        if not self._events or self._reads_all:
            return False
        if not hasattr(items, "ag_frame" if self._awaits else "gi_frame"):
            return False  # a stream of somebody's own, which is no generator
        self._items, self._passed = items, count
        return True

    def all_heard(self, error: BaseException | None = None) -> None:
        """The SDK's stream has come to its end, has broken off, or was dropped."""
        if isinstance(error, GeneratorExit):
            self._drop()
            self._unshadow()
            return
        self._count += error is None and not self.keeps  # `[DONE]` is an event too
        self._end(error, complete=error is None)

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
        if self._inside or getattr(self._source, "gi_running", False):
            return  # the response closes itself behind its last byte, which is still to be seen
        if self._is_heard():
            if self._quiet:
                # What is dropped may be closed by any of the generators in it, in any order.
                through = isinstance(error, GeneratorExit) or self._came_through(error)
                self.all_heard(error if through else None)
            return
        if isinstance(error, GeneratorExit):
            self._drop()
            self._unshadow()
        else:
            self._end(error if isinstance(error, Exception) and id(error) != self._handled else None)

    def _is_heard(self) -> bool:
        """Tell whether the SDK's stream is at work, or has been."""
        items = self._items
        if items is None:
            return False
        if self._awaits:
            return items.ag_running or items.ag_frame is None
        return items.gi_running or items.gi_frame is None

    def _frame(self) -> FrameType | None:
        return getattr(self._items, "ag_frame" if self._awaits else "gi_frame", None)

    def _came_through(self, error: BaseException | None) -> bool:
        """Tell whether it is the SDK's stream that has failed, and not something that the user's code handles meanwhile."""
        if error is None:
            return False
        frame = self._frame()
        return any(seen is frame for seen, _ in traceback.walk_tb(error.__traceback__))

    def _drop(self) -> None:
        """Have the call ended by another thread: this may run in a finaliser, so anywhere, inside any lock."""
        if not self._call.ended:
            _lost.lost.gone(self._dropped)

    def _dropped(self) -> None:
        self._end(None)

    def _end(self, error: BaseException | None, *, complete: bool = False) -> None:
        if self._call.ended:
            return
        self._tell(complete)
        if error is not None:
            self._call.fail(error)
        elif complete:
            self._call.finish()
        else:
            self._abort()
        self._unshadow()

    def _abort(self) -> None:
        if self._begun is not None:
            _guard.guarded("stream", self._begun, self._call.answer)
        self._call.abort()

    def _tell(self, complete: bool) -> None:
        """Say how many events have come, and how many tokens where no usage does: one an event, or more where events carry
        more than the first one did."""
        if not self._events:
            return
        if self._items is not None and self.keeps:
            _guard.guarded("stream", self._read_rest, complete)
        answer, count = self._call.answer, self._count
        answer.chunks = count
        if answer.counts is None:
            size = self._size
            if self._items is not None:
                size = getattr(self._response, "num_bytes_downloaded", size)
            extra = (size - count * self._envelope) // 4 if self._envelope else 0
            answer.streamed_tokens = max(count - 1, extra, 0)

    def _unshadow(self) -> None:
        shadows = self._response.__dict__
        for name in SHADOWS[self._awaits]:
            shadows.pop(name, None)

    # -- left by `break` ---------------------------------------------------------------------------------------------

    def take_up(self, loop: Any) -> None:
        """A loop of the user's reads the stream, maybe again, by this generator: which dies when it is left."""
        self._left = False
        this = weakref.ref(self)

        def gone(_: object) -> None:
            if (watch := this()) is not None:
                watch._leave()

        with contextlib.suppress(TypeError):  # an iterator of somebody's own, whose end nobody can watch
            self._loop = weakref.ref(loop, gone)

    def _leave(self) -> None:
        """The user's loop has left the stream, maybe for good. Runs in a finaliser."""
        if not self._call.ended:
            self._left, self._left_at = True, (self._place(), self._at_hand())
            _lost.lost.left(self.end_if_left)

    def _place(self) -> tuple[int, int]:
        return self._count, len(self._kept)

    def _at_hand(self) -> list[Any]:
        """Return the data of the event that the SDK's stream has given last, where nothing of ours sees events pass."""
        frame = self._frame() if self._quiet else None
        return [] if frame is None else [thing for thing in frame.f_locals.values() if isinstance(thing, dict)]

    def _moved(self) -> bool:
        """Tell whether an event was taken since a loop has left the stream."""
        place, at_hand = self._left_at
        return place != self._place() or [*map(id, at_hand)] != [*map(id, self._at_hand())]

    @property
    def begun(self) -> float:
        """When the call was sent, in seconds since the epoch."""
        return self._call.started_at

    def end_now(self) -> None:
        """End the call as it is: the program ends."""
        self._end(None)

    def end_if_left(self) -> None:
        """End the call if nobody has taken the stream up again."""
        if self._left and not self._moved() and not self._inside and not self._is_heard():
            self._end(None)
