"""What an answer of the test server is made of: what arrived, what is said to it, what goes out and what it bills."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["Answer", "Billed", "Reply", "Seen"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived: header names in lower case, `path` without the query, `json` None if not JSON."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    json: Any
    body: bytes


UsageLike = Mapping[str, Any] | Callable[[Seen], Mapping[str, Any] | None] | Literal[False] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Full control of one answer; what is left at its default is what the server would have done by itself.

    `text` is what the model says (with a `status` of 400 and above: the error's message), `tool_calls` what it wants
    called: mappings with `name` and `arguments`, or in OpenAI's own shape. `chunks` are the pieces of a stream: texts,
    or mappings, each sent as one whole event. `json` or `body` replace the body of the answer, also of a stream.
    `usage` is merged into the counted numbers (None as a value leaves that field out; False: no usage at all).
    `delay_s` and `chunk_delay_s` (seconds) stand in for the server's own. `cut_after=n` closes the connection after n
    events of a stream, and before the body is complete where the answer is no stream.
    """

    text: str | None = None
    _: KW_ONLY
    json: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: UsageLike = None
    chunks: Sequence[str | Mapping[str, Any]] | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    delay_s: float | None = None
    chunk_delay_s: float | None = None
    cut_after: int | None = None
    body: bytes | None = None
    content_type: str | None = None


class Billed(NamedTuple):
    """What one answer used: the request's path, the model that answered, and the usage as the route spells it."""

    path: str
    model: str
    usage: dict[str, Any]


class Event(NamedTuple):
    """One event of a stream, and how many pieces of the answer it carries (0: it is only framing)."""

    data: bytes
    pieces: int = 0


@dataclass(slots=True, kw_only=True)
class Reply:
    """What goes out for one request: `content`, or `events` if it is a stream, and what it bills."""

    status: int = 200
    content: bytes = b""
    content_type: str = "application/json"
    events: list[Event] | None = None
    model: str = ""
    usage: dict[str, Any] | None = None

    def used(self, sent: int, whole: int) -> dict[str, Any] | None:
        """Return the usage after `sent` of the `whole` pieces: all of the input, and that share of the output."""
        if self.usage is None or sent >= whole:
            return self.usage
        usage = dict(self.usage)
        for name in ("completion_tokens", "output_tokens"):
            if name in usage:
                usage[name] = usage[name] * sent // whole
        return totalled(usage)


class ApiError(Exception):
    """An error the API would answer, in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, message, param, code)
        self.status, self.message, self.param, self.code = status, message, param, code

    def reply(self) -> Reply:
        kind = "server_error" if self.status >= 500 else "requests" if self.status == 429 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return Reply(status=self.status, content=dumps({"error": error}))


ERRORS = {
    401: ("Incorrect API key provided.", "invalid_api_key"),
    429: ("Rate limit reached for requests.", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request. Sorry about that!", None),
    503: ("The engine is currently overloaded, please try again later.", None),
}
SPELLINGS = [
    ("prompt_tokens", "input_tokens"),
    ("completion_tokens", "output_tokens"),
    ("prompt_tokens_details", "input_tokens_details"),
    ("completion_tokens_details", "output_tokens_details"),
]
OTHER_SPELLING = {**dict(SPELLINGS), **{b: a for a, b in SPELLINGS}}
EVENT_STREAM = "text/event-stream; charset=utf-8"
DONE = Event(b"data: [DONE]\n\n")


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def sse(value: Mapping[str, Any], pieces: int = 0, *, named: bool = False) -> Event:
    name = f"event: {value['type']}\n".encode() if named and "type" in value else b""
    return Event(b"%bdata: %b\n\n" % (name, dumps(value)), pieces)


def totalled(usage: dict[str, Any]) -> dict[str, Any]:
    parts = [usage.get(name) or 0 for pair in SPELLINGS[:2] for name in pair]
    return {**usage, "total_tokens": sum(parts)} if "total_tokens" in usage else usage
