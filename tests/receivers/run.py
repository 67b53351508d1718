"""The run that every receiver gets: calls of each outcome, in spans that nest, with the ledger of what they cost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai

import rlm_obs
from rlm_obs._attributes import record_of
from rlm_obs.testing import Answer, SpanList, fake_openai
from tests.receivers.reading import Seen

PRICES = {
    "gpt-4o-mini": {"input": "0.15", "cached_input": "0.075", "output": "0.6"},
    "text-embedding-3-small": {"input": "0.02"},
}
USAGE = {
    "prompt_tokens": 1234,
    "completion_tokens": 567,
    "total_tokens": 1801,
    "prompt_tokens_details": {"cached_tokens": 1024},
    "completion_tokens_details": {"reasoning_tokens": 320},
}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def run(exporter: str, variables: Mapping[str, str], folder: Path) -> dict[str, Seen]:
    """Make the run, deliver it to `exporter` and to files, and return each span as the ledger has it, by its id."""
    os.environ.update(variables, NO_PROXY="*")
    kept = SpanList()

    def answer(seen: Any) -> Any:
        if "x-fail" in seen.headers:
            return Answer(status=500)
        return Answer("hi", usage=USAGE) if "x-usage" in seen.headers else None

    with fake_openai(answer) as model, openai.OpenAI(api_key="k", base_url=model.base_url, max_retries=0) as client:
        settings = {"prices": PRICES, "capture_content": True}
        files = [
            rlm_obs.FileExporter(folder / "records.jsonl"),
            rlm_obs.FileExporter(folder / "otlp.jsonl", format="otlp"),
        ]
        running = rlm_obs.instrument(exporters=[kept, exporter, *files], settings=settings)
        assert running.tracer is not None
        who = rlm_obs.context(user_id="u-17", session_id="s-4", tags=["beta"], metadata={"build": 7})
        with who, running.tracer.span("answer"):
            with running.tracer.span("retrieve"):
                client.embeddings.create(model="text-embedding-3-small", input="hello")
            create = client.chat.completions.create
            create(model="gpt-4o-mini", messages=HELLO, extra_headers={"x-usage": "1"})
            for _ in create(model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}):
                pass
            with contextlib.suppress(openai.InternalServerError):
                create(model="gpt-4o-mini", messages=HELLO, extra_headers={"x-fail": "1"})
            with contextlib.suppress(rlm_obs.BudgetExceeded), rlm_obs.CostTracker("0.0000001"):
                create(model="gpt-4o-mini", messages=HELLO)
        assert rlm_obs.flush(30), rlm_obs.stats()
        total = running.report().total_cost
        running.uninstrument()
    spans = {format(span.context.span_id, "016x"): _seen(span) for span in kept.spans}
    assert abs(sum(span.cost or 0 for span in spans.values()) - float(total)) < 1e-12
    return spans


def _seen(span: Any) -> Seen:
    record = record_of(span)
    usage = None if record is None else record.usage
    return Seen(
        name=span.name,
        parent=None if span.parent is None else format(span.parent.span_id, "016x"),
        start=span.start_time,
        end=span.end_time,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        cost=None if record is None or record.cost is None else float(record.cost.total),
    )
