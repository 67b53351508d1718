"""The words of recorded content: messages, and their parts (a text, a tool's call, an image), for every reader of an SDK.

Source: OpenTelemetry's semantic conventions for generative AI, the JSON schemas of messages, instructions and tools.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from typing import Any

__all__ = [
    "Part",
    "answer",
    "data",
    "file",
    "message",
    "reference",
    "server_tool_call",
    "text",
    "tool_call",
    "tool_response",
]

Part = dict[str, Any]


def text(said: str, kind: str = "text") -> Part:
    """Return a part of plain text; `kind` may also be "reasoning" or "refusal"."""
    return {"type": kind, "content": said}


def tool_call(id_: Any, name: Any, arguments: Any) -> Part:
    """Return the model's wish to have a tool called; `arguments` as the answer spells them."""
    return {"type": "tool_call", "id": id_, "name": str(name), "arguments": arguments}


def tool_response(id_: Any, response: Any) -> Part:
    """Return what a tool has said to the model."""
    return {"type": "tool_call_response", "id": id_, "response": response}


def server_tool_call(id_: Any, name: Any, details: dict[str, Any]) -> Part:
    """Return what a tool of the provider's own was asked to do."""
    return {
        "type": "server_tool_call",
        "id": id_,
        "name": str(name),
        "server_tool_call": {"type": str(name), **details},
    }


def data(modality: str, content: str | bytes, mime_type: str | None = None) -> Part:
    """Return an image, a sound or a document by its kind, size in bytes and hash, never its bytes; base64 is read as such."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    if isinstance(content, str):
        with contextlib.suppress(ValueError):  # what is no base64 is hashed as it was sent
            raw = base64.b64decode(content, validate=True)
    part = {"type": "blob", "modality": modality, "mime_type": mime_type}
    return {**part, "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def reference(modality: str, url: str) -> Part:
    """Return what a URL stands for: its address without a query, which may hold a signature; a `data:` URL as its data."""
    if url[:5].lower() == "data:":
        head, _, content = url[5:].partition(",")
        return data(modality, content, head.partition(";")[0] or None)
    return {"type": "uri", "modality": modality, "uri": url.partition("?")[0]}


def file(modality: str, file_id: str) -> Part:
    """Return a file that the provider holds already."""
    return {"type": "file", "modality": modality, "file_id": file_id}


def message(role: Any, parts: list[Part]) -> dict[str, Any]:
    """Return a message of a conversation."""
    return {"role": role if isinstance(role, str) else "user", "parts": parts}


def answer(parts: list[Part], reason: Any, role: Any = None) -> dict[str, Any]:
    """Return a message of the model's, with the reason why it ended."""
    return {"role": role if isinstance(role, str) else "assistant", "parts": parts, "finish_reason": reason}
