"""Reads what an answer says it used, from the API's JSON or the client's objects, into one Usage; never raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlm_obs._record import Usage

#: A count past this is a mistake of the server, not a bill.
ABSURD = 10**12
#: Their OpenAI endpoints leave reasoning out of `completion_tokens`; it is in `total_tokens` only.
REASONING_LEFT_OUT = frozenset({"x_ai", "x-ai", "gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "google"})
NOTHING: Mapping[str, Any] = {}


def read_usage(raw: object, provider: str = "openai", tool_usage: object = None) -> Usage | None:
    """Return the `usage` of an answer, or None where it says nothing at all; a count that cannot be is "not said".

    `raw` is a dict or any object with these fields, as the client builds them (it does not check types): that of chat
    and completions (`prompt_tokens`), responses and images (`input_tokens`), embeddings, transcription (tokens or
    seconds), and DeepSeek's `prompt_cache_hit_tokens`. `tool_usage` is that of a response (`num_requests` of its
    searches). Totals are inclusive. Source: `openai.types.CompletionUsage`, `responses.ResponseUsage`,
    `ImagesResponse`, `audio.transcription.Usage`.
    """
    said = _fields(raw)
    tools = read_tools(tool_usage) if tool_usage is not None else {}
    if not said and not tools:
        return None
    get = said.get
    into = get("prompt_tokens_details") or get("input_tokens_details") or get("input_token_details")
    out = get("completion_tokens_details") or get("output_tokens_details") or get("output_token_details")
    prompt = _count(get("prompt_tokens"))
    chat = prompt is not None
    if prompt is None:
        prompt = _count(get("input_tokens"))
    answer = _count(get("completion_tokens"))
    if answer is None:
        answer = _count(get("output_tokens"))
    if chat and provider in REASONING_LEFT_OUT:
        total = _count(get("total_tokens"))
        if total is not None and prompt is not None and total - prompt > (answer or 0):
            answer = total - prompt
    cached = written = audio = images = thought = spoken = drawn = None
    if into is not None:
        inside = _fields(into).get
        cached = _count(inside("cached_tokens"))
        written = _count(inside("cache_write_tokens"))
        audio = _count(inside("audio_tokens"))
        images = _count(inside("image_tokens"))
    if cached is None:
        cached = _count(get("prompt_cache_hit_tokens"))
        if cached is None:
            cached = _count(get("cached_tokens"))
    if out is not None:
        inside = _fields(out).get
        thought = _count(inside("reasoning_tokens"))
        spoken = _count(inside("audio_tokens"))
        drawn = _count(inside("image_tokens"))
    seconds = _seconds(get("seconds"))
    if prompt is None and answer is None and seconds is None and cached is None and audio is None and not tools:
        return None
    return Usage(
        input_tokens=prompt,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=answer,
        reasoning_tokens=thought,
        input_audio_tokens=audio,
        output_audio_tokens=spoken,
        input_image_tokens=images,
        output_image_tokens=drawn,
        seconds=seconds,
        tool_calls=tools,
    )


def read_tools(tool_usage: object) -> dict[str, int]:
    """Return the billed calls of hosted tools, by name, from a response's `tool_usage`; tools not called are left out.

    An image generated inside a response says its tokens there and no count: it is one call, whose price is not known.
    """
    said = _fields(tool_usage)
    calls = {}
    for name, thing in said.items():
        number = _count(_fields(thing).get("num_requests"))
        if number and isinstance(name, str):
            calls[name] = number
    if _count(_fields(said.get("image_gen")).get("total_tokens")):
        calls["image_generation"] = 1
    return calls


def _fields(thing: object) -> Mapping[str, Any]:
    """Return the fields of a dict or of a client's object (what it does not know by name is in `model_extra`)."""
    if isinstance(thing, dict):
        return thing
    own = getattr(thing, "__dict__", None)
    if not isinstance(own, dict):
        return NOTHING
    extra = getattr(thing, "__pydantic_extra__", None)
    return {**own, **extra} if extra and isinstance(extra, dict) else own


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= ABSURD else None


def _seconds(value: object) -> float | None:
    if type(value) is int:
        return float(value) if 0 <= value <= ABSURD else None
    return value if type(value) is float and math.isfinite(value) and 0 <= value <= ABSURD else None
