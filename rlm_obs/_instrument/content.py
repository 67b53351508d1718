"""What OpenAI's requests, answers and streams say, in the conventions' parts; only ever called when capture was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlm_obs import _parts as words
from rlm_obs._parts import Part

#: Items of a response that ask the program's own tools: what holds the arguments.
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
#: Keys of what a hosted tool did that are no details of it.
FRAME = frozenset({"id", "type", "status", "result"})
MODALITIES = {"input_image": "image", "image_url": "image", "input_file": "document", "file": "document"}


def of_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked: `input` (messages), `instructions` (parts) and `tools` (definitions), each None if not there."""
    given = next((body[name] for name in ("messages", "input", "prompt") if body.get(name)), None)
    template = body.get("prompt")
    asked = list(_messages(given))
    if isinstance(template, Mapping) and given is not template:
        asked += _messages(template)
    instructions = body.get("instructions")
    return {
        "input": asked or None,
        "instructions": _parts(instructions) or None,
        "tools": [_tool(tool) for tool in _listed(body.get("tools") or body.get("functions"))] or None,
    }


def of_answer(answer: Any) -> list[dict[str, Any]] | None:
    """Return the messages of an answer: one for each choice, or for a whole response, a picture, a transcript."""
    said = (
        answer if isinstance(answer, Mapping) else answer.to_dict(warnings=False) if hasattr(answer, "to_dict") else {}
    )
    if isinstance(said.get("choices"), list):
        return [_choice(choice) for choice in said["choices"] if isinstance(choice, Mapping)]
    if isinstance(said.get("output"), list):
        parts = [part for item in _listed(said["output"]) for part in _item(item)]
        return [words.answer(parts, said.get("status"))]
    parts = [part for made in _listed(said.get("data")) for part in _picture(made)]
    if isinstance(said.get("text"), str):
        parts.append(words.text(said["text"]))
    return [words.answer(parts, None)] if parts else None


# -- requests ----------------------------------------------------------------------------------------------------------


def _messages(given: Any) -> Iterator[dict[str, Any]]:
    several = given if isinstance(given, list | tuple) else [given]
    if several and all(isinstance(one, int) for one in several):
        yield words.message("user", [{"type": "tokens", "size": len(several)}])
        return
    for one in several:
        if isinstance(one, Mapping):
            yield _message(one)
        elif isinstance(one, str):
            yield words.message("user", [words.text(one)])
        elif isinstance(one, list | tuple):  # tokens, one list of them for each text
            yield words.message("user", [{"type": "tokens", "size": len(one)}])


def _message(said: Mapping[str, Any]) -> dict[str, Any]:
    kind, role = said.get("type"), said.get("role")
    if role is None and isinstance(kind, str):  # an item of a conversation that is no message
        if kind.endswith("_output"):
            return words.message("tool", [words.tool_response(said.get("call_id"), _output(said.get("output")))])
        return words.message("assistant", list(_item(said)))
    if role is None and "variables" in said:
        return words.message("user", [{"type": "prompt", **said}])
    if role in ("tool", "function"):
        response = _output(said.get("content"))
        return words.message("tool", [words.tool_response(said.get("tool_call_id") or said.get("name"), response)])
    found = words.message(role, _of_message(said))
    return {**found, "name": said["name"]} if isinstance(said.get("name"), str) else found


def _output(output: Any) -> Any:
    """Return what a tool has said: a text as it is, else its parts."""
    return output if isinstance(output, str) or output is None else _parts(output)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool's definition, flat; one that the provider runs is named by its type."""
    kind = tool.get("type")
    inner = tool.get(kind) if isinstance(kind, str) else None
    flat = {**({} if isinstance(inner, Mapping) else tool), **(inner if isinstance(inner, Mapping) else {})}
    return {**flat, "type": kind or "function", "name": flat.get("name") or flat.get("server_label") or kind}


