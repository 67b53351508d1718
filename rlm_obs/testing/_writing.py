"""What the test server's model says: a text, a sample of a JSON schema or tool calls, cut to the request's limit."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlm_obs.testing._answers import Answer, ApiError, Seen

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
    made = random.Random(seed)  # noqa: S311 (numbers to test with, nothing to hide)
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
