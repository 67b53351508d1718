"""An estimate says what a budget would hold for a call, what nobody can know, and what such calls have cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from pydantic import BaseModel

import rlm_obs
from rlm_obs import ConfigError, CostTracker, Request, estimate
from rlm_obs._budgets.seen import seen
from rlm_obs.testing import FakeOpenAI

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is rain?"}]}
EXACT = {**CHAT, "service_tier": "default"}


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    seen.clear()
    yield
    seen.clear()


def test_an_estimate_is_the_most_that_a_call_can_cost() -> None:
    """Input by its bytes, output by the limit, each with its price; nothing of it is unknown."""
    found = estimate({**EXACT, "max_completion_tokens": 100})
    assert found.input_tokens is not None and 13 <= found.input_tokens <= 80
    assert found.output_tokens == 100
    assert found.input_usd == found.input_tokens * Decimal("0.15") / 1_000_000
    assert found.output_usd == Decimal("0.00006")
    assert found.most_usd == found.input_usd + found.output_usd
    assert found.source is not None and found.source.startswith("genai-prices ")
    assert found.unknown == () and found.holds
    assert (found.median_usd, found.p95_usd, found.seen) == (None, None, 0)


def test_a_budget_holds_what_was_estimated(fake_openai: FakeOpenAI) -> None:
    """A call goes out under a budget of its estimate, and not under one of less."""
    client = openai.OpenAI(base_url=fake_openai.base_url, api_key="k", max_retries=0)
    body = {**CHAT, "max_completion_tokens": 50}
    most = estimate(body, base_url=fake_openai.base_url).most_usd
    assert most is not None
    with CostTracker(most):
        client.chat.completions.create(**body)
    with CostTracker(most - Decimal("1e-12"), clamp=False), pytest.raises(rlm_obs.BudgetExceeded):
        client.chat.completions.create(**body)


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (CHAT, 16_384),
        ({"model": "gpt-4o-mini", "input": "hi"}, 16_384),
        ({"model": "gpt-4o-mini", "input": [{"role": "user", "content": "hi"}], "max_output_tokens": 9}, 9),
        ({"model": "text-embedding-3-small", "input": ["a", "b"]}, 0),
        ({"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}, 16),
        ({"model": "gpt-4o-mini", "previous_response_id": "resp_1"}, 16_384),
    ],
)
def test_the_endpoint_is_told_by_the_arguments(body: dict[str, Any], output: int) -> None:
    """Messages are a chat, an input is a response or, for an embedding model, an embedding; a prompt is a completion."""
    found = estimate(body)
    assert found.output_tokens == output and found.most_usd


@pytest.mark.parametrize("endpoint", ["/chat/completions", "chat/completions", "/v1/chat/completions/"])
def test_an_endpoint_may_be_named(endpoint: str) -> None:
    """With or without the version, as one finds it in the documentation."""
    assert estimate(CHAT, endpoint).most_usd == estimate(CHAT).most_usd


@pytest.mark.parametrize(
    ("body", "endpoint", "message"),
    [
        ({"model": "gpt-4o"}, None, 'endpoint="/chat/completions"'),
        ({"model": "gpt-4o-mini-tts", "input": "x", "voice": "alloy"}, None, "/audio/speech"),
        (CHAT, "/chat/completion", "/chat/completions"),
        ("hello", None, "as a mapping"),
    ],
)
def test_what_cannot_be_told_is_said(body: Any, endpoint: str | None, message: str) -> None:
    """The error says what to write instead."""
    with pytest.raises(ConfigError, match=message):
        estimate(body, endpoint)


def test_arguments_as_the_client_takes_them() -> None:
    """What is left out is left out, `extra_body` is merged, a model class counts as its schema, no iterable is used up."""

    class Answer(BaseModel):
        rain: str

    plain = estimate(CHAT).input_tokens
    assert plain is not None
    assert estimate({**CHAT, "user": openai.NOT_GIVEN, "tools": openai.omit, "timeout": 5}).input_tokens == plain
    assert estimate({**CHAT, "extra_body": {"max_tokens": 7}}).output_tokens == 7
    with_schema = estimate({**CHAT, "response_format": Answer}).input_tokens
    assert with_schema is not None and with_schema >= plain + len(json.dumps(Answer.model_json_schema()))
    once = iter([{"role": "user", "content": "hi"}])
    assert estimate({**CHAT, "messages": once}).unknown
    assert list(once)


def test_what_is_not_known_is_said() -> None:
    """A hosted tool can pass the bound; a stored conversation cannot, where the model's window is known."""
    found = estimate({"model": "gpt-4o-mini", "input": "hi", "tools": [{"type": "web_search"}]})
    assert "web search" in found.unknown[0] and not found.holds and found.most_usd
    found = estimate({"model": "gpt-4o-mini", "input": "hi", "previous_response_id": "resp_1"})
    assert found.unknown and found.holds and found.input_tokens == 128_000


