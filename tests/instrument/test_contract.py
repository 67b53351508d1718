"""The instrumentor of openai keeps the contract that any stranger's is held to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import openai
import pytest

from rlm_obs._instrument.openai import register_instrumentors
from rlm_obs.testing import Answer, FakeOpenAI, InstrumentorContract, Seen, fake_openai


def answer(seen: Seen) -> Answer | None:
    return Answer("there is none", status=404) if seen.json["model"] == "gone" else None


class TestOpenAI(InstrumentorContract):
    """Chats, with both clients, plain and streamed."""

    module = "openai"

    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with fake_openai(answer) as self.server:
            monkeypatch.setenv("OPENAI_API_KEY", "none")
            monkeypatch.setenv("OPENAI_BASE_URL", self.server.base_url)
            with openai.OpenAI(max_retries=0) as self.client:
                yield

    server: FakeOpenAI
    client: openai.OpenAI

    def make_instrumentor(self) -> Any:
        return register_instrumentors()["openai"]()

    def asked(self, model: str = "gpt-4o-mini") -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": self.prompt}]}

    def call(self) -> object:
        return self.client.chat.completions.create(**self.asked())

    def fail(self) -> object:
        return self.client.chat.completions.create(**self.asked("gone"))

    def stream(self) -> Iterable[Any]:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        stream: Iterable[Any] = self.client.chat.completions.create(**self.asked(), **options)
        return stream

    async def async_call(self) -> object:
        async with openai.AsyncOpenAI(max_retries=0) as client:
            return await client.chat.completions.create(**self.asked())

    def sent(self) -> int:
        return self.server.calls
