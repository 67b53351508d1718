"""What the test server answers: one body per route in OpenAI's own shapes, with usage that can be counted by hand."""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

__all__ = ["Answer", "Billed", "Reply", "Routes", "Seen", "is_paid"]


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


LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
FORMATS = {"date-time": "2025-01-01T00:00:00Z", "date": "2025-01-01", "time": "00:00:00Z", "uuid": f"{1:032x}"}
WORD = re.compile(r"\s*\S+|\s+$")


def text_of(value: Any) -> str:
    """Return all text of a message, a part, an input item or a list of them."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return " ".join(text_of(value[name]) for name in ("content", "text", "output") if name in value)
    return " ".join(map(text_of, value)) if isinstance(value, list) else ""


def tokens(text: str) -> int:
    return max(1, len(text) // 4)


def sample(schema: Any, root: Any, depth: int = 0) -> Any:
    """Return the plainest value that satisfies a simple JSON schema."""
    while isinstance(schema, Mapping) and "$ref" in schema:
        found = root
        for name in schema["$ref"].removeprefix("#").strip("/").split("/"):
            found = found[name] if name else found
        schema = found
    if not isinstance(schema, Mapping):
        return "text"
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if choices := schema.get(name):
            nullable = any(c.get("type") == "null" for c in choices)
            some = next((c for c in choices if c.get("type") != "null"), choices[0])
            return None if nullable and depth > 8 else sample(some, root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: sample(inner, root, depth + 1) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        least = schema.get("minItems", 0 if depth > 8 else 1)
        return [sample(schema.get("items"), root, depth + 1) for _ in range(least)]
    if kind in ("integer", "number"):
        return max(1, schema.get("minimum", 1))
    return {"boolean": True, "null": None}.get(kind, FORMATS.get(schema.get("format", ""), "text"))


@lru_cache(maxsize=256)
def vector(seed: str, size: int) -> tuple[bytes, tuple[float, ...]]:
    """Return a unit vector that depends on `seed` only, as little-endian float32 and as the same numbers."""
    made = random.Random(seed)
    raw = [made.uniform(-1, 1) for _ in range(size)]
    length = sum(x * x for x in raw) ** 0.5
    packed = struct.pack(f"<{size}f", *(x / length for x in raw))
    return packed, struct.unpack(f"<{size}f", packed)


def form_of(seen: Seen) -> dict[str, Any]:
    """Return the fields of a multipart body: a text as str, a file as (name, bytes)."""
    boundary = re.search(r'boundary="?([^";]+)', seen.headers.get("content-type", ""))
    fields: dict[str, Any] = {}
    for part in seen.body.split(b"--" + boundary[1].encode())[1:-1] if boundary else []:
        head, _, content = part.partition(b"\r\n\r\n")
        said = dict(re.findall(r'\b(name|filename)="([^"]*)"', head.decode()))
        content = content.removesuffix(b"\r\n")
        fields[said.get("name", "")] = (said["filename"], content) if "filename" in said else content.decode()
    return fields


def need(body: Mapping[str, Any], *names: str) -> None:
    """Raise the API's 400 unless one of `names` is there and not empty."""
    if not any(body.get(name) for name in names):
        message = f"Missing required parameter: '{names[0]}'."
        raise ApiError(400, message, param=names[0], code="missing_required_parameter")


@dataclass(slots=True)
class Written:
    """What the model says: the pieces of its text, the calls it wants (id, name, arguments), and why it stopped."""

    pieces: list[str]
    tools: list[tuple[str, str, str]]
    finish: str = "stop"

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return max(1, sum(len(t.split()) for t in (self.text, *(f"{name} {args}" for _, name, args in self.tools))))


