"""Metrics follow the conventions, on the program's own provider, and their labels hold no text that users send."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.metrics import _internal as global_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import rlm_obs
from rlm_obs import _metrics
from rlm_obs._metrics import MOST_MODELS, MOST_SERIES, Labels
from rlm_obs._record import Cost, Record, Usage
from rlm_obs.testing import Answer, FakeOpenAI, SpanList, fake_openai
from tests.exporters.receiver import Receiver, hang, receiving, reply, reset

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class Read:
    """What a reader of the program's provider has found: the points of each metric, by its name."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def metrics(self, delivery: bool = False) -> dict[str, Any]:
        """Return those of calls, or those of delivery, which know of every exporter that this process has had."""
        data = self.reader.get_metrics_data()
        scopes = [] if data is None else [scope for one in data.resource_metrics for scope in one.scope_metrics]
        found = {metric.name: metric for scope in scopes for metric in scope.metrics}
        return {n: m for n, m in found.items() if n.startswith(("otel.sdk.", "rlm_obs.delivery.")) is delivery}

    def points(self, delivery: bool = False) -> dict[str, list[Any]]:
        return {name: list(metric.data.data_points) for name, metric in self.metrics(delivery).items()}


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
    """It comes in by an entry point and hooks, as a stranger's would."""
    from rlm_obs._plugins import loaded

    (found,) = [plugin for plugin in loaded().found if plugin.name == "metrics"]
    assert (found.hooks, found.failed) == (("call_finished", "configured", "register_instrumentors"), None)


# Delivery


class Refusing(SpanExporter):
    """Takes nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE


def test_delivery_is_metrics_too(read: Read, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `stats()` says of spans is there under the names of OpenTelemetry's SDK, also when the tracer is shut down."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    before = {key: value for name in DELIVERY for key, value in labelled(read, name).items()}
    assert before == {}
    with (
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
        rlm_obs.instrument(exporters=[SpanList(), Refusing()]) as running,
    ):
        client.chat.completions.create(**CHAT)
        with rlm_obs.Tracer("quiet", exporters=[], sample_rate=0).span("x"):
            pass
        rlm_obs.flush()
        assert labelled(read, "otel.sdk.processor.span.queue.capacity")["rlm_obs/Refusing", None] == 4
        assert labelled(read, "otel.sdk.processor.span.queue.size")["rlm_obs/Refusing", None] == 0
        assert labelled(read, "otel.sdk.exporter.span.inflight")["rlm_obs/Refusing", None] == 0
        client.chat.completions.create(**CHAT)
    assert running.tracer is not None
    with running.tracer.span("too late"):
        pass
    exported, processed = (
        labelled(read, f"otel.sdk.{name}") for name in ("exporter.span.exported", "processor.span.processed")
    )
    assert exported["rlm_obs/SpanList", None] >= 2
    assert exported["rlm_obs/Refusing", "failed"] == 2
    assert processed["rlm_obs/Refusing", None] == 2
    assert processed["rlm_obs/Refusing", "already_shutdown"] == 1


DELIVERY = ("otel.sdk.exporter.span.exported", "otel.sdk.processor.span.processed")


def labelled(read: Read, name: str) -> dict[tuple[Any, Any], Any]:
    points = read.points(delivery=True).get(name, [])
    return {(p.attributes["otel.component.name"], p.attributes.get("error.type")): p.value for p in points}


# By OTLP


def sums(body: bytes) -> dict[str, float]:
    """Return, for each metric of a request, the sum or the count of its points."""
    found: dict[str, float] = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    value = point.count if kind == "histogram" else point.as_double or point.as_int
                    found[metric.name] = found.get(metric.name, 0) + value
    return found


def about(body: bytes) -> dict[str, str]:
    """Return the resource of a request."""
    (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    return {a.key: a.value.string_value for a in resource.resource.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as running:
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-key=sk-1234")
        yield running


def test_metrics_by_otlp(collector: Receiver, server: FakeOpenAI) -> None:
    """`metrics="otlp"`: a program without a provider sends them by OTLP, at a flush and at the end; nobody sees ours."""
    wanted = {"metrics": "otlp", "service_name": "shop", "hosts": {"127.0.0.1": "openai"}}
    with (
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
        rlm_obs.instrument(exporters=[], settings=wanted),
    ):
        client.chat.completions.create(**CHAT)
        assert rlm_obs.flush() is True
        assert rlm_obs.stats()["metrics"] == {"sent": 1, "failed": 0}
        assert global_metrics._METER_PROVIDER is None
        client.chat.completions.create(**CHAT)
    first, *_, last = collector.requests
    assert (first.path, first.headers["x-key"]) == ("/v1/metrics", "sk-1234")
    assert sums(first.body)["rlm_obs.cost"] == pytest.approx(0.0035)
    assert sums(last.body)["rlm_obs.cost"] == pytest.approx(0.007)
    assert sums(last.body)["gen_ai.client.operation.duration"] == 2
    said = about(last.body)
    assert said["service.name"] == "shop" and said["service.instance.id"]
    assert "metrics" not in rlm_obs.stats()


def test_the_programs_own_provider_wins(read: Read, collector: Receiver, server: FakeOpenAI) -> None:
    """A program that has a MeterProvider gets its metrics there, and not twice."""
    with (
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
        rlm_obs.instrument(exporters=[], settings={"metrics": "otlp"}),
    ):
        client.chat.completions.create(**CHAT)
        rlm_obs.flush()
    assert collector.requests == []
    assert "gen_ai.client.operation.duration" in read.points()


@pytest.mark.parametrize("answer", [reply(503), reply(401), hang, reset], ids=["503", "401", "hang", "reset"])
def test_a_receiver_of_metrics_that_fails(
    answer: Any, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The program sees no exception, flush says False within its bound, the end is bounded and says it in one line."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-key=sk-1234")
    with receiving(answer) as failing:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{failing.url}/v1/metrics")
        with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
            running = rlm_obs.instrument(exporters=[], settings={"metrics": "otlp", "exit_timeout_s": 1.5})
            client.chat.completions.create(**CHAT)
            assert rlm_obs.flush(1.5) is False
            began = time.monotonic()
            running.uninstrument()
            assert time.monotonic() - began < 10
    assert [r.getMessage() for r in caplog.records if "not delivered" in r.getMessage()] == [
        "not delivered: the last metrics"
    ]
    assert "sk-1234" not in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_counts_from_nothing(collector: Receiver, tmp_path: Path) -> None:
    """Parent and child send as two instances, each its own calls; together they are what was spent."""
    script = """
    import os, sys, openai, rlm_obs
    from rlm_obs.testing import fake_openai
    server = fake_openai(usage={"prompt_tokens": 1000, "completion_tokens": 100})
    rlm_obs.instrument(exporters=[], settings={"metrics": "otlp", "hosts": {"127.0.0.1": "openai"}})
    client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    def call(): client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
    call()
    pid = os.fork()
    if pid == 0:
        client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        call(); call()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=30)
    by_instance = {about(r.body)["service.instance.id"]: sums(r.body)["rlm_obs.cost"] for r in collector.requests}
    assert sorted(by_instance.values()) == [pytest.approx(0.0035), pytest.approx(0.007)]


