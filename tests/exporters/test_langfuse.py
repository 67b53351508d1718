"""Langfuse: what arrives at a real HTTP server, attribute for attribute, and what never leaves the process."""

from __future__ import annotations

import base64
import builtins
import gzip
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from rlm_obs import _attributes
from rlm_obs._exporters import _sending, langfuse
from rlm_obs._exporters._observation import observation
from rlm_obs._exporters.langfuse import LangfuseExporter
from rlm_obs._record import Cost, Request, Usage
from rlm_obs._settings import read_settings
from rlm_obs.errors import ConfigError

PUBLIC, SECRET = "pk-lf-11112222", "sk-lf-33334444"
PLAIN = Usage(input_tokens=15, output_tokens=234)
PRICED = Cost(total=Decimal("0.002378"), source="test")
TRACER = TracerProvider().get_tracer("test")
SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class Langfuse:
    """A server that takes OTLP as Langfuse does; `status` (after the `first`) and `headers` are its answer."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.spans: list[dict[str, Any]] = []
        self.status, self.headers, self.delay_s, self.cut = 200, {}, 0.0, False
        self.first: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                if outer.cut:
                    self.close_connection = True
                    return
                time.sleep(outer.delay_s)
                status = outer.first.pop() if outer.first else outer.status
                if status == 200:
                    outer.take(gzip.decompress(body))
                self.send_response(status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    said = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
                    self.spans.append({**said, "name": span.name, "raw": str(span)})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[Langfuse]:
    running = Langfuse()
    yield running
    running.close()


def exporter_for(server: Langfuse) -> LangfuseExporter:
    return LangfuseExporter(public_key=PUBLIC, secret_key=SECRET, host=server.url)


def ended(span: trace.Span) -> ReadableSpan:
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


def call(
    usage: Usage | None = PLAIN,
    cost: Cost | None = PRICED,
    status: str = "ok",
    operation: str = "chat",
    parent: trace.Span | None = None,
    params: dict[str, Any] | None = None,
    **said: Any,
) -> ReadableSpan:
    into: dict[str, Any] = {_attributes.RECORD_ID: "r1", _attributes.STATUS: status}
    request = Request(provider="openai", endpoint="/x", operation=operation, model="gpt-4o", params=params or {})
    _attributes.of_request(request, into)
    if usage is not None:
        _attributes.of_usage(usage, into)
    if cost is not None:
        _attributes.of_cost(cost, into)
    within = None if parent is None else trace.set_span_in_context(parent)
    return ended(TRACER.start_span(f"{operation} gpt-4o", context=within, attributes={**into, **said}))


def arrived(server: Langfuse, *spans: ReadableSpan) -> list[dict[str, Any]]:
    exporter = exporter_for(server)
    assert exporter.export(spans) is SUCCESS
    exporter.shutdown()
    return server.spans


def details(span: dict[str, Any], which: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(span[f"langfuse.observation.{which}"])
    return found


def test_request(server: Langfuse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans go to Langfuse's OTLP address, gzipped, with Basic auth; headers for another vendor do not."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-other-vendor=secret,authorization=other")
    arrived(server, call())
    ((path, headers),) = server.requests
    assert path == "/api/public/otel/v1/traces"
    assert headers["authorization"] == "Basic " + base64.b64encode(f"{PUBLIC}:{SECRET}".encode()).decode()
    assert headers["x-langfuse-ingestion-version"] == "4"
    assert (headers["content-encoding"], headers["content-type"]) == ("gzip", "application/x-protobuf")
    assert "x-other-vendor" not in headers


def test_plain_call(server: Langfuse) -> None:
    """A call is a generation with its model, parameters, tokens and our cost, as JSON numbers with a total."""
    (span,) = arrived(server, call(params={"max_completion_tokens": 300, "temperature": 0.5}))
    assert span["langfuse.observation.type"] == "generation"
    assert span["langfuse.observation.model.name"] == "gpt-4o"
    assert details(span, "model.parameters") == {"max_tokens": 300, "temperature": 0.5}
    assert details(span, "usage_details") == {"input": 15, "output": 234, "total": 249}
    assert details(span, "cost_details") == {"total": 0.002378}
    assert span["langfuse.observation.level"] == "DEFAULT"
    assert span["langfuse.internal.is_app_root"] is True
    assert not [key for key in span if key.startswith("gen_ai.usage.")]
    assert "langfuse.observation.metadata.rlm_obs_cost" not in span


def test_cached_and_reasoning(server: Langfuse) -> None:
    """Buckets exclude each other: cached tokens are not in `input` again, nor reasoning in `output`."""
    usage = Usage(
        input_tokens=100, cached_input_tokens=60, cache_write_tokens=10, output_tokens=500, reasoning_tokens=480
    )
    cost = Cost(
        total=Decimal("0.01"), source="t", input=Decimal("0.001"), cached_input=Decimal(0), output=Decimal("0.009")
    )
    (span,) = arrived(server, call(usage, cost))
    assert details(span, "usage_details") == {
        "input": 30,
        "input_cached_tokens": 60,
        "input_cache_creation": 10,
        "output": 20,
        "output_reasoning_tokens": 480,
        "total": 600,
    }
    assert details(span, "cost_details") == {
        "input": 0.001,
        "input_cached_tokens": 0.0,
        "output": 0.009,
        "total": 0.01,
    }


COUNT = st.none() | st.integers(0, 10**6)


@settings(max_examples=60, deadline=None)
@given(
    usage=st.builds(
        Usage,
        input_tokens=COUNT,
        cached_input_tokens=COUNT,
        cache_write_tokens=COUNT,
        output_tokens=COUNT,
        reasoning_tokens=COUNT,
        input_audio_tokens=COUNT,
        output_audio_tokens=COUNT,
        output_image_tokens=COUNT,
    ),
    total=st.decimals(0, 10**6, allow_nan=False, allow_infinity=False),
)
def test_parts_sum_to_the_total(usage: Usage, total: Decimal) -> None:
    """However the parts of a usage overlap, the buckets sum to the tokens used; the cost is ours, as a number."""
    said = observation(call(usage, Cost(total=total, source="t"))).attributes or {}
    tokens = json.loads(str(said.get("langfuse.observation.usage_details", "{}")))
    assert tokens.pop("total", 0) == sum(tokens.values()) == (usage.input_tokens or 0) + (usage.output_tokens or 0)
    assert all(count >= 0 for count in tokens.values())
    costs = json.loads(str(said["langfuse.observation.cost_details"]))
    assert costs["total"] == float(total)
    assert isinstance(costs["total"], int | float)


def test_unknown_price(server: Langfuse) -> None:
    """An unknown price is sent as a zero that says so, so that the server does not make one up."""
    (span,) = arrived(server, call(cost=None))
    assert details(span, "cost_details") == {"total": 0}
    assert span["langfuse.observation.metadata.rlm_obs_cost"] == "unknown"


def test_caveats(server: Langfuse) -> None:
    """A cost that is not exact says why."""
    (span,) = arrived(server, call(cost=Cost(total=Decimal(1), source="t", caveats=("stream left early",))))
    assert span["langfuse.observation.metadata.rlm_obs_cost"] == "not exact: stream left early"


@pytest.mark.parametrize(
    ("status", "error", "level", "message"),
    [
        ("error", "APITimeoutError", "ERROR", "APITimeoutError"),
        ("refused", "BudgetExceeded", "WARNING", "BudgetExceeded"),
        ("aborted", None, "WARNING", "aborted"),
    ],
)
def test_trouble(server: Langfuse, status: str, error: str | None, level: str, message: str) -> None:
    """A failed, refused or aborted call has its level and the class of its error; the server invents no charge."""
    named = {} if error is None else {_attributes.ERROR_TYPE: error}
    (span,) = arrived(server, call(usage=None, cost=None, status=status, **named))
    assert span["langfuse.observation.level"] == level
    assert span["langfuse.observation.status_message"] == message
    assert details(span, "cost_details") == {"total": 0}
    assert details(span, "usage_details") == {"total": 0}
    assert ("langfuse.observation.metadata.rlm_obs_cost" in span) is (status != "refused")


def test_error_messages_stay(server: Langfuse) -> None:
    """Messages and stack traces of exceptions, which may hold prompts and keys, are not sent; their classes are."""
    span = TRACER.start_span("work")
    try:
        raise ValueError("the prompt")
    except ValueError as error:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR, "ValueError: the prompt")
    (sent,) = arrived(server, ended(span))
    assert sent["langfuse.observation.level"] == "ERROR"
    assert sent["langfuse.observation.status_message"] == "ValueError"
    assert "ValueError" in sent["raw"]
    assert "the prompt" not in sent["raw"]


def test_embedding_and_other_operations(server: Langfuse) -> None:
    """Embeddings are embeddings; any other call is a generation, or the server would throw its cost away."""
    embedding, image = arrived(server, call(operation="embeddings"), call(operation="invoke_agent"))
    assert embedding["langfuse.observation.type"] == "embedding"
    assert image["langfuse.observation.type"] == "generation"
    assert "gen_ai.operation.name" not in image
    assert details(image, "cost_details") == {"total": 0.002378}


def test_nested(server: Langfuse) -> None:
    """Spans above a call are spans without cost; each span of the trace has its name, only the topmost is the root."""
    root = TRACER.start_span("api.analyze", attributes={"user.id": "u1", "session.id": "s1", "tags": ["a", "b"]})
    agent = TRACER.start_span(
        "agent",
        context=trace.set_span_in_context(root),
        attributes={"gen_ai.usage.input_tokens": 15, "gen_ai.usage.cost": 1.0, "langfuse.observation.type": "agent"},
    )
    inner, middle, outer = arrived(server, call(parent=agent), ended(agent), ended(root))
    assert {s["langfuse.trace.name"] for s in (inner, middle, outer)} == {"api.analyze"}
    assert [s.get("langfuse.internal.is_app_root") for s in (inner, middle, outer)] == [None, None, True]
    assert (outer["user.id"], outer["session.id"]) == ("u1", "s1")
    assert [v.string_value for v in outer["langfuse.trace.tags"].values] == ["a", "b"]
    assert outer["langfuse.observation.type"] == "span"
    assert middle["langfuse.observation.type"] == "agent"  # the user's own word
    for span in (middle, outer):
        assert not [k for k in span if "cost" in k or "usage" in k]


def test_names_are_langfuses_own(server: Langfuse) -> None:
    """Every `langfuse.*` attribute that we send is one of those that Langfuse's own SDK knows."""
    theirs = pytest.importorskip("langfuse._client.attributes").LangfuseOtelSpanAttributes
    known = {value for name, value in vars(theirs).items() if name.isupper()}
    metadata = (theirs.OBSERVATION_METADATA + ".", theirs.TRACE_METADATA + ".")
    said = {
        _attributes.FIRST_CHUNK: 0.25,
        _attributes.INPUT_MESSAGES: "x",
        _attributes.OUTPUT_MESSAGES: "x",
        "tags": ("a",),
        "metadata.k": 1,
        "gen_ai.prompt.name": "greet",
        "gen_ai.prompt.version": 2,
    }
    exporter = LangfuseExporter(PUBLIC, SECRET, server.url, environment="live", release="1.2")
    assert exporter.export([call(params={"n": 2}, cost=None, **said), call(status="aborted")]) is SUCCESS
    spans = server.spans
    sent = {key for span in spans for key in span if key.startswith("langfuse.")}
    assert len(sent) == 20
    assert not {key for key in sent - known if not key.startswith(metadata)}


