"""What a call costs whose usage nobody saw: nothing, an estimate that says so, or an unknown amount."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs.testing import Answer, Collected, FakeOpenAI, fake_openai

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there"}]}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503])
async def test_an_error_costs_nothing(caller: Any, as_openai: Any, collect: Collected, status: int) -> None:
    """An answer of 4xx or 5xx costs exactly 0, and is known to."""
    with fake_openai(Answer(status=status)) as server, pytest.raises(openai.APIStatusError):
        await caller(caller.client(server).chat.completions.create(**CHAT))
    (record,) = collect.records
    assert (record.status, record.cost_usd) == ("error", 0)
    assert as_openai.report().unpriced_calls == 0


async def test_a_connection_that_fails_costs_nothing(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A connection that broke before any answer costs 0."""
    with pytest.raises(openai.APIConnectionError):
        await caller(caller.client("http://127.0.0.1:1/v1").chat.completions.create(**CHAT))
    assert [record.cost_usd for record in collect.records] == [0]


async def test_a_timeout_is_unknown(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A request that left, and whose answer was not waited for, may be billed: its cost is unknown, and counted so."""
    with fake_openai(Answer("late", delay_s=5)) as server, pytest.raises(openai.APITimeoutError):
        await caller(caller.client(server).chat.completions.create(**CHAT, timeout=0.2))
    (record,) = collect.records
    assert (record.status, record.cost) == ("error", None)
    assert as_openai.report().unpriced_calls == 1


async def test_exact_and_inexact_sums_are_apart(
    caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """A stream that brings no usage is estimated by what came; the report has that part of the total apart."""
    await caller(caller.client(server).chat.completions.create(**CHAT))
    with fake_openai("one two three four five", usage=False) as silent:
        await caller.all(await caller(caller.client(silent).chat.completions.create(**CHAT, stream=True)))
    exact, estimated = collect.records
    assert exact.cost is not None
    assert estimated.cost is not None
    assert (exact.cost.exact, estimated.cost.exact) == (True, False)
    assert set(estimated.cost.caveats) == {"output counted from the stream", "input estimated from its bytes"}
    report = as_openai.report()
    assert report.inexact_cost == estimated.cost.total > 0
    assert report.total_cost - report.inexact_cost == exact.cost.total == Decimal("0.0035")


async def test_a_stream_in_the_background_goes_on(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A stream of a background response that is left early has no cost yet: its end tells, to whoever reads it."""
    part = {"type": "response.output_text.delta", "delta": "a", "item_id": "m", "output_index": 0, "content_index": 0}
    with fake_openai(Answer(chunks=[part, part, part])) as server:
        asked = {"model": "gpt-4o", "input": "Hello", "stream": True, "background": True}
        stream = await caller(caller.client(server).responses.create(**asked))
        await caller.first(stream)
        await caller(stream.close())
    (record,) = collect.records
    assert (record.status, record.cost) == ("aborted", None)


async def test_an_hour_of_ones_own(caller: Any, server: FakeOpenAI, collect: Collected) -> None:
    """On hardware that is stated at a price per hour, a call costs its time, whatever the model."""
    with rlm_obs.instrument(exporters=[], settings={"hosts": {"127.0.0.1": {"per_hour": 7.2}}}, budget_usd=1):
        await caller(caller.client(server).chat.completions.create(**{**CHAT, "model": "llama3"}))
    (record,) = collect.records
    assert record.cost is not None
    assert record.cost.exact
    assert abs(record.cost.total - Decimal(str(record.duration_s)) * Decimal("0.002")) < Decimal("1e-14")


@pytest.mark.parametrize("deployment", [None, "pictures"])
async def test_a_deployment_at_azure(
    caller: Any, server: FakeOpenAI, collect: Collected, deployment: str | None
) -> None:
    """An image of a deployment is priced as the model that is behind its name, and as it is billed."""
    settings = {"azure_deployments": {"pictures": "gpt-image-1@data-zone"}, "hosts": {"127.0.0.1": "azure"}}
    with rlm_obs.instrument(exporters=[], settings=settings):
        options = {"api_version": "2025-04-01-preview", "azure_endpoint": server.base_url.removesuffix("/v1")}
        client = caller.client(server, "AzureOpenAI", base_url=None, azure_deployment=deployment, **options)
        await caller(client.images.generate(model="pictures", prompt="A cat"))
    (record,) = collect.records
    # 5 dollars per million for 1000 tokens in, 40 for the 1056 of the image that the server draws, and 10% more
    assert record.cost_usd == Decimal("0.04724") * Decimal("1.1")
