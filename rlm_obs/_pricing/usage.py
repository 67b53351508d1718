"""Reads what an answer says it used, from the API's JSON or the client's objects, into one Usage; never raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rlm_obs._record import Usage

#: A count past this is a mistake of the server, not a bill.
ABSURD = 10**12
COUNTS = range(ABSURD + 1)
#: Their OpenAI endpoints leave reasoning out of `completion_tokens`; it is in `total_tokens` only.
REASONING_LEFT_OUT = frozenset({"x_ai", "x-ai", "gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "google"})
NOTHING: Mapping[str, Any] = {}
NO_MODEL: Any = object()
#: Parts of the input and of the output, as `*_details` name them -> as a Usage does.
INPUT_PARTS = {
    "cached_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "audio_tokens": "input_audio_tokens",
    "image_tokens": "input_image_tokens",
}
OUTPUT_PARTS = {
    "reasoning_tokens": "reasoning_tokens",
    "audio_tokens": "output_audio_tokens",
    "image_tokens": "output_image_tokens",
    "accepted_prediction_tokens": "accepted_prediction_tokens",
    "rejected_prediction_tokens": "rejected_prediction_tokens",
}
MEDIA = ("audio_tokens", "image_tokens")
DETAILS = (("prompt_tokens_details", INPUT_PARTS), ("completion_tokens_details", OUTPUT_PARTS))
#: What the usage of a chat has, and no other that is read here.
USUAL = frozenset(
    {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
)
#: xAI says its charge in these. Source: the field `usage.cost_in_usd_ticks` of its API.
TICKS = Decimal(10) ** 10


def read_usage(raw: object, provider: str = "openai", tool_usage: object = None) -> Usage | None:
    """Return the `usage` of an answer, or None where it says nothing at all; a count that cannot be is "not said".

    `raw` is a dict or any object with these fields, as the client builds them (it does not check types): that of chat
    and completions (`prompt_tokens`), responses, images and realtime (`input_tokens`), embeddings, transcription
    (tokens or seconds), DeepSeek's `prompt_cache_hit_tokens`, Anthropic's own, and the charges that OpenRouter, xAI and
    Perplexity answer. `tool_usage` is that of a response (`num_requests` of its searches). Totals are inclusive.
    Source: `openai.types`: `CompletionUsage`, `responses.ResponseUsage`, `ImagesResponse`,
    `audio.transcription.Usage`, `realtime.RealtimeResponseUsage`.
    """
    counts = text_counts(raw, provider) if tool_usage is None else None
    if counts is not None:
        return Usage(**counts)  # type: ignore[arg-type]  # its fields of counts
    said = fields_of(raw)
    tools = read_tools(tool_usage) if tool_usage is not None else {}
    if not said and not tools:
        return None
    get = said.get
    into = get("prompt_tokens_details") or get("input_tokens_details") or get("input_token_details")
    out = get("completion_tokens_details") or get("output_tokens_details") or get("output_token_details")
    prompt, answer = get("prompt_tokens"), get("completion_tokens")
    chat = prompt.__class__ is int and prompt in COUNTS  # what `count` does, a call less for each number
    if not chat:
        prompt = count(get("input_tokens"))
    if answer.__class__ is not int or answer not in COUNTS:
        answer = count(get("output_tokens"))
    if chat and provider in REASONING_LEFT_OUT:
        total = count(get("total_tokens"))
        if total is not None and prompt is not None and total - prompt > (answer or 0):
            answer = total - prompt
    found: dict[str, Any] = {}
    if into is not None:
        parts = fields_of(into)
        for name, number in parts.items():
            if number.__class__ is int and number in COUNTS and name in INPUT_PARTS:
                found[INPUT_PARTS[name]] = number
        split, kept = parts.get("cached_tokens_details"), parts.get("cache_write_tokens_details")
        if split is not None:
            split = fields_of(split).get
            found["cached_audio_tokens"] = count(split("audio_tokens"))
            found["cached_image_tokens"] = count(split("image_tokens"))
        if kept is not None:
            found["cache_write_long_tokens"] = count(fields_of(kept).get("ttl_12h_tokens"))
    if "cached_input_tokens" not in found:
        cached = count(get("prompt_cache_hit_tokens"))
        found["cached_input_tokens"] = count(get("cached_tokens")) if cached is None else cached
    if out is not None:
        parts = fields_of(out)
        for name, number in parts.items():
            if number.__class__ is int and number in COUNTS and name in OUTPUT_PARTS:
                found[OUTPUT_PARTS[name]] = number
    seconds = charged = None
    if not USUAL.issuperset(said):
        if "cache_read_input_tokens" in said or "cache_creation_input_tokens" in said:
            prompt, tools = _anthropic(said, prompt, tools, found)
        seconds, charged = amount(get("seconds")), charge(said)
    if prompt is None and not tools:
        known = (answer, seconds, found["cached_input_tokens"], found.get("input_audio_tokens"), charged)
        if all([one is None for one in known]):
            return None
    return Usage(
        input_tokens=prompt, output_tokens=answer, seconds=seconds, tool_calls=tools, charged_usd=charged, **found
    )


def text_counts(raw: object, provider: str = "openai") -> dict[str, int] | None:
    """Return the counts of a chat that used nothing but text, by the names of `Usage`, at once, as most are: input, output,
    and what else is said. None of any other, and of what is no whole number where one belongs: then `read_usage`."""
    said = fields_of(raw)
    if not USUAL.issuperset(said) or provider in REASONING_LEFT_OUT:
        return None
    prompt, answer = said.get("prompt_tokens"), said.get("completion_tokens")
    if prompt.__class__ is not int or answer.__class__ is not int or not 0 <= prompt <= ABSURD >= answer >= 0:
        return None
    counts = {"input_tokens": prompt, "output_tokens": answer}
    for details, names in DETAILS:
        parts = said.get(details)
        if parts is not None:
            for name, number in fields_of(parts).items():
                if number.__class__ is int and 0 <= number <= ABSURD:
                    if name in names:
                        counts[names[name]] = number
                        if number and name in MEDIA:
                            return None
                elif number is not None:
                    return None
    return counts


def _anthropic(
    said: Mapping[str, Any], fresh: int | None, tools: dict[str, int], found: dict[str, Any]
) -> tuple[int | None, dict[str, int]]:
    """Return input and tools, and write the cache's parts into `found`: Anthropic's `input_tokens` leave the cache out.

    Source: `anthropic.types.Usage`.
    """
    hits, written = count(said.get("cache_read_input_tokens")), count(said.get("cache_creation_input_tokens"))
    kept = fields_of(said.get("cache_creation")).get
    searches = count(fields_of(said.get("server_tool_use")).get("web_search_requests"))
    if searches:
        tools = {**tools, "web_search": searches}
    total = None if fresh is None else fresh + (hits or 0) + (written or 0)
    found["cached_input_tokens"], found["cache_write_tokens"] = hits, written
    found["cache_write_long_tokens"] = count(kept("ephemeral_1h_input_tokens"))
    return total, tools


def read_tools(tool_usage: object) -> dict[str, int]:
    """Return the billed calls of hosted tools, by name, from a response's `tool_usage`; tools not called are left out."""
    calls = {}
    for name, thing in fields_of(tool_usage).items():
        number = count(fields_of(thing).get("num_requests"))
        if number and isinstance(name, str):
            calls[name] = number
    return calls


