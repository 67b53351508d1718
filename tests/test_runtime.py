"""`instrument()` and tracers as a program meets them: what is switched on, where spans go, and what an import costs."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import OpenAI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import rlm_obs
from rlm_obs import ConfigError, CostTracker, Tracer
from rlm_obs.testing import FakeOpenAI, SpanList, fake_openai

SETTINGS = {"prices": {"chatty": {"input": 10, "output": 100}}}
ORIGINAL = OpenAI.__dict__.get("request")  # none of its own: it is inherited


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with fake_openai(usage={"prompt_tokens": 10, "completion_tokens": 9}) as running:  # $0.001
        yield running


@contextmanager
def connected(server: FakeOpenAI) -> Iterator[OpenAI]:
    plain = openai.DefaultHttpxClient(verify=False)
    with OpenAI(api_key="k", base_url=server.base_url, max_retries=0, http_client=plain) as client:
        yield client


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[OpenAI]:
    with connected(server) as made:
        yield made


def chat(client: OpenAI) -> None:
    client.chat.completions.create(model="chatty", messages=[{"role": "user", "content": "Hello"}], max_tokens=9)


class Closing(SpanList):
    """Keeps spans, and whether it was shut down."""

    closed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert not self.closed
        return super().export(spans)

    def shutdown(self) -> None:
        self.closed += 1


# Switching on and off


def test_instrument_is_a_context_manager(client: OpenAI) -> None:
    """In the block calls are traced and priced, after it the client is what it was, and what was queued is delivered."""
    spans = Closing()
    with rlm_obs.instrument(exporters=[spans], settings=SETTINGS) as made:
        assert OpenAI.__dict__.get("request") is not ORIGINAL
        chat(client)
        assert made.report().total_cost == rlm_obs.report().total_cost == Decimal("0.001")
    assert OpenAI.__dict__.get("request") is ORIGINAL
    assert [s.name for s in spans.spans] == ["chat chatty"]
    assert spans.closed == 1
    chat(client)
    assert len(spans.spans) == 1
    assert rlm_obs.report().calls == 1, "it can be read afterwards too, and counts nothing more"
    made.uninstrument()
    rlm_obs.uninstrument()


def test_instrument_again_replaces_what_stood(client: OpenAI) -> None:
    """As in a notebook: the old exporters are flushed and shut down, the new ones get what follows, and costs start anew."""
    first, second = Closing(), Closing()
    old = rlm_obs.instrument(exporters=[first], settings=SETTINGS)
    chat(client)
    new = rlm_obs.instrument(exporters=[second], settings=SETTINGS)
    assert (len(first.spans), first.closed) == (1, 1)
    chat(client)
    assert rlm_obs.flush()
    assert (len(first.spans), len(second.spans)) == (1, 1)
    assert (old.report().calls, new.report().calls, rlm_obs.report().calls) == (1, 1, 1)
    old.uninstrument()
    assert OpenAI.__dict__.get("request") is not ORIGINAL, "an old one does not switch the new one off"


def test_a_block_that_is_open_keeps_the_gate(client: OpenAI) -> None:
    """`uninstrument()` inside a budget's block: the budget still counts, and the client is restored when the block ends."""
    rlm_obs.instrument(exporters=[], settings=SETTINGS)
    with CostTracker() as tracker:
        rlm_obs.uninstrument()
        chat(client)
    assert tracker.get_report().calls == 1
    assert OpenAI.__dict__.get("request") is ORIGINAL


def test_a_bad_argument_leaves_what_stood(client: OpenAI) -> None:
    """A second `instrument()` whose value is wrong raises, and the first one goes on."""
    spans = SpanList()
    made = rlm_obs.instrument(exporters=[spans], settings=SETTINGS)
    for wrong in ({"budget_usd": -1}, {"sample_rate": 2.0}, {"settings": {"nope": 1}}):
        with pytest.raises(ConfigError):
            rlm_obs.instrument(**wrong)  # type: ignore[arg-type]
    chat(client)
    assert made.report().calls == 1


def test_settings_are_in_force_from_the_call_on(client: OpenAI) -> None:
    """Prices given by a later `instrument()` hold for later calls."""
    with rlm_obs.instrument(exporters=[], settings=SETTINGS) as made:
        chat(client)
        assert made.report().total_cost == Decimal("0.001")
    with rlm_obs.instrument(exporters=[], settings={"prices": {"chatty": {"input": 0, "output": 1000}}}) as made:
        chat(client)
        assert made.report().total_cost == Decimal("0.009")