@dataclass(slots=True)
class Ask:
    """One request on its way to its route: `number` makes ids, `rest` is what follows the route in the path."""

    seen: Seen
    answer: Answer
    body: Mapping[str, Any]
    number: str
    asked_model: str
    model: str
    rest: str = ""

    def write(self, prompt: Any, response_format: Mapping[str, Any] | None) -> Written:
        """Return the text that is asked for, cut to the output limit of the request (in words)."""
        text, pieces, form = self.answer.text, self.answer.chunks, response_format or {}
        if text is None and not self.answer.tool_calls:
            last = text_of(prompt[-1] if prompt and isinstance(prompt, list) else prompt)
            text = "You said: " + " ".join(last.split()[:8])
            if form.get("type") == "json_object":
                text = json.dumps({"answer": text})
            if form.get("type") == "json_schema":
                schema = form.get("json_schema", form).get("schema")
                text = json.dumps(sample(schema, schema))
        said = WORD.findall(text or "") if pieces is None else [piece for piece in pieces if isinstance(piece, str)]
        written = Written(said, [])
        limit = next((self.body[name] for name in LIMITS if self.body.get(name) is not None), None)
        if limit is not None and len(words := WORD.findall(written.text)) > limit:
            written = Written(words[:limit], [], "length")
        for index, call in enumerate(self.answer.tool_calls or ()):
            function = call.get("function", call)
            arguments = function.get("arguments", {})
            arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
            written.tools.append((call.get("id") or f"call_{self.number}{index}", function["name"], arguments))
            written.finish = "tool_calls"
        return written


def chat_usage(given: int, made: int) -> dict[str, Any]:
    return {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0, "cache_write_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def responses_usage(given: int, made: int) -> dict[str, Any]:
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + made,
    }


def replied(body: dict[str, Any], usage: dict[str, Any] | None = None) -> Reply:
    return Reply(content=dumps({**body, "usage": usage} if usage else body), usage=usage)


def raw_events(ask: Ask) -> Reply | None:
    """Return the stream that an answer spells out event by event, or None if it does not."""
    chunks = ask.answer.chunks or ()
    if not ask.body.get("stream") or not any(isinstance(chunk, Mapping) for chunk in chunks):
        return None
    events, usage, named = [], None, False
    for chunk in chunks:
        if isinstance(chunk, str):
            events.append(Event(f"data: {chunk}\n\n".encode(), 1))
            continue
        named = named or "type" in chunk
        events.append(sse(chunk, 1, named=True))
        usage = chunk.get("usage") or (chunk.get("response") or {}).get("usage") or usage
    return Reply(events=events if named else [*events, DONE], content_type=EVENT_STREAM, usage=usage)


def tier_of(body: Mapping[str, Any]) -> str:
    tier = body.get("service_tier")
    return "default" if tier in (None, "auto") else str(tier)


def called(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def model_card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "openai"}


def page(data: list[dict[str, Any]]) -> dict[str, Any]:
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, "has_more": False, **ends}


def chat_deltas(index: int, written: Written) -> Iterable[tuple[dict[str, Any], int]]:
    """Yield the choices of one streamed chat answer, each with how many pieces it carries."""

    def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    yield choice({"role": "assistant", "content": None if written.tools else "", "refusal": None}), 0
    for piece in written.pieces:
        yield choice({"content": piece}), 1
    for position, (id_, name, arguments) in enumerate(written.tools):
        yield choice({"tool_calls": [{"index": position, **called(id_, name, "")}]}), 0
        yield choice({"tool_calls": [{"index": position, "function": {"arguments": arguments}}]}), 1
    yield choice({}, written.finish), 0


def response_body(ask: Ask, written: Written, usage: dict[str, Any] | None) -> dict[str, Any]:
    """Return the body of a finished response."""
    body, output, cut = ask.body, list[dict[str, Any]](), written.finish == "length"
    if written.text or not written.tools:
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": written.text}
        output.append({"id": f"msg_{ask.number}", "type": "message", "role": "assistant", "content": [part]})
    for index, (id_, name, arguments) in enumerate(written.tools):
        made = {"call_id": id_, "name": name, "arguments": arguments}
        output.append({"id": f"fc_{ask.number}{index}", "type": "function_call", **made})
    status = "incomplete" if cut else "completed"
    return {
        "id": f"resp_{ask.number}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": ask.model,
        "output": [{**item, "status": status} for item in output],
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": tier_of(body),
        "store": body.get("store") is not False,
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage,
        "metadata": body.get("metadata") or {},
    }


