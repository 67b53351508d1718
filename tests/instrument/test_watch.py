"""The watch sees the same stream however the network cuts it, and hands on all but the event that it asked for."""

from __future__ import annotations

import functools
import gc
import gzip
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

import rlm_obs
from rlm_obs import _lost
from rlm_obs._call import Call, Needs
from rlm_obs._instrument.events import events_with, split_events
from rlm_obs._instrument.gate import Gate, Passing
from rlm_obs._instrument.heard import leaving
from rlm_obs._instrument.openai import OpenAIReader
from rlm_obs._instrument.reader import Asked
from rlm_obs._instrument.watch import Watch
from rlm_obs._plugins import loaded
from rlm_obs._record import Request
from rlm_obs._runtime import InForce, runtime

with openai.DefaultHttpxClient(verify=False) as _made:  # httpx, or what the installed client has in its place
    HTTP: Any = sys.modules[next(c.__module__ for c in type(_made).__mro__ if c.__name__ == "Client").partition(".")[0]]

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


def said(text: str | None, finish: str | None = None) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}


GATE = Gate(OpenAIReader())
CHUNKS = [said("Grüße"), said('\n\ndata: {"usage":{"x"'), said(None, "stop")]
ASKED_FOR = {**HEAD, "choices": [], "usage": USAGE}


def event(value: Any, end: str, *, named: bool = False) -> bytes:
    name = f"event: chunk{end}" if named else ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"{name}data: {text}{end}{end}".encode()


def stream_of(end: str, comment: str = "", *, usage: bool = True, done: bool = True) -> bytes:
    """Return the bytes of a streamed chat, each event behind a comment."""
    before = f"{comment}{end}{end}".encode() if comment else b""
    parts = [before + event(chunk, end, named=bool(comment)) for chunk in CHUNKS]
    parts += [before + event(ASKED_FOR, end)] if usage else [before]
    return b"".join([*parts, before + event("[DONE]", end) if done else b""])


