"""How Langfuse wants a span: its attributes on a copy, buckets of tokens that do not overlap, our cost, not its guess.

Written after what the server (4.16) reads: an explicit `langfuse.*` attribute wins over `gen_ai.*`; a cost key stops
its own inference, for which it would tokenise prompts, price reasoning at nothing and charge failed calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan

from rlm_obs import _attributes
from rlm_obs._exporters._copying import clean, copied, text
from rlm_obs._exporters.base import error_type, is_root

if TYPE_CHECKING:
    from rlm_obs._record import Cost, Record, Usage

OBSERVATION = "langfuse.observation."
METADATA = OBSERVATION + "metadata."
TRACE_NAME = "langfuse.trace.name"
TRACE_TAGS = "langfuse.trace.tags"
TRACE_METADATA = "langfuse.trace.metadata."
ENVIRONMENT = "langfuse.environment"
RELEASE = "langfuse.release"
PROMPT = OBSERVATION + "prompt."
#: What the user may say in Langfuse's own words, on a call too; a call's usage and cost are ours.
USERS = (TRACE_NAME, TRACE_TAGS, ENVIRONMENT, RELEASE, PROMPT + "name", PROMPT + "version")
#: The instrumentation of Langfuse's own SDK: a span below one of its spans is not the top of the trace.
THEIRS = "langfuse-sdk"
APP_ROOT = "langfuse.internal.is_app_root"
LEVELS = {"ok": "DEFAULT", "error": "ERROR", "refused": "WARNING", "aborted": "WARNING"}
#: Sources of a cost of nothing -> why it is nothing.
FREE = {
    "not sent": "it was not sent",
    "status": "it was refused by the provider",
    "not answered": "it did not get through",
}
#: Operations that may stand on a call; with others (`invoke_agent`) the server discards model, usage and cost.
COUNTED = ("chat", "text_completion", "generate_content", "embeddings")
#: Total -> the parts of it that have a bucket of their own, by field of Usage.
BUCKETS = {
    ("input", "input_tokens"): {
        "input_cached_tokens": "cached_input_tokens",
        "input_cache_creation": "cache_write_tokens",
        "input_audio_tokens": "input_audio_tokens",
        "input_image_tokens": "input_image_tokens",
    },
    ("output", "output_tokens"): {
        "output_reasoning_tokens": "reasoning_tokens",
        "output_audio_tokens": "output_audio_tokens",
        "output_image_tokens": "output_image_tokens",
    },
}
COSTS = {
    "input": "input",
    "input_cached_tokens": "cached_input",
    "input_cache_creation": "cache_write",
    "output": "output",
    "tools": "tools",
    "total": "total",
}


def trace_names(spans: Sequence[ReadableSpan]) -> dict[int, str]:
    """Return the names of the traces whose root is among `spans`; one that joins a trace from elsewhere names none."""
    tops = [span for span in spans if is_root(span) and not _joins(span)]
    return {span.context.trace_id: span.name for span in tops}


def _joins(span: ReadableSpan) -> bool:
    """Tell whether a topmost span stands below one that Langfuse gets from somebody else."""
    remote = span.parent is not None and span.parent.is_remote
    return remote or (span.attributes or {}).get(_attributes.ABOVE) == THEIRS


def observation(
    span: ReadableSpan, trace_name: str | None = None, *, environment: str | None = None, release: str | None = None
) -> ReadableSpan:
    """Return a copy of `span` as Langfuse reads it; the span itself stays as it is, for the exporters beside this one.

    Only calls carry usage and cost: what another library claims on a span above or below would be counted twice.
    Errors are named by class; their messages and stack traces (which may hold prompts) are left out.
    """
    said: dict[str, Any] = dict(span.attributes or {})
    record, error = _attributes.record_of(span), error_type(span)
    said = {k: v for k, v in said.items() if not k.startswith("gen_ai.usage.")}
    ours: dict[str, Any] = {OBSERVATION + "type": "span", OBSERVATION + "level": "ERROR" if error else "DEFAULT"}
    if record is not None:
        if record.operation not in COUNTED:
            said.pop(_attributes.OPERATION, None)
        error = record.error or (None if record.status == "ok" else record.status)
        ours |= _of_call(record, said, span.start_time or 0)
    if error:
        ours[OBSERVATION + "status_message"] = error
    if is_root(span) and said.get(_attributes.ABOVE) != THEIRS:
        ours[APP_ROOT] = True
    ours |= _of_trace(span, said, trace_name, environment, release) | _content(said)
    if record is None:
        ours |= {k: v for k, v in said.items() if k in ours and k.startswith("langfuse.")}  # the user's own choice
    ours |= {k: said[k] for k in USERS if k in said}
    return copied(span, said | ours, error)


def _of_trace(
    span: ReadableSpan, said: Mapping[str, Any], trace_name: str | None, environment: str | None, release: str | None
) -> dict[str, Any]:
    """Return what Langfuse wants of the trace on every span of it, not only on the root."""
    resource = span.resource.attributes if span.resource is not None else {}
    named = resource.get("deployment.environment.name") or resource.get("deployment.environment")
    found = {
        TRACE_NAME: trace_name or said.get(_attributes.TRACE_NAME),
        TRACE_TAGS: said.get(_attributes.TAGS),
        ENVIRONMENT: environment or environment_of(named),
        RELEASE: release or resource.get("service.version"),
        TRACE_METADATA + _attributes.TENANT: said.get(_attributes.TENANT),
    }
    found |= {
        TRACE_METADATA + key.removeprefix(_attributes.METADATA_PREFIX): value
        for key, value in said.items()
        if key.startswith(_attributes.METADATA_PREFIX)
    }
    return {key: value for key, value in found.items() if value is not None}


def environment_of(named: object) -> str | None:
    """Return an environment's name as Langfuse takes it (a wrong one would be refused); None where nothing is left of it."""
    fitting = re.sub(r"[^a-z0-9_-]", "-", str(named or "").lower())[:40]
    return None if not fitting or fitting.startswith("langfuse") else fitting


