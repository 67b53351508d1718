"""A call that was answered, and then failed in the client, was paid for: its cost is never taken for nothing."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import openai
import pydantic
import pytest

import rlm_obs
from rlm_obs import CostTracker
from rlm_obs.testing import Answer, Collected, fake_openai

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
#: 1000 tokens in and 100 out on gpt-4o.
PAID = Decimal("0.0035")


class City(pydantic.BaseModel):
    """What the structured answers have to look like."""

    name: str


def completion(reason: str, content: str | None) -> bytes:
    message = {"role": "assistant", "content": content, "refusal": None}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    said = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": choices, "usage": usage}
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("reason", "content", "error"),
    [
        ("length", '{"name": "Os', openai.LengthFinishReasonError),
        ("content_filter", None, openai.ContentFilterFinishReasonError),
        ("stop", '{"name": 7}', pydantic.ValidationError),
        ("stop", "Oslo", pydantic.ValidationError),
    ],
)
async def test_a_structured_answer_that_does_not_fit_is_paid_for(
    reason: str, content: str | None, error: type[Exception], caller: Any, as_openai: Any, collect: Collected
) -> None:
    """`.parse()` raises after the answer has come: the error is the client's own, the usage is read, the budget is charged."""
    with fake_openai(Answer(body=completion(reason, content), content_type="application/json")) as server:
        client = caller.client(server)
        with CostTracker(1) as budget, pytest.raises(error):
            await caller(client.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=City))
    (record,) = collect.records
    assert (record.status, record.error, record.cost_usd) == ("error", error.__name__, PAID)
    assert record.attributes["gen_ai.response.finish_reasons"] == (reason,)
    assert (budget.spent, budget.held) == (PAID, 0)


async def test_a_response_that_does_not_fit_is_paid_for(caller: Any, server: Any, as_openai: Any) -> None:
    """So is `responses.parse()`."""
    client = caller.client(server)
    with CostTracker(1) as budget, pytest.raises(pydantic.ValidationError):
        await caller(client.responses.parse(model="gpt-4o", input="Hello", text_format=City))
    assert budget.spent == PAID


async def test_embeddings_are_decoded_once(caller: Any, server: Any, collect: Collected) -> None:
    """The client's own parsers run as without us, once, and what they return is what the user gets."""
    bare = await caller(caller.client(server).embeddings.create(model="text-embedding-3-small", input="Hello"))
    with rlm_obs.instrument(exporters=[]):
        ours = await caller(caller.client(server).embeddings.create(model="text-embedding-3-small", input="Hello"))
    assert ours == bare
    assert isinstance(ours.data[0].embedding[0], float)


@pytest.mark.parametrize("body", [b"", b"{", b'{"id": "c", "usage": {"prompt'])
async def test_an_answer_that_cannot_be_read_has_no_known_cost(
    body: bytes, caller: Any, as_openai: Any, collect: Collected
) -> None:
    """A body that is no JSON was answered, and may be billed: unknown, never 0; its budget is charged for the input."""
    with fake_openai(Answer(body=body, content_type="application/json")) as server:
        client = caller.client(server)
        with CostTracker(1) as budget, pytest.raises(json.JSONDecodeError):
            await caller(client.chat.completions.create(model="gpt-4o", messages=HELLO))
    (record,) = collect.records
    assert (record.status, record.cost) == ("error", None)
    assert (budget.spent > 0, budget.get_report().unpriced_calls, budget.held) == (True, 1, 0)


async def test_what_never_arrived_costs_nothing(caller: Any, as_openai: Any, collect: Collected) -> None:
    """Where nobody listens nothing is billed: that cost is known, and 0."""
    client = caller.client("http://127.0.0.1:9/v1")
    with CostTracker(1) as budget, pytest.raises(openai.APIConnectionError):
        await caller(client.chat.completions.create(model="gpt-4o", messages=HELLO))
    (record,) = collect.records
    assert (record.status, record.cost_usd, budget.spent) == ("error", 0, 0)