class Cut(HTTP.SyncByteStream, HTTP.AsyncByteStream):  # type: ignore[misc, name-defined]
    """A body that arrives in the given pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece


def watched(
    pieces: Sequence[bytes],
    *,
    asked: bool,
    awaits: bool = False,
    keeps: bool = False,
    kind: Callable[..., Any] = HTTP.Response,
    headers: dict[str, str] | None = None,
) -> tuple[Any, Call]:
    """Return a response under watch whose body arrives in `pieces`, and its call; it `keeps` its bytes, to read them later."""
    request = Request(provider="openai", endpoint="/chat/completions", operation="chat", model="gpt-4o", streamed=True)
    call = Call(
        request,
        Needs(None),
        tracer=None,
        trackers=(),
        operations=(),
        plugins=loaded(),
        price=lambda *_: None,
        most=lambda *_: None,
    )
    asking = Asked(request, Needs(None), None, asked)
    response = kind(200, headers={"content-type": "text/event-stream", **(headers or {})}, stream=Cut(pieces))
    response.request = HTTP.Request("POST", "http://127.0.0.1/")
    holds = InForce(runtime(), None, (), (), {})
    passing = Passing(GATE, holds, call, asking, None, True, awaits, None)
    passing.keeps = passing.quiet = keeps
    Watch.over(response, passing)
    return response, call


def check(call: Call, *, usage: bool = True) -> None:
    assert call.record is not None
    assert (call.record.status, call.record.model) == ("ok", "gpt-4o-2024-08-06")
    assert call.record.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    used = call.record.usage
    assert (used and used.input_tokens, used and used.output_tokens) == ((1000, 100) if usage else (None, None))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("asked", [False, True])
def test_every_cut_is_the_same_stream(end: str, asked: bool) -> None:
    """Cut in two at each byte: the record has the usage, and the user every byte, but for the event we asked for."""
    body = stream_of(end)
    expected = stream_of(end, usage=False) if asked else body
    for at in range(len(body) + 1):
        response, call = watched([body[:at], body[at:]], asked=asked)
        assert b"".join(response.iter_bytes()) == expected
        check(call)


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 1500), max_size=30),
    end=st.sampled_from(["\n", "\r\n"]),
    comment=st.sampled_from(
        ["", ": keep-alive", ":", "retry: 10", ': {"usage":{'],
    ),
    asked=st.booleans(),
    usage=st.booleans(),
    done=st.booleans(),
)
def test_any_cuts_comments_and_ends(
    cuts: list[int], end: str, comment: str, asked: bool, usage: bool, done: bool
) -> None:
    """Cut anywhere and any number of times, with comments, with and without usage and `[DONE]`: the same stream."""
    body = stream_of(end, comment, usage=usage, done=done)
    edges = [0, *sorted(cuts), len(body)]
    response, call = watched([body[a:b] for a, b in itertools.pairwise(edges)], asked=asked)
    hidden = asked and usage
    assert b"".join(response.iter_bytes()) == (body.replace(event(ASKED_FOR, end), b"") if hidden else body)
    check(call, usage=usage)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 1500), max_size=30), end=st.sampled_from(["\n", "\r\n"]))
def test_lines_are_whole(cuts: list[int], end: str) -> None:
    """`iter_lines` gives the lines of the stream without the one we asked for, whatever the cuts."""
    body = stream_of(end)
    edges = [0, *sorted(cuts), len(body)]
    response, call = watched([body[a:b] for a, b in itertools.pairwise(edges)], asked=True)
    assert list(response.iter_lines()) == stream_of(end, usage=False).decode().splitlines()
    check(call)


@pytest.mark.parametrize("asked", [False, True])
async def test_the_awaited_watch_sees_the_same(asked: bool) -> None:
    """The awaited reader sees what the blocking one sees."""
    body = stream_of("\n")
    expected = stream_of("\n", usage=False) if asked else body
    for at in range(0, len(body) + 1, 7):
        response, call = watched([body[:at], body[at:]], asked=asked, awaits=True)
        assert b"".join([piece async for piece in response.aiter_bytes()]) == expected
        check(call)


def test_what_arrived_before_an_error_reaches_the_user() -> None:
    """An event that was cut off by an error is handed on before the error, as the bare response does."""

    class Broken(Cut):
        def __iter__(self) -> Iterator[bytes]:
            yield from self.pieces
            raise HTTP.ReadError("cut off")

    body = event(CHUNKS[0], "\n") + b'data: {"id'
    response, call = watched([], asked=True)
    response.stream = Broken([body[:20], body[20:]])
    got = b""
    with pytest.raises(HTTP.ReadError, match="cut off"):
        for piece in response.iter_bytes():
            got += piece
    assert got == body
    assert call.record is not None
    assert (call.record.status, call.record.error) == ("error", "ReadError")


def test_nothing_is_read_ahead() -> None:
    """The user gets each piece before the next one is taken from the network."""
    taken = []

    class Noted(Cut):
        def __iter__(self) -> Iterator[bytes]:
            for piece in self.pieces:
                taken.append(piece)
                yield piece

    pieces = [event(chunk, "\n") for chunk in CHUNKS]
    for asked in (False, True):
        taken.clear()
        response, _ = watched([], asked=asked)
        response.stream = Noted(pieces)
        for number, piece in enumerate(response.iter_bytes(), 1):
            assert piece == pieces[number - 1]
            assert len(taken) == number


def test_an_event_without_an_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never ends is handed on in time: no more than a few megabytes are ever kept back."""
    from rlm_obs._instrument import events

    monkeypatch.setattr(events, "MOST_EVENT_BYTES", 1000)
    response, _ = watched([b"data: " + b"x" * 600, b"x" * 600, b"x" * 600], asked=True)
    pieces = response.iter_bytes()
    assert len(next(pieces)) == 1206
    pieces.close()


@pytest.mark.swallows
def test_a_body_that_is_too_deep_is_left_unread() -> None:
    """JSON that is nested too deep to be read costs its record the usage, and the user nothing."""
    body = b"[" * 200_000
    response, call = watched([body], asked=False)
    response.headers["content-type"] = "application/json"
    watch = response.__dict__["_rlm_obs_watch"]
    watch._events, watch._json, watch._body = False, True, []
    assert b"".join(response.iter_bytes()) == body
    assert call.record is not None
    assert call.record.status == "ok"
    assert rlm_obs.stats()["failures"]["stream"] == 1  # it was tried


async def test_a_closed_reader_closes_as_the_bare_one_does() -> None:
    """Closing the awaited reader closes the response as soon as the bare response would be."""
    closed = []
    for watching in (False, True):
        response, _ = watched([b"data: 1\n\n", b"data: 2\n\n"], asked=False, awaits=True)
        if not watching:
            response.__dict__.pop("aiter_bytes")
        reader = response.aiter_bytes()
        await anext(reader)
        await reader.aclose()
        closed.append(response.is_closed)
        await response.aclose()
    assert closed[0] == closed[1]


