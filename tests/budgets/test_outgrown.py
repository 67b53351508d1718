"""Streams that write more than was held for them are closed where there is no more room, and left alone where there is."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from openai import AsyncOpenAI

import rlm_obs
from rlm_obs import BudgetExceeded, CostTracker
from rlm_obs.testing import Answer, collect, fake_openai
from tests.budgets.conftest import HELLO, connected

Stream = Callable[..., Any]


def said(text: str) -> dict[str, Any]:
    """Return a chunk of a chat as a host sends it, which does not keep to the limit of the request."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "chatty", "choices": [choice]}


def usage(output: int) -> dict[str, Any]:
    """Return the last chunk, which says what the answer has used."""
    return {
        **said(""),
        "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": output, "total_tokens": 10 + output},
    }


def event(text: str) -> dict[str, Any]:
    """Return the same as an event of a response."""
    of = {"item_id": "m", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
    return {"type": "response.output_text.delta", "delta": text, **of}


#: 400 tokens where 50 were allowed.
WORDS = [f"w{n} " for n in range(400)]
CHUNKS = [said(word) for word in WORDS]


@pytest.fixture(autouse=True)
def priced_here(priced: None) -> None:
    """Prices, and no exporter."""


def start(client: Any, **params: Any) -> Any:
    return client.chat.completions.create(model="chatty", messages=HELLO, max_tokens=50, stream=True, **params)


def test_a_stream_that_outgrows_its_hold_is_closed() -> None:
    """It raises BudgetExceeded that carries the text so far, ends the HTTP response, and is settled at what had arrived."""
    with fake_openai(Answer(chunks=CHUNKS)) as server, connected(server) as client, collect() as seen:
        got = []
        with CostTracker("0.006") as tracker, pytest.raises(BudgetExceeded, match="so it was closed") as raised:
            stream = start(client)
            got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
        refusal = raised.value
        assert refusal.sent
        assert refusal.partial is not None
        assert refusal.partial.startswith("".join(got))
        assert 50 < len(refusal.partial.split()) < 120
        assert stream.response.is_closed
        assert tracker.held == 0
        assert Decimal("0.005") < tracker.spent < Decimal("0.013")
    (record,) = seen.records
    assert (record.status, record.error) == ("aborted", "BudgetExceeded")
    assert not record.cost.exact
    assert pickle.loads(pickle.dumps(refusal)).partial == refusal.partial


async def test_an_awaited_stream_is_closed_too() -> None:
    """The same on the async client."""
    with fake_openai(Answer(chunks=CHUNKS)) as server:
        async with AsyncOpenAI(api_key="x", base_url=server.base_url, max_retries=0) as client:
            with CostTracker("0.006") as tracker:
                stream = await start(client)
                with pytest.raises(BudgetExceeded) as raised:
                    async for _ in stream:
                        pass
                assert stream.response.is_closed
            assert raised.value.partial
            assert tracker.held == 0


def test_where_there_is_room_it_goes_on() -> None:
    """With money left the hold grows with the stream, and the bill is what the answer says."""
    with (
        fake_openai(Answer(chunks=[*CHUNKS, usage(400)])) as server,
        connected(server) as client,
        CostTracker("1") as tracker,
    ):
        assert len(list(start(client))) >= 400
        assert (tracker.held, tracker.spent) == (0, Decimal("0.0401"))


def test_a_stream_within_its_limit_is_never_closed() -> None:
    """As many chunks as tokens, and the ones that frame them, are no reason."""
    with fake_openai(Answer(chunks=[*CHUNKS[:50], usage(50)])) as server, connected(server) as client:
        with CostTracker("0.006") as tracker:
            assert len(list(start(client))) >= 50
        assert tracker.spent == Decimal("0.0051")


def test_events_without_output_do_not_count() -> None:
    """Chunks that bring no text (padding, comments of a host) may be as many as they like."""
    empty = said("")
    chunks: list[Any] = [*CHUNKS[:20], *[empty] * 300, *CHUNKS[:20]]
    with fake_openai(Answer(chunks=chunks)) as server, connected(server) as client, CostTracker("0.006"):
        assert len(list(start(client))) >= 340


def test_a_stream_of_responses_is_closed_too() -> None:
    """Only the events with output count, of which a response has many others beside."""
    answer = Answer(chunks=[event(word) for word in WORDS])
    with (
        fake_openai(answer) as server,
        connected(server) as client,
        CostTracker("0.006"),
        pytest.raises(BudgetExceeded) as raised,
    ):
        list(client.responses.create(model="chatty", input="Hello", max_output_tokens=50, stream=True))
    assert raised.value.partial
    assert raised.value.partial.startswith("w0 w1 ")


def test_without_a_budget_nothing_is_kept() -> None:
    """A stream that no budget limits may write as much as it likes."""
    with fake_openai(Answer(chunks=CHUNKS)) as server, connected(server) as client, CostTracker():
        assert len(list(start(client))) >= 400


def test_raw_lines_are_closed_too() -> None:
    """Whoever reads the response's lines gets the refusal as well."""
    with fake_openai(Answer(chunks=CHUNKS)) as server, connected(server) as client, CostTracker("0.006"):
        lines = []
        with (
            pytest.raises(BudgetExceeded),
            client.chat.completions.with_streaming_response.create(
                model="chatty", messages=HELLO, max_tokens=50, stream=True
            ) as response,
        ):
            lines.extend(response.iter_lines())
        read = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert len(read) < 120
        assert all("choices" in one for one in read)
    assert rlm_obs.stats()["failures"] == {}
