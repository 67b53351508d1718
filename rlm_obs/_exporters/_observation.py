"""How Langfuse wants a span: its attributes on a copy, buckets of tokens that do not overlap, our cost, not its guess.

Written after what the server (4.16) reads: an explicit `langfuse.*` attribute wins over `gen_ai.*`; a cost key stops
its own inference, for which it would tokenise prompts, price reasoning at nothing and charge failed calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status

from rlm_obs import _attributes
from rlm_obs._exporters.base import error_type, is_root

if TYPE_CHECKING:
    from rlm_obs._record import Cost, Record, Usage

OBSERVATION = "langfuse.observation."
METADATA = OBSERVATION + "metadata."
TRACE_NAME = "langfuse.trace.name"
TRACE_TAGS = "langfuse.trace.tags"
APP_ROOT = "langfuse.internal.is_app_root"
MESSAGES = ("exception.message", "exception.stacktrace")
LEVELS = {"ok": "DEFAULT", "error": "ERROR", "refused": "WARNING", "aborted": "WARNING"}
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
    tops = [span for span in spans if is_root(span) and not (span.parent is not None and span.parent.is_remote)]
    return {span.context.trace_id: span.name for span in tops}


def observation(span: ReadableSpan, trace_name: str | None = None) -> ReadableSpan:
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
    if trace_name is not None:
        ours[TRACE_NAME] = trace_name
    if is_root(span):
        ours[APP_ROOT] = True
    for attribute, name in ((_attributes.INPUT_MESSAGES, "input"), (_attributes.OUTPUT_MESSAGES, "output")):
        if attribute in said:
            ours[OBSERVATION + name] = _text(said.pop(attribute))
    if "tags" in said:
        ours[TRACE_TAGS] = said["tags"]
    if record is None:
        ours |= {k: v for k, v in said.items() if k in ours and k.startswith("langfuse.")}  # the user's own choice
    return ReadableSpan(
        name=_clean(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes={_clean(k): _clean(v) for k, v in (said | ours).items()},
        events=[_without_message(event) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code, None if span.status.is_ok else _clean(error or "error")),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


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
        first = datetime.fromtimestamp(start / 1e9 + record.time_to_first_chunk_s, UTC)
        into[OBSERVATION + "completion_start_time"] = first.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    used = _usage_details(record.usage)
    if used or record.status != "ok":
        into[OBSERVATION + "usage_details"] = json.dumps(used or {"total": 0})
    into[OBSERVATION + "cost_details"] = json.dumps(_cost_details(record.cost))
    if record.cost is None and record.status != "refused":
        into[METADATA + "rlm_obs_cost"] = "unknown"
    elif record.cost is not None and not record.cost.exact:
        into[METADATA + "rlm_obs_cost"] = "not exact: " + "; ".join(record.cost.caveats)
    return into


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


def _without_message(event: Event) -> Event:
    kept = {k: _clean(v) for k, v in (event.attributes or {}).items() if k not in MESSAGES}
    return Event(_clean(event.name), kept, event.timestamp)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _clean(value: Any) -> Any:
    """Return what protobuf takes: half a surrogate pair, or one int past 64 bits, would cost the whole batch."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list | tuple):
        return tuple(_clean(v) for v in value)
    if isinstance(value, bool | float | bytes) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    return _clean(_text(value) if isinstance(value, Mapping) else str(value))
