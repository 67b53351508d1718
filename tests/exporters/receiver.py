"""A receiver of traces on a real socket that answers as it is told to: well, badly, half, slowly, or elsewhere."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

OTLP = "application/x-protobuf"


def value_of(value: Any) -> Any:
    """Return an OTLP value as Python has it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(value_of(one) for one in value.array_value.values)
    return None if kind is None else getattr(value, kind)


@dataclass
class Span:
    """A span as it came over the wire."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    said: dict[str, Any]
    resource: dict[str, Any]
    raw: Any


@dataclass
class Request:
    """A request as it came over the wire, its body unpacked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """What came, in order, and what to answer: `answer` is asked for each request, and speaks for itself on the socket."""

    answer: Callable[[Request, socket.socket], None]
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    going: bool = True

    @property
    def spans(self) -> list[Span]:
        """The spans of every request that came, taken or not."""
        return [span for request in self.requests if "traces" in request.path for span in spans_of(request.body)]

    def named(self) -> dict[str, Span]:
        return {span.name: span for span in self.spans}


def spans_of(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = {a.key: value_of(a.value) for a in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                said = {a.key: value_of(a.value) for a in span.attributes}
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                yield Span(span.name, *ids, span.start_time_unix_nano, span.end_time_unix_nano, said, about, span)


def reply(status: int = 200, body: bytes = b"", **headers: str) -> Callable[[Request, socket.socket], None]:
    """Answer with a status, a body and headers (`Retry_After="1"`)."""
    said = {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    lines = [f"HTTP/1.1 {status} Said", *(f"{k}: {v}" for k, v in said.items())]

    def answer(request: Request, line: socket.socket) -> None:
        line.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return answer


def rejecting(spans: int) -> Callable[[Request, socket.socket], None]:
    """Answer 200, and say that so many spans were not taken."""
    body = ExportTraceServiceResponse()
    body.partial_success.rejected_spans = spans
    return reply(200, body.SerializeToString(), Content_Type=OTLP)


def in_turn(*answers: Callable[[Request, socket.socket], None]) -> Callable[[Request, socket.socket], None]:
    """Answer as each says, one after the other; then as the last one."""
    left = list(answers)

    def answer(request: Request, line: socket.socket) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(request, line)

    return answer


def too_big_above(spans: int) -> Callable[[Request, socket.socket], None]:
    """Answer 413 to more spans than that."""

    def answer(request: Request, line: socket.socket) -> None:
        reply(413 if len(list(spans_of(request.body))) > spans else 200)(request, line)

    return answer


def reset(request: Request, line: socket.socket) -> None:
    """Send half of an answer, and cut the line."""
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-")
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def hang(request: Request, line: socket.socket) -> None:
    """Say nothing."""
    time.sleep(4)


def drip(request: Request, line: socket.socket) -> None:
    """Say 200, and then a byte every now and then."""
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    with contextlib.suppress(OSError):
        for _ in range(40):
            line.sendall(b"x")
            time.sleep(0.1)


def free_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return int(gone.getsockname()[1])


def listening(port: int) -> socket.socket:
    """Listen at a port, once whoever has borrowed it meanwhile for a connection of his own is done."""
    for _ in range(200):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            time.sleep(0.05)
    return socket.create_server(("127.0.0.1", port))


@contextlib.contextmanager
def receiving(
    answer: Callable[[Request, socket.socket], None] | None = None,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
) -> Iterator[Receiver]:
    """Run a receiver on loopback, at a port of its own, or at one that was free before."""
    receiver = Receiver(answer or reply())
    server = listening(port)
    server.settimeout(0.05)
    receiver.url = f"http{'s' if tls else ''}://localhost:{server.getsockname()[1]}"

    lines: list[socket.socket] = []

    def serve() -> None:
        while receiver.going:
            with contextlib.suppress(TimeoutError):
                line, _ = server.accept()
                lines.append(line)
                threading.Thread(target=talk, args=(line,), daemon=True).start()

    def talk(line: socket.socket) -> None:
        line.settimeout(5)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(line.close)
            spoken = line if tls is None else stack.enter_context(tls.wrap_socket(line, server_side=True))
            while receiver.going and (request := read(spoken)) is not None:
                receiver.requests.append(request)
                receiver.answer(request, spoken)
                if receiver.answer in (reset, drip, hang):
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.going = False
        thread.join()
        server.close()
        for line in lines:
            with contextlib.suppress(OSError):  # it is closed already
                line.shutdown(socket.SHUT_RDWR)


def read(line: socket.socket) -> Request | None:
    """Read one request, or None where the other side has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = line.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += line.recv(65536)
    packed = headers.get("content-encoding")
    body = gzip.decompress(body) if packed == "gzip" else zlib.decompress(body) if packed == "deflate" else body
    return Request(method, path, headers, body)
