"""Langfuse, as a program uses it: what arrives of a whole trace, beside Langfuse's own SDK, with scores and links."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from click.testing import CliRunner
from opentelemetry import trace

import rlm_obs
from rlm_obs import _cli
from rlm_obs.testing import Answer, fake_openai
from tests.exporters.receiver import Receiver, Span, receiving, reply

PUBLIC, SECRET = "pk-lf-11112222", "sk-lf-33334444"
PRICES = {"chatty": {"input": 10, "output": 100}}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
OBSERVATION = "langfuse.observation."


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with fake_openai() as model, openai.OpenAI(api_key="k", base_url=model.base_url, max_retries=0) as made:
        yield made


def exporter_for(server: Receiver, **options: Any) -> rlm_obs.LangfuseExporter:
    return rlm_obs.LangfuseExporter(PUBLIC, SECRET, server.url, **options)


def on(server: Receiver, **options: Any) -> rlm_obs.Instrumentation:
    return rlm_obs.instrument(exporters=[exporter_for(server)], settings={"prices": PRICES, **options})


def ask(client: openai.OpenAI, model: str = "chatty", **params: Any) -> Any:
    return client.chat.completions.create(model=model, messages=HELLO, **params)


def costs(span: Span) -> Any:
    return json.loads(span.said[OBSERVATION + "cost_details"])


def test_every_span_says_whose_it_is(server: Receiver, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """User, session, tags, metadata, tenant, environment, release and the trace's name stand on every span of a trace,
    also where its root ends long after the others were sent."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=Live/EU,service.version=1.4.0")
    who = rlm_obs.context(user_id="u", session_id="s", tags=["a", "b"], metadata={"build": 7}, tenant_id="acme")
    with on(server) as running, who:
        assert running.tracer is not None
        with running.tracer.span("api.analyze"):
            with running.tracer.span("step"):
                ask(client)
            assert rlm_obs.flush()
            assert len(server.spans) == 2
        assert rlm_obs.flush()
    assert len(server.spans) == 3
    for span in server.spans:
        assert {
            "user.id": "u",
            "session.id": "s",
            "langfuse.trace.tags": ("a", "b"),
            "langfuse.trace.metadata.build": 7,
            "langfuse.trace.metadata.tenant.id": "acme",
            "langfuse.environment": "live-eu",
            "langfuse.release": "1.4.0",
            "langfuse.trace.name": "api.analyze",
        }.items() <= span.said.items()
    assert [s.name for s in server.spans if s.said.get("langfuse.internal.is_app_root")] == ["api.analyze"]


def test_the_bill_is_the_ledgers(server: Receiver, client: openai.OpenAI) -> None:
    """The costs that arrive sum to the report's total, to the last digit that a number of JSON can hold."""
    with on(server) as running:
        for _ in range(5):
            ask(client)
        for _ in ask(client, stream=True, stream_options={"include_usage": True}):
            pass
        assert rlm_obs.flush()
        total = running.report().total_cost
    assert total > 0
    assert abs(sum(Decimal(str(costs(span)["total"])) for span in server.spans) - total) < Decimal("1e-12")


def test_what_costs_nothing_says_why(server: Receiver) -> None:
    """A failed, a refused and an unpriced call show 0 with the reason, so that Langfuse makes up no charge."""

    def answer(seen: Any) -> Any:
        return Answer(status=500) if "x-fail" in seen.headers else None

    with fake_openai(answer) as model, on(server):
        client = openai.OpenAI(api_key="k", base_url=model.base_url, max_retries=0)
        with client:
            ask(client, "nobody-knows")
            with pytest.raises(openai.InternalServerError):
                ask(client, extra_headers={"x-fail": "1"})
            with rlm_obs.CostTracker("0.0000001"), pytest.raises(rlm_obs.BudgetExceeded):
                ask(client)
        assert rlm_obs.flush()
    unpriced, failed, refused = server.spans
    assert [costs(span) for span in server.spans] == [{"total": 0}] * 3
    assert unpriced.said[OBSERVATION + "metadata.rlm_obs_cost"] == "unknown"
    reasons = [span.said[OBSERVATION + "metadata.rlm_obs_cost_reason"] for span in server.spans]
    assert reasons == [
        "no price is known for nobody-knows",
        "it was refused by the provider",
        "it was not sent",
    ]
    levels = [(s.said[OBSERVATION + "level"], s.said.get(OBSERVATION + "status_message")) for s in server.spans]
    assert levels == [("DEFAULT", None), ("ERROR", "InternalServerError"), ("WARNING", "BudgetExceeded")]
    assert "rlm_obs_cost" not in str(refused.said.keys() - {OBSERVATION + "metadata.rlm_obs_cost_reason"})
    assert failed.raw.status.code == 2


