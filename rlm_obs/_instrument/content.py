"""Prompts and answers in the conventions' JSON (parts), only ever called when content capture was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

MOST_CHARACTERS = 100_000


def of_request(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a request: chat's, a response's input and instructions, or a plain prompt."""
    messages: list[dict[str, Any]] = []
    if isinstance(body.get("instructions"), str):
        messages.append({"role": "system", "parts": [_text(body["instructions"])]})
    given = body.get("messages") or body.get("input") or body.get("prompt")
    several: list[Any] = given if isinstance(given, list) else [given]
    for message in several:
        if isinstance(message, Mapping):
            parts = _parts(message.get("content")) + _tool_calls(message.get("tool_calls"))
            messages.append({"role": str(message.get("role", "user")), "parts": parts})
        elif isinstance(message, str):
            messages.append({"role": "user", "parts": [_text(message)]})
    return messages


def of_answer(answer: Any) -> list[dict[str, Any]]:
    """Return the messages of an answer, each with its finish reason: choices, or a response's output."""
    data = answer if isinstance(answer, Mapping) else answer.to_dict() if hasattr(answer, "to_dict") else {}
    found: list[dict[str, Any]] = []
    for choice in data.get("choices") or []:
        message = choice.get("message") or {"role": "assistant", "content": choice.get("text")}
        parts = _parts(message.get("content")) + _tool_calls(message.get("tool_calls"))
        found.append(_finished(message.get("role") or "assistant", parts, choice.get("finish_reason")))
    for item in data.get("output") or []:
        if item.get("type") == "message":
            found.append(_finished("assistant", _parts(item.get("content")), data.get("status")))
        elif item.get("type") == "function_call":
            call = {"type": "tool_call", "id": item.get("call_id"), "name": item.get("name")}
            found.append(_finished("assistant", [{**call, "arguments": item.get("arguments")}], data.get("status")))
    return found


def of_chunk(event: Any, so_far: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the joined messages of a stream with one more event in them."""
    if not isinstance(event, Mapping):
        return so_far
    if isinstance(event.get("response"), Mapping):
        return of_answer(event["response"]) or so_far
    for choice in event.get("choices") or []:
        delta = choice.get("delta") or {"content": choice.get("text")}
        index = choice.get("index") or 0
        while len(so_far) <= index < 128:
            so_far.append(_finished("assistant", [_text("")], None))
        if index < len(so_far):
            part = so_far[index]["parts"][0]
            text = delta.get("content")
            if isinstance(text, str) and len(part["content"]) < MOST_CHARACTERS:
                part["content"] += text
            _join_tool_calls(so_far[index]["parts"], delta.get("tool_calls"))
            so_far[index]["finish_reason"] = choice.get("finish_reason") or so_far[index]["finish_reason"]
    return so_far


def _join_tool_calls(parts: list[dict[str, Any]], pieces: Any) -> None:
    """Add the pieces of tool calls that one event brings, behind the text that comes first."""
    for piece in pieces if isinstance(pieces, list) else []:
        at, function = 1 + (piece.get("index") or 0), piece.get("function") or {}
        while len(parts) <= at < 128:
            parts.append({"type": "tool_call", "id": None, "name": None, "arguments": ""})
        if at < len(parts):
            call = parts[at]
            call["id"], call["name"] = piece.get("id") or call["id"], function.get("name") or call["name"]
            if len(call["arguments"]) < MOST_CHARACTERS:
                call["arguments"] += function.get("arguments") or ""


def _finished(role: str, parts: list[dict[str, Any]], reason: Any) -> dict[str, Any]:
    return {"role": role, "parts": parts, "finish_reason": reason}


def _text(text: str) -> dict[str, Any]:
    cut = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "… (cut)"
    return {"type": "text", "content": cut}


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [_text(content)]
    parts: list[dict[str, Any]] = []
    for part in content if isinstance(content, list) else []:
        if not isinstance(part, Mapping):
            continue
        text = part.get("text")
        if isinstance(text, str):
            parts.append(_text(text))
        else:  # an image, a sound, a file: what it was, never its bytes
            raw = repr(sorted(part.items())).encode()
            parts.append({"type": str(part.get("type")), "sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)})
    return parts


def _tool_calls(calls: Any) -> list[dict[str, Any]]:
    found = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            found.append(
                {
                    "type": "tool_call",
                    "id": call.get("id"),
                    "name": function.get("name"),
                    "arguments": function.get("arguments"),
                }
            )
    return found
