"""Every client is covered, whoever made it and when; what costs nothing passes it untouched."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs import Record
from rlm_obs.testing import Collected, FakeOpenAI

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there"}]}


def check(record: Record) -> None:
    assert (record.endpoint, record.status, record.provider) == ("/chat/completions", "ok", "openai")
    assert (record.requested_model, record.model) == ("gpt-4o", "gpt-4o-2024-08-06")
    assert record.cost_usd == Decimal("0.0035")


async def test_the_module_level_client_is_covered(
    server: FakeOpenAI, as_openai: Any, collect: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`openai.chat.completions.create(...)` is a call like any other."""
    monkeypatch.setattr(openai, "api_key", "test")
    monkeypatch.setattr(openai, "base_url", server.base_url + "/")
    monkeypatch.setattr(openai, "_client", None)
    with openai.DefaultHttpxClient(verify=False) as http:
        monkeypatch.setattr(openai, "http_client", http)
        openai.chat.completions.create(**CHAT)
    (record,) = collect.records
    check(record)


async def test_azure_is_covered(caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected) -> None:
    """`AzureOpenAI` puts the deployment into the path; the record has the plain endpoint, and Azure as its provider."""
    endpoint = server.base_url.removesuffix("/v1")
    client = caller.client(
        server, "AzureOpenAI", base_url=None, azure_endpoint=endpoint, api_version="2024-10-21", azure_deployment=None
    )
    await caller(client.chat.completions.create(**CHAT))
    (record,) = collect.records
    assert (record.provider, record.endpoint, record.operation) == ("azure.ai.openai", "/chat/completions", "chat")
    assert (record.status, record.model) == ("ok", "gpt-4o-2024-08-06")
    assert record.cost_usd == Decimal("0.0035")
    assert server.requests[0].path == "/openai/deployments/gpt-4o/chat/completions"


async def test_a_client_made_before_is_covered(caller: Any, server: FakeOpenAI, collect: Collected) -> None:
    """A client, and even a bound `create`, from before `instrument()` passes the gate."""
    rlm_obs.uninstrument()
    client = caller.client(server)
    create = client.chat.completions.create
    with rlm_obs.instrument(exporters=[], settings={"hosts": {"127.0.0.1": "openai"}}):
        await caller(create(**CHAT))
        await caller(client.chat.completions.create(**CHAT))
    for record in collect.records:
        check(record)
    assert len(collect.records) == 2


@pytest.mark.parametrize("how", ["with_options", "copy"])
async def test_a_clients_copy_is_covered(
    how: str, caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """`client.with_options(...)` and `client.copy()` make clients whose calls are seen, once each."""
    client = getattr(caller.client(server), how)(timeout=5.0)
    await caller(client.chat.completions.create(**CHAT))
    (record,) = collect.records
    check(record)


async def test_post_may_ask_for_the_response_itself(
    caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """`client.post(..., cast_to=httpx.Response)` gives that response, and its JSON is read for the record."""
    client = caller.client(server)
    raw = await caller(client.chat.completions.with_raw_response.create(**CHAT))
    response = await caller(client.post("/chat/completions", cast_to=type(raw.http_response), body=CHAT))
    assert type(response) is type(raw.http_response)
    assert response.json()["object"] == "chat.completion"
    for record in collect.records:
        check(record)


@pytest.mark.parametrize("path", ["/chat/completions?x=1", "/chat/completions/", "{base}/chat/completions"])
async def test_a_path_is_known_however_it_is_written(
    path: str, caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """A query, a slash at the end or an absolute URL do not hide a paid endpoint."""
    client = caller.client(server)
    await caller(client.post(path.format(base=server.base_url), cast_to=object, body=CHAT))
    (record,) = collect.records
    assert record.endpoint == "/chat/completions"


async def test_a_response_read_by_nobody_is_a_call(
    caller: Any, server: FakeOpenAI, as_openai: Any, collect: Collected
) -> None:
    """`with_streaming_response` left without a read is a call that was left: aborted, once, and priced by nobody."""
    client = caller.client(server)
    async with caller.entered(client.chat.completions.with_streaming_response.create(**CHAT)):
        pass
    (record,) = collect.records
    assert (record.status, record.usage, record.cost) == ("aborted", None, None)


FREE = {
    "models": lambda c: c.models.list(),
    "model": lambda c: c.models.retrieve("gpt-4o"),
    "files": lambda c: c.files.list(),
    "moderation": lambda c: c.moderations.create(model="omni-moderation-latest", input="Hello"),
    "stored response": lambda c: c.responses.retrieve("resp_0"),
}


@pytest.mark.parametrize("name", FREE)
async def test_what_costs_nothing_passes_straight_through(
    name: str, caller: Any, server: FakeOpenAI, collect: Collected
) -> None:
    """An endpoint that costs nothing leaves no record and no span, and gives what it gives without us."""
    client = caller.client(server)

    async def called() -> Any:
        try:
            found = FREE[name](client)
            return await found if caller.awaits else found
        except openai.NotFoundError as error:
            return error

    bare = await called()
    with rlm_obs.instrument(exporters=[]):
        seen = await called()
    assert type(seen) is type(bare)
    assert not collect.records
    assert not collect.spans


async def test_without_anything_in_force_nothing_is_recorded(caller: Any, server: FakeOpenAI) -> None:
    """Outside of every block of ours, and after `uninstrument()`, a call leaves nothing behind."""
    with rlm_obs.instrument(exporters=[]) as made:
        pass
    await caller(caller.client(server).chat.completions.create(**CHAT))
    assert made.report().calls == 0
