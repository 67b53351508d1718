"""However a stream ends, its call ends exactly once; the user keeps the client's own stream, in every detail."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

import rlm_obs
from rlm_obs import CostTracker, Record, _lost
from rlm_obs._call import Call
from rlm_obs._instrument import kept
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai

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


async def test_time_to_the_first_chunk_is_that_of_the_first_chunk(
    caller: Any, as_openai: Any, collect: Collected
) -> None:
    """`time_to_first_chunk_s` counts from the call to the first event of the stream, not to its headers or its end."""
    with fake_openai(Answer(WORDS, delay_s=0.03, chunk_delay_s=0.01)) as server:
        await caller.all(await started(caller, server))
    record = only(collect)
    assert record.time_to_first_chunk_s is not None
    assert 0.03 <= record.time_to_first_chunk_s < record.duration_s - 0.03


async def test_a_user_error_elsewhere_is_not_the_streams(
    caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """A stream closed while an error of an earlier attempt is being handled was left, it did not fail."""
    await closed_in_another_errors_handler(caller, await started(caller, slow))
    assert sorted((r.status, r.error) for r in collect.records) == [("aborted", None), ("ok", None)]


# -- left by break -------------------------------------------------------------------------------------------------


async def test_a_stream_left_by_break_ends_after_a_while(
    caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`break` with the name still alive: the call ends by itself about a second later, though nobody asks."""
    monkeypatch.setattr(_lost, "LEFT_FOR_S", 0.05)
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


def test_left_for_a_second() -> None:
    """What is left by `break` may be taken up again for a second."""
    assert _lost.LEFT_FOR_S == 1.0


async def test_flush_ends_what_was_left(caller: Any, slow: FakeOpenAI, as_openai: Any) -> None:
    """`flush()` does not wait for that second."""
    stream = await started(caller, slow)
    await caller.first(stream)
    assert as_openai.report().calls == 0
    rlm_obs.flush()
    assert as_openai.report().calls == 1
    await caller(stream.close())
    assert as_openai.report().calls == 1


