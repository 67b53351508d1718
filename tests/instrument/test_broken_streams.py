"""A stream that fails half-way fails as without us, its call ends once; and a stream is the client's own object."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs import CostTracker, Record
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai
from rlm_obs.testing import collect as collecting

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
STREAM: dict[str, Any] = {"model": "gpt-4o", "messages": HELLO, "stream": True}
WORDS = "one two three four five six"


@pytest.fixture(autouse=True, params=[False, True], ids=["usage hidden", "usage asked for"])
def usage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try all with the usage asked for by us, so that one event is kept from the user, and by the user."""
    if request.param:
        monkeypatch.setitem(STREAM, "stream_options", {"include_usage": True})


@pytest.fixture
def slow() -> Iterator[FakeOpenAI]:
    """A server whose chunks come one by one, so that a stream can be left in its middle."""
    with fake_openai(WORDS, usage={"prompt_tokens": 1000, "completion_tokens": 100}, chunk_delay_s=0.01) as running:
        yield running


@pytest.fixture
def cut() -> Iterator[FakeOpenAI]:
    """A server that hangs up in the middle of a stream."""
    with fake_openai(Answer(WORDS, cut_after=3)) as running:
        yield running


async def started(caller: Any, server: FakeOpenAI) -> Any:
    return await caller(caller.client(server).chat.completions.create(**STREAM))


def only(collect: Collected) -> Record:
    (record,) = collect.records
    (span,) = collect.spans
    assert (span.attributes or {})["rlm_obs.record.id"] == record.id
    return record


def ended(tracker: CostTracker) -> bool:
    """Tell whether the one call has ended; reading this ends nothing, unlike `collect.records`."""
    return tracker._tally.figures()["calls"] == 1


async def within(seconds: float, true: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.005)
    return True


# -- failed half-way -----------------------------------------------------------------------------------------------


async def test_a_cut_stream_fails_as_without_us(caller: Any, cut: FakeOpenAI) -> None:
    """The server hangs up half-way: the user gets the exception that the bare client gives, and the record names it."""

    async def failure() -> BaseException:
        stream = await started(caller, cut)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, it is the same
            await caller.all(stream)
        return caught.value

    bare = await failure()
    with rlm_obs.instrument(exporters=[]), collecting() as collect:
        seen = await failure()
        record = only(collect)
    assert (type(seen), str(seen), type(seen.__cause__)) == (type(bare), str(bare), type(bare.__cause__))
    assert (record.status, record.usage) == ("error", None)
    assert record.error in (type(bare).__name__, type(bare.__cause__).__name__)  # the client wraps what the watch sees
    assert record.cost is not None
    assert record.cost.caveats


async def test_an_error_event_is_an_error(caller: Any, as_openai: Any, collect: Collected) -> None:
    """An error sent as an event raises the client's own APIError, and the record has it."""
    chunks: list[Any] = [
        {
            "id": "c",
            "model": "gpt-4o",
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": "x"}}],
        },
        {"error": {"message": "The engine broke", "type": "server_error"}},
    ]
    with fake_openai(Answer(chunks=chunks)) as server:
        stream = await started(caller, server)
        with pytest.raises(openai.APIError, match="The engine broke"):
            await caller.all(stream)
    record = only(collect)
    assert (record.status, record.error) == ("error", "APIError")


async def test_a_failed_response_is_an_error(caller: Any, as_openai: Any, collect: Collected) -> None:
    """`response.failed` ends a stream without an exception; its record says "error", and has its usage."""
    whole = {"id": "r", "object": "response", "model": "gpt-4o", "status": "failed", "output": []}
    whole["usage"] = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    with fake_openai(Answer(chunks=[{"type": "response.failed", "sequence_number": 0, "response": whole}])) as server:
        await caller.all(
            await caller(caller.client(server).responses.create(model="gpt-4o", input="Hello", stream=True))
        )
    record = only(collect)
    assert (record.status, record.error, record.cost_usd) == ("error", "ResponseFailed", Decimal("0.0035"))


async def test_an_error_in_the_users_loop_leaves_the_stream(
    caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """An exception of the user's own in the loop goes up unchanged; the stream counts as left."""
    stream = await started(caller, slow)
    with pytest.raises(ZeroDivisionError):
        if caller.awaits:
            async for _ in stream:
                raise ZeroDivisionError
        else:
            for _ in stream:
                raise ZeroDivisionError
    await caller.ticks()
    assert only(collect).status == "aborted"
    await caller(stream.close())


def test_a_stream_closed_by_another_thread_is_not_complete(
    slow: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """`stream.close()` while another thread waits for the next chunk: that thread's error or end, and never a whole answer."""
    with openai.OpenAI(api_key="test", base_url=slow.base_url) as client:
        stream: Any = client.chat.completions.create(**STREAM)
        next(stream)

        def read() -> None:
            with contextlib.suppress(Exception):  # whichever it is, it is the client's own
                for _ in stream:
                    pass

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.015)
        stream.close()
        reader.join(5)
        assert not reader.is_alive()
    record = only(collect)
    assert record.status != "ok"
    assert record.usage is None


async def test_a_cancelled_reader_ends_the_call(slow: FakeOpenAI, as_openai: Any, collect: Collected) -> None:
    """A task cancelled while it waits for the next chunk: ended at once, by that name."""
    async with openai.AsyncOpenAI(api_key="test", base_url=slow.base_url) as client:
        budget = CostTracker(1)

        async def read() -> None:
            with budget:
                async for _ in await client.chat.completions.create(**STREAM):
                    pass

        task = asyncio.create_task(read())
        await within(1, lambda: bool(slow.requests))
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (ended(budget), budget.held) == (True, 0)
    assert (only(collect).status, only(collect).error) == ("error", "CancelledError")


async def test_a_cancelled_call_ends_before_its_answer(as_openai: Any, collect: Collected) -> None:
    """A task cancelled while it waits for the answer itself ends the call; what it cost, nobody knows."""
    with fake_openai(latency_s=1) as server:
        async with openai.AsyncOpenAI(api_key="test", base_url=server.base_url) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.chat.completions.create(model="gpt-4o", messages=HELLO), 0.05)
    record = only(collect)
    assert (record.status, record.error, record.cost) == ("error", "CancelledError", None)


# -- the user's own object -----------------------------------------------------------------------------------------


async def test_the_stream_is_the_clients_own(caller: Any, slow: FakeOpenAI, as_openai: Any) -> None:
    """`isinstance`, `.response`, `is_closed`, the class's names: as without us, before, during and after reading."""
    stream = await started(caller, slow)
    assert isinstance(stream, caller.stream_type)
    assert (type(stream).__name__, type(stream).__module__) == (caller.stream_type.__name__, "openai")
    assert hasattr(stream, "__aiter__") is caller.awaits
    assert hasattr(stream, "__iter__") is not caller.awaits
    response = stream.response
    assert (response.status_code, response.is_closed, response.is_stream_consumed) == (200, False, False)
    await caller.first(stream)
    assert not response.is_closed
    chunks = await caller.all(stream)
    assert response.is_closed
    assert {type(chunk).__name__ for chunk in chunks} == {"ChatCompletionChunk"}
    assert not [name for name in vars(response) if "rlm_obs" in name or name.endswith(("iter_bytes", "close"))]
