"""However a stream ends, its call ends exactly once; the user keeps the client's own stream, in every detail."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs import CostTracker, Record
from rlm_obs._instrument import lost
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
STREAM: dict[str, Any] = {"model": "gpt-4o", "messages": HELLO, "stream": True}
WORDS = "one two three four five six"


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
    return tracker._calls == 1


async def within(seconds: float, true: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.005)
    return True


# -- the ways a stream ends ----------------------------------------------------------------------------------------


async def exhausted(caller: Any, stream: Any) -> None:
    await caller.all(stream)


async def exhausted_by_next(caller: Any, stream: Any) -> None:
    try:
        while True:
            await caller(stream.__anext__() if caller.awaits else next(stream))
    except (StopIteration, StopAsyncIteration):
        pass


async def taken_up_again(caller: Any, stream: Any) -> None:
    await caller.first(stream)
    await caller.first(stream)
    await caller.all(stream)


async def exhausted_twice(caller: Any, stream: Any) -> None:
    await caller.all(stream)
    assert await caller.all(stream) == []


async def exhausted_in_a_block(caller: Any, stream: Any) -> None:
    async with caller.entered(stream):
        await caller.all(stream)
    await caller(stream.close())


async def closed(caller: Any, stream: Any) -> None:
    await caller.first(stream)
    await caller(stream.close())
    await caller(stream.close())


async def closed_unread(caller: Any, stream: Any) -> None:
    await caller(stream.close())


async def left_a_block(caller: Any, stream: Any) -> None:
    async with caller.entered(stream):
        await caller.first(stream)


async def response_closed(caller: Any, stream: Any) -> None:
    await caller.first(stream)
    await caller(stream.response.aclose() if caller.awaits else stream.response.close())


async def raised_in_a_block(caller: Any, stream: Any) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with caller.entered(stream):
            await caller.first(stream)
            raise KeyError("mine")


async def closed_in_another_errors_handler(caller: Any, stream: Any) -> None:
    try:
        raise ValueError("of an earlier attempt")
    except ValueError:
        again = await caller(stream._client.chat.completions.create(**STREAM))
        await caller.first(again)
        await caller(again.close())
    await caller.all(stream)


ENDS: dict[str, tuple[Callable[[Any, Any], Awaitable[None]], str, bool]] = {
    "exhausted": (exhausted, "ok", True),
    "exhausted by next": (exhausted_by_next, "ok", True),
    "taken up again": (taken_up_again, "ok", True),
    "exhausted twice": (exhausted_twice, "ok", True),
    "exhausted in a block": (exhausted_in_a_block, "ok", True),
    "closed": (closed, "aborted", True),
    "closed unread": (closed_unread, "aborted", False),
    "left a block": (left_a_block, "aborted", True),
    "response closed": (response_closed, "aborted", True),
    "raised in a block": (raised_in_a_block, "error", True),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_stream_ends_once(name: str, caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected) -> None:
    """Read to its end, closed, left or failed: one record, with the right status, and nothing stays held."""
    end, status, read = ENDS[name]
    budget = CostTracker(1)
    with budget:
        stream = await started(caller, slow)
        assert budget.held > 0
        await end(caller, stream)
        assert budget.held == 0  # at once, while the stream is still alive
    record = only(collect)
    assert record.status == status
    assert record.error == ("KeyError" if status == "error" else None)
    assert record.streamed
    assert (record.time_to_first_chunk_s is not None) is read
    assert record.request_id == f"req_{1:032x}"
    assert record.attributes["http.response.status_code"] == 200
    if status == "ok":
        assert record.usage is not None
        assert (record.usage.input_tokens, record.usage.output_tokens) == (1000, 100)
        assert (record.cost_usd, record.cost and record.cost.caveats) == (Decimal("0.0035"), ())
        assert record.model == "gpt-4o-2024-08-06"
        assert record.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    else:
        assert record.usage is None
        assert record.cost is not None
        assert "output counted from the stream" in record.cost.caveats
    assert budget.spent == record.cost_usd
    del stream
    gc.collect()
    assert only(collect) is record


async def test_time_to_the_first_chunk_is_that_of_the_first_chunk(caller: Any, as_openai: Any, collect: Collected) -> None:
    """`time_to_first_chunk_s` counts from the call to the first event of the stream, not to its headers or its end."""
    with fake_openai(Answer(WORDS, delay_s=0.03, chunk_delay_s=0.01)) as server:
        await caller.all(await started(caller, server))
    record = only(collect)
    assert record.time_to_first_chunk_s is not None
    assert 0.03 <= record.time_to_first_chunk_s < record.duration_s - 0.03


async def test_a_user_error_elsewhere_is_not_the_streams(caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected) -> None:
    """A stream closed while an error of an earlier attempt is being handled was left, it did not fail."""
    await closed_in_another_errors_handler(caller, await started(caller, slow))
    assert sorted((r.status, r.error) for r in collect.records) == [("aborted", None), ("ok", None)]


# -- left by break -------------------------------------------------------------------------------------------------


async def test_a_stream_left_by_break_ends_after_a_while(
    caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`break` with the name still alive: the call ends by itself about a second later, though nobody asks."""
    monkeypatch.setattr(lost, "LEFT_FOR_S", 0.05)
    budget = CostTracker(1)
    with budget:
        stream = await started(caller, slow)
        await caller.first(stream)
        assert budget.held > 0  # reading a sum must not keep the stream from being ended in time
    assert not ended(budget)
    assert await within(1, lambda: ended(budget))
    assert (only(collect).status, budget.held) == ("aborted", 0)
    assert not stream.response.is_closed  # it is the user's to close
    await caller(stream.close())


