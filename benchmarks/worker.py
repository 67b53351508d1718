"""One long-lived worker: runs slices of calls on demand, bare or instrumented one way, and reports their CPU and wall time."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import openai
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

MESSAGES: Any = [{"role": "user", "content": "What is in the second chapter? " * 20}]
Flush = Callable[[], object]


class Nowhere(SpanExporter):
    """Takes the spans and does nothing, so that only what makes them is measured."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def bare(_: str) -> Flush:
    """Nothing of anybody's."""
    return lambda: None


def yardstick(_: str) -> Flush:
    """What a careful engineer would write by hand: one OpenTelemetry span with twelve attributes around `create`."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    tracer = provider.get_tracer("yardstick")
    create = openai.resources.chat.completions.Completions.create

    @functools.wraps(create)
    def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        first = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": kwargs["model"],
            "server.address": "127.0.0.1",
            "server.port": 443,
            "openai.api.type": "chat_completions",
            "gen_ai.request.max_tokens": kwargs.get("max_completion_tokens", 0),
            "gen_ai.output.type": "text",
        }
        with tracer.start_as_current_span(f"chat {kwargs['model']}", attributes=first) as span:
            answer = create(self, *args, **kwargs)
            if not kwargs.get("stream"):
                span.set_attribute("gen_ai.response.model", answer.model)
                span.set_attribute("gen_ai.response.id", answer.id)
                span.set_attribute("gen_ai.usage.input_tokens", answer.usage.prompt_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", answer.usage.completion_tokens)
            return answer

    openai.resources.chat.completions.Completions.create = traced  # type: ignore[method-assign]
    return provider.force_flush


def ours(base_url: str) -> Flush:
    """rlm_obs: traced, priced and under a budget."""
    import rlm_obs

    host = base_url.split("/")[2]
    rlm_obs.instrument(exporters=[Nowhere()], budget_usd=1_000_000, settings={"hosts": {host: "openai"}})
    return rlm_obs.flush


def chat(client: openai.OpenAI, calls: int) -> None:
    """Plain chat calls."""
    for _ in range(calls):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_completion_tokens=100)


def stream(client: openai.OpenAI, calls: int) -> None:
    """Streamed chat calls, read to the end."""
    for _ in range(calls):
        chunks = client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        for _chunk in chunks:
            pass


def unasked(client: openai.OpenAI, calls: int) -> None:
    """The same by a user who asks for no usage: then rlm_obs asks for it, and keeps the event that brings it back."""
    for _ in range(calls):
        for _chunk in client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True):
            pass


def main() -> None:
    """Read `kind calls` lines from standard input, answer each with a line of JSON."""
    mode, base_url = sys.argv[1:3]
    flush = {"bare": bare, "again": bare, "yardstick": yardstick, "ours": ours}[mode](base_url)
    client = openai.OpenAI(base_url=base_url, api_key="benchmark", max_retries=0)
    for line in sys.stdin:
        kind, calls = line.split()
        cpu, wall = time.process_time(), time.perf_counter()
        {"chat": chat, "stream": stream}[kind](client, int(calls))
        flush()
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
