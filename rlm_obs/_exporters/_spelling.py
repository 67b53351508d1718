"""How receivers of OTLP want a span spelled, beside OpenTelemetry's own names: what each needs to show our tokens and cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rlm_obs import _attributes as names
from rlm_obs._exporters.base import is_score

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._record import Cost, Record

#: Given a span and its record (None: it is no call), return the attributes to add.
Spelling = Callable[["ReadableSpan", "Record | None"], Mapping[str, Any]]
JSON = "application/json"
OI_TOKENS = "llm.token_count."
OI_COST = "llm.cost."


def plainly(span: ReadableSpan, record: Record | None) -> Mapping[str, Any]:
    """Add nothing: OpenTelemetry's names are what is wanted."""
    return {}


def openinference(span: ReadableSpan, record: Record | None) -> Mapping[str, Any]:
    """Spell a span as Phoenix reads it. Source: openinference-semantic-conventions 0.1.42."""
    said = span.attributes or {}
    metadata = _metadata(said)
    into: dict[str, Any] = {"openinference.span.kind": "EVALUATOR" if is_score(span) else "CHAIN"}
    into |= {"tag.tags": said[names.TAGS]} if names.TAGS in said else {}
    into |= {"metadata": json.dumps(metadata, default=str)} if metadata else {}
    for attribute, side in ((names.INPUT_MESSAGES, "input"), (names.OUTPUT_MESSAGES, "output")):
        if attribute in said:
            into |= {f"{side}.value": said[attribute], f"{side}.mime_type": JSON}
    if record is None:
        return into
    kind = "embedding" if record.operation == "embeddings" else "llm"
    into |= {"openinference.span.kind": kind.upper(), "llm.provider": record.provider}
    if record.model is not None:
        into |= {f"{kind}.model_name": record.model, "llm.model_name": record.model}
    asked = {name: said[attribute] for name, attribute in names.PARAMS.items() if attribute in said}
    into |= {f"{kind}.invocation_parameters": json.dumps(asked)} if asked else {}
    return into | _openinference_usage(record)


def _openinference_usage(record: Record) -> dict[str, Any]:
    into: dict[str, Any] = {}
    if record.usage is not None:
        usage = record.usage
        whole = None if usage.input_tokens is None else usage.input_tokens + (usage.output_tokens or 0)
        into = {
            OI_TOKENS + "prompt": usage.input_tokens,
            OI_TOKENS + "completion": usage.output_tokens,
            OI_TOKENS + "total": whole,
            OI_TOKENS + "prompt_details.cache_read": usage.cached_input_tokens,
            OI_TOKENS + "prompt_details.cache_write": usage.cache_write_tokens,
            OI_TOKENS + "prompt_details.audio": usage.input_audio_tokens,
            OI_TOKENS + "completion_details.reasoning": usage.reasoning_tokens,
            OI_TOKENS + "completion_details.audio": usage.output_audio_tokens,
        }
    if record.cost is not None:
        cost = record.cost
        into |= {
            OI_COST + "total": float(cost.total),
            OI_COST + "prompt": _sum(cost, "input", "cached_input", "cache_write"),
            OI_COST + "completion": _sum(cost, "output"),
            OI_COST + "prompt_details.cache_read": _sum(cost, "cached_input"),
            OI_COST + "prompt_details.cache_write": _sum(cost, "cache_write"),
        }
    return {key: value for key, value in into.items() if value is not None}


def mlflow(span: ReadableSpan, record: Record | None) -> Mapping[str, Any]:
    """Give MLflow our cost, before it makes its own; a cost that nobody knows is left to it. Source: MLflow 3.17's translation
    of OTLP, which keeps `mlflow.llm.cost` where it stands (US dollars, as JSON)."""
    if record is None or record.cost is None:
        return {}
    cost = record.cost
    parts = {
        "input_cost": _sum(cost, "input", "cached_input", "cache_write"),
        "output_cost": _sum(cost, "output", "tools"),
        "total_cost": float(cost.total),
    }
    return {"mlflow.llm.cost": json.dumps({key: value or 0.0 for key, value in parts.items()})}


def langsmith(span: ReadableSpan, record: Record | None) -> Mapping[str, Any]:
    """Spell a span as LangSmith reads it. Source: its page "Trace with OpenTelemetry", the table of attributes."""
    said = span.attributes or {}
    kind = "chain" if record is None else "embedding" if record.operation == "embeddings" else "llm"
    metadata = _metadata(said)
    metadata |= {
        key: said[name] for key, name in (("session_id", names.SESSION), ("user_id", names.USER)) if name in said
    }
    if record is not None and record.cost_usd is not None:
        metadata["cost_usd"] = format(record.cost_usd, "f")
    into: dict[str, Any] = {f"langsmith.metadata.{key}": value for key, value in metadata.items()}
    tags = said.get(names.TAGS)
    into |= {"langsmith.span.tags": ", ".join(map(str, tags))} if isinstance(tags, tuple | list) else {}
    return {**into, "langsmith.span.kind": kind}


def logfire(span: ReadableSpan, record: Record | None) -> Mapping[str, Any]:
    """Give Logfire our cost under the name that it sums: `operation.cost`, US dollars."""
    return {} if record is None or record.cost_usd is None else {"operation.cost": float(record.cost_usd)}


def _metadata(said: Mapping[str, Any]) -> dict[str, Any]:
    prefix = names.METADATA_PREFIX
    return {key.removeprefix(prefix): value for key, value in said.items() if key.startswith(prefix)}


def _sum(cost: Cost, *parts: str) -> float | None:
    """Return what is known of some parts of a cost; None where nothing is."""
    known = [value for part in parts if (value := getattr(cost, part)) is not None]
    return float(sum(known)) if known else None