async def test_left_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left by `break` may be taken up again for a second."""
    assert lost.LEFT_FOR_S == 1.0


async def test_flush_ends_what_was_left(caller: Any, slow: FakeOpenAI, as_openai: Any) -> None:
    """`flush()` does not wait for that second."""
    stream = await started(caller, slow)
    await caller.first(stream)
    await asyncio.sleep(0)
    assert as_openai.report().calls == 0
    rlm_obs.flush()
    assert as_openai.report().calls == 1
    await caller(stream.close())
    assert as_openai.report().calls == 1


async def test_a_stream_taken_up_late_by_a_slow_model_is_not_cut_off(
    caller: Any, as_openai: Any, collect: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the first chunk, then the rest: a model that thinks for longer than a second has not been left."""
    monkeypatch.setattr(lost, "LEFT_FOR_S", 0.05)
    with fake_openai(Answer("one two", chunk_delay_s=0.1), usage={"prompt_tokens": 1000, "completion_tokens": 100}) as server:
        stream = await started(caller, server)
        await caller.first(stream)
        await caller.all(stream)
    record = only(collect)
    assert record.status == "ok"
    assert record.usage is not None
    assert record.usage.output_tokens == 100


async def test_a_stream_without_a_name_ends(caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected) -> None:
    """`for chunk in create(stream=True): break` leaves no name: the call ends when the stream is collected."""
    await caller.first(await started(caller, slow))
    for _ in range(3):
        await asyncio.sleep(0)
        gc.collect()
    assert only(collect).status == "aborted"


@pytest.mark.parametrize("read", [False, True])
async def test_a_collected_stream_ends(
    read: bool, caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """Garbage-collected, unread or half-read, in a cycle of references: ended once, and nothing stays held."""
    budget = CostTracker(1)
    with budget:
        stream = await started(caller, slow)
        if read:
            await caller(stream.__anext__() if caller.awaits else next(stream))
        cycle: list[Any] = [stream]
        cycle.append(cycle)
        del stream, cycle
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0.005)
        assert await within(1, lambda: ended(budget))
        assert budget.held == 0
    record = only(collect)
    assert (record.status, record.time_to_first_chunk_s is not None) == ("aborted", read)


# -- failed half-way -----------------------------------------------------------------------------------------------


async def test_a_cut_stream_fails_as_without_us(caller: Any, cut: FakeOpenAI, as_openai: Any, collect: Collected) -> None:
    """The server hangs up half-way: the user gets the exception that the bare client gives, the record names it."""

    async def failure() -> BaseException:
        stream = await started(caller, cut)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, it is the same
            await caller.all(stream)
        return caught.value

    seen = await failure()
    record = only(collect)
    assert (record.status, record.usage) == ("error", None)
    assert record.cost is not None
    assert record.cost.caveats
    rlm_obs.uninstrument()
    bare = await failure()
    assert (type(seen), str(seen)) == (type(bare), str(bare))
    assert len(collect.records) == 2  # `collect` holds the gate: it is the bare client only below
    assert record.error is not None


async def test_an_error_event_is_an_error(caller: Any, as_openai: Any, collect: Collected) -> None:
    """An error sent as an event raises the client's own APIError, and the record has it."""
    chunks: list[Any] = [
        {"id": "c", "model": "gpt-4o", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x"}}]},
        {"error": {"message": "The engine broke", "type": "server_error"}},
    ]
    with fake_openai(Answer(chunks=chunks)) as server:
        stream = await started(caller, server)
        with pytest.raises(openai.APIError, match="The engine broke"):
            await caller.all(stream)
    record = only(collect)
    assert (record.status, record.error) == ("error", "APIError")


async def test_a_failed_response_is_an_error(caller: Any, as_openai: Any, collect: Collected) -> None:
    """`response.failed` ends a stream of the responses API without an exception; its record says "error", with its usage."""
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
    await asyncio.sleep(0)
    assert only(collect).status == "aborted"
    await caller(stream.close())


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
    """`isinstance`, `.response`, `is_closed`, the names of the class: as without us, before, during and after reading."""
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