@pytest.mark.parametrize(
    ("body", "endpoint", "word"),
    [
        ({"model": "gpt-image-1", "prompt": "a cat"}, None, "images"),
        ({"model": "gpt-4o-mini-tts", "input": "hi", "voice": "alloy"}, "/audio/speech", "speech"),
        ({"model": "whisper-1"}, "/audio/transcriptions", "sound"),
    ],
)
def test_an_endpoint_without_a_bound_says_why(body: dict[str, Any], endpoint: str | None, word: str) -> None:
    """No amount, and the reason."""
    found = estimate(body, endpoint)
    assert found.most_usd is None and found.input_tokens is None and word in found.unknown[0] and not found.holds


def test_speech_by_the_character() -> None:
    """tts-1 bills what it reads: $15 a million characters."""
    found = estimate({"model": "tts-1", "input": "x" * 1_000, "voice": "alloy"}, "/audio/speech")
    assert found.most_usd == Decimal("0.015") and found.holds


def test_a_price_that_nobody_knows_is_none() -> None:
    """Tokens are bounded all the same; an amount is not made up."""
    found = estimate({**CHAT, "model": "no-such-model"})
    assert found.most_usd is None and found.input_usd is None and found.source is None
    assert found.input_tokens and found.output_tokens == 128_000


def test_a_request_object_has_no_prompt() -> None:
    """Its input is bounded by the model's window; where that is unknown, no amount is given."""
    asked = Request(provider="openai", endpoint="/chat/completions", operation="chat", model="gpt-4o-mini")
    found = estimate(asked)
    assert found.input_tokens == 128_000 and found.holds and found.most_usd and "prompt" in found.unknown[0]
    own = Request(provider="openai", endpoint="/chat/completions", operation="chat", model="no-such-model")
    assert estimate(own).input_tokens is None and estimate(own).most_usd is None


def test_what_such_calls_cost_is_in_it() -> None:
    """Median and 95th percentile of the calls with this model and operation that have ended here."""
    for cents in range(1, 21):
        seen.add("gpt-4o-mini", "chat", Decimal(cents) / 100)
    seen.add("gpt-4o", "chat", Decimal(9))
    found = estimate(CHAT)
    assert (found.median_usd, found.p95_usd, found.seen) == (Decimal("0.1"), Decimal("0.19"), 20)


def test_a_call_that_has_ended_counts_once(fake_openai: FakeOpenAI) -> None:
    """What a call has cost is in the next estimate; a call that failed is not one of its kind."""
    client = openai.OpenAI(base_url=fake_openai.base_url, api_key="k", max_retries=0)
    with CostTracker("1") as tracker:
        client.chat.completions.create(**CHAT)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**CHAT, max_completion_tokens=0)
    found = estimate(CHAT, base_url=fake_openai.base_url)
    assert (found.median_usd, found.seen) == (tracker.spent, 1)


def test_an_estimate_is_json() -> None:
    """`to_dict` is ready for a log, amounts as text."""
    written = json.loads(json.dumps(estimate(CHAT).to_dict()))
    assert written["most_usd"].startswith("0.0") and written["unknown"] == [] and written["holds"] is True
    assert written["median_usd"] is None


def test_an_estimate_counts_and_holds_nothing() -> None:
    """Asking is free: no budget is touched by it."""
    with CostTracker("0.0000001") as tracker:
        assert estimate(CHAT).most_usd
        assert tracker.held == tracker.spent == 0
