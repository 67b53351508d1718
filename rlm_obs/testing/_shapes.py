"""The JSON of OpenAI's answers and streams, as plain functions: what a client sees when it asks the test server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_obs.testing._answers import DONE, EVENT_STREAM, Event, Reply, dumps, sse
from rlm_obs.testing._writing import Ask, Written


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