# -- messages, of both directions --------------------------------------------------------------------------------------


def _of_message(said: Mapping[str, Any]) -> list[Part]:
    """Return the parts of a chat's message, in the order in which a model makes them."""
    parts = []
    for field, kind in (("reasoning_content", "reasoning"), ("reasoning", "reasoning")):
        if isinstance(said.get(field), str) and said[field]:
            parts.append(words.text(said[field], kind))
    parts += _parts(said.get("content"))
    if isinstance(said.get("refusal"), str):
        parts.append(words.text(said["refusal"], "refusal"))
    audio = said.get("audio")
    if isinstance(audio, Mapping):
        sound = words.data("audio", str(audio.get("data") or ""))
        parts.append({**sound, "transcript": audio.get("transcript")})
    parts += [part for image in _listed(said.get("images")) for part in _parts([image])]
    calls = _listed(said.get("tool_calls"))
    if isinstance(said.get("function_call"), Mapping):
        calls.append({"function": said["function_call"]})
    for call in calls:
        function = call.get("function") or call.get("custom")
        if not isinstance(function, Mapping):
            continue
        arguments = function.get("arguments", function.get("input"))
        parts.append(words.tool_call(call.get("id"), function.get("name"), arguments))
    return parts


def _parts(content: Any) -> list[Part]:
    if isinstance(content, str):
        return [words.text(content)] if content else []
    several = [content] if isinstance(content, Mapping) else _listed(content)
    return [_part(part) for part in several]


def _part(part: Mapping[str, Any]) -> Part:
    kind = str(part.get("type"))
    said = part.get("text")
    if isinstance(said, str):
        return words.text(said, "reasoning" if kind in ("reasoning_text", "summary_text") else "text")
    if isinstance(part.get("refusal"), str):
        return words.text(part["refusal"], "refusal")
    inner = part.get("image_url", part.get("file_url", part.get(kind)))
    holder = {**part, **inner} if isinstance(inner, Mapping) else part
    modality = MODALITIES.get(kind, "image" if "image" in kind or "screenshot" in kind else "document")
    if kind == "input_audio":
        return words.data("audio", str(holder.get("data") or ""), f"audio/{holder.get('format')}")
    for url in (inner, holder.get("url"), holder.get("file_data")):
        if isinstance(url, str):
            return words.reference(modality, url)
    if isinstance(holder.get("file_id"), str):
        return words.file(modality, holder["file_id"])
    return {"type": kind}  # of what nobody knows, only its kind is kept


# -- answers -----------------------------------------------------------------------------------------------------------


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    said = choice.get("message")
    said = said if isinstance(said, Mapping) else {"content": choice.get("text")}
    return words.answer(_of_message(said), choice.get("finish_reason"), said.get("role"))


def _item(item: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the parts of one item of a response's output."""
    kind = str(item.get("type"))
    if kind == "message":
        yield from _parts(item.get("content"))
    elif kind == "reasoning":
        yield from _parts(item.get("summary"))
        yield from _parts(item.get("content"))
    elif kind in CALLS:
        yield words.tool_call(item.get("call_id"), item.get("name"), item.get(CALLS[kind]))
    else:  # what the provider's own tool did
        details = {name: value for name, value in item.items() if name not in FRAME and value is not None}
        name = item.get("name") or kind.removesuffix("_call")
        yield words.server_tool_call(item.get("id"), name, {"type": kind, **details})
        if isinstance(item.get("result"), str):
            yield words.data("image", item["result"])


def _picture(made: Mapping[str, Any]) -> Iterator[Part]:
    if isinstance(made.get("b64_json"), str):
        yield words.data("image", made["b64_json"])
    elif isinstance(made.get("url"), str):
        yield words.reference("image", made["url"])


def _listed(thing: Any) -> list[Any]:
    return [one for one in thing if isinstance(one, Mapping)] if isinstance(thing, list | tuple) else []
