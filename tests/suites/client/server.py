"""A server on loopback that answers each route of the installed client with a value of the type it declares."""

from __future__ import annotations

import json
import sys
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from instances import events, instance
from routes import Route, read_routes

ROUTES = read_routes()


class Answers(BaseHTTPRequestHandler):
    """Answers one connection; it keeps it open, as the client's own pool wants it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self) -> None:
        """Answer with the declared type: JSON, events where a stream was asked for, bytes where no type is said."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        route = find(self.command, self.path)
        if route is None:
            return self.send(404, "application/json", b'{"error": {"message": "no such route"}}')
        if route.event is not None and (route.only_streams or wants_stream(self.path, body)):
            return self.send_events(event_stream(route))
        return self.send(200, *plain(route))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

    def send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.send_header("x-request-id", "req_suite")
        self.end_headers()
        self.wfile.write(content)

    def send_events(self, sent: tuple[bytes, ...]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("x-request-id", "req_suite")
        self.end_headers()
        for one in (*sent, b""):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(one), one))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@cache
def find(method: str, target: str) -> Route | None:
    """Return the route meant: one that spells its query, or the one of the path."""
    for wanted in (target, target.partition("?")[0]):
        for route in ROUTES:
            if route.method == method and route.path.fullmatch(wanted):
                return route
    return None


def wants_stream(target: str, body: bytes) -> bool:
    """Tell whether the request asks for a stream: in its query, its JSON or its form."""
    return "stream=true" in target or b'"stream":true' in body or b'name="stream"\r\n\r\ntrue' in body


@cache
def plain(route: Route) -> tuple[str, bytes]:
    if getattr(route.answer, "__name__", "") == "HttpxBinaryResponseContent":
        return "application/octet-stream", bytes(range(256)) * 16
    if route.answer is str:
        return "text/plain", b"string"
    return "application/json", json.dumps(instance(route.answer)).encode()


@cache
def event_stream(route: Route) -> tuple[bytes, ...]:
    return (*(f"data: {json.dumps(one)}\n\n".encode() for one in events(route.event)), b"data: [DONE]\n\n")


class Server(ThreadingHTTPServer):
    """A thread for each connection; one that the client drops half-way is nothing to speak of."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    """Serve until ended; the first line printed is the base URL."""
    with Server(("127.0.0.1", 0), Answers) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