def test_a_stream_taken_up_from_what_has_arrived_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken up again with events that had come together: a user who is slow with them has not left the stream."""
    monkeypatch.setattr(_lost, "LEFT_FOR_S", 0.02)
    together = event(CHUNKS[0], "\n") + event(CHUNKS[1], "\n")
    response, call = watched([together, event(CHUNKS[2], "\n"), event("[DONE]", "\n")], asked=False)
    cls: Any = leaving(openai.Stream[ChatCompletionChunk])
    with openai.OpenAI(api_key="test", base_url="http://127.0.0.1/") as client:
        stream = cls(cast_to=ChatCompletionChunk, response=response, client=client)
        assert next(iter(stream)).choices[0].delta.content == "Grüße"
        rest = iter(stream)
        next(rest)
        time.sleep(0.06)
        assert not call.ended
        assert [chunk.choices[0].finish_reason for chunk in rest] == ["stop"]
    check(call, usage=False)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_usage_that_only_we_asked_for_stays_hidden_after_the_call(
    monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    """A stream that was left for so long that its call has ended, and is taken up again, shows no event of ours."""
    monkeypatch.setattr(_lost, "LEFT_FOR_S", 0.02)
    body = stream_of("\n")
    pieces = [part + b"\n\n" for part in body.split(b"\n\n") if part]
    response, call = watched(pieces, asked=True, keeps=keeps)
    cls: Any = leaving(openai.Stream[ChatCompletionChunk], keeps, GATE.reader.only_usage)
    with openai.OpenAI(api_key="test", base_url="http://127.0.0.1/") as client:
        stream = cls(cast_to=ChatCompletionChunk, response=response, client=client)
        for _ in stream:
            break
        for _ in range(500):  # 5 s, of which it takes 20 ms
            if call.ended:
                break
            time.sleep(0.01)
        assert call.ended
        assert [bool(chunk.choices) for chunk in stream] == [True, True]


def test_what_had_come_before_the_user_left_is_read() -> None:
    """A stream that is closed when all of it had come is charged as its usage says, though the user took one event."""
    response, call = watched([stream_of("\n")], asked=False, keeps=True)
    cls: Any = leaving(openai.Stream[ChatCompletionChunk], True)
    with openai.OpenAI(api_key="test", base_url="http://127.0.0.1/") as client:
        stream = cls(cast_to=ChatCompletionChunk, response=response, client=client)
        next(stream)
        stream.close()
    assert call.record is not None and call.record.usage is not None
    assert (call.record.status, call.record.usage.output_tokens) == ("aborted", 100)
    assert call.record.attributes["rlm_obs.response.chunks"] == len(CHUNKS) + 2  # the usage, and `[DONE]`


async def test_any_generator_of_a_stream_that_is_dropped_may_close_it_first() -> None:
    """asyncio closes the generators of a collected stream in any order: whichever closes the response, it was left."""
    response, call = watched([stream_of("\n")], asked=False, awaits=True, keeps=True)

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b""
        finally:
            await response.aclose()

    async def events() -> AsyncIterator[bytes]:
        below: Any = pieces()
        try:
            yield await anext(below)
        finally:
            await below.aclose()

    items: Any = events()
    response.__dict__["_rlm_obs_watch"].listen(items)
    await anext(items)
    await items.aclose()
    _lost.lost.end_all()
    assert call.record is not None and call.record.status == "aborted"


@pytest.mark.parametrize("hides", [False, True])
def test_what_had_come_before_a_stream_was_dropped_is_read(hides: bool) -> None:
    """The same of one that is garbage-collected in a cycle, while others use what such streams have left."""
    cls: Any = leaving(openai.Stream[ChatCompletionChunk], True, GATE.reader.only_usage if hides else None)
    with openai.OpenAI(api_key="test", base_url="http://127.0.0.1/") as client:
        for _ in range(20):
            calls = []
            for leaves in (True, False):
                response, call = watched([stream_of("\n")], asked=hides, keeps=True)
                stream = cls(cast_to=ChatCompletionChunk, response=response, client=client)
                next(stream)
                stream.cycle = [stream] if leaves else None
                calls.append(call)
                if not leaves:
                    list(stream)
                del stream, response
            gc.collect()
            _lost.lost.end_all()
            dropped, whole = [call.record for call in calls]
            assert dropped is not None and dropped.usage is not None and whole is not None and whole.usage is not None
            assert (dropped.status, dropped.usage.output_tokens) == ("aborted", 100)
            assert (whole.status, whole.usage.output_tokens) == ("ok", 100)


def test_streams_at_a_time_keep_their_bytes_apart() -> None:
    """More streams than places wait for them, in turns and begun anew in any order: each has its own bytes, and no more."""
    from rlm_obs._instrument import kept as module

    before = len(module._spare)
    chance = random.Random(7)
    open_: list[tuple[Any, bytes]] = []
    for number in range(600):
        if len(open_) == 20 or (open_ and chance.random() < 0.4):
            kept, said = open_.pop(chance.randrange(len(open_)))
            place, start = kept.last()
            assert place[start:] == said
            del place
        else:
            kept, said = module.Kept(True), b""
            for part in range(chance.randrange(4)):
                pieces = [b"%d-%d" % (number, part) * chance.randrange(1, 9000)]
                said += b"".join(kept.passing(iter(pieces), 9))
                if chance.random() < 0.3:
                    kept.pack()
            open_.append((kept, said))
        del kept
    open_.clear()
    assert len(module._spare) == before
    waiting = [place for place in module._spare if place is not None]
    assert waiting and all([len(place) == module.HALF for place in waiting])
    assert all([sys.getsizeof(place) >= 2 * module.HALF for place in waiting])  # none has to grow again


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 1500), max_size=30),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    comment=st.sampled_from(["", ": keep-alive", ":", ': {"usage":{']),
    usage=st.booleans(),
    done=st.booleans(),
    hides=st.booleans(),
)
def test_any_cuts_are_the_same_stream_to_who_keeps_it(
    cuts: list[int], end: str, comment: str, usage: bool, done: bool, hides: bool
) -> None:
    """The SDK's stream over any pieces, its bytes read at the end: the record is the same, and has each event counted, also
    the one that the user does not get."""
    body = stream_of(end, comment, usage=usage, done=done)
    edges = [0, *sorted(cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    response, call = watched(pieces, asked=hides, keeps=True)
    cls: Any = leaving(openai.Stream[ChatCompletionChunk], True, GATE.reader.only_usage if hides else None)
    with openai.OpenAI(api_key="test", base_url="http://127.0.0.1/") as client:
        events = list(cls(cast_to=ChatCompletionChunk, response=response, client=client))
    hidden = hides and usage
    assert len(events) == 3 + usage - hidden
    check(call, usage=usage)
    assert call.record is not None
    assert call.record.attributes["rlm_obs.response.chunks"] == len(events) + hidden + done
    assert call.record.time_to_first_chunk_s is not None


@pytest.mark.parametrize("said", ['"ping"', "[1]", '{"id": "odd"}', '{"choices": null}', '{"choices": []}'])
@pytest.mark.parametrize("hides", [False, True])
def test_an_odd_event_is_the_users_all_the_same(said: str, hides: bool) -> None:
    """What the SDK makes of an event that is no chunk, or has no choices, is handed on; only the usage is kept back."""
    body = event(CHUNKS[0], "\n") + event(said, "\n") + stream_of("\n")
    response, call = watched([body], asked=hides, keeps=True)
    cls: Any = leaving(openai.Stream[ChatCompletionChunk], True, GATE.reader.only_usage if hides else None)
    with openai.OpenAI(api_key="test", base_url="http://127.0.0.1/") as client:
        events = list(cls(cast_to=ChatCompletionChunk, response=response, client=client))
    assert len(events) == 2 + 4 - hides
    check(call)


def test_empty_pieces_end_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source may give pieces of nothing, as many as it likes: what comes behind them is passed on, and kept."""
    from rlm_obs._instrument import hearing

    monkeypatch.setattr(hearing, "MANY", 2)
    response, call = watched([], asked=False)
    watch = response.__dict__["_rlm_obs_watch"]
    pieces = [b"data: 1\n\n", *[b""] * 9, b"data: 2\n\n", b"", b"data: 3\n\n"]
    passed = list(itertools.chain.from_iterable(watch._passing(iter(pieces))))
    assert b"".join(passed) == watch._kept.take() == b"".join(pieces)
    call.abort()


