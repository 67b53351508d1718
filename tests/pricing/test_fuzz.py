"""Answers that nobody has seen yet: whatever they hold, nothing raises and no cost is made up."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import openai
from hypothesis import given, settings
from hypothesis import strategies as st

import rlm_obs
from rlm_obs._call import Answer as Said
from rlm_obs._instrument.openai import OpenAIReader
from rlm_obs._pricing import price_answer, read_answer
from rlm_obs.testing import Answer, fake_openai

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAMES = """
    usage prompt_tokens completion_tokens input_tokens output_tokens total_tokens prompt_tokens_details
    completion_tokens_details input_tokens_details output_tokens_details input_token_details output_token_details
    cached_tokens cache_write_tokens cache_write_tokens_details ttl_12h_tokens audio_tokens image_tokens
    reasoning_tokens rejected_prediction_tokens cached_tokens_details cost cost_in_usd_ticks total_cost seconds
    duration tool_usage web_search num_requests image_gen output type action tools model service_tier data svg_usage
    per_model_usage model_name trained_tokens object status response custom_id body status_code background id
    cache_read_input_tokens cache_creation_input_tokens cache_creation server_tool_use environment choices
""".split()  # noqa: SIM905
WORDS = ["gpt-4o", "gpt-5", "gpt-image-1", "web_search_call", "search", "web_search_preview", "batch", "flex", "", "?"]
WORDS += ["image_generation", "shell_call", "completed", "video", "fine_tuning.job", "response", "moderation"]
numbers = st.one_of(
    st.integers(-(10**20), 10**20), st.integers(0, 10**6), st.floats(), st.floats(0, 1e9), st.sampled_from([0, -1, 1])
)
leaves = st.one_of(st.none(), st.booleans(), numbers, st.sampled_from(WORDS), st.text(max_size=4))


def trees(leaf: Any) -> Any:
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=6),
        ),
        max_leaves=25,
    )


usages = st.dictionaries(st.sampled_from(NAMES), trees(leaves), max_size=8)
answers = st.one_of(
    trees(leaves),
    usages,
    st.builds(
        lambda model, usage, rest: {**rest, "model": model, "usage": usage}, st.sampled_from(WORDS), usages, usages
    ),
)
places = st.sampled_from(
    [
        {},
        {"endpoint": "/v1/responses"},
        {"endpoint": "/v1/images/generations", "request": {"model": "gpt-image-1"}},
        {"endpoint": "/v1/audio/transcriptions", "request": {"model": "whisper-1"}},
        {"endpoint": "/v1/audio/speech", "request": {"model": "tts-1", "input": 7}},
        {"base_url": "https://api.x.ai/v1"},
        {"base_url": "https://eu.api.openai.com/v1", "request": {"background_options": [1], "tools": "x"}},
        {"base_url": "https://openrouter.ai/api/v1"},
        {"base_url": "https://acme.openai.azure.com/openai/v1", "request": {"model": "prod"}},
    ]
)


@settings(max_examples=600, deadline=None)
@given(answers, places)
def test_no_answer_raises_or_costs_what_cannot_be(answer: Any, place: dict[str, Any]) -> None:
    """As JSON or as text, at every endpoint and host: a cost is None, or finite, not negative, and the sum of its parts."""
    for given_answer in (answer, json.dumps(answer), json.dumps(answer).encode()):
        cost = price_answer(given_answer, **place, at=AT)
        if cost is None:
            continue
        assert cost.total.is_finite()
        assert cost.total >= 0
        parts = [cost.input, cost.cached_input, cost.cache_write, cost.output, cost.tools]
        assert None in parts or sum(parts, Decimal(0)) == cost.total  # type: ignore[arg-type]


#: No number here can be a count: not even of ticks, of which a dollar has ten thousand million.
nothing = st.one_of(st.none(), st.booleans(), st.integers(max_value=-1), st.integers(10**23), st.text(max_size=3))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES[1:]), trees(nothing), max_size=8), places)
def test_what_says_no_count_is_unknown(usage: dict[str, Any], place: dict[str, Any]) -> None:
    """An answer without a single count that can be is unknown: it is never 0, and never a figure."""
    usage.pop("output", None)
    answer = {"model": "gpt-4o", "usage": usage, "object": "chat.completion"}
    assert price_answer(answer, **place, at=AT) is None


@settings(max_examples=300, deadline=None)
@given(answers)
def test_the_clients_own_objects(answer: Any) -> None:
    """The same through the objects that the client builds without checking, and through the reader of live answers."""
    if not isinstance(answer, dict):
        return
    built = [
        kind.construct(**{key: value for key, value in answer.items() if key.isidentifier()})
        for kind in (openai.types.chat.ChatCompletion, openai.types.responses.Response, openai.types.ImagesResponse)
    ]
    for thing in (*built, answer):
        read_answer(thing, "openai", "/images/generations")
        reader, into = OpenAIReader(), Said("openai", "/responses/{response_id}")
        reader.answered(thing, into)
        reader.event(thing, into)


def test_a_counter_says_so() -> None:
    """A live answer whose usage cannot be is a call of unknown cost: the report counts it, and its total stays."""
    odd: list[Any] = [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": "7"}, 7, "much", [1]]
    with rlm_obs.instrument(exporters=[], settings={"hosts": {"127.0.0.1": "openai"}}) as on:
        for usage in odd:
            whole = {"id": "c", "object": "chat.completion", "model": "gpt-4o", "choices": [], "usage": usage}
            with (
                fake_openai(Answer(json=whole)) as server,
                openai.OpenAI(base_url=server.base_url, api_key="none") as client,
            ):
                client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
        report = on.report()
    assert (report.calls, report.unpriced_calls, report.total_cost) == (len(odd), len(odd), 0)
