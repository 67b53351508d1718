"""A caller in both colours: a test is written once, and runs with the blocking client and with the awaited one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs import _runtime
from rlm_obs.testing import FakeOpenAI, fake_openai

#: 1000 tokens in and 100 out: on gpt-4o (2.50 and 10 dollars per million) 0.0025 + 0.001 dollars.
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}


class Caller:
    """Calls through `openai.OpenAI` or `openai.AsyncOpenAI`; `await caller(x)` gives x, or what awaiting x gives."""

    def __init__(self, *, awaits: bool) -> None:
        self.awaits = awaits
        self.stream_type = openai.AsyncStream if awaits else openai.Stream
        self._open: list[Any] = []

    def client(self, server: FakeOpenAI | str, kind: str = "OpenAI", **options: Any) -> Any:
        """Return a client of the server; it is closed after the test."""
        url = server if isinstance(server, str) else server.base_url
        if self.awaits:
            http: Any = openai.DefaultAsyncHttpxClient(verify=False)  # no certificates to load: ten times quicker
        else:
            http = openai.DefaultHttpxClient(verify=False)
        made = getattr(openai, f"Async{kind}" if self.awaits else kind)
        given = {"api_key": "test", "base_url": url, "http_client": http, "max_retries": 0, **options}
        client = made(**given)
        self._open.append(client)
        return client

    async def __call__(self, value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    async def all(self, stream: Any) -> list[Any]:
        """Read a stream, or any iterable of the client's, to its end."""
        if hasattr(stream, "__aiter__"):
            return [item async for item in stream]
        return list(stream)

    async def first(self, stream: Any) -> Any:
        """Take one item by a loop that is left at once."""
        if hasattr(stream, "__aiter__"):
            async for item in stream:  # noqa: B007
                break
            await self.ticks()
            return item
        return next(iter(stream))

    async def ticks(self) -> None:
        """Let the event loop close the generators that were left."""
        for _ in range(5):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def entered(self, manager: Any) -> AsyncIterator[Any]:
        """Enter a context manager of either colour."""
        if hasattr(manager, "__aenter__"):
            async with manager as value:
                yield value
        else:
            with manager as value:
                yield value

    async def close(self) -> None:
        for client in self._open:
            await self(client.close())


@pytest.fixture(params=["sync", "async"])
async def caller(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    """The blocking client, then the awaited one."""
    made = Caller(awaits=request.param == "async")
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def fresh_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test with settings that nobody has read yet."""
    monkeypatch.setattr(_runtime, "_runtime", None)


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    """A server whose answers use 1000 tokens in and 100 out."""
    with fake_openai('{"city": "Oslo", "celsius": 4}', usage=USAGE) as running:
        yield running


@pytest.fixture
def as_openai() -> Iterator[rlm_obs.Instrumentation]:
    """Everything instrumented, the test server declared to bill like OpenAI: prices are exact, streams are asked."""
    with rlm_obs.instrument(exporters=[], settings={"hosts": {"127.0.0.1": "openai"}}) as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may leave OpenTelemetry's complaint about a context that was attached elsewhere."""
    yield
    said = [record.getMessage() for when in ("setup", "call") for record in caplog.get_records(when)]  # type: ignore[arg-type]
    assert not [line for line in said if "detach context" in line]
