"""A server in Anthropic's place: it answers what a test has laid down for each path, and remembers what was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

USAGE = {
    "input_tokens": 100,
    "output_tokens": 20,
    "cache_read_input_tokens": 4000,
    "cache_creation_input_tokens": 3000,
    "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
    "service_tier": "standard",
}


def message(*blocks: Any, usage: Any = USAGE, reason: str = "end_turn") -> dict[str, Any]:
    """Return an answer as the API gives it."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-6",
        "content": list(blocks) or [{"type": "text", "text": "Hello there"}],
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }


def events(whole: dict[str, Any]) -> bytes:
    """Return the same answer as a stream: usage of the input first, the output's total at the end."""
    usage, blocks = whole["usage"], whole["content"]
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**whole, "content": [], "usage": {**usage, "output_tokens": 1}}},
        {"type": "ping"},
    ]
    for index, block in enumerate(blocks):
        kind = block["type"]
        text = json.dumps(block["input"]) if kind == "tool_use" else block[kind]
        empty = {"input": {}} if kind == "tool_use" else {kind: ""}
        delta = {"tool_use": ("input_json_delta", "partial_json"), "thinking": ("thinking_delta", "thinking")}
        name, piece = delta.get(kind, ("text_delta", "text"))
        said.append({"type": "content_block_start", "index": index, "content_block": {**block, **empty}})
        said += [
            {"type": "content_block_delta", "index": index, "delta": {"type": name, piece: part}}
            for part in (text[:4], text[4:])
        ]
        said.append({"type": "content_block_stop", "index": index})
    last = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    said.append({"type": "message_delta", "delta": last, "usage": {"output_tokens": usage["output_tokens"]}})
    said.append({"type": "message_stop"})
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in said)


@dataclass
class Server:
    """What it answers, by path (a message is streamed if that is asked for), and what it was asked."""

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server on loopback."""
    state = Server(answers={"/v1/messages": message()})

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def _answer(self, body: Any) -> None:
            path = self.path.partition("?")[0]
            state.asked.append((path, body))
            status = state.statuses.pop(0) if state.statuses else 200
            answer, kind = state.answers.get(path, {}), "application/json"
            if status >= 400:
                out = json.dumps(
                    {"type": "error", "error": {"type": "overloaded_error", "message": "a secret"}}
                ).encode()
            elif isinstance(answer, list):
                out, kind = b"".join(json.dumps(line).encode() + b"\n" for line in answer), "application/binary"
            elif body and body.get("stream"):
                out, kind = events(answer), "text/event-stream"
            else:
                out = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in (
                ("content-type", kind),
                ("content-length", str(len(out))),
                ("request-id", f"req_{len(state.asked)}"),
                ("retry-after-ms", "1"),
                ("anthropic-ratelimit-requests-remaining", "49"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *_: Any) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    state.url = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    running.shutdown()
    running.server_close()
    thread.join()
