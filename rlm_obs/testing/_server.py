"""An OpenAI-compatible server in the test's own process: a real client speaks to it over real HTTP, without a key."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qsl

from rlm_obs.testing._answers import Answer, Billed, Reply, Seen, UsageLike
from rlm_obs.testing._routes import Routes, is_paid

__all__ = ["Answer", "Billed", "FakeOpenAI", "Seen", "fake_openai"]

AnswerLike = str | Mapping[str, Any] | Answer | None
AnswerSource = AnswerLike | Callable[[Seen], AnswerLike]
PHRASES = {status.value: status.phrase for status in HTTPStatus}
LINE = 65_536
BLANK = (b"\r\n", b"\n")


def fake_openai(
    answer: AnswerSource = None,
    *,
    usage: UsageLike = None,
    latency_s: float = 0.0,
    chunk_delay_s: float = 0.0,
    status: int | None = None,
    model: str | None = None,
    stream_usage: bool | Literal["always"] = True,
    script: Iterable[AnswerSource] | None = None,
    port: int = 0,
) -> FakeOpenAI:
    """Start a server on 127.0.0.1 that answers as OpenAI would, and return it; as a context manager it also closes.

    answer: a text, a JSON body (a mapping), an `Answer`, or a function of the request (`Seen`) that returns one of
        them; None is the default answer, which repeats the first words of the question.
    usage: numbers to answer with instead of counted ones, in either spelling ("prompt_tokens" or "input_tokens"), or
        a function of the request that returns them. What is not given stays counted: input tokens are a quarter of the
        characters, output tokens the words of the answer, each at least 1. False: answers carry no usage.
    latency_s, chunk_delay_s: seconds before each answer, and between the events of a stream.
    status: answer each request with this status (400 and above: with OpenAI's error body).
    model: the model that answers; None: the one asked for, as its dated snapshot where it is a well-known one.
    stream_usage: True sends usage with a stream of chunks if it was asked for by `stream_options.include_usage`, as
        OpenAI does; False never does, as hosts that ignore that option; "always" puts it, unasked, in the last chunk
        that has choices, as some gateways do. Streams of the responses API always carry it.
    script: answers for the first requests, one each in order of arrival; after them `answer` holds.
    port: 0 takes a free one.
    """
    routes = Routes(usage=usage, model=model, stream_usage=stream_usage)
    return FakeOpenAI(
        routes, answer, script=script or (), status=status, latency_s=latency_s, chunk_delay_s=chunk_delay_s, port=port
    )


class FakeOpenAI:
    """A running server; `fake_openai` starts one. Its lists are copies: they do not change under the reader's hands."""

    def __init__(
        self,
        routes: Routes,
        answer: AnswerSource = None,
        *,
        script: Iterable[AnswerSource] = (),
        status: int | None = None,
        latency_s: float = 0.0,
        chunk_delay_s: float = 0.0,
        port: int = 0,
        remember: bool = True,
    ) -> None:
        self._routes, self._answer, self._script, self._status = routes, answer, iter(script), status
        self._latency_s, self._chunk_delay_s, self._remember = latency_s, chunk_delay_s, remember
        self._requests: list[Seen] = []
        self._billed: list[Billed] = []
        self._calls = 0
        self._ids = itertools.count(1)
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._waker, self._wake = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, name="fake-openai", daemon=True)
        self._acceptor.start()

    @property
    def base_url(self) -> str:
        """What to give a client as `base_url`."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def requests(self) -> list[Seen]:
        """What has arrived, in order."""
        with self._lock:
            return list(self._requests)

    @property
    def billed(self) -> list[Billed]:
        """What each answer used; a stream that was cut or left counts its whole input and the output sent so far."""
        with self._lock:
            return list(self._billed)

    @property
    def calls(self) -> int:
        """How many requests reached a route that costs money, whatever was answered; each retry counts."""
        return self._calls

    def clear(self) -> None:
        """Forget `requests`, `billed` and `calls`; a script goes on where it was."""
        with self._lock:
            self._requests.clear()
            self._billed.clear()
            self._calls = 0

    def close(self) -> None:
        """Stop at once: connections are cut, whatever they were doing. A second call does nothing."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        self._waker.close()
        self._acceptor.join()
        with self._lock:
            connections = list(self._open.items())
        for _, sock in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        patience = time.monotonic() + 0.2  # a function of the user's may still be at work
        for thread, _ in connections:
            if thread is not threading.current_thread():
                thread.join(max(0.0, patience - time.monotonic()))

    def __enter__(self) -> FakeOpenAI:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        with self._listener, self._wake, selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while selector.select() and not self._closing.is_set():
                try:
                    sock, _ = self._listener.accept()
                except OSError:  # the client was gone before it was let in
                    continue
                sock.setblocking(True)
                thread = threading.Thread(target=self._serve, args=(sock,), name="fake-openai-client", daemon=True)
                with self._lock:
                    self._open[thread] = sock
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        """Answer one connection until either side has had enough."""
        try:
            with sock, sock.makefile("rb") as source:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while not self._closing.is_set():
                    seen = read_request(source, sock)
                    if seen is None or not self._respond(sock, seen) or hangs_up(seen):
                        break
        except OSError:
            pass  # the client went away, or the server was closed
        finally:
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def _respond(self, sock: socket.socket, seen: Seen) -> bool:
        """Send one answer, and tell whether the connection can be used again."""
        began = time.perf_counter()
        with self._lock:
            self._calls += is_paid(seen)
            if self._remember:
                self._requests.append(seen)
        answer, reply = self._decide(seen)
        delay_s = self._latency_s if answer.delay_s is None else answer.delay_s
        if delay_s > 0 and self._closing.wait(delay_s):
            return False
        headers = {
            "content-type": reply.content_type,
            "x-request-id": f"req_{next(self._ids):032x}",
            "openai-processing-ms": str(int((time.perf_counter() - began) * 1000)),
            **answer.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {reply.status} {PHRASES.get(reply.status, 'Unknown')}\r\n{lines}"
        if reply.events is not None:
            sock.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode("latin-1"))
            return self._stream(sock, seen, answer, reply)
        self._bill(seen, reply)
        content = b"" if seen.method == "HEAD" else reply.content
        out = f"{head}content-length: {len(reply.content)}\r\n\r\n".encode("latin-1") + content
        if answer.cut_after is None:
            sock.sendall(out)
            return True
        sock.sendall(out[: len(out) - len(content) // 2 - 1])
        return False

    def _stream(self, sock: socket.socket, seen: Seen, answer: Answer, reply: Reply) -> bool:
        events = reply.events or []
        delay_s = self._chunk_delay_s if answer.chunk_delay_s is None else answer.chunk_delay_s
        cut = answer.cut_after if answer.cut_after is not None else len(events) + 1
        whole, sent, billed = sum(event.pieces for event in events), 0, False
        try:
            for index, event in enumerate(events):
                if sent >= whole and not billed:  # before the usage goes out, so that no reader is ahead of `billed`
                    self._bill(seen, reply)
                    billed = True
                if index >= cut or (index and delay_s > 0 and self._closing.wait(delay_s)):
                    return False
                sock.sendall(b"%x\r\n%b\r\n" % (len(event.data), event.data))
                sent += event.pieces
            if cut <= len(events):
                return False
        finally:
            if not billed:
                self._bill(seen, reply, sent, whole)
        sock.sendall(b"0\r\n\r\n")
        return True

    def _bill(self, seen: Seen, reply: Reply, sent: int = 0, whole: int = 0) -> None:
        usage = reply.used(sent, whole)
        if usage and reply.status < 400 and self._remember:
            with self._lock:
                self._billed.append(Billed(seen.path, reply.model, usage))

    def _decide(self, seen: Seen) -> tuple[Answer, Reply]:
        """Return what the script, the answer and the routes make of a request; an error in them becomes a 500."""
        try:
            with self._turn:
                source = next(self._script, None)
            answer = resolved(source, seen)
            if answer is None:
                answer = resolved(self._answer, seen) or Answer()
                if self._status is not None and answer.status == 200:
                    answer = replace(answer, status=self._status)
            return answer, self._routes.reply(seen, answer)
        except Exception as error:  # shown to the client: this thread has nobody else to tell
            text = f"fake_openai could not make an answer: {type(error).__name__}: {error}"
            answer = Answer(text, status=500, headers={"x-should-retry": "false"})
            return answer, self._routes.reply(seen, answer)


def resolved(source: AnswerSource, seen: Seen) -> Answer | None:
    said = source(seen) if callable(source) else source
    if isinstance(said, str):
        return Answer(said)
    return Answer(json=said) if isinstance(said, Mapping) else said


def read_request(source: io.BufferedReader, sock: socket.socket) -> Seen | None:
    """Read one request; None when the client has hung up, or speaks no HTTP (which is answered with a 400)."""
    while (line := source.readline(LINE)) in BLANK:
        pass
    try:
        if not line:
            return None
        method, target, _ = line.decode("latin-1").split()
        headers: dict[str, str] = {}
        while (line := source.readline(LINE)) not in BLANK:
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise ValueError(line)
            headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(headers.get("content-length", 0))
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        body = b"".join(read_chunks(source)) if chunked else source.read(length)
        if len(body) < length:
            return None
    except ValueError:
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        return None
    path, _, query = target.partition("?")
    try:
        parsed = json.loads(body) if body else None
    except ValueError:
        parsed = None
    return Seen(method, path, dict(parse_qsl(query)), headers, parsed, body)


def read_chunks(source: io.BufferedReader) -> Iterator[bytes]:
    while size := int(source.readline(LINE).split(b";")[0], 16):
        yield source.read(size)
        source.readline(LINE)
    while source.readline(LINE) not in (*BLANK, b""):
        pass


def hangs_up(seen: Seen) -> bool:
    return seen.headers.get("connection", "").lower() == "close"


def main(arguments: list[str] | None = None) -> None:
    """Run a server in the foreground that remembers nothing; the first line it prints is its base URL."""
    parser = argparse.ArgumentParser(prog="python -m rlm_obs.testing._server", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds before each answer")
    given = parser.parse_args(arguments)
    routes = Routes(usage=None, model=None, stream_usage=True)
    with FakeOpenAI(routes, latency_s=given.latency, port=given.port, remember=False) as server:
        print(server.base_url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
