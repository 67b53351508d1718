"""Answers over a WebSocket are calls like any other, and the user's connection stays what it is."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai.resources.realtime import realtime as module
from websockets.sync.server import Server, ServerConnection, serve

import rlm_obs
from rlm_obs import _lost
from rlm_obs.testing import Collected

#: The client calls its own transport in a way that the transport's newest version has a word about.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
USED = {
    "total_tokens": 900,
    "input_tokens": 600,
    "output_tokens": 300,
    "input_token_details": {"text_tokens": 200, "audio_tokens": 400, "cached_tokens": 0},
    "output_token_details": {"text_tokens": 100, "audio_tokens": 200},
}
#: 200 at 4, 400 at 32, 100 at 16, 200 at 64 dollars per million.
COST = Decimal("0.028")
SESSION = {
    "type": "session.created",
    "event_id": "e0",
    "session": {
        "type": "realtime",
        "model": "gpt-realtime",
        "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}},
    },
}
CREATED = {"type": "response.created", "event_id": "e1", "response": {"id": "resp_1", "status": "in_progress"}}
DELTA = {"type": "response.output_text.delta", "event_id": "e2", "response_id": "resp_1", "delta": "hi"}
DONE = {"type": "response.done", "event_id": "e3", "response": {"id": "resp_1", "status": "completed", "usage": USED}}
HEARD = {
    "type": "conversation.item.input_audio_transcription.completed",
    "event_id": "e4",
    "item_id": "i",
    "content_index": 0,
    "transcript": "hello",
    "usage": {
        "type": "tokens",
        "total_tokens": 22,
        "input_tokens": 13,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 13},
        "output_tokens": 9,
    },
}


@pytest.fixture
def said() -> list[Any]:
    """The events that the server sends; a test may change them."""
    return [SESSION, CREATED, DELTA, DONE, HEARD]


@pytest.fixture
def line(said: list[Any]) -> Iterator[Server]:
    """A server that sends its events and closes."""

    def send(connection: ServerConnection) -> None:
        for event in said:
            connection.send(json.dumps(event).encode())

    with serve(send, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def at(caller: Any, line: Server) -> Any:
    port = line.socket.getsockname()[1]
    return caller.client(f"http://127.0.0.1:{port}/v1", websocket_base_url=f"ws://127.0.0.1:{port}/v1")


async def test_each_response_is_a_record(caller: Any, line: Server, as_openai: Any, collect: Collected) -> None:
    """A response costs its text and its audio; what was heard costs what the model that hears it does."""
    manager = at(caller, line).realtime.connect(model="gpt-realtime")
    assert type(manager) is (
        module.AsyncRealtimeConnectionManager if caller.awaits else module.RealtimeConnectionManager
    )
    async with caller.entered(manager) as connection:
        assert type(connection) is (module.AsyncRealtimeConnection if caller.awaits else module.RealtimeConnection)
        got = [event.type for event in await caller.all(connection)]
    assert got == [SESSION["type"], CREATED["type"], DELTA["type"], DONE["type"], HEARD["type"]]
    spoken, heard = collect.records
    assert (spoken.cost_usd, spoken.model, spoken.endpoint) == (COST, "gpt-realtime", "/realtime")
    assert (heard.cost_usd, heard.model) == (Decimal("0.000168"), "gpt-4o-transcribe")
    assert spoken.cost is not None
    assert spoken.cost.exact
    assert len(collect.spans) == 2
    assert as_openai.report().total_cost == COST + Decimal("0.000168")


async def test_entered_by_hand_and_raw(caller: Any, line: Server, as_openai: Any, collect: Collected) -> None:
    """`enter()` and `recv_bytes()` pass the same way."""
    connection = await caller(at(caller, line).realtime.connect(model="gpt-realtime").enter())
    for _ in range(4):
        await caller(connection.recv_bytes())
    await caller(connection.close())
    (record,) = collect.records
    assert record.cost_usd == COST


def test_a_transport_that_gives_text(said: list[Any], as_openai: Any, collect: Collected) -> None:
    """A connection of somebody's own making may give its events as text: they are read all the same."""

    class Talks:
        def recv(self, **_: Any) -> str:
            return json.dumps(said.pop(0))

    connection = module.RealtimeConnection(Talks())  # type: ignore[arg-type]
    for _ in range(4):
        connection.recv_bytes()
    (record,) = collect.records
    assert record.cost_usd == COST


async def test_a_response_that_never_ends(
    caller: Any, line: Server, said: list[Any], as_openai: Any, collect: Collected
) -> None:
    """A connection that is gone leaves its open answers early, and their cost unknown."""
    del said[2:]
    async with caller.entered(at(caller, line).realtime.connect(model="gpt-realtime")) as connection:
        await caller.all(connection)
    assert collect.records == []
    del connection
    for _ in range(100):  # the loop lets go of what it has awaited a moment later, by Python's version
        gc.collect()
        _lost.lost.end_gone()
        if collect.records:
            break
        await asyncio.sleep(0.02)
    (record,) = collect.records
    assert (record.status, record.cost) == ("aborted", None)


async def test_switched_off(caller: Any, line: Server, collect: Collected) -> None:
    """`uninstrument()` leaves the classes as they were, and a connection unwatched."""
    before = vars(module.RealtimeConnection)["recv_bytes"], vars(module.RealtimeConnectionManager)["__enter__"]
    with rlm_obs.instrument(exporters=[]):
        assert vars(module.RealtimeConnection)["recv_bytes"] is not before[0] or hasattr(before[0], "__wrapped__")
    gate = __import__("rlm_obs._instrument.openai", fromlist=["_instrumentor"])._instrumentor
    gate.uninstrument()
    plain = vars(module.RealtimeConnection)["recv_bytes"], vars(module.RealtimeConnectionManager)["__enter__"]
    assert not any(hasattr(one, "__wrapped__") for one in plain)
    async with caller.entered(at(caller, line).realtime.connect(model="gpt-realtime")) as connection:
        await caller.all(connection)
    assert collect.records == []
    gate.instrument()


def test_the_client_has_what_is_patched() -> None:
    """The names that are patched are there in the installed client."""
    for name in ("RealtimeConnection", "AsyncRealtimeConnection"):
        assert "recv_bytes" in vars(getattr(module, name))
    assert openai.__version__