def test_a_prompt_of_langfuses_own(server: Receiver, client: openai.OpenAI) -> None:
    """A prompt's name and version link the generation to it; they do not stand on spans that are none."""
    prompt = {"gen_ai.prompt.name": "greeting", "gen_ai.prompt.version": 3}
    with on(server) as running, rlm_obs.context(attributes=prompt):
        assert running.tracer is not None
        with running.tracer.span("above"):
            ask(client)
        assert rlm_obs.flush()
    call, above = server.named()["chat chatty"], server.named()["above"]
    assert (call.said[OBSERVATION + "prompt.name"], call.said[OBSERVATION + "prompt.version"]) == ("greeting", 3)
    assert OBSERVATION + "prompt.name" not in above.said


def test_the_users_words_win(server: Receiver, client: openai.OpenAI) -> None:
    """Who says it in Langfuse's own attributes gets that; a call's cost stays ours."""
    words = {
        "langfuse.trace.name": "mine",
        "langfuse.environment": "theirs",
        "langfuse.observation.cost_details": '{"total": 99}',
        "langfuse.observation.type": "agent",
    }
    with on(server), rlm_obs.context(attributes=words):
        ask(client)
        assert rlm_obs.flush()
    (span,) = server.spans
    assert (span.said["langfuse.trace.name"], span.said["langfuse.environment"]) == ("mine", "theirs")
    assert span.said[OBSERVATION + "type"] == "generation"
    assert 0 < costs(span)["total"] < 1


def test_arguments_are_the_input_of_a_span(server: Receiver) -> None:
    """What `capture_args` has captured is shown as the input."""

    @rlm_obs.traced(capture_args=True)
    def load(path: str, api_key: str) -> None: ...

    with on(server):
        load("a.txt", api_key="hush")
        assert rlm_obs.flush()
    (span,) = server.spans
    assert json.loads(span.said[OBSERVATION + "input"]) == {"path": "a.txt", "api_key": "***"}


def test_captured_content_is_input_and_output(server: Receiver, client: openai.OpenAI) -> None:
    """Instructions, prompt and answer are where Langfuse shows them, once each, and only where they are captured."""
    with on(server, capture_content=True):
        client.responses.create(model="chatty", instructions="Be brief.", input="hello")
        assert rlm_obs.flush()
    with on(server):
        client.responses.create(model="chatty", instructions="Be brief.", input="hello")
        assert rlm_obs.flush()
    shown, hidden = server.spans
    system, user = json.loads(shown.said[OBSERVATION + "input"])
    assert (system["role"], system["parts"][0]["content"]) == ("system", "Be brief.")
    assert user["parts"][0]["content"] == "hello"
    assert "You said: hello" in shown.said[OBSERVATION + "output"]
    assert str(shown.raw).count("Be brief.") == str(shown.raw).count("You said: hello") == 1
    assert "hello" not in str(hidden.raw) and "Be brief." not in str(hidden.raw)


@pytest.mark.parametrize("wrong", ["Live", "langfuse-x", "a b", "x" * 41])
def test_an_environment_that_langfuse_refuses_is_told(wrong: str) -> None:
    """It would cost every span: the error comes where it is given."""
    with pytest.raises(rlm_obs.ConfigError, match="environment="):
        rlm_obs.LangfuseExporter(PUBLIC, SECRET, environment=wrong)


# -- beside Langfuse's own SDK -----------------------------------------------------------------------------------------


