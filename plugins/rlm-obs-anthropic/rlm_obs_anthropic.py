"""Makes the calls of Anthropic's SDK pass the gate of rlm_obs: traced, priced and capped, as those of OpenAI's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import rlm_obs
from rlm_obs import instrumentation as sdk
from rlm_obs.instrumentation import Answer, Asked, fields_of, parts

MESSAGES = "/v1/messages"
#: Parameters that are single values, as sent.
PARAMS = ("max_tokens", "temperature", "top_p", "top_k", "service_tier", "speed", "inference_geo")
#: The largest context window of any model: what a document or an image that is only named can be at most.
MOST_NAMED_TOKENS = 1_000_000
MOST_BATCHES = 1024
PIECES = ("text", "thinking", "partial_json")


class AnthropicReader(sdk.Reader):
    """Messages, plain and streamed, and the results of batches. Source: `anthropic.types`."""

    signs = (b'"message_start"', b'"message_delta"', b'"message_stop"', b'"error"', b'_use"')

    def __init__(self) -> None:
        self._read: dict[str, int] = {}  # of each batch: how many of its results were recorded

    def read(self, client: Any, options: Any, stream: bool, awaits: bool, holds: sdk.InForce) -> Asked | None:
        path, method = options.url.partition("?")[0], options.method.lower()
        if method == "get" and "/messages/batches/" in path and path.endswith("/results"):
            request = _request(client, holds, path, {}, streamed=False)
            return Asked(request, sdk.Needs(None), lines=True)
        if method != "post" or path != MESSAGES:
            return None
        body = sdk.body_of(options)
        request = _request(client, holds, MESSAGES, body, streamed=stream)
        needs = sdk.Needs(functools.partial(_bound, body), functools.partial(sdk.timeout_s, client, options), awaits)
        return Asked(request, needs, functools.partial(_said, body))

    def change(self, options: Any, asked: Asked, changes: sdk.Changes) -> Any:
        fields = {"max_tokens": changes.output_limit, "model": changes.model}
        return sdk.changed(options, {k: v for k, v in fields.items() if v is not None}, changes.headers)

    def answered(self, answer: Any, into: Answer) -> None:
        said = fields_of(answer)
        self._facts(said, into)
        into.tool_calls = sum(fields_of(one).get("type") == "tool_use" for one in said.get("content") or ()) or None
        if into.captures:
            into.content = [parts.answer(_blocks(said.get("content")), said.get("stop_reason"))]

    def event(self, event: Any, into: Answer) -> bool:
        said = fields_of(event)
        kind, block = said.get("type"), fields_of(said.get("content_block"))
        if kind == "message_start":
            self._facts(fields_of(said.get("message")), into)
        elif kind == "message_delta":
            self._facts({**said, **fields_of(said.get("delta"))}, into)
        elif block.get("type") == "tool_use":
            into.tool_calls = (into.tool_calls or 0) + 1
        elif kind == "error":
            into.error = "APIStatusError"
        if into.captures:
            into.content = into.content or Joined()
            into.content.add(kind, said)
        return kind == "message_stop"

    @staticmethod
    def _facts(said: Mapping[str, Any], into: Answer) -> None:
        into.model, into.response_id = said.get("model") or into.model, said.get("id") or into.response_id
        if isinstance(said.get("stop_reason"), str):
            into.finish_reasons = (said["stop_reason"],)
        usage = {name: one for name, one in fields_of(said.get("usage")).items() if one is not None}
        if usage:
            into.kept = {**into.kept, **usage}  # a stream's later counts are totals, and leave out what stays
            into.usage = sdk.read_usage(into.kept, "anthropic")
            tier = into.kept.get("service_tier")
            into.service_tier = tier if isinstance(tier, str) else into.service_tier

    def line(self, line: Any, number: int, asked: Asked) -> tuple[rlm_obs.Request, Any] | None:
        """Return a batch's result as a call (it answers its tier, "batch"), unless it was read before."""
        batch = asked.request.endpoint
        if number <= self._read.get(batch, 0):
            return None
        if len(self._read) >= MOST_BATCHES:
            self._read.clear()
        self._read[batch] = number
        message = fields_of(fields_of(line["result"]).get("message"))  # else it errored, and is not billed
        return (replace(asked.request, endpoint=MESSAGES, model=message.get("model")), message) if message else None