@pytest.mark.swallows
def test_a_broken_exporter_never_reaches_the_user(client: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    """One that raises at every turn costs one log line; the answer and the cost are there."""

    class Broken(SpanList):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            raise OSError("disk full")

        def shutdown(self) -> None:
            raise OSError("disk full")

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            raise OSError("disk full")

    with rlm_obs.instrument(exporters=[Broken()], settings=SETTINGS) as made:
        for _ in range(3):
            chat(client)
            assert made.flush() is False
        assert made.report().total_cost == Decimal("0.003")
        told = [s["dropped"] for s in rlm_obs.stats()["exporters"] if s["exporter"] == "Broken"]
        assert told == [{"failed": 3}]
    assert len([r for r in caplog.records if "exporter Broken failed" in r.getMessage()]) == 1


# Where spans go


def test_calls_go_to_the_innermost_tracer(client: OpenAI) -> None:
    """A tracer's block takes its calls, beside `instrument()`; each exporter sees a whole tree of its own."""
    program, inner = SpanList(), SpanList()
    with rlm_obs.instrument(exporters=[program], settings=SETTINGS) as made:
        tracer = Tracer("inner", exporter=inner)
        chat(client)
        with tracer.span("mine"):
            chat(client)
        assert tracer.flush()
        assert made.flush()
        tracer.shutdown()
    assert [s.name for s in program.spans] == ["chat chatty"]
    assert sorted(s.name for s in inner.spans) == ["chat chatty", "mine"]
    call, mine = sorted(inner.spans, key=lambda s: s.name)
    assert call.parent is not None
    assert call.parent.span_id == mine.context.span_id  # type: ignore[union-attr]


def test_sampled_out_is_still_paid_for(client: OpenAI) -> None:
    """`sample_rate=0.0`: no span, and every call priced, counted and told to plugins."""
    spans, told = SpanList(), []

    class Telling:
        @rlm_obs.hookimpl
        def call_finished(self, record: Any) -> None:
            told.append(record)

    plugin = Telling()
    rlm_obs.register_plugin(plugin)
    with rlm_obs.instrument(exporters=[spans], sample_rate=0.0, settings=SETTINGS) as made:
        chat(client)
        assert made.flush()
        assert made.report().total_cost == Decimal("0.001")
    rlm_obs.unregister_plugin(plugin)
    assert not spans.spans
    assert told[0].cost_usd == Decimal("0.001")


@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_off"}, 0),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, 0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, 1),
        ({"OTEL_SDK_DISABLED": "true"}, 0),
        ({"OTEL_TRACES_SAMPLER": "always_off", "RLM_OBS_SAMPLE_RATE": "1"}, 1),
    ],
)
def test_opentelemetrys_variables_are_honoured(
    variables: dict[str, str], seen: int, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler and the switch; ours come first; the cost is counted whatever they say."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spans = SpanList()
    with rlm_obs.instrument(exporters=[spans], settings=SETTINGS) as made:
        chat(client)
        assert made.flush()
        assert made.report().total_cost == Decimal("0.001")
    assert len(spans.spans) == seen


def test_the_resource_names_the_program(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; an argument wins."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,team=a")
    for argument, name in ((None, "shop"), ("checkout", "checkout")):
        spans = SpanList()
        with rlm_obs.instrument(exporters=[spans], service_name=argument, settings=SETTINGS):
            chat(client)
        (span,) = spans.spans
        assert span.resource.attributes["service.name"] == name
        assert span.resource.attributes["deployment.environment"] == "test"
        assert span.resource.attributes["team"] == "a"


def test_a_provider_can_be_given(client: OpenAI) -> None:
    """`tracer_provider=`: spans are made there, and stay the user's to flush and shut down."""
    theirs = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(theirs))
    with rlm_obs.instrument(tracer_provider=provider, settings=SETTINGS):
        chat(client)
    (span,) = theirs.get_finished_spans()
    assert span.name == "chat chatty"
    assert (span.attributes or {})["rlm_obs.cost.total"] == "0.00100"
    with provider.get_tracer("t").start_as_current_span("still mine"):
        pass
    assert len(theirs.get_finished_spans()) == 2


def test_the_programs_own_provider_is_used(tmp_path: Any) -> None:
    """With a global OpenTelemetry provider in place and no exporter named, spans go there, and no console is drawn."""
    done = run("""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    seen = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(seen))
    trace.set_tracer_provider(provider)
    import openai, rlm_obs
    from rlm_obs.testing import fake_openai
    with fake_openai() as server, rlm_obs.instrument() as made:
        client = openai.OpenAI(api_key="k", base_url=server.base_url)
        with trace.get_tracer("mine").start_as_current_span("mine"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    call, mine = seen.get_finished_spans()
    assert (call.name, call.parent.span_id) == ("chat m", mine.context.span_id)
    assert made.tracer.stats() == []
    """)
    assert done.stdout == ""