def test_joining_a_trace(server: Langfuse) -> None:
    """A root below a remote parent is the topmost here, but does not rename the trace of the one who called."""
    remote = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1)))
    (span,) = arrived(server, call(parent=remote))
    assert span["langfuse.internal.is_app_root"] is True
    assert "langfuse.trace.name" not in span


def test_stream_and_content(server: Langfuse) -> None:
    """A stream has the time of its first chunk; captured prompts and answers go where Langfuse shows them."""
    said = {
        _attributes.FIRST_CHUNK: 0.25,
        _attributes.INPUT_MESSAGES: '[{"role":"user"}]',
        _attributes.OUTPUT_MESSAGES: "x",
    }
    (span,) = arrived(server, call(**said))
    assert span["langfuse.observation.completion_start_time"].endswith("Z")
    assert (span["langfuse.observation.input"], span["langfuse.observation.output"]) == ('[{"role":"user"}]', "x")
    assert _attributes.INPUT_MESSAGES not in span


def test_the_live_span_stays_as_it_is() -> None:
    """Other exporters see the span as it was: what Langfuse wants is on a copy."""
    span = call()
    before = span.to_json()
    observation(span, "name")
    assert span.to_json() == before


def test_an_odd_value_costs_no_batch(server: Langfuse) -> None:
    """What protobuf does not take (half a surrogate pair, an int past 64 bits) is mended; spans beside it arrive."""
    spans = arrived(server, call(note="a\ud83d", big=2**63, small=[1, "x\udc00"]), ended(TRACER.start_span("b\ud83d")))
    assert (spans[0]["note"], spans[0]["big"], spans[1]["name"]) == ("a?", str(2**63), "b?")


