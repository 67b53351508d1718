"""What passes is not kept: neither a long stream nor a large answer takes memory of ours, where content is not recorded."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import rlm_obs
from rlm_obs.testing import Answer, fake_openai

OURS = str(Path(rlm_obs.__file__).parent / "*")
ELSEWHERE = str(Path(rlm_obs.__file__).parent / "testing" / "*")
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
MEGABYTE = 1_000_000


def held_by_us() -> int:
    """Return how many bytes are alive that lines of ours have asked for."""
    gc.collect()
    only = [tracemalloc.Filter(True, OURS), tracemalloc.Filter(False, ELSEWHERE)]
    return sum(one.size for one in tracemalloc.take_snapshot().filter_traces(only).statistics("filename"))


@pytest.mark.parametrize("budget", [None, 100])
async def test_a_long_stream_is_flat(caller: Any, budget: int | None) -> None:
    """Of 4,000 chunks nothing is kept; under a budget their texts may be, which the program has as well: 8 bytes each."""
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
    assert grown < (20_000 if budget is None else 60_000)


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
