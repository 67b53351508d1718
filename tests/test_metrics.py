"""Metrics follow the conventions, on the program's own provider, and their labels hold no text that users send."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import openai
import pytest
from opentelemetry.metrics import _internal as global_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import rlm_obs
from rlm_obs import _metrics
from rlm_obs._metrics import MOST_MODELS, MOST_SERIES, Labels
from rlm_obs._record import Cost, Record, Usage
from rlm_obs.testing import Answer, FakeOpenAI, fake_openai

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class Read:
    """What a reader of the program's provider has found: the points of each metric, by its name."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        scopes = [] if data is None else [scope for one in data.resource_metrics for scope in one.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self) -> dict[str, list[Any]]:
        return {name: list(metric.data.data_points) for name, metric in self.metrics().items()}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Read]:
    """A program that has set a MeterProvider."""
    made = Read()
    monkeypatch.setattr(global_metrics, "_METER_PROVIDER", made.provider)
    yield made
    made.provider.shutdown()


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    """A server whose answers use 1000 tokens in and 100 out: 0.0035 dollars on gpt-4o."""
    with fake_openai("a b c", usage={"prompt_tokens": 1000, "completion_tokens": 100}) as running:
        yield running


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[openai.OpenAI]:
    with (
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as made,
        rlm_obs.instrument(exporters=[], settings={"hosts": {"127.0.0.1": "openai"}}),
    ):
        yield made


def test_a_call_and_a_stream(read: Read, client: openai.OpenAI, server: FakeOpenAI) -> None:
    """Tokens, durations and cost are recorded under the conventions' names, units and buckets; chunks of streams alone."""
    client.chat.completions.create(**CHAT)
    list(client.chat.completions.create(**CHAT, stream=True))
    host, port = server.base_url.split("/")[2].split(":")
    labels = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "server.address": host,
        "server.port": int(port),
    }
    points = read.points()
    tokens = {point.attributes["gen_ai.token.type"]: point for point in points.pop("gen_ai.client.token.usage")}
    assert {kind: (one.sum, one.count) for kind, one in tokens.items()} == {"input": (2000, 2), "output": (200, 2)}
    assert all(one.attributes == {**labels, "gen_ai.token.type": kind} for kind, one in tokens.items())
    assert tokens["input"].explicit_bounds == TOKEN_BUCKETS
    (cost,) = points.pop("rlm_obs.cost")
    assert cost.value == pytest.approx(0.007)
    assert cost.attributes == labels
    assert {name: [(p.count, p.attributes, p.explicit_bounds) for p in found] for name, found in points.items()} == {
        "gen_ai.client.operation.duration": [(2, labels, pytest.approx(BUCKETS))],
        "gen_ai.client.operation.time_to_first_chunk": [(1, labels, pytest.approx(BUCKETS))],
        "gen_ai.client.operation.time_per_output_chunk": [(1, labels, pytest.approx(BUCKETS))],
    }
    units = {name.rpartition(".")[2]: metric.unit for name, metric in read.metrics().items()}
    assert units == {
        "usage": "{token}",
        "duration": "s",
        "time_to_first_chunk": "s",
        "time_per_output_chunk": "s",
        "cost": "USD",
    }


def test_errors_and_refusals(read: Read, client: openai.OpenAI) -> None:
    """A failed call has its duration, with the class of the error; a refused one was never sent, and has nothing."""
    with fake_openai(Answer(status=400)) as failing, pytest.raises(openai.BadRequestError):
        client.with_options(base_url=failing.base_url).chat.completions.create(**CHAT)
    with rlm_obs.CostTracker(0), pytest.raises(rlm_obs.BudgetExceeded):
        client.chat.completions.create(**CHAT)
    points = read.points()
    assert points.keys() == {"gen_ai.client.operation.duration"}
    ((one,),) = points.values()
    assert one.attributes["error.type"] == "BadRequestError"
    assert one.attributes["gen_ai.request.model"] == "other"  # nothing has told yet that there is such a model


def test_models_that_users_make_up(read: Read, client: openai.OpenAI) -> None:
    """Whatever users write as a model's name, what no price list knows is one label: other."""
    for number in range(50):
        client.chat.completions.create(**{**CHAT, "model": f"made-up-{number}"}, user=f"user-{number}")
    for found in read.points().values():
        assert {point.attributes["gen_ai.request.model"] for point in found} == {"other"}
        assert len(found) <= 2
        assert "made-up" not in repr(found)
        assert "user-" not in repr(found)


def test_nothing_without_a_provider(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has set no MeterProvider gets none from us, and no instrument is made."""
    monkeypatch.setattr(_metrics, "_instruments", None)
    monkeypatch.setattr(global_metrics, "_METER_PROVIDER", None)
    client.chat.completions.create(**CHAT)
    assert global_metrics._METER_PROVIDER is None
    assert _metrics._instruments is None


RECORD = Record(
    id="1",
    provider="openai",
    endpoint="/chat/completions",
    operation="chat",
    model="a",
    requested_model="a",
    status="ok",
    started_at=datetime.now(UTC),
    duration_s=1.0,
    usage=Usage(input_tokens=1),
    cost=Cost(total=Decimal(1), source="test"),
)


def test_labels_are_bounded() -> None:
    """Not even priced models and hosts without end make labels without end."""
    labels, seen = Labels(), set()
    for number in range(5 * MOST_SERIES):
        one = dataclasses.replace(
            RECORD, model=f"m{number}", requested_model=f"r{number}", attributes={"server.address": f"h{number}"}
        )
        seen.add(tuple(sorted(labels.of(one).items())))
    assert len(seen) <= MOST_SERIES + 1
    assert len({dict(one).get("gen_ai.request.model") for one in seen}) <= MOST_MODELS + 1
    assert labels.of(RECORD)["gen_ai.provider.name"] == "other"


def test_it_is_a_plugin() -> None:
    """It comes in by an entry point and the hook `call_finished`, as a stranger's would."""
    from rlm_obs._plugins import loaded

    (found,) = [plugin for plugin in loaded().found if plugin.name == "metrics"]
    assert (found.hooks, found.failed) == (("call_finished",), None)
