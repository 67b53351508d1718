"""How each receiver gives back what it has stored."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Seen:
    """A span as somebody has it: times in nanoseconds, the cost in US dollars; None is "not said"."""

    name: str
    parent: str | None
    start: int
    end: int
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None


def get(url: str, body: Any = None) -> Any:
    """Return what an address answers, as JSON or text; None where it does not answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with OPENER.open(request, timeout=10) as answer:
            said = answer.read().decode()
    except (OSError, urllib.error.URLError):
        return None
    try:
        return json.loads(said)
    except ValueError:
        return said


def from_oteltap(url: str, folder: Path) -> dict[str, Seen]:
    """Read the lines that oteltap has printed."""
    found = {}
    for line in (folder / "out").read_text().splitlines():
        if line.startswith('{"traceId"') and line.endswith("}"):
            span = json.loads(line)
            said = {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}
            found[span["spanId"]] = Seen(
                span["name"],
                span.get("parentSpanId") or None,
                int(span["startTimeUnixNano"]),
                int(span["endTimeUnixNano"]),
                _int(said.get("gen_ai.usage.input_tokens")),
                _int(said.get("gen_ai.usage.output_tokens")),
                said.get("gen_ai.usage.cost"),
            )
    return found


def from_phoenix(url: str, folder: Path) -> dict[str, Seen]:
    """Ask Phoenix for the spans of its default project."""
    spans = (get(f"{url}/v1/projects/default/spans?limit=100") or {"data": []})["data"]
    found: dict[str, Seen] = {}
    for span in spans:
        once = span["context"]["span_id"] not in found
        found[span["context"]["span_id"]] = Seen(
            span["name"] if once else f"{span['name']} (twice)",
            span["parent_id"],
            _ns(span["start_time"]),
            _ns(span["end_time"]),
            span["attributes"].get("llm.token_count.prompt"),
            span["attributes"].get("llm.token_count.completion"),
            span["attributes"].get("llm.cost.total"),
        )
    return found


def from_mlflow(url: str, folder: Path) -> dict[str, Seen]:
    """Ask MLflow for the spans of the traces of its default experiment, and compare with what it says of each trace."""
    where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}]
    listed = get(f"{url}/api/3.0/mlflow/traces/search", {"locations": where, "max_results": 100}) or {}
    found = {}
    for trace in listed.get("traces", []):
        whole = get(f"{url}/api/3.0/mlflow/traces/get?trace_id={trace['trace_id']}")
        spans = {}
        for span in whole["trace"]["spans"] if whole else []:
            said = {one["key"]: _value(one["value"]) for one in span["attributes"]}
            usage, cost = said.get("mlflow.chat.tokenUsage") or {}, said.get("mlflow.llm.cost") or {}
            span_id = base64.b64decode(span["span_id"]).hex()
            spans[span_id] = Seen(
                span["name"] if span_id not in spans else f"{span['name']} (twice)",
                base64.b64decode(span.get("parent_span_id", "")).hex() or None,
                int(span["start_time_unix_nano"]),
                int(span["end_time_unix_nano"]),
                usage.get("input_tokens"),
                usage.get("output_tokens"),
                cost.get("total_cost"),
            )
        shown = json.loads(trace["trace_metadata"].get("mlflow.trace.cost", "{}")).get("total_cost", 0.0)
        if abs(shown - sum(span.cost or 0 for span in spans.values())) < 1e-12:
            found |= spans  # else what the page of the trace shows is another sum, and they are missing
    return found


def _value(value: Any) -> Any:
    """Return one of OTLP's values; MLflow gives texts that are JSON back as what they say."""
    kind, inner = next(iter(value.items()))
    if kind == "kvlist_value":
        return {one["key"]: _value(one["value"]) for one in inner["values"]}
    if kind == "array_value":
        return [_value(one) for one in inner.get("values", [])]
    if kind == "int_value":
        return int(inner)
    return json.loads(inner) if isinstance(inner, str) and inner.startswith("{") else inner


def _int(value: Any) -> int | None:
    return None if value is None else int(value)


def _ns(text: str) -> int:
    """Return a time in nanoseconds, without a float in between."""
    at = datetime.fromisoformat(text)
    return int(at.replace(microsecond=0).timestamp()) * 10**9 + at.microsecond * 1000
