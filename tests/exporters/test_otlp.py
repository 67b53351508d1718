"""OTLP: what arrives at a real receiver, over HTTP and gRPC, and how the receivers that have a name get it spelled."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import openai
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import rlm_obs
from rlm_obs._exporters import otlp
from rlm_obs._exporters._presets import PRESETS
from rlm_obs._settings import read_settings
from rlm_obs.testing import Answer, ExporterContract, fake_openai
from tests.exporters.receiver import Receiver, receiving, rejecting, reply, spans_of

SECRET = "the-key-1234"
PRICES = {"chatty": {"input": 10, "cached_input": 1, "output": 100}}
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 40},
    "completion_tokens_details": {"reasoning_tokens": 8},
}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
#: Preset -> the variables that its users have set.
VARIABLES = {
    "phoenix": {"PHOENIX_COLLECTOR_ENDPOINT": "", "PHOENIX_API_KEY": SECRET, "PHOENIX_PROJECT_NAME": "shop"},
    "mlflow": {"MLFLOW_TRACKING_URI": "", "MLFLOW_EXPERIMENT_ID": "7", "MLFLOW_TRACKING_TOKEN": SECRET},
    "langsmith": {"LANGSMITH_ENDPOINT": "", "LANGSMITH_API_KEY": SECRET, "LANGSMITH_PROJECT": "shop"},
    "logfire": {"LOGFIRE_BASE_URL": "", "LOGFIRE_TOKEN": SECRET},
    "braintrust": {"BRAINTRUST_API_URL": "", "BRAINTRUST_API_KEY": SECRET, "BRAINTRUST_PARENT": "project_name:shop"},
    "opik": {"OPIK_URL_OVERRIDE": "", "OPIK_API_KEY": SECRET, "OPIK_WORKSPACE": "w", "OPIK_PROJECT_NAME": "shop"},
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    for variables in VARIABLES.values():
        for name in variables:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def set_up(name: str, server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in VARIABLES[name].items():
        monkeypatch.setenv(variable, value or server.url)


def run(name: str) -> Any:
    """Make one trace of a span and a call in it, for somebody; return the call's record."""
    with fake_openai(lambda _: Answer(usage=USAGE)) as model, rlm_obs.testing.collect() as seen:
        client = openai.OpenAI(api_key="k", base_url=model.base_url)
        who = rlm_obs.context(user_id="u", session_id="s", tags=["a", "b"], metadata={"build": 7})
        settings = {"prices": PRICES, "capture_content": True}
        with client, rlm_obs.instrument(exporters=[name], settings=settings) as running, who:
            assert running.tracer is not None
            with running.tracer.span("answer"):
                client.chat.completions.create(model="chatty", messages=HELLO, temperature=0.5)
            assert rlm_obs.flush()
    return seen.records[0] if seen.records else None