def test_redirects_are_not_followed(server: Langfuse, caplog: pytest.LogCaptureFixture) -> None:
    """A redirect is a FAILURE that says what to set; neither the key nor the spans go where it points."""
    elsewhere = Langfuse()
    server.status, server.headers = 307, {"Location": elsewhere.url + "/steal"}
    exporter = exporter_for(server)
    assert exporter.export([call()]) is FAILURE
    assert elsewhere.requests == []
    assert "LANGFUSE_HOST" in caplog.text
    elsewhere.close()


@pytest.mark.parametrize(("status", "word"), [(401, "LANGFUSE_SECRET_KEY"), (404, "LANGFUSE_HOST"), (400, "400")])
def test_refusals(server: Langfuse, caplog: pytest.LogCaptureFixture, status: int, word: str) -> None:
    """A refused batch is a FAILURE that the log explains once, sent once, without a secret in any line."""
    caplog.set_level(logging.DEBUG)
    server.status = status
    exporter = exporter_for(server)
    assert [exporter.export([call()]) for _ in range(2)] == [FAILURE, FAILURE]
    assert len(server.requests) == 2
    ours = [r for r in caplog.records if r.name == "rlm_obs"]
    assert len(ours) == 1
    assert word in ours[0].getMessage()
    assert SECRET not in caplog.text
    assert "33334444" not in caplog.text
    assert base64.b64encode(f"{PUBLIC}:{SECRET}".encode()).decode() not in caplog.text