def test_metrics_by_grpc(monkeypatch: pytest.MonkeyPatch, server: FakeOpenAI) -> None:
    """`OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=grpc` sends them by gRPC."""
    with grpc_metrics() as (address, got):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://{address}")
        with (
            openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
            rlm_obs.instrument(exporters=[], settings={"metrics": "otlp"}),
        ):
            client.chat.completions.create(**CHAT)
            assert rlm_obs.flush() is True
    assert "gen_ai.client.operation.duration" in sums(got[0])


@contextmanager
def grpc_metrics() -> Iterator[tuple[str, list[bytes]]]:
    """Run a receiver of metrics by gRPC; yields its address and what it gets."""
    import grpc
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as messages
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
        MetricsServiceServicer,
        add_MetricsServiceServicer_to_server,
    )

    got: list[bytes] = []

    class Servicer(MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
            got.append(request.SerializeToString())
            return messages.ExportMetricsServiceResponse()

    running = grpc.server(ThreadPoolExecutor(2))
    add_MetricsServiceServicer_to_server(Servicer(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield f"127.0.0.1:{port}", got
    running.stop(None).wait()


def test_all_is_delivered_where_no_thread_starts_at_the_end(collector: Receiver, server: FakeOpenAI) -> None:
    """As with Python 3.12.0: a stream that was left is settled, its alert is told, its metrics are sent; calls go on."""
    script = """
    import atexit, sys, threading, openai, rlm_obs
    async def tell(alert): print("alert")
    rlm_obs.instrument(exporters=[], settings={"metrics": "otlp", "hosts": {"127.0.0.1": "openai"}})
    client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
    tracker = rlm_obs.CostTracker(1, alert_threshold=0.0001, on_alert=tell)
    def streamed():
        with tracker:
            return client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], stream=True)
    def start(self): raise RuntimeError("can't create new thread at interpreter shutdown")
    @atexit.register
    def ends():
        threading.Thread.start = start
        assert len(list(streamed())) == 5
        left = streamed()
        next(left)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), server.base_url]
    done = subprocess.run(command, check=True, timeout=30, text=True, capture_output=True)
    assert (done.stdout, done.stderr) == ("alert\n", "budget 'default' has reached 0%: $0.0035 of $1.00\n")
    (sent,) = collector.requests
    assert sums(sent.body)["gen_ai.client.operation.duration"] == 2
    assert sums(sent.body)["rlm_obs.cost"] > 0.0035