def test_what_is_kept_of_a_long_stream_is_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed or not, what is taken is what was added, in its order; a bound says when it is too much."""
    from rlm_obs._instrument import kept as module

    monkeypatch.setattr(module, "PACKED_FROM", 1000)
    pieces = [event(said(f"w{n}"), "\n") for n in range(400)]
    kept = module.Kept()
    kept.add(pieces[0])
    for at in range(1, 400, 50):
        assert list(kept.passing(iter(pieces[at : at + 60]), 50)) == pieces[at : at + 50]
        assert kept.unseen().endswith(pieces[min(at + 49, 399)])
        assert kept.unseen() == b""
        assert kept.pack()
    assert kept.take() == b"".join(pieces)
    assert (kept.take(), len(kept)) == (b"", 0)
    monkeypatch.setattr(module, "MOST", 10)
    kept.add(pieces[0])
    assert not kept.pack()
    assert kept.take() == pieces[0]


async def pieces_of(response: Any, *given: Any, awaits: bool) -> list[bytes]:
    return [piece async for piece in response.aiter_bytes(*given)] if awaits else list(response.iter_bytes(*given))


PARTS = ["data: a", "data: [DONE]", ": note", "event: x", 'data: "usage":{', "\n", "\n\n", "\n\n\n", "\r\n", "x"]


@given(st.lists(st.sampled_from(PARTS), max_size=12))
@settings(max_examples=500, deadline=None)
def test_events_that_tell_something_are_found_in_any_stream(parts: list[str]) -> None:
    """Whatever the bytes are: every event with a sign, and the first one with data, whole (but for empty lines) and in order."""
    whole, signs = "".join(parts).encode(), (b"[DONE]", b'"usage":{')
    every = split_events(whole)
    first = next((n for n, one in enumerate(every) if b"data:" in one), None)
    wanted = [one for n, one in enumerate(every) if n == first or any(sign in one for sign in signs)]
    expected = every if b"\r" in whole else wanted
    assert [one.strip(b"\n") for one in events_with(whole, signs)] == [one.strip(b"\n") for one in expected]


@pytest.mark.parametrize("awaits", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("name", ["content-encoding", "Content-Encoding", "CONTENT-ENCODING"])
async def test_a_packed_stream_reaches_the_user_unpacked(name: str, keeps: bool, awaits: bool) -> None:
    """Where the answer is packed the client unpacks it, however the header is spelled; the call is what it would be."""
    body, packed = stream_of("\n"), gzip.compress(stream_of("\n"))
    cut = [packed[at : at + 40] for at in range(0, len(packed), 40)]
    response, call = watched(cut, asked=False, awaits=awaits, keeps=keeps, headers={name: "gzip"})
    assert b"".join(await pieces_of(response, awaits=awaits)) == body
    check(call)


@pytest.mark.parametrize("awaits", [False, True])
async def test_somebody_elses_way_to_read_a_response_is_taken(awaits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of one's own, and what another library has put in the place of the client's method, read as they ever did."""
    seen: list[int] = []
    whole, whole_async = HTTP.Response.iter_bytes, HTTP.Response.aiter_bytes

    @functools.wraps(whole)
    def iter_bytes(self: Any, chunk_size: int | None = None) -> Iterator[bytes]:
        for piece in whole(self, chunk_size):
            seen.append(len(piece))
            yield piece

    @functools.wraps(whole_async)
    async def aiter_bytes(self: Any, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async for piece in whole_async(self, chunk_size):
            seen.append(len(piece))
            yield piece

    body = stream_of("\n")
    own = type("Own", (HTTP.Response,), {"iter_bytes": iter_bytes, "aiter_bytes": aiter_bytes})
    response, call = watched([body], asked=False, awaits=awaits, kind=own)
    assert b"".join(await pieces_of(response, awaits=awaits)) == body
    check(call)
    assert seen == [len(body)]
    monkeypatch.setattr(HTTP.Response, "iter_bytes", iter_bytes)
    monkeypatch.setattr(HTTP.Response, "aiter_bytes", aiter_bytes)
    response, call = watched([body], asked=False, awaits=awaits)
    assert b"".join(await pieces_of(response, awaits=awaits)) == body
    check(call)
    assert seen == [len(body)] * 2


@pytest.mark.parametrize("awaits", [False, True])
async def test_pieces_are_as_long_as_the_user_says(awaits: bool) -> None:
    """`iter_bytes(n)` gives n bytes at a time; a response that holds its content gives that; to read twice is the error it was."""
    body = stream_of("\n")
    response, call = watched([body], asked=False, awaits=awaits)
    assert {len(piece) for piece in (await pieces_of(response, 100, awaits=awaits))[:-1]} == {100}
    check(call)
    response, call = watched([body], asked=False, awaits=awaits)
    assert (await response.aread() if awaits else response.read()) == body
    assert await pieces_of(response, awaits=awaits) == [body]
    check(call)
    whole, call = watched(
        [], asked=False, awaits=awaits, kind=lambda *a, stream, **k: HTTP.Response(*a, content=body, **k)
    )
    assert await pieces_of(whole, awaits=awaits) == [body]
    check(call)
    response, _ = watched([body], asked=False, awaits=awaits)
    await pieces_of(response, awaits=awaits)
    with pytest.raises(HTTP.StreamConsumed):
        await pieces_of(response, awaits=awaits)