def _request(client: Any, holds: sdk.InForce, path: str, body: Mapping[str, Any], *, streamed: bool) -> rlm_obs.Request:
    params = {name: body[name] for name in PARAMS if isinstance(body.get(name), str | int | float)}
    if isinstance(stop := body.get("stop_sequences"), list | tuple):
        params["stop"] = tuple(map(str, stop))
    return rlm_obs.Request(
        provider="anthropic",
        endpoint=path,
        operation="chat",
        model=body.get("model"),
        params=params,
        streamed=streamed,
        base_url=str(client.base_url),
        attributes=holds.attributes,
    )


def _bound(body: Mapping[str, Any], request: rlm_obs.Request) -> sdk.Bound:
    """Return the most that a request can use: its bytes, the window for what is only named, `max_tokens`."""
    most = sum(sdk.most_input_tokens(value) for name, value in body.items() if name not in PARAMS)
    inside = [body, *_mappings([body.get(name) for name in ("messages", "system", "tools")])]
    if any(one.get("type") in ("url", "file") or "_20" in str(one.get("type")) for one in inside):
        most = max(most, MOST_NAMED_TOKENS)
    kept = any(fields_of(one.get("cache_control")).get("ttl") == "1h" for one in inside)
    return sdk.Bound(most, int(body.get("max_tokens") or 0), limit_is_users=True, long_cache=kept)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    own = [value] if isinstance(value, Mapping) else []
    inside = value.values() if own else value if isinstance(value, list | tuple) else ()
    return own + [one for each in inside for one in _mappings(each)]


def _said(body: Mapping[str, Any]) -> Mapping[str, Any]:
    tools = [{"type": "function", **tool} for tool in body.get("tools") or () if isinstance(tool, Mapping)]
    messages = [fields_of(one) for one in body.get("messages") or ()]
    asked = [parts.message(one.get("role"), _blocks(one.get("content"))) for one in messages]
    return {"input": asked, "instructions": _blocks(body.get("system")) or None, "tools": tools or None}


def _blocks(content: Any) -> list[parts.Part]:
    if isinstance(content, str):
        return [parts.text(content)]
    return [_part(block) for block in content] if isinstance(content, list | tuple) else []


def _part(given: Any) -> parts.Part:
    block = given.model_dump(mode="json", warnings=False) if hasattr(given, "model_dump") else fields_of(given)
    kind, source = block.get("type"), fields_of(block.get("source"))
    if kind in ("text", "thinking"):
        return parts.text(str(block.get(kind)), "text" if kind == "text" else "reasoning")
    if kind == "tool_use":
        return parts.tool_call(block.get("id"), block.get("name"), block.get("input"))
    if kind == "tool_result":
        said = block.get("content")
        return parts.tool_response(block.get("tool_use_id"), said if isinstance(said, str) else _blocks(said))
    if "data" in source:
        return parts.data(str(kind), str(source["data"]), source.get("media_type"))
    if "url" in source:
        return parts.reference(str(kind), str(source["url"]))
    if "file_id" in source:
        return parts.file(str(kind), str(source["file_id"]))
    if kind == "server_tool_use":
        return parts.server_tool_call(block.get("id"), block.get("name"), {"input": block.get("input")})
    return {"type": str(kind)}  # of what is not known, and of encrypted results, only the kind is kept


class Joined:
    """The blocks of a streamed message so far; calling it gives the message."""

    def __init__(self) -> None:
        self._blocks: dict[Any, dict[str, Any]] = {}
        self._reason: Any = None

    def add(self, kind: Any, said: Mapping[str, Any]) -> None:
        """Take in one event."""
        delta, index = fields_of(said.get("delta")), said.get("index")
        if kind == "content_block_start":
            self._blocks[index] = {**fields_of(said.get("content_block")), "pieces": []}
        elif kind == "content_block_delta" and index in self._blocks:
            self._blocks[index]["pieces"].append("".join(delta[name] for name in PIECES if name in delta))
        elif kind == "message_delta":
            self._reason = delta.get("stop_reason")

    def __call__(self) -> list[dict[str, Any]]:
        """Return the message, complete or not."""
        whole = []
        for block in self._blocks.values():
            said, kind = "".join(block["pieces"]), block.get("type")
            field = kind if kind in ("text", "thinking") else "input"
            whole.append({**block, field: said or block.get(field)})
        return [parts.answer(_blocks(whole), self._reason)]


_instrumentor = sdk.SdkInstrumentor("anthropic", {"Anthropic": False, "AsyncAnthropic": True}, AnthropicReader())


@rlm_obs.hookimpl
def register_instrumentors() -> Mapping[str, Callable[[], sdk.SdkInstrumentor]]:
    """Offer the instrumentor of the anthropic package."""
    return {"anthropic": lambda: _instrumentor}