def test_no_global_provider_is_installed(client: OpenAI) -> None:
    """A library leaves the program's OpenTelemetry as it is."""
    with rlm_obs.instrument(exporters=[], settings=SETTINGS):
        chat(client)
    assert trace._TRACER_PROVIDER is None


def test_a_provider_that_takes_no_exporters_is_a_config_error() -> None:
    """It says what to do."""
    with pytest.raises(ConfigError, match="takes no exporters"):
        Tracer("t", exporters=[SpanList()], tracer_provider=trace.NoOpTracerProvider())
    with pytest.raises(ConfigError, match="not both"):
        Tracer("t", exporter=SpanList(), exporters=[SpanList()])


def test_nothing_of_a_call_is_kept(server: FakeOpenAI) -> None:
    """When a call has ended, neither its client nor its answer is kept alive."""
    with rlm_obs.instrument(exporters=[SpanList()], budget_usd=1, settings=SETTINGS):
        with connected(server) as client:
            answer = client.chat.completions.create(
                model="chatty", messages=[{"role": "user", "content": "x"}], max_tokens=9
            )
            gone = [weakref.ref(answer), weakref.ref(client)]
        del client, answer
        gc.collect()
        assert [reference() for reference in gone] == [None, None]


def test_threads_may_instrument_at_once() -> None:
    """One of them wins, and nothing is left behind."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                rlm_obs.instrument(exporters=[SpanList()])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    rlm_obs.uninstrument()
    assert OpenAI.__dict__.get("request") is ORIGINAL
    assert not [s for s in rlm_obs.stats()["exporters"] if s["exporter"] == "SpanList"]


# In a process of its own


def run(script: str, *, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(
        program, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_importing_is_light() -> None:
    """`import rlm_obs` brings neither the SDKs nor the data of prices, and so takes milliseconds."""
    heavy = (
        "openai",
        "opentelemetry.sdk",
        "genai_prices",
        "pydantic",
        "pydantic_settings",
        "httpx2",
        "httpx",
        "asyncio",
        "langfuse",
        "click",
    )
    done = run(f"import sys, rlm_obs; print([name for name in {heavy!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    """`dir`, `__all__` and the attributes are one list, and each name loads."""
    done = run("""
    import rlm_obs
    assert rlm_obs.__all__ == sorted(rlm_obs.__all__)
    assert set(rlm_obs.__all__) <= set(dir(rlm_obs))
    missing = []
    for name in rlm_obs.__all__:
        try:
            getattr(rlm_obs, name)
        except Exception as error:
            missing.append((name, repr(error)))
    print(missing)
    try:
        rlm_obs.nothing
    except AttributeError as error:
        assert "rlm_obs" in str(error) and "nothing" in str(error)
    import rlm_obs.testing
    for name in rlm_obs.testing.__all__:
        getattr(rlm_obs.testing, name)
    """)
    assert done.stdout.strip() == "[]"


def test_a_bare_instrument_opens_no_socket() -> None:
    """Installing sends nothing: with every connection forbidden, all of it works, but the call itself."""
    run("""
    import socket, sys
    def forbidden(*a, **k): raise AssertionError("a socket was opened")
    socket.socket.connect = socket.socket.connect_ex = socket.create_connection = forbidden
    socket.getaddrinfo = forbidden
    import rlm_obs, openai
    with rlm_obs.instrument() as made:
        with made.tracer.span("mine"), rlm_obs.CostTracker(1):
            pass
        assert rlm_obs.flush()
        rlm_obs.price("gpt-4o", rlm_obs.Usage(input_tokens=1, output_tokens=1))
    assert not rlm_obs.stats()["failures"]
    """)


def test_a_client_imported_later_is_covered() -> None:
    """`instrument()` does not import openai; when the program does, its calls are seen."""
    run("""
    import sys, rlm_obs
    made = rlm_obs.instrument(exporters=[])
    assert "openai" not in sys.modules
    import openai
    from rlm_obs.testing import fake_openai
    with fake_openai() as server:
        openai.OpenAI(api_key="k", base_url=server.base_url).chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}]
        )
    assert made.report().calls == 1
    """)


def test_the_environment_names_the_exporters() -> None:
    """RLM_OBS_EXPORTERS names them, an empty value none, and unset is the console tree."""
    script = "import rlm_obs; print([s['exporter'] for s in rlm_obs.instrument().tracer.stats()])"
    for value, names in (("file", "['file']"), ("", "[]"), (None, "['console']")):
        done = run(script, env={} if value is None else {"RLM_OBS_EXPORTERS": value})
        assert done.stdout.strip() == names
