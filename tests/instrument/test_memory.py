"""What passes is not kept where content is not recorded, and what a call has made is freed at its end."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import rlm_obs
from rlm_obs.testing import Answer, fake_openai

OURS = str(Path(rlm_obs.__file__).parent / "*")
ELSEWHERE = str(Path(rlm_obs.__file__).parent / "testing" / "*")
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
MEGABYTE = 1_000_000


class Nowhere(SpanExporter):
    """Takes spans, and reads what they say."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert all(span.attributes for span in spans)
        return SpanExportResult.SUCCESS


def held_by_us() -> int:
    """Return how many bytes are alive that lines of ours have asked for."""
    gc.collect()
    only = [tracemalloc.Filter(True, OURS), tracemalloc.Filter(False, ELSEWHERE)]
    return sum(one.size for one in tracemalloc.take_snapshot().filter_traces(only).statistics("filename"))


@pytest.mark.parametrize("budget", [None, 100])
async def test_a_long_stream_is_flat(caller: Any, budget: int | None) -> None:
    """Of 4,000 chunks no more than 15 bytes each are kept, under a budget or not."""
    with fake_openai(Answer(chunks=["word "] * 4_000)) as server:
        with rlm_obs.instrument(exporters=[], budget_usd=budget, settings={"hosts": {"127.0.0.1": "openai"}}):
            stream = await caller(caller.client(server).chat.completions.create(**CHAT, stream=True))
            for _ in range(100):
                await caller(stream.__anext__() if hasattr(stream, "__anext__") else next(stream))
            tracemalloc.start()
            before = held_by_us()
            for _ in range(3_600):
                await caller(stream.__anext__() if hasattr(stream, "__anext__") else next(stream))
            grown = held_by_us() - before
            tracemalloc.stop()
            await caller(stream.close())
    assert grown < 60_000


@pytest.mark.parametrize("raw", [False, True])
async def test_a_large_answer_is_not_copied(caller: Any, as_openai: Any, raw: bool) -> None:
    """What ours asks for while an answer of a megabyte is made, read and priced is a small part of it."""
    with fake_openai("x" * MEGABYTE) as server:
        chat = caller.client(server).chat.completions
        create = chat.with_raw_response.create if raw else chat.create
        await caller(create(**CHAT))
        tracemalloc.start()
        before = held_by_us()
        answer = await caller(create(**CHAT))
        grown = held_by_us() - before
        tracemalloc.stop()
        assert (answer.parse() if raw else answer).choices[0].message.content == "x" * MEGABYTE
    assert grown < 100_000
    assert as_openai.report().calls == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_leaves_nothing_for_the_garbage_collector(caller: Any, stream: bool) -> None:
    """No object of a call that is over waits for the collector, whose work would slow the program down."""
    with fake_openai() as server, rlm_obs.instrument(exporters=[Nowhere()], budget_usd=100) as made:
        client = caller.client(server)

        async def call() -> None:
            answer = await caller(client.chat.completions.create(**CHAT, stream=stream))
            if stream:
                await caller.all(answer)

        await call()
        made.flush()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await call()
            made.flush()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [one for one in gc.garbage if type(one).__module__.startswith("rlm_obs")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert left == []