def test_spans_as_they_are(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """`exporters=["otlp"]` sends OpenTelemetry's own names to the address and with the headers of OTEL_EXPORTER_OTLP_…."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET},x-other=%C3%BC".replace("%C3%BC", "1"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.2")
    run("otlp")
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/traces")
    assert request.headers["content-type"] == "application/x-protobuf"
    assert (request.headers["content-encoding"], request.headers["x-key"]) == ("gzip", SECRET)
    call, above = server.named()["chat chatty"], server.named()["answer"]
    assert (call.trace_id, call.parent_id) == (above.trace_id, above.span_id)
    assert above.start <= call.start <= call.end <= above.end
    assert call.resource["service.version"] == "1.2"
    assert call.said["gen_ai.usage.input_tokens"] == 100
    assert call.said["gen_ai.usage.cost"] == pytest.approx(60 * 10e-6 + 40 * 1e-6 + 20 * 100e-6, abs=1e-15)
    assert not [key for key in call.said if key.startswith(("llm.", "mlflow.", "langsmith.", "openinference."))]


def test_its_own_address_wins(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is the whole address."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{server.url}/mine")
    run("otlp")
    assert [request.path for request in server.requests] == ["/mine"]


@pytest.mark.parametrize(
    ("name", "path", "headers"),
    [
        ("phoenix", "/v1/traces", {"authorization": f"Bearer {SECRET}", "x-project-name": "shop"}),
        ("mlflow", "/v1/traces", {"authorization": f"Bearer {SECRET}", "x-mlflow-experiment-id": "7"}),
        ("langsmith", "/otel/v1/traces", {"x-api-key": SECRET, "langsmith-project": "shop"}),
        ("logfire", "/v1/traces", {"authorization": SECRET}),
        ("braintrust", "/otel/v1/traces", {"authorization": f"Bearer {SECRET}", "x-bt-parent": "project_name:shop"}),
        (
            "opik",
            "/v1/private/otel/v1/traces",
            {"authorization": SECRET, "comet-workspace": "w", "projectname": "shop"},
        ),
    ],
)
def test_a_receiver_by_its_name(
    name: str, path: str, headers: dict[str, str], server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables that its users have set are enough; another receiver's key does not go there."""
    set_up(name, server, monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-other-vendor=hush")
    run(name)
    (request,) = server.requests
    assert request.path == path
    assert headers.items() <= request.headers.items()
    assert "x-other-vendor" not in request.headers
    assert {span.name for span in server.spans} == {"answer", "chat chatty"}


def test_every_preset_is_tried() -> None:
    """One that is added is added here too, and every one has a default address and a name of its own."""
    assert set(VARIABLES) == set(PRESETS)
    assert set(otlp.register_exporters()) == {"otlp", *PRESETS}
    assert all(preset.default.startswith("http") for preset in PRESETS.values())


def test_as_phoenix_reads_it(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenInference's names stand beside OpenTelemetry's: kind, model, tokens in parts, cost, content, tags, metadata."""
    set_up("phoenix", server, monkeypatch)
    run("phoenix")
    call, above = server.named()["chat chatty"].said, server.named()["answer"].said
    assert (call["openinference.span.kind"], above["openinference.span.kind"]) == ("LLM", "CHAIN")
    assert {
        "llm.model_name": "chatty",
        "llm.token_count.prompt": 100,
        "llm.token_count.completion": 20,
        "llm.token_count.total": 120,
        "llm.token_count.prompt_details.cache_read": 40,
        "llm.token_count.completion_details.reasoning": 8,
        "session.id": "s",
        "user.id": "u",
        "tag.tags": ("a", "b"),
        "input.mime_type": "application/json",
    }.items() <= call.items()
    assert call["llm.cost.total"] == call["gen_ai.usage.cost"]
    assert call["llm.cost.prompt"] + call["llm.cost.completion"] == pytest.approx(call["llm.cost.total"], abs=1e-15)
    assert json.loads(call["metadata"]) == {"build": 7}
    assert json.loads(call["llm.invocation_parameters"]) == {"temperature": 0.5}
    assert "hello" in call["input.value"]


def test_phoenix_s_own_headers(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """PHOENIX_CLIENT_HEADERS is read as Phoenix's own client reads it."""
    set_up("phoenix", server, monkeypatch)
    monkeypatch.setenv("PHOENIX_CLIENT_HEADERS", "api_key=a%20b, x-more=1")
    run("phoenix")
    assert (server.requests[0].headers["api_key"], server.requests[0].headers["x-more"]) == ("a b", "1")


def test_mlflow_by_password(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user and a password are basic auth; without an experiment it is the default one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url + "/")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p")
    run("mlflow")
    headers = server.requests[0].headers
    assert headers["authorization"] == "Basic " + base64.b64encode(b"u:p").decode()
    assert headers["x-mlflow-experiment-id"] == "0"


def test_as_the_others_read_it(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow and Logfire get our cost where they look for it, LangSmith its kinds, tags and metadata."""
    for name in ("mlflow", "logfire", "langsmith"):
        set_up(name, server, monkeypatch)
        run(name)
    mlflow, logfire, langsmith = [span.said for span in server.spans if span.name == "chat chatty"]
    cost = mlflow["gen_ai.usage.cost"]
    assert json.loads(mlflow["mlflow.llm.cost"])["total_cost"] == cost
    assert logfire["operation.cost"] == cost
    assert {
        "langsmith.span.kind": "llm",
        "langsmith.span.tags": "a, b",
        "langsmith.metadata.build": 7,
        "langsmith.metadata.user_id": "u",
        "langsmith.metadata.session_id": "s",
    }.items() <= langsmith.items()
    assert float(langsmith["langsmith.metadata.cost_usd"]) == cost


@pytest.mark.parametrize("name", ["langsmith", "logfire", "braintrust"])
def test_a_missing_key_is_told_at_the_start(name: str) -> None:
    """A receiver that takes nothing without a key says so before the first call."""
    with pytest.raises(rlm_obs.ConfigError, match=PRESETS[name].key):
        rlm_obs.instrument(exporters=[name])


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PHOENIX_COLLECTOR_ENDPOINT": "localhost:6006"}, "PHOENIX_COLLECTOR_ENDPOINT"),
        ({"PHOENIX_API_KEY": "hush\n"}, "authorization"),
        ({"PHOENIX_API_KEY": "schlüssel"}, "authorization"),
    ],
)
def test_what_cannot_be_is_told_at_the_start(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address without a scheme, and a key that no header can have; the key is not shown."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(rlm_obs.ConfigError, match=said) as caught:
        rlm_obs.instrument(exporters=["phoenix"])
    assert "hush" not in str(caught.value) and "schl" not in str(caught.value)


def test_a_protocol_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """http/json and misspellings are told."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(rlm_obs.ConfigError, match="http/protobuf or grpc"):
        rlm_obs.instrument(exporters=["otlp"])


class Service(TraceServiceServicer):  # type: ignore[misc]
    """OTLP's service, over gRPC."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.metadata: dict[str, str] = {}

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> Any:  # noqa: N802
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        self.bodies.append(request.SerializeToString())
        self.metadata = dict(context.invocation_metadata())
        return ExportTraceServiceResponse()


def test_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_EXPORTER_OTLP_PROTOCOL=grpc sends the same spans to a gRPC service, with the headers as metadata."""
    service, server = Service(), grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET}")
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        assert "takes traces" in otlp.OtlpExporter("otlp").check()
        run("otlp")
    finally:
        server.stop(None).wait()
    assert {span.name for body in service.bodies for span in spans_of(body)} == {"answer", "chat chatty"}
    assert service.metadata["x-key"] == SECRET


def test_no_key_is_shown(server: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the repr, nor in the log of a refusal; which variable to look at is."""
    caplog.set_level("DEBUG")
    set_up("phoenix", server, monkeypatch)
    server.answer = reply(401)
    exporter = otlp.register_exporters()["phoenix"](read_settings())
    tracer = rlm_obs.Tracer("t", exporter=exporter)
    with tracer.span("x"):
        pass
    assert not tracer.flush()
    tracer.shutdown()
    assert "PHOENIX_API_KEY" in caplog.text
    assert SECRET not in caplog.text + repr(exporter)
    monkeypatch.setenv("PHOENIX_COLLECTOR_ENDPOINT", "http://user:hush@localhost:6006")
    assert "hush" not in repr(otlp.OtlpExporter("phoenix"))


def test_an_odd_value_costs_no_batch(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a surrogate pair and an int past 64 bits are mended; the spans beside them arrive."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    with rlm_obs.instrument(exporters=["otlp"]) as running, rlm_obs.context(attributes={"a": "x\ud83d", "b": 2**70}):
        assert running.tracer is not None
        with running.tracer.span("odd"):
            pass
        assert rlm_obs.flush()
    assert (server.spans[0].said["a"], server.spans[0].said["b"]) == ("x?", str(2**70))


def test_doctor(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without spans is enough to know; what is wrong is told with the variable to look at."""
    set_up("phoenix", server, monkeypatch)
    assert otlp.OtlpExporter("phoenix").check() == f"{server.url}/v1/traces takes traces"
    assert server.spans == []
    server.answer = reply(401)
    with pytest.raises(rlm_obs.ConfigError, match="PHOENIX_API_KEY"):
        otlp.OtlpExporter("phoenix").check()


def test_spans_that_are_rejected_are_lost(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver may answer 200 and take only some: that is no delivery."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    server.answer = rejecting(1)
    tracer = rlm_obs.Tracer("t", exporter="otlp")
    with tracer.span("x"):
        pass
    assert not tracer.flush()
    tracer.shutdown()


class TestContract(ExporterContract):
    """The exporter keeps what every exporter promises."""

    @pytest.fixture(autouse=True)
    def _receiver(self, server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)

    def make_exporter(self) -> SpanExporter:
        return otlp.OtlpExporter("otlp")


def test_the_live_span_stays_as_it_is(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other exporters see the span as it was."""
    set_up("phoenix", server, monkeypatch)
    span = TracerProvider().get_tracer("t").start_span("x", attributes={"a": 1})
    span.end()
    before = span.to_json()  # type: ignore[attr-defined]
    assert otlp.OtlpExporter("phoenix").export([span]) is SpanExportResult.SUCCESS  # type: ignore[list-item]
    assert span.to_json() == before  # type: ignore[attr-defined]