def charge(said: Mapping[str, Any]) -> Decimal | None:
    """Return the host's own charge in US dollars, or None where its usage says none.

    `cost` is OpenRouter's, a number; Perplexity's is an object with a `total_cost`; xAI counts in ticks.
    """
    given = said.get("cost")
    if given is None:
        ticks = count(said.get("cost_in_usd_ticks"), most=ABSURD * 10**10)
        return None if ticks is None else Decimal(ticks) / TICKS
    if type(given) not in (int, float):
        given = fields_of(given).get("total_cost")
    checked = amount(given)
    return None if checked is None else Decimal(str(given))


def fields_of(thing: object) -> Mapping[str, Any]:
    """Return the fields of a JSON object, or of a client's object: what it does not know by name is in its extra."""
    if isinstance(thing, dict):
        return thing
    extra = getattr(thing, "__pydantic_extra__", NO_MODEL)
    if extra is NO_MODEL and isinstance(thing, Mapping):  # which is slow to tell, and seldom asked
        return thing
    own = getattr(thing, "__dict__", None)
    if type(own) is not dict:
        return NOTHING
    return {**own, **extra} if extra and type(extra) is dict else own


def count(value: object, most: int = ABSURD) -> int | None:
    """Return a whole number that can be a count, or None."""
    return value if type(value) is int and 0 <= value <= most else None


def amount(value: object) -> float | None:
    """Return a number that can be seconds or dollars, or None."""
    if type(value) is int:
        return float(value) if 0 <= value <= ABSURD else None
    return value if type(value) is float and math.isfinite(value) and 0 <= value <= ABSURD else None