@pytest.mark.parametrize("how", ["500", "cut", "slow"])
def test_what_may_have_arrived_is_not_sent_again(server: Langfuse, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """After a server error, a cut connection or a time-out nothing is sent again: Langfuse would count it twice."""
    monkeypatch.setattr(langfuse, "TIMEOUT_S", 0.3)
    server.status = 500 if how == "500" else 200
    server.cut, server.delay_s = how == "cut", 1.0 if how == "slow" else 0.0
    exporter = exporter_for(server)
    assert exporter.export([call()]) is FAILURE
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server: Langfuse) -> None:
    """After 503 nothing was taken, so the batch is sent again, until it is."""
    server.first, server.headers = [503], {"Retry-After": "0"}
    assert exporter_for(server).export([call()]) is SUCCESS
    assert (len(server.requests), len(server.spans)) == (2, 1)


def test_shutdown_does_not_wait(server: Langfuse) -> None:
    """Shutting down is quick while the server hangs, and nothing is sent afterwards."""
    server.delay_s = 0.8
    exporter = exporter_for(server)
    thread = threading.Thread(target=exporter.export, args=([call()],))
    thread.start()
    while not server.requests:
        time.sleep(0.01)
    began = time.monotonic()
    exporter.shutdown()
    exporter.shutdown()
    assert time.monotonic() - began < 0.5
    assert exporter.export([call()]) is FAILURE
    thread.join()
    assert len(server.requests) == 1


def test_nothing_is_sent_after_the_end(server: Langfuse) -> None:
    """An exporter that was shut down before its first span sends nothing at all."""
    exporter = exporter_for(server)
    exporter.shutdown()
    assert exporter.export([call()]) is FAILURE
    assert server.requests == []