async def test_a_stream_taken_up_late_by_a_slow_model_is_not_cut_off(
    caller: Any, as_openai: Any, collect: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the first chunk, then the rest: a model that thinks for longer than a second has not been left."""
    monkeypatch.setattr(_lost, "LEFT_FOR_S", 0.05)
    with fake_openai(
        Answer("one", chunk_delay_s=0.06), usage={"prompt_tokens": 1000, "completion_tokens": 100}
    ) as server:
        stream = await started(caller, server)
        await caller.first(stream)
        await caller.all(stream)
    record = only(collect)
    assert record.status == "ok"
    assert record.usage is not None
    assert record.usage.output_tokens == 100


async def test_a_stream_taken_up_by_next_is_not_cut_off(
    caller: Any, as_openai: Any, collect: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest may be taken by `next` as well: who waits for a chunk has not left."""
    monkeypatch.setattr(_lost, "LEFT_FOR_S", 0.03)
    with fake_openai(Answer("one", chunk_delay_s=0.06)) as server:
        stream = await started(caller, server)
        await caller.first(stream)
        await exhausted_by_next(caller, stream)
    assert only(collect).status == "ok"


async def test_a_stream_without_a_name_ends(caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected) -> None:
    """`for chunk in create(stream=True): break` leaves no name: the call ends when the stream is collected."""
    await caller.first(await started(caller, slow))
    gc.collect()
    await caller.ticks()
    assert only(collect).status == "aborted"


async def test_a_finaliser_ends_nothing_by_itself(
    caller: Any, slow: FakeOpenAI, as_openai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finaliser may run inside any lock, our own too: the call of a collected stream is ended by another thread."""
    ended_by: list[int] = []
    conclude = Call._price_and_settle

    def noted(call: Call, *args: Any) -> None:
        ended_by.append(threading.get_ident())
        conclude(call, *args)

    monkeypatch.setattr(Call, "_price_and_settle", noted)
    stream = await started(caller, slow)
    await caller(stream.__anext__() if caller.awaits else next(stream))
    del stream
    gc.collect()
    assert await within(1, lambda: bool(ended_by))
    assert ended_by != [threading.get_ident()]


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
        gc.collect()
        assert await within(1, lambda: ended(budget))
        assert budget.held == 0
    record = only(collect)
    assert (record.status, record.time_to_first_chunk_s is not None) == ("aborted", read)


@pytest.mark.parametrize("endpoint", ["chat", "responses", "completions"])
@pytest.mark.parametrize("inside_except", [False, True])
async def test_a_stream_read_to_its_end_is_never_taken_for_dropped(
    endpoint: str,
    inside_except: bool,
    caller: Any,
    server: FakeOpenAI,
    as_openai: Any,
    collect: Collected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The SDK closes the response and drops its generators behind the last event, also while an exception is handled."""
    dropped: list[Any] = []
    monkeypatch.setattr(_lost.lost, "gone", dropped.append)
    client = caller.client(server)
    create, given = {
        "chat": (client.chat.completions.create, STREAM),
        "responses": (client.responses.create, {"model": "gpt-4o", "input": "Hello", "stream": True}),
        "completions": (client.completions.create, {"model": "gpt-4o", "prompt": "Hello", "stream": True}),
    }[endpoint]
    stream = await caller(create(**given))
    try:
        if inside_except:
            raise LookupError
    except LookupError:
        await caller.all(stream)
    await caller.all(stream)
    del stream
    gc.collect()
    record = only(collect)
    assert (record.status, record.usage and record.usage.output_tokens) == ("ok", 100)
    assert not dropped


async def test_a_generator_that_closes_its_stream_leaves_it(
    caller: Any, slow: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """`stream.close()` in the `finally` of the user's own generator is told from the end of the stream."""
    stream = await started(caller, slow)

    async def wrapped() -> Any:
        try:
            while True:
                yield await caller(stream.__anext__() if caller.awaits else next(stream))
        finally:
            await caller(stream.close())

    mine = wrapped()
    await anext(mine)
    await mine.aclose()
    rlm_obs.flush()
    assert only(collect).status == "aborted"


async def test_what_is_odd_in_a_parsed_stream_is_the_users_alone(
    caller: Any, as_openai: Any, collect: Collected
) -> None:
    """Choices that are null, no list or several, an unknown type, usage in the middle and again: all of it passes."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    text = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    chunks: list[Any] = [
        {**head, "choices": None},
        {**head, "choices": 7},
        {**head, "choices": [text, {**text, "index": 1, "finish_reason": "stop"}]},
        {"type": 9, "delta": []},
        {**head, "choices": [], "usage": {**usage, "prompt_tokens": 1}},
        {**head, "choices": [{**text, "finish_reason": "length"}], "usage": usage},
    ]
    with fake_openai(Answer(chunks=chunks)) as server:
        got = await caller.all(await caller(caller.client(server).chat.completions.create(**STREAM, n=2)))
    assert len(got) == 5 + ("stream_options" in STREAM)  # of two events with usage one carries nothing else
    record = only(collect)
    assert record.usage is not None
    assert (record.status, record.usage.input_tokens, record.usage.output_tokens) == ("ok", 7, 3)
    assert record.attributes["gen_ai.response.finish_reasons"] == ("stop", "length")


@pytest.mark.parametrize("raw", [False, True])
async def test_a_stream_that_outgrows_its_hold_is_closed(
    raw: bool, caller: Any, as_openai: Any, collect: Collected
) -> None:
    """A server that ignores the output limit is stopped where the budget ends, whoever reads: the SDK's stream or bytes."""
    words = [{"index": 0, "delta": {"content": f"w{n} "}, "finish_reason": None} for n in range(400)]
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    with (
        fake_openai(Answer(chunks=[{**head, "choices": [word]} for word in words])) as server,
        CostTracker("0.001") as budget,
    ):
        completions = caller.client(server).chat.completions
        given = {**STREAM, "max_completion_tokens": 20}
        if raw:
            with pytest.raises(rlm_obs.BudgetExceeded) as caught:
                async with caller.entered(completions.with_streaming_response.create(**given)) as response:
                    await caller(response.read())
        else:
            stream = await caller(completions.create(**given))
            with pytest.raises(rlm_obs.BudgetExceeded) as caught:
                await caller.all(stream)
            assert stream.response.is_closed  # while the exception, and with it every frame, is still held
    assert caught.value.partial.startswith("w0 w1 w2 ")  # type: ignore[attr-defined]
    assert only(collect).status == "aborted"
    assert 0 < budget.spent < Decimal("0.002")  # what had come with the last piece is paid for; all of it costs 0.004
    assert budget.held == 0


async def test_a_stream_of_any_length_is_heard_to_its_last_chunk(
    caller: Any, as_openai: Any, collect: Collected
) -> None:
    """Chunks are heard a few at a time: whatever their number, none is missed or heard twice, and the user gets each one."""
    asked = "stream_options" in STREAM
    for words in range(1, 28):
        with fake_openai(" ".join(["w"] * words), usage={"prompt_tokens": 10, "completion_tokens": words}) as server:
            got = await caller.all(await caller(caller.client(server).chat.completions.create(**STREAM)))
        record = collect.records[-1]
        chunks = record.attributes["rlm_obs.response.chunks"]
        assert (record.status, record.usage.output_tokens) == ("ok", words)  # type: ignore[union-attr]
        assert chunks == len(got) + (1 if asked else 2)  # `[DONE]`, and the usage that only we asked for
        assert "".join([c.choices[0].delta.content or "" for c in got if c.choices]) == " ".join(["w"] * words)
        assert record.attributes["gen_ai.response.finish_reasons"] == ("stop",)


@pytest.mark.parametrize("read", [1, 2, 8, 17])
async def test_what_had_come_when_a_stream_was_closed_is_counted(
    read: int, caller: Any, as_openai: Any, collect: Collected
) -> None:
    """A stream that is closed after so many chunks is charged for what had come by then."""
    with fake_openai(" ".join(["w"] * 40), chunk_delay_s=0.02) as server:
        stream = await started(caller, server)
        for _ in range(read):
            await caller(stream.__anext__() if caller.awaits else next(stream))
        await caller(stream.close())
        record = only(collect)
    assert record.status == "aborted"
    assert read <= record.attributes["rlm_obs.response.chunks"] <= read + 2
    assert record.model == "gpt-4o-2024-08-06" and record.cost is not None and not record.cost.exact


CALLED: list[Any] = [{"index": 0, "id": "call_1", "function": {"name": "look", "arguments": ""}, "type": "function"}]


@pytest.mark.parametrize(("length", "most"), [(3, None), (300, None), (2_000, None), (500, 3_000)])
@pytest.mark.parametrize(
    "kind", ["text", "tools asked for", "tools not asked for", "several", "usage early", "no usage", "tier early"]
)
async def test_what_a_stream_says_is_found_wherever_it_says_it(
    kind: str,
    length: int,
    most: int | None,
    caller: Any,
    as_openai: Any,
    collect: Collected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long a stream is, and in whichever event it says why it ends, what it calls and uses: the record has it."""
    if most is not None:
        monkeypatch.setattr(kept, "MOST", most)
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}

    def chunk(finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
        return {**head, "choices": [{"index": index, "delta": delta, "finish_reason": finish}], "usage": None}

    chunks = [chunk(content=f"w{n} ") for n in range(length)]
    used = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    told = {**head, "choices": [], "usage": used}
    reasons: tuple[str, ...] = ("stop",)
    asked = dict(STREAM)
    if kind.startswith("tools"):
        chunks.insert(1, chunk(tool_calls=CALLED))
    if kind == "tools asked for":
        asked["tools"] = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    if kind == "tools not asked for":
        reasons = ("tool_calls",)
    if kind == "several":
        asked["n"], reasons = 2, ("length", "stop")
        chunks.insert(1, chunk("length", index=1))
    if kind == "tier early":
        chunks[0]["service_tier"] = "flex"
    end = [chunk(reasons[-1])]
    if kind == "usage early":
        chunks.insert(1, told)
    elif kind != "no usage":
        end.append(told)
    with fake_openai(Answer(chunks=[*chunks, *end])) as server:
        got = await caller.all(await caller(caller.client(server).chat.completions.create(**asked)))
    hidden = "stream_options" not in STREAM and kind != "no usage"
    assert len(got) == len(chunks) + len(end) - hidden
    record = only(collect)
    assert record.status == "ok"
    assert record.attributes["gen_ai.response.finish_reasons"] == reasons
    assert record.attributes.get("rlm_obs.response.tool_calls") == (1 if kind.startswith("tools") else None)
    assert record.attributes["rlm_obs.response.chunks"] == len(got) + hidden + 1  # `[DONE]`
    said = record.usage and (record.usage.input_tokens, record.usage.output_tokens)
    assert record.service_tier == ("flex" if kind == "tier early" else None)
    assert said == (None if kind == "no usage" else (1000, 100))


async def test_a_reason_is_read_however_it_is_written(caller: Any, as_openai: Any, collect: Collected) -> None:
    """JSON may spell a letter by its number: then the reason is what the letters say."""
    head = b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o",'
    choices = b'"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"st\\u006fp"}]'
    usage = b'"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}'
    body = b"".join(b"data: " + head + rest + b"}\n\n" for rest in (choices, usage)) + b"data: [DONE]\n\n"
    with fake_openai(Answer(body=body, content_type="text/event-stream")) as server:
        await caller.all(await started(caller, server))
    assert only(collect).attributes["gen_ai.response.finish_reasons"] == ("stop",)


async def test_several_prompts_end_each_for_its_own_reason(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A legacy completion of two prompts has two choices that nobody asked for by `n`: why each ended is recorded."""
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct"}
    ends = [(0, "a", None), (1, "b", None), (0, "", "length"), (1, "", "stop")]
    chunks: list[Any] = [{**head, "choices": [{"index": n, "text": t, "finish_reason": f}]} for n, t, f in ends]
    usage = {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    asked = {**{name: value for name, value in STREAM.items() if name != "messages"}, "prompt": ["x", "y"]}
    with fake_openai(Answer(chunks=[*chunks, {**head, "choices": [], "usage": usage}])) as server:
        await caller.all(await caller(caller.client(server).completions.create(**asked)))
    assert only(collect).attributes["gen_ai.response.finish_reasons"] == ("length", "stop")


async def test_a_stream_left_and_taken_up_by_next_slowly_is_not_cut_off(
    caller: Any, as_openai: Any, collect: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the first chunk in a loop, then `next` and a long thought over chunks that had come with it: nobody has left."""
    monkeypatch.setattr(_lost, "LEFT_FOR_S", 0.1)
    with fake_openai(WORDS, usage={"prompt_tokens": 1000, "completion_tokens": 100}) as server:
        stream = await started(caller, server)
        await asyncio.sleep(0.1)  # all of it has come
        await caller.first(stream)
        await caller(stream.__anext__() if caller.awaits else next(stream))
        await asyncio.sleep(0.4)
        await exhausted_by_next(caller, stream)
    record = only(collect)
    assert (record.status, record.usage and record.usage.output_tokens) == ("ok", 100)