@pytest.fixture
def theirs(server: Receiver) -> Iterator[Any]:
    """Langfuse's own client, which installs itself as the program's provider."""
    from opentelemetry.trace import _TRACER_PROVIDER_SET_ONCE

    made = pytest.importorskip("langfuse").Langfuse(public_key="pk-lf-theirs", secret_key=SECRET, base_url=server.url)
    yield made
    made.shutdown()
    trace._TRACER_PROVIDER, _TRACER_PROVIDER_SET_ONCE._done = None, False


@pytest.mark.filterwarnings("default")
def test_calls_stand_below_observe(server: Receiver, client: openai.OpenAI, theirs: Any) -> None:
    """One trace: Langfuse's span on top, ours below it, for the same user; each is sent by whom it belongs to, once."""

    import langfuse

    @langfuse.observe()
    def answer() -> None:
        with langfuse.propagate_attributes(user_id="u-9", session_id="s-9", tags=["a"], metadata={"build": "7"}):
            inner()

    @rlm_obs.traced
    def inner() -> None:
        ask(client)

    with on(server):
        answer()
        assert rlm_obs.flush()
        theirs.flush()
    by = {request.headers["authorization"] for request in server.requests if "traces" in request.path}
    assert len(by) == 2
    (outer,) = [span for span in server.spans if span.name == "answer"]
    (call,) = [span for span in server.spans if span.name == "chat chatty"]
    (middle,) = [span for span in server.spans if span.name.endswith("inner")]
    assert {span.trace_id for span in server.spans} == {outer.trace_id}
    assert (middle.parent_id, call.parent_id) == (outer.span_id, middle.span_id)
    for span in (middle, call):
        assert "langfuse.internal.is_app_root" not in span.said
        assert "langfuse.trace.name" not in span.said
        assert (span.said["user.id"], span.said["session.id"]) == ("u-9", "s-9")
        assert (span.said["langfuse.trace.tags"], span.said["langfuse.trace.metadata.build"]) == (("a",), '"7"')


def test_it_is_nobodys_global(server: Receiver) -> None:
    """No provider is installed, and Langfuse's package is not even imported."""
    code = (
        "import sys, rlm_obs\n"
        "from opentelemetry import trace\n"
        f"rlm_obs.instrument(exporters=[rlm_obs.LangfuseExporter({PUBLIC!r}, {SECRET!r}, {server.url!r})])\n"
        "with rlm_obs.Tracer(exporters=['langfuse']).span('x'): pass\n"
        "rlm_obs.flush()\n"
        "print(trace._TRACER_PROVIDER, [m for m in sys.modules if m.partition('.')[0] == 'langfuse'])"
    )
    own = {"LANGFUSE_PUBLIC_KEY": PUBLIC, "LANGFUSE_SECRET_KEY": SECRET, "LANGFUSE_HOST": server.url, "NO_PROXY": "*"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **own})
    assert done.stdout.strip() == "None []", done.stderr
    assert [span.name for span in server.spans] == ["x"]


# -- scores ------------------------------------------------------------------------------------------------------------


def scores(server: Receiver) -> list[Any]:
    return [request.json for request in server.requests if request.path == "/api/public/scores"]


def test_scores_go_to_langfuses_own_api(server: Receiver, client: openai.OpenAI) -> None:
    """A number, a truth and a category, on the current trace; none of them is sent as a span."""
    with on(server) as running, rlm_obs.context(user_id="u"):
        assert running.tracer is not None
        with running.tracer.span("answer") as span:
            ask(client)
            assert rlm_obs.score("helpful", 0.9, comment="short and right")
            assert rlm_obs.score("grounded", True)
            assert rlm_obs.score("tone", "friendly")
        assert rlm_obs.flush()
    trace_id = format(span.get_span_context().trace_id, "032x")
    assert [(s["traceId"], s["name"], s["value"], s["dataType"]) for s in scores(server)] == [
        (trace_id, "helpful", 0.9, "NUMERIC"),
        (trace_id, "grounded", 1.0, "BOOLEAN"),
        (trace_id, "tone", "friendly", "CATEGORICAL"),
    ]
    assert scores(server)[0]["comment"] == "short and right"
    assert len({s["id"] for s in scores(server)}) == 3
    assert all("observationId" not in s and s["timestamp"].endswith("Z") for s in scores(server))
    assert sorted(span.name for span in server.spans) == ["answer", "chat chatty"]
    basic = "Basic " + base64.b64encode(f"{PUBLIC}:{SECRET}".encode()).decode()
    assert {request.headers["authorization"] for request in server.requests} == {basic}