def test_nobody_there(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host where nobody listens is a FAILURE within the time-out, never an exception."""
    monkeypatch.setattr(langfuse, "TIMEOUT_S", 0.3)
    exporter = LangfuseExporter(PUBLIC, SECRET, "http://127.0.0.1:9")
    began = time.monotonic()
    assert exporter.export([call()]) is FAILURE
    assert time.monotonic() - began < 2


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not given comes from the environment, whichever of the known names it has; an argument wins."""
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-env")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-env")
    monkeypatch.setenv("LANGFUSE_BASE_URL", "https://env.example/")
    for exporter in (LangfuseExporter(), LangfuseExporter(...), LangfuseExporter(..., ..., ...)):
        assert repr(exporter) == "LangfuseExporter(host='https://env.example', public_key='pk-lf-env')"
    monkeypatch.setenv("LANGFUSE_HOST", "https://host.example")
    assert LangfuseExporter().host == "https://host.example"
    monkeypatch.setenv("RLM_OBS_LANGFUSE_HOST", "https://ours.example")
    assert LangfuseExporter().host == "https://ours.example"
    exporter = LangfuseExporter(PUBLIC, host="https://given.example")
    assert (exporter.host, exporter._public, exporter._secret) == ("https://given.example", PUBLIC, "sk-lf-env")
    built = langfuse.register_exporters()["langfuse"](read_settings({"langfuse_host": "https://set.example"}))
    assert repr(built) == "LangfuseExporter(host='https://set.example', public_key='pk-lf-env')"


@pytest.mark.parametrize(
    "given", [{}, {"public_key": PUBLIC}, {"secret_key": SECRET}, {"public_key": "", "secret_key": " "}]
)
def test_missing_keys(given: dict[str, Any]) -> None:
    """A missing key is a ConfigError that names both variables."""
    with pytest.raises(ConfigError, match="LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY") as caught:
        LangfuseExporter(**given)
    assert SECRET not in str(caught.value)


def test_ellipsis_without_keys(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """`LangfuseExporter(...)` without keys is made, warns once, and fails each export without touching the network."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it connects"))
    exporters = [LangfuseExporter(...), LangfuseExporter(...)]
    assert [e.export([call()]) for e in exporters] == [FAILURE, FAILURE]
    assert len(caplog.records) == 1
    assert "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY" in caplog.text


def test_no_secret_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is in no repr, nor in the error about keys that were swapped."""
    exporter = LangfuseExporter(PUBLIC, SECRET, "https://x.example")
    assert SECRET not in repr(exporter)
    assert "1111222" not in repr(exporter)
    for swapped in ((SECRET, PUBLIC), (SECRET, SECRET), (PUBLIC, PUBLIC)):
        with pytest.raises(ConfigError, match="swap") as caught:
            LangfuseExporter(*swapped)
        assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="no key") as caught:
        LangfuseExporter(PUBLIC, SECRET + "\r\nX: y")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("https://cloud.langfuse.com/", "https://cloud.langfuse.com"),
        (" http://localhost:3000 ", "http://localhost:3000"),
        ("https://x.example/langfuse/", "https://x.example/langfuse"),
        ("https://x.example/api/public/otel", "https://x.example"),
        ("https://x.example/api/public/otel/v1/traces", "https://x.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_host(given: str, host: str) -> None:
    """A slash at the end, or the whole OTLP address, is the same host; a path that Langfuse is served under stays."""
    assert LangfuseExporter(PUBLIC, SECRET, given).host == host


@pytest.mark.parametrize(
    "given",
    ["cloud.langfuse.com", "localhost:3000", "", "ftp://x", "https://", "https://x:port", "https://u:hush@x", 5],
)
def test_no_host(given: Any) -> None:
    """A host that is no http(s) address is a ConfigError that shows how one is written, and no password."""
    with pytest.raises(ConfigError, match=r"https://cloud\.langfuse\.com") as caught:
        LangfuseExporter(PUBLIC, SECRET, given)
    assert "hush" not in str(caught.value)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenTelemetry's OTLP exporter, the error is the line to install it."""
    monkeypatch.setattr(_sending, "find_spec", lambda name: builtins.__import__("rlm_obs.no_such_parent"))
    with pytest.raises(ConfigError, match=r"pip install 'rlm-obs\[langfuse\]'"):
        LangfuseExporter(PUBLIC, SECRET)