def response_events(whole: dict[str, Any], written: Written) -> list[Event]:
    """Return the events by which a response is streamed, in the order in which the API sends them."""
    events: list[Event] = []

    def event(kind: str, pieces: int = 0, **said: Any) -> None:
        kind = f"response.{kind}"
        events.append(sse({"type": kind, "sequence_number": len(events), **said}, pieces, named=True))

    shell = {**whole, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    event("created", response=shell)
    event("in_progress", response=shell)
    for index, item in enumerate(whole["output"]):
        at: dict[str, Any] = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            part, spot = item["content"][0], {**at, "content_index": 0}
            event("output_item.added", output_index=index, item={**item, "status": "in_progress", "content": []})
            event("content_part.added", **spot, part={**part, "text": ""})
            for piece in written.pieces:
                event("output_text.delta", 1, **spot, delta=piece, logprobs=[])
            event("output_text.done", **spot, text=part["text"], logprobs=[])
            event("content_part.done", **spot, part=part)
        else:
            event("output_item.added", output_index=index, item={**item, "status": "in_progress", "arguments": ""})
            event("function_call_arguments.delta", 1, **at, delta=item["arguments"])
            event("function_call_arguments.done", **at, name=item["name"], arguments=item["arguments"])
        event("output_item.done", output_index=index, item=item)
    event(whole["status"], response=whole)
    return events


SNAPSHOTS = {
    "gpt-3.5-turbo": "gpt-3.5-turbo-0125",
    "gpt-4": "gpt-4-0613",
    "gpt-4-turbo": "gpt-4-turbo-2024-04-09",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-5-nano": "gpt-5-nano-2025-08-07",
    "o3": "o3-2025-04-16",
    "o3-mini": "o3-mini-2025-01-31",
    "o4-mini": "o4-mini-2025-04-16",
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
PATH = re.compile(r"(?:/openai/deployments/([^/]+)|(?:/openai)?(?:/v1)?)/(.+?)/?$")


@lru_cache(maxsize=256)
def split_path(path: str) -> tuple[str | None, str]:
    """Return Azure's deployment, if the path names one, and the path below the version."""
    found = PATH.match(path)
    return (found[1], found[2]) if found else (None, "")


def is_paid(seen: Seen) -> bool:
    """Tell whether the request asks for something that costs money."""
    return seen.method == "POST" and split_path(seen.path)[1] in PAID


class Routes:
    """All routes, and what they remember: ids, stored responses and files. Safe to use from many threads."""

    def __init__(self, *, usage: UsageLike, model: str | None, stream_usage: bool | Literal["always"]) -> None:
        self._usage, self._model, self._stream_usage = usage, model, stream_usage
        self._numbers = itertools.count(1)
        self._responses: dict[str, dict[str, Any]] = {}
        self._files: dict[str, dict[str, Any]] = {}

    def reply(self, seen: Seen, answer: Answer) -> Reply:
        """Return what goes out for `seen`; `answer` decides what it leaves open."""
        made = Reply(status=answer.status)
        asked = str(seen.json.get("model", "")) if isinstance(seen.json, Mapping) else ""
        if answer.body is not None:
            made.content = answer.body
        elif answer.json is not None:
            made.content, made.model = dumps(answer.json), asked
            if isinstance(answer.json, Mapping) and is_paid(seen):
                made.model, made.usage = answer.json.get("model", asked), answer.json.get("usage")
        else:
            made = self._routed(seen, answer)
        made.content_type = answer.content_type or made.content_type
        return made

    def _routed(self, seen: Seen, answer: Answer) -> Reply:
        try:
            if answer.status >= 400:
                message, code = ERRORS.get(answer.status, (f"The server answered {answer.status}.", None))
                raise ApiError(answer.status, answer.text or message, code=code)
            deployment, name = split_path(seen.path)
            route = ROUTES.get((seen.method, name))
            first, _, rest = name.partition("/")
            route, rest = (route, "") if route else (ROUTES.get((seen.method, first + "/*")), rest)
            if route is None:
                raise ApiError(404, f"Invalid URL ({seen.method} {seen.path})", code="unknown_url")
            body = seen.json if isinstance(seen.json, Mapping) else form_of(seen)
            if seen.method == "POST" and not body:
                raise ApiError(400, "We could not parse the JSON body of your request.")
            model = str(body.get("model") or deployment or "")
            if "does-not-exist" in model + rest:
                message = f"The model `{model or rest}` does not exist or you do not have access to it."
                raise ApiError(404, message, code="model_not_found")
            if not model and name in NEED_MODEL:
                raise ApiError(400, "you must provide a model parameter")
            for limit in LIMITS:
                if body.get(limit) is not None and int(body[limit]) < 1:
                    message = f"Invalid '{limit}': expected a value >= 1, but got {body[limit]} instead."
                    raise ApiError(400, message, param=limit, code="integer_below_min_value")
            made = self._model or SNAPSHOTS.get(model, model)
            number = f"{next(self._numbers):024x}"
            ask = Ask(seen, answer, body, number, model, made, rest)
            reply = raw_events(ask) or route(self, ask)
        except ApiError as error:
            return error.reply()
        reply.status, reply.model = answer.status, reply.model or made
        return reply

    def _counted(self, ask: Ask, usage: dict[str, Any]) -> dict[str, Any] | None:
        """Merge what the server and then the answer say about usage into the counted numbers."""
        for said in (self._usage, ask.answer.usage):
            if callable(said):
                said = said(ask.seen)
            if said is False:
                return None
            for name, value in (said or {}).items():
                other = OTHER_SPELLING.get(name)
                if name not in usage and other is not None:
                    if other not in usage:
                        continue  # this route has no such number
                    name = other
                if isinstance(value, Mapping) and isinstance(usage.get(name), Mapping):
                    value = {**usage[name], **value}
                usage[name] = value
            if said and "total_tokens" not in said:
                usage = totalled(usage)
        return {name: value for name, value in usage.items() if value is not None}

    def _chunked(
        self, ask: Ask, head: dict[str, Any], choices: Iterable[tuple[dict[str, Any], int]], usage: Any
    ) -> Reply:
        """Return a stream of chunks, with usage where this host puts it."""
        asked = self._stream_usage is True and bool((ask.body.get("stream_options") or {}).get("include_usage"))
        null = {"usage": None} if asked else {}
        chunks = [({**head, "choices": [choice], **null}, pieces) for choice, pieces in choices]
        if self._stream_usage == "always" and usage:
            chunks[-1][0]["usage"] = usage
        if asked and usage:
            chunks.append(({**head, "choices": [], "usage": usage}, 0))
        events = [*(sse(chunk, pieces) for chunk, pieces in chunks), DONE]
        return Reply(events=events, content_type=EVENT_STREAM, usage=usage)

    def _chat(self, ask: Ask) -> Reply:
        body = ask.body
        need(body, "messages")
        if body.get("stream_options") and not body.get("stream"):
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise ApiError(400, message, param="stream_options")
        written, count = ask.write(body["messages"], body.get("response_format")), int(body.get("n") or 1)
        usage = self._counted(ask, chat_usage(tokens(text_of(body["messages"])), written.tokens * count))
        head = {
            "id": f"chatcmpl-{ask.number}",
            "object": "chat.completion.chunk" if body.get("stream") else "chat.completion",
            "created": int(time.time()),
            "model": ask.model,
            "service_tier": tier_of(body),
            "system_fingerprint": "fp_fake",
        }
        if body.get("stream"):
            return self._chunked(ask, head, (c for i in range(count) for c in chat_deltas(i, written)), usage)
        said: dict[str, Any] = {"role": "assistant", "content": written.text, "refusal": None, "annotations": []}
        if written.tools:
            said.update(content=written.text or None, tool_calls=[called(*tool) for tool in written.tools])
        choice = {"message": said, "logprobs": None, "finish_reason": written.finish}
        choices = [{"index": index, **choice} for index in range(count)]
        return replied({**head, "choices": choices}, usage)

    def _completions(self, ask: Ask) -> Reply:
        prompt, count = ask.body.get("prompt", ""), int(ask.body.get("n") or 1)
        written = ask.write(prompt, None)
        usage = self._counted(ask, chat_usage(tokens(text_of(prompt)), written.tokens * count))
        head: dict[str, Any] = {"id": f"cmpl-{ask.number}", "object": "text_completion"}
        head.update(created=int(time.time()), model=ask.model)
        blank = {"text": "", "logprobs": None, "finish_reason": None}
        if ask.body.get("stream"):
            choices: list[tuple[dict[str, Any], int]] = []
            for index in range(count):
                choices += [({"index": index, **blank, "text": piece}, 1) for piece in written.pieces]
                choices.append(({"index": index, **blank, "finish_reason": written.finish}, 0))
            return self._chunked(ask, head, choices, usage)
        choice = {"text": written.text, "logprobs": None, "finish_reason": written.finish}
        return replied({**head, "choices": [{"index": index, **choice} for index in range(count)]}, usage)

    def _response(self, ask: Ask) -> Reply:
        body = ask.body
        need(body, "input", "prompt", "conversation", "previous_response_id")
        for name in body.get("stream_options") or ():
            if name != "include_obfuscation":
                param = f"stream_options.{name}"
                raise ApiError(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
        written = ask.write(body.get("input"), (body.get("text") or {}).get("format"))
        prompt = text_of(body.get("instructions")) + text_of(body.get("input"))
        usage = self._counted(ask, responses_usage(tokens(prompt), written.tokens))
        whole = response_body(ask, written, usage)
        if body.get("store") is not False:
            self._responses[whole["id"]] = whole
        if body.get("stream"):
            return Reply(events=response_events(whole, written), content_type=EVENT_STREAM, usage=usage)
        return replied(whole, usage)

    def _stored_response(self, ask: Ask) -> Reply:
        if ask.rest not in self._responses:
            raise ApiError(404, f"Response with id '{ask.rest}' not found.", param="id")
        return replied(self._responses[ask.rest])

    def _embeddings(self, ask: Ask) -> Reply:
        body = ask.body
        need(body, "input")
        given: Any = body["input"]
        many: list[Any] = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        size = int(body.get("dimensions") or (3072 if ask.asked_model.endswith("3-large") else 1536))
        count = sum(tokens(one) if isinstance(one, str) else len(one) for one in many)
        data: list[dict[str, Any]] = []
        for index, one in enumerate(many):
            packed, floats = vector(str(one), size)
            as_text = body.get("encoding_format") == "base64"
            made = base64.b64encode(packed).decode() if as_text else floats
            data.append({"object": "embedding", "index": index, "embedding": made})
        usage = self._counted(ask, {"prompt_tokens": count, "total_tokens": count})
        return replied({"object": "list", "data": data, "model": ask.model}, usage)

    def _moderation(self, ask: Ask) -> Reply:
        need(ask.body, "input")
        given = ask.body["input"]
        names = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
        result = {
            "flagged": False,
            "categories": dict.fromkeys(names, False),
            "category_scores": dict.fromkeys(names, 0.0),
            "category_applied_input_types": {name: ["text"] for name in names},
        }
        count = len(given) if isinstance(given, list) and isinstance(given[0], str) else 1
        model = ask.model or "omni-moderation-latest"
        return replied({"id": f"modr-{ask.number}", "model": model, "results": [result] * count})

    def _images(self, ask: Ask) -> Reply:
        need(ask.body, "prompt")
        body, count, model = ask.body, int(ask.body.get("n") or 1), ask.model or "gpt-image-1"
        made: dict[str, Any] = {"created": int(time.time()), "data": [{"b64_json": PNG}] * count}
        if model.startswith("dall-e"):  # priced by the image: its answers say nothing of usage
            return Reply(content=dumps(made), model=model, usage={"images": count})
        each = {"low": 272, "high": 4160}.get(str(body.get("quality")), 1056)
        given = tokens(body["prompt"])
        counted = {
            "input_tokens": given,
            "input_tokens_details": {"text_tokens": given, "image_tokens": 0},
            "output_tokens": each * count,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": each * count},
            "total_tokens": given + each * count,
        }
        reply = replied(made, self._counted(ask, counted))
        reply.model = model
        return reply

    def _speech(self, ask: Ask) -> Reply:
        need(ask.body, "input")
        form = ask.body.get("response_format", "mp3")
        kind = {"mp3": "audio/mpeg", "opus": "audio/ogg", "pcm": "audio/pcm"}.get(form, f"audio/{form}")
        spoken = b"\xff\xfb\x90\x00" + bytes(1020)
        return Reply(content=spoken, content_type=kind, usage={"characters": len(ask.body["input"])})

    def _transcription(self, ask: Ask) -> Reply:
        need(ask.body, "file")
        form, length = ask.body.get("response_format", "json"), len(ask.body["file"][1])
        seconds = max(1, round(length / 32_000))  # 16 kHz, 16 bit, one channel
        text = ask.answer.text if ask.answer.text is not None else "This is what was said."
        if ask.asked_model.startswith("whisper"):
            counted: dict[str, Any] = {"type": "duration", "seconds": seconds}
        else:
            given, made = seconds * 10, max(1, len(text.split()))
            details = {"input_token_details": {"text_tokens": 0, "audio_tokens": given}}
            counted = {"type": "tokens", "input_tokens": given, "output_tokens": made, "total_tokens": given + made}
            counted.update(details)
        usage = self._counted(ask, counted)
        if form == "json" and ask.body.get("stream") in (True, "true"):
            pieces = WORD.findall(text)
            events = [sse({"type": "transcript.text.delta", "delta": piece}, 1) for piece in pieces]
            done = {"type": "transcript.text.done", "text": text, **({"usage": usage} if usage else {})}
            return Reply(events=[*events, sse(done)], content_type=EVENT_STREAM, usage=usage)
        if form in ("text", "srt", "vtt"):
            return Reply(content=text.encode() + b"\n", content_type="text/plain; charset=utf-8", usage=usage)
        verbose = {"task": "transcribe", "language": "english", "duration": float(seconds), "segments": []}
        return replied({**(verbose if form == "verbose_json" else {}), "text": text}, usage)

    def _models(self, ask: Ask) -> Reply:
        return replied({"object": "list", "data": [model_card(name) for name in SNAPSHOTS]})

    def _model_card(self, ask: Ask) -> Reply:
        return replied(model_card(ask.rest))

    def _new_file(self, ask: Ask) -> Reply:
        need(ask.body, "file")
        name, content = ask.body["file"]
        made: dict[str, Any] = {"id": f"file-{ask.number}", "object": "file", "bytes": len(content), "filename": name}
        made.update(created_at=int(time.time()), purpose=ask.body.get("purpose", "user_data"), status="processed")
        self._files[made["id"]] = made
        return replied(made)

    def _all_files(self, ask: Ask) -> Reply:
        return replied(page(list(self._files.values())))

    def _all_batches(self, ask: Ask) -> Reply:
        return replied(page([]))


ROUTES: dict[tuple[str, str], Callable[[Routes, Ask], Reply]] = {
    ("POST", "chat/completions"): Routes._chat,
    ("POST", "completions"): Routes._completions,
    ("POST", "responses"): Routes._response,
    ("GET", "responses/*"): Routes._stored_response,
    ("POST", "embeddings"): Routes._embeddings,
    ("POST", "moderations"): Routes._moderation,
    ("POST", "images/generations"): Routes._images,
    ("POST", "images/edits"): Routes._images,
    ("POST", "audio/speech"): Routes._speech,
    ("POST", "audio/transcriptions"): Routes._transcription,
    ("POST", "audio/translations"): Routes._transcription,
    ("GET", "models"): Routes._models,
    ("GET", "models/*"): Routes._model_card,
    ("GET", "files"): Routes._all_files,
    ("POST", "files"): Routes._new_file,
    ("GET", "batches"): Routes._all_batches,
}
NEED_MODEL = {name for _, name in ROUTES if name.startswith(("chat", "comp", "embed", "audio"))} | {"responses"}
PAID = NEED_MODEL | {"images/generations", "images/edits"}