def test_a_score_that_comes_later(server: Receiver, client: openai.OpenAI) -> None:
    """A user rates an answer when its trace is long over: by the ids of its record."""
    with on(server), rlm_obs.testing.collect() as seen:
        ask(client)
    (record,) = seen.records
    with on(server):
        assert rlm_obs.score("thumbs", 1, trace_id=record.trace_id, span_id=record.span_id)
        assert rlm_obs.flush()
    (sent,) = scores(server)
    assert (sent["traceId"], sent["observationId"], sent["value"]) == (record.trace_id, record.span_id, 1.0)


def test_a_score_that_is_refused_is_counted(server: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """It is lost as a span is lost: `flush` says so, and `stats` counts it."""
    server.answer = reply(400)
    with on(server):
        assert rlm_obs.score("thumbs", 1, trace_id="a" * 32)
        assert not rlm_obs.flush()
        (about,) = rlm_obs.stats()["exporters"]
    assert about["dropped"] == {"failed": 1}
    assert SECRET not in caplog.text


# -- where to look -----------------------------------------------------------------------------------------------------


def test_the_console_tree_says_where_the_trace_is(server: Receiver, client: openai.OpenAI) -> None:
    """Its first line has the address; the lines below it have none."""
    shown = io.StringIO()
    console = rlm_obs.ConsoleExporter(show_attributes=False, file=shown)
    with rlm_obs.instrument(exporters=[console, exporter_for(server)]) as running:
        assert running.tracer is not None
        with running.tracer.span("answer") as span:
            ask(client)
        assert rlm_obs.flush()
    first, second = shown.getvalue().strip().splitlines()
    url = f"{server.url}/trace/{span.get_span_context().trace_id:032x}"
    assert first.startswith("[SPAN] answer (") and url in first
    assert "http" not in second


PROJECT = {"data": [{"id": "p-1", "name": "shop", "organization": {"id": "o", "name": "o"}, "metadata": {}}]}


def doctor(*arguments: str, **variables: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        _cli.command("doctor", _cli.commands.register_commands()["doctor"]), list(arguments), env=variables
    )
    return done.exit_code, done.output


def test_doctor_asks_langfuse(server: Receiver) -> None:
    """One real request; the project's name and address are printed, the keys are not."""
    server.answer = reply(200, json.dumps(PROJECT).encode(), Content_Type="application/json")
    keys = {"LANGFUSE_PUBLIC_KEY": PUBLIC, "LANGFUSE_SECRET_KEY": SECRET, "LANGFUSE_HOST": server.url}
    code, said = doctor("langfuse", **keys)
    assert (code, said) == (0, f"exporter langfuse: ok, project 'shop': {server.url}/project/p-1\n")
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/api/public/projects")
    code, said = doctor("langfuse", "console", RLM_OBS_EXPORTERS="langfuse,console", **keys)
    assert (code, len(said.splitlines())) == (0, 2)


@pytest.mark.parametrize(("status", "word"), [(401, "LANGFUSE_SECRET_KEY"), (404, "LANGFUSE_HOST"), (200, "no answer")])
def test_doctor_says_what_to_do(server: Receiver, status: int, word: str) -> None:
    """A wrong key, a wrong host, and a host that is something else."""
    server.answer = reply(status)
    keys = {"LANGFUSE_PUBLIC_KEY": PUBLIC, "LANGFUSE_SECRET_KEY": SECRET, "LANGFUSE_HOST": server.url}
    code, said = doctor("langfuse", **keys)
    assert code == 1
    assert word in said
    assert SECRET not in said and PUBLIC not in said


def test_doctor_where_nobody_listens() -> None:
    """No connection is told as that."""
    keys = {"LANGFUSE_PUBLIC_KEY": PUBLIC, "LANGFUSE_SECRET_KEY": SECRET, "LANGFUSE_HOST": "http://127.0.0.1:9"}
    began = time.monotonic()
    code, said = doctor("langfuse", **keys)
    assert (code, "does not answer" in said) == (1, True)
    assert time.monotonic() - began < 20
