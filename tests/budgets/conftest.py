"""A server whose calls cost round amounts, a client of it, and prices by which a reader can check each sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import OpenAI

import rlm_obs
from rlm_obs._budgets.keeper import _keepers
from rlm_obs.testing import FakeOpenAI, fake_openai

#: US dollars per million tokens.
PRICES = {
    "chatty": {"input": 10, "output": 100},
    "cheap": {"input": 1, "output": 10},
    "local": {"input": 0, "output": 0},
}
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
#: What one call of `chat` costs on "chatty": 10 tokens in, 9 out.
EACH = Decimal("0.001")


@contextmanager
def connected(server: FakeOpenAI, **options: Any) -> Iterator[OpenAI]:
    """Connect a client without retries."""
    plain = openai.DefaultHttpxClient(verify=False)
    with OpenAI(api_key="test", base_url=server.base_url, http_client=plain, **{"max_retries": 0, **options}) as client:
        yield client


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with fake_openai(usage={"prompt_tokens": 10, "completion_tokens": 9}) as running:
        yield running


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[OpenAI]:
    with connected(server) as made:
        yield made


@pytest.fixture(autouse=True)
def no_keeper_lives_on() -> Iterator[None]:
    """What a test has shared is given back, or given up, before the next one: no thread of its stores goes on talking."""
    yield
    for keeper in list(_keepers):
        keeper.close(2.0)
    _keepers.clear()


@pytest.fixture
def priced() -> Iterator[None]:
    """The prices above, and no exporter."""
    with rlm_obs.instrument(exporters=[], settings={"prices": PRICES}):
        yield


@pytest.fixture
def chat(client: OpenAI, priced: None) -> Callable[..., Any]:
    """Make one call that costs EACH."""

    def call(model: str = "chatty", **params: Any) -> Any:
        return client.chat.completions.create(
            **{"model": model, "messages": HELLO, "max_tokens": 9, **params}  # type: ignore[arg-type]
        )

    return call