def _content(said: dict[str, Any]) -> dict[str, Any]:
    """Move captured prompts, answers and arguments to where Langfuse shows them."""
    into: dict[str, Any] = {}
    if _attributes.INSTRUCTIONS in said:  # which Langfuse shows as the first message
        system = {"role": "system", "parts": json.loads(said.pop(_attributes.INSTRUCTIONS))}
        messages = [system, *json.loads(said.get(_attributes.INPUT_MESSAGES, "[]"))]
        said[_attributes.INPUT_MESSAGES] = json.dumps(messages, ensure_ascii=False)
    for attribute, name in ((_attributes.INPUT_MESSAGES, "input"), (_attributes.OUTPUT_MESSAGES, "output")):
        if attribute in said:
            into[OBSERVATION + name] = text(said.pop(attribute))
    arguments = {key: said.pop(key) for key in list(said) if key.startswith(_attributes.ARGUMENT_PREFIX)}
    if arguments:
        named = {key.removeprefix(_attributes.ARGUMENT_PREFIX): value for key, value in arguments.items()}
        into[OBSERVATION + "input"] = json.dumps(named, default=str)
    return into


def score_body(span: ReadableSpan, environment: str | None = None) -> dict[str, Any]:
    """Return a score as Langfuse's API takes it. Source: its `POST /api/public/scores`."""
    said = span.attributes or {}
    value, label = said.get(_attributes.EVALUATION_VALUE), said.get(_attributes.EVALUATION_LABEL)
    kind = "CATEGORICAL" if value is None else "NUMERIC" if label is None else "BOOLEAN"
    found = {
        "id": said[_attributes.SCORE_ID],
        "traceId": format(span.context.trace_id, "032x"),
        "observationId": said.get(_attributes.SCORED_SPAN),
        "name": said[_attributes.EVALUATION_NAME],
        "value": label if value is None else value,
        "dataType": kind,
        "comment": said.get(_attributes.EVALUATION_COMMENT),
        "environment": _of_trace(span, said, None, environment, None).get(ENVIRONMENT),
        "timestamp": _iso((span.start_time or 0) / 1e9),
    }
    return {key: clean(given) for key, given in found.items() if given is not None}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of_call(record: Record, said: Mapping[str, Any], start: int) -> dict[str, Any]:
    into: dict[str, Any] = {
        OBSERVATION + "type": "embedding" if record.operation == "embeddings" else "generation",
        OBSERVATION + "level": LEVELS[record.status],
    }
    if record.model is not None:
        into[OBSERVATION + "model.name"] = record.model
    params = {attribute: name for name, attribute in reversed(_attributes.PARAMS.items())}
    sent = {name: said[attribute] for attribute, name in params.items() if attribute in said}
    if sent:
        into[OBSERVATION + "model.parameters"] = json.dumps(sent)
    if record.time_to_first_chunk_s is not None:
        into[OBSERVATION + "completion_start_time"] = _iso(start / 1e9 + record.time_to_first_chunk_s)
    if "gen_ai.prompt.name" in said:
        version = str(said.get("gen_ai.prompt.version", ""))
        into[PROMPT + "name"] = said["gen_ai.prompt.name"]
        into |= {PROMPT + "version": int(version)} if version.isdecimal() else {}
    used = _usage_details(record.usage)
    if used or record.status != "ok":
        into[OBSERVATION + "usage_details"] = json.dumps(used or {"total": 0})
    into[OBSERVATION + "cost_details"] = json.dumps(_cost_details(record.cost))
    return into | {METADATA + name: why for name, why in _about_cost(record).items()}


def _about_cost(record: Record) -> dict[str, str]:
    """Say why a call shows 0, or not its exact cost: in words to filter by, and in words to read."""
    cost = record.cost
    if cost is None:
        why = "no usage was told" if record.usage is None else f"no price is known for {record.model}"
        return {"rlm_obs_cost": "unknown", "rlm_obs_cost_reason": why} if record.status != "refused" else {}
    if not cost.exact:
        return {"rlm_obs_cost": "not exact: " + "; ".join(cost.caveats)}
    return {"rlm_obs_cost_reason": FREE[cost.source]} if cost.source in FREE else {}


def _usage_details(usage: Usage | None) -> dict[str, int]:
    """Return buckets that sum to `total`: each token in one of them, also where the parts overlap (cached audio)."""
    into: dict[str, int] = {}
    total = 0
    for (bucket, whole), parts in BUCKETS.items():
        left = None if usage is None else getattr(usage, whole)
        if left is None:
            continue
        total += left
        for name, part in parts.items():
            count = min(getattr(usage, part) or 0, left)
            left -= count
            if count:
                into[name] = count
        into[bucket] = left
    return {**into, "total": total} if into else {}


def _cost_details(cost: Cost | None) -> dict[str, float]:
    """Return US dollars as numbers, always with a total: without one the server makes its own."""
    if cost is None:
        return {"total": 0}
    return {name: float(value) for name, part in COSTS.items() if (value := getattr(cost, part)) is not None}
