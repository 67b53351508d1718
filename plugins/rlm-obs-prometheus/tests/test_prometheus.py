"""Uses the plugin in real runs through its entry point, and shows that its labels are bounded."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from decimal import Decimal

import openai
import pytest
import rlm_obs_prometheus
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from rlm_obs_prometheus import MOST_MODELS, MOST_SERIES, CallMetrics

import rlm_obs
from rlm_obs.testing import FakeOpenAI

MESSAGES = [{"role": "user", "content": "a secret"}]
RECORD = rlm_obs.Record(
    id="1",
    provider="openai",
    endpoint="/chat/completions",
    operation="chat",
    model="a",
    requested_model="a",
    status="ok",
    started_at=datetime.now(UTC),
    duration_s=1.0,
    usage=rlm_obs.Usage(input_tokens=10, output_tokens=2),
    cost=rlm_obs.Cost(total=Decimal("0.25"), source="test"),
)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"rlm_obs_{name}", labels) or 0.0


def test_real_calls(fake_openai: FakeOpenAI) -> None:
    """Calls through the installed plugin are counted on the default registry, with tokens, cost and durations."""
    client = openai.OpenAI(api_key="none", base_url=fake_openai.base_url)
    labels = {"operation": "chat", "provider": "openai", "model": "gpt-4o-mini-2024-07-18"}
    with rlm_obs.instrument(exporters=[], settings={"hosts": {"127.0.0.1": "openai"}}) as on:
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
        list(client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True))
        cost = on.report().total_cost
    tokens = sum(billed.usage["prompt_tokens"] for billed in fake_openai.billed)
    assert value("calls_total", **labels, status="ok") == 2
    assert value("cost_usd_total", **labels) == pytest.approx(float(cost))
    assert value("tokens_total", **labels, type="input") == tokens
    assert value("call_duration_seconds_count", **labels) == 2
    assert value("time_to_first_chunk_seconds_count", **labels) == 1
    assert "secret" not in generate_latest().decode()


def test_models_that_users_make_up(fake_openai: FakeOpenAI) -> None:
    """A model that no price list knows is `other`, and is counted as unpriced."""
    client = openai.OpenAI(api_key="none", base_url=fake_openai.base_url)
    with rlm_obs.instrument(exporters=[], settings={"hosts": {"127.0.0.1": "openai"}}):
        for number in range(20):
            client.chat.completions.create(model=f"made-up-{number}", messages=MESSAGES, user="ann")
    text = generate_latest().decode()
    assert value("unpriced_calls_total", operation="chat", provider="openai", model="other") == 20
    assert "made-up" not in text
    assert "ann" not in text


def test_refused_and_failed() -> None:
    """A refused call is counted and nothing more; a failed one has a duration."""
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    metrics.call_finished(dataclasses.replace(RECORD, status="refused"))
    metrics.call_finished(dataclasses.replace(RECORD, status="error", usage=None, cost=None))
    labels = {"operation": "chat", "provider": "openai", "model": "a"}
    assert registry.get_sample_value("rlm_obs_calls_total", {**labels, "status": "refused"}) == 1
    assert registry.get_sample_value("rlm_obs_calls_total", {**labels, "status": "error"}) == 1
    assert registry.get_sample_value("rlm_obs_call_duration_seconds_count", labels) == 1


def test_labels_are_bounded() -> None:
    """Not even priced models and hosts without end make series without end."""
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    for number in range(3 * MOST_SERIES):
        one = dataclasses.replace(RECORD, model=f"m{number % 500}", provider=f"p{number}")
        metrics.call_finished(one)
    (family,) = [family for family in registry.collect() if family.name == "rlm_obs_cost_usd"]
    labels = {tuple(sample.labels.values()) for sample in family.samples if sample.name.endswith("_total")}
    assert len(labels) <= MOST_SERIES + 1
    assert len({one[2] for one in labels}) <= MOST_MODELS + 1


def test_what_became_of_the_spans(fake_openai: FakeOpenAI, tmp_path: object) -> None:
    """What an exporter has sent is collected from `rlm_obs.stats()`."""
    client = openai.OpenAI(api_key="none", base_url=fake_openai.base_url)
    with rlm_obs.instrument(exporters=[rlm_obs.FileExporter(f"{tmp_path}/calls.jsonl")]):
        client.embeddings.create(model="text-embedding-3-small", input="a")
        rlm_obs.flush()
        assert value("spans_total", exporter="FileExporter", outcome="sent") >= 1
    assert rlm_obs_prometheus.plugin is not None
