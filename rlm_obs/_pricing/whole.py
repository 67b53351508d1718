"""Reads the whole of an answer: hosted tools, images drawn within a response, and what is billed without a `usage`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlm_obs._pricing.usage import NOTHING, amount, count, fields_of, read_usage
from rlm_obs._record import Usage

#: Items of a response's output that are a billed call of a hosted tool -> its name. Source: `openai.types.responses`.
ITEMS = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
}
PREVIEW = "web_search_preview"
#: What an image in a response is listed as where the answer does not say which model drew it.
SOME_IMAGE_MODEL = "image_generation"


def read_answer(
    answer: object, provider: str = "openai", endpoint: str = "", asked: Mapping[str, Any] = NOTHING
) -> Usage | None:
    """Return what an answer says it used, beside its `usage` too, or None where it says nothing; never raises.

    `asked` is the JSON that was sent: its `input` counts as characters where speech is billed by them, and its `tools`
    tell which search was meant. `endpoint` is the path, with or without a version.
    """
    said = fields_of(answer)
    used = read_usage(said.get("usage"), provider)
    output, tool_usage = said.get("output"), said.get("tool_usage")
    if (output and isinstance(output, list)) or tool_usage is not None:
        used = _with_tools(used, said, output if isinstance(output, list) else [], tool_usage, asked)
    svg = said.get("svg_usage")
    if svg is not None:
        drawn = read_usage(svg, provider)
        if drawn is not None:
            used = replace(used or Usage(), also={str(fields_of(svg).get("model")): drawn})
    return _without_usage(said, endpoint, asked) if used is None else used


def _with_tools(
    used: Usage | None, said: Mapping[str, Any], output: list[Any], tool_usage: object, asked: Mapping[str, Any]
) -> Usage | None:
    """Add the calls of hosted tools: as `tool_usage` counts them where it does, else as the items of the output do.

    `open_page` and `find_in_page` are free. Source: the docstring of `openai.types.responses.response.ToolUsage`.
    """
    calls: dict[str, int] = {}
    for item in output:
        inside = fields_of(item)
        name = ITEMS.get(kind) if isinstance(kind := inside.get("type"), str) else None
        if name == "web_search":
            action = fields_of(inside.get("action")).get("type")
            if action not in (None, "search") or inside.get("status") == "failed":
                continue
        if kind == "shell_call" and fields_of(inside.get("environment")).get("type") == "container_reference":
            name = "shell"  # a local one is the user's own machine
        if name is not None:
            calls[name] = calls.get(name, 0) + 1
    also: dict[str, Usage] = {}
    if tool_usage is not None:
        told = fields_of(tool_usage)
        searches = count(fields_of(told.get("web_search")).get("num_requests"))
        if searches is not None:
            calls.pop("web_search", None)
            if searches:
                calls["web_search"] = searches
        image = _image(told.get("image_gen"))
        if image is not None:
            calls.pop("image_generation", None)
            also[_image_model(said.get("tools"), asked.get("tools"))] = image
    tools = said.get("tools") or asked.get("tools")
    if "web_search" in calls and _kinds(tools, PREVIEW):
        calls[PREVIEW] = calls.pop("web_search")
    if not calls and not also:
        return used
    used = used or Usage()
    return replace(used, tool_calls={**used.tool_calls, **calls}, also={**used.also, **also})


def _image(image_gen: object) -> Usage | None:
    """Return what was used for the images of a response, or None where none was drawn."""
    said = fields_of(image_gen)
    used = read_usage(said)
    if used is None or not (used.input_tokens or used.output_tokens):
        return None
    split = fields_of(said.get("cached_tokens_details")).get
    return replace(used, cached_image_tokens=count(split("cached_image_tokens")))


def _image_model(*tools: object) -> str:
    for some in tools:
        for tool in _kinds(some, "image_generation"):
            if isinstance(model := tool.get("model"), str):
                return model
    return SOME_IMAGE_MODEL


def _kinds(tools: object, kind: str) -> list[Mapping[str, Any]]:
    """Return the tools of a kind, also of its dated versions."""
    fields = [fields_of(tool) for tool in tools] if isinstance(tools, list) else []
    return [tool for tool in fields if isinstance(name := tool.get("type"), str) and name.startswith(kind)]


def _without_usage(said: Mapping[str, Any], endpoint: str, asked: Mapping[str, Any]) -> Usage | None:
    """Return what is billed by the second, the image, the character or the trained token, which no `usage` says."""
    if "/images" in endpoint and isinstance(data := said.get("data"), list) and data:
        return Usage(images=len(data))
    if "/audio/tr" in endpoint:
        heard = amount(said.get("duration"))
        return None if heard is None else Usage(seconds=heard)
    if endpoint.endswith("/audio/speech"):
        text = asked.get("input")
        return Usage(characters=len(text)) if isinstance(text, str) else None
    if said.get("object") == "video" and said.get("status") == "completed":
        shown = said.get("seconds")
        seconds = amount(int(shown)) if isinstance(shown, str) and shown.isascii() and shown.isdigit() else None
        return None if seconds is None else Usage(seconds=seconds)
    if said.get("object") == "fine_tuning.job":
        trained = count(said.get("trained_tokens"))
        return None if trained is None else Usage(trained_tokens=trained)
    return _of_models(said.get("per_model_usage"))


def _of_models(listed: object) -> Usage | None:
    """Return the usage of an evaluation's run, which is listed by model; each stands for itself."""
    also: dict[str, Usage] = {}
    for one in listed if isinstance(listed, list) else []:
        inside = fields_of(one)
        used = read_usage(inside)
        name = inside.get("model_name") or inside.get("run_model_name")  # as the client's object spells it
        if used is not None and isinstance(name, str):
            also[name] = used
    return Usage(also=also) if also else None
