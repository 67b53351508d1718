"""A trace and whom it is for cross services: by headers, through a real ASGI server, and through Celery."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi
import httpx
import openai
import pytest
import uvicorn
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan

import rlm_obs
from rlm_obs.testing import FakeOpenAI, SpanList, fake_openai

WHO = {"user.id": "ü 17", "session.id": "s,4", "tenant.id": "acme=1"}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C


@pytest.fixture
def spans() -> Iterator[SpanList]:
    kept = SpanList()
    with rlm_obs.instrument(exporters=[kept]):
        yield kept


def ask(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with fake_openai() as server, openai.OpenAI(api_key="k", base_url=server.base_url) as made:
        yield made


def flushed(spans: SpanList) -> dict[str, ReadableSpan]:
    assert rlm_obs.flush()
    return {span.name: span for span in spans.spans}


def test_what_goes_out_comes_in(client: openai.OpenAI, spans: SpanList) -> None:
    """The other side goes on with the trace, below the span that sent it, and knows user, session and tenant."""
    tracer = rlm_obs.Tracer("front", exporter=spans)
    with rlm_obs.context(attributes={**WHO, "order.id": 7}, tags=["beta"]), tracer.span("front"):
        headers = rlm_obs.inject({"accept": "text/plain"})
    assert set(headers) == {"accept", "traceparent", "baggage"}
    with rlm_obs.extract({name.title(): value for name, value in headers.items()}):
        ask(client)
    ask(client)
    tracer.shutdown()
    assert rlm_obs.flush()
    below, apart = [span for span in spans.spans if span.name == "chat gpt-4o-mini"]
    front = next(span for span in spans.spans if span.name == "front")
    assert below.parent is not None
    assert (below.context.trace_id, below.parent.span_id) == (front.context.trace_id, front.context.span_id)
    assert WHO.items() <= dict(below.attributes or {}).items()
    assert not {"order.id", "tags"} & dict(below.attributes or {}).keys()
    assert (below.attributes or {})["rlm_obs.root"] is True
    assert apart.parent is None
    assert not WHO.keys() & dict(apart.attributes or {}).keys()


def test_other_names_cross_where_they_are_set(client: openai.OpenAI) -> None:
    """The setting `baggage` names what is sent, and what is taken over."""
    kept = SpanList()
    with rlm_obs.instrument(exporters=[kept], settings={"baggage": ["order.id"]}):
        with rlm_obs.context(user_id="private", attributes={"order.id": 7}):
            headers = rlm_obs.inject()
        assert headers["baggage"] == "order.id=7"
        with rlm_obs.extract({"baggage": "order.id=8,user.id=u"}):
            ask(client)
        assert rlm_obs.flush()
    said = dict(kept.spans[0].attributes or {})
    assert said["order.id"] == "8"
    assert "user.id" not in said


def test_baggage_of_the_program_s_own_stays(spans: SpanList) -> None:
    """What others have put into OpenTelemetry's baggage goes on, in both directions."""
    with rlm_obs.extract({"baggage": "theirs=1"}), rlm_obs.context(user_id="u"):
        assert baggage.get_baggage("theirs") == "1"
        assert rlm_obs.inject()["baggage"] == "theirs=1,user.id=u"


def test_a_nearer_user_is_the_one_that_goes_out(spans: SpanList) -> None:
    """The block of the service wins over what had come with the request."""
    with rlm_obs.extract({"baggage": "user.id=outer"}), rlm_obs.context(user_id="inner"):
        assert rlm_obs.inject()["baggage"] == "user.id=inner"


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"traceparent": "no", "baggage": ";;;==,%"},
        {"traceparent": None},
        {"Traceparent": PARENT[:-3]},
        [(b"traceparent", b"\xff\xfe")],
        {"baggage": "user.id=" + "x" * 9000},
    ],
)
@pytest.mark.filterwarnings("default")
def test_headers_that_make_no_sense_change_nothing(headers: Any, client: openai.OpenAI, spans: SpanList) -> None:
    """A request with broken headers is answered as one without."""
    with rlm_obs.extract(headers):
        ask(client)
    assert rlm_obs.flush()
    assert spans.spans[0].parent is None
    assert "user.id" not in (spans.spans[0].attributes or {})


def test_a_span_open_in_the_same_trace_stays_the_parent(spans: SpanList) -> None:
    """Where another instrumentation has opened the request's span already, ours go below that one."""
    tracer = rlm_obs.Tracer("t", exporter=spans)
    with (
        rlm_obs.extract({"traceparent": PARENT}),
        tracer.span("theirs") as theirs,
        rlm_obs.extract({"traceparent": PARENT}),
    ):
        assert trace.get_current_span() is theirs
    tracer.shutdown()


def test_another_trace_is_gone_on_with(spans: SpanList) -> None:
    """A worker that has a span of its own open takes the message's trace for the message's work."""
    tracer = rlm_obs.Tracer("t", exporter=spans)
    with tracer.span("loop"), rlm_obs.extract({"traceparent": PARENT}), tracer.span("work"):
        pass
    tracer.shutdown()
    named = {span.name: span for span in spans.spans}
    assert named["work"].context.trace_id == TRACE_ID != named["loop"].context.trace_id
    assert (named["work"].attributes or {})["rlm_obs.root"] is True


# -- into the provider's call ------------------------------------------------------------------------------------------


def sent_headers(server: FakeOpenAI) -> dict[str, str]:
    return {name.lower(): value for name, value in server.requests[-1].headers.items()}


def test_nothing_goes_to_the_provider_unasked() -> None:
    """Without the setting a call has the headers that the user gave, and no others."""
    with fake_openai() as server, openai.OpenAI(api_key="k", base_url=server.base_url) as client:
        ask(client)
        bare = set(sent_headers(server))
        with rlm_obs.instrument(exporters=[SpanList()]), rlm_obs.context(user_id="private"):
            ask(client)
        assert set(sent_headers(server)) == bare


@pytest.mark.parametrize("awaits", [False, True])
def test_by_choice_the_trace_goes_to_the_provider(awaits: bool) -> None:
    """`propagate="provider"` sends the call's own span as `traceparent`; who asks is not sent, also not then."""
    kept = SpanList()
    with fake_openai() as server, rlm_obs.instrument(exporters=[kept], settings={"propagate": "provider"}):
        with rlm_obs.context(user_id="private"):
            if awaits:

                async def call() -> None:
                    async with openai.AsyncOpenAI(api_key="k", base_url=server.base_url) as client:
                        await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)

                asyncio.run(call())
            else:
                with openai.OpenAI(api_key="k", base_url=server.base_url) as client:
                    ask(client)
        assert rlm_obs.flush()
        context = kept.spans[0].context
        headers = sent_headers(server)
    assert headers["traceparent"] == f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    assert "baggage" not in headers


def test_a_traceparent_of_the_user_s_own_is_kept() -> None:
    """What the user gives to a call goes out as given."""
    given = {"Traceparent": PARENT, "x-mine": "1"}
    with fake_openai() as server, rlm_obs.instrument(exporters=[SpanList()], settings={"propagate": "provider"}):
        with openai.OpenAI(api_key="k", base_url=server.base_url) as client:
            client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, extra_headers=given)
        headers = sent_headers(server)
    assert (headers["traceparent"], headers["x-mine"]) == (PARENT, "1")


# -- over HTTP ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Run an ASGI application on a real socket."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def service(client: openai.OpenAI, **options: Any) -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.add_middleware(rlm_obs.AsgiMiddleware, **options)

    @app.get("/answers/{number}")
    def answer(number: int) -> str:
        ask(client)
        return "done"

    @app.get("/stream")
    def stream() -> fastapi.responses.StreamingResponse:
        def parts() -> Iterator[str]:
            yield "one"
            ask(client)
            yield "two"

        return fastapi.responses.StreamingResponse(parts())

    @app.get("/fails")
    def fails() -> None:
        raise fastapi.HTTPException(503)

    @app.get("/later")
    def later(tasks: fastapi.BackgroundTasks) -> str:
        tasks.add_task(time.sleep, 0.3)
        return "done"

    @app.websocket("/socket")
    async def socket(it: fastapi.WebSocket) -> None:
        await it.accept()
        await asyncio.to_thread(ask, client)
        await it.close()

    return app


def get(url: str, **headers: str) -> httpx.Response:
    with httpx.Client(trust_env=False) as browser:
        return browser.get(url, headers=headers)


def test_a_trace_crosses_http(client: openai.OpenAI, spans: SpanList) -> None:
    """One trace: the caller's span, the request's span in the service, the call; with the user, session and tenant."""
    tracer = rlm_obs.Tracer("front", exporter=spans)
    with served(service(client)) as url, rlm_obs.context(attributes=WHO), tracer.span("front"):
        assert get(f"{url}/answers/7?q=private", **rlm_obs.inject({})).json() == "done"
    tracer.shutdown()
    found = flushed(spans)
    front, request, call = found["front"], found["GET /answers/{number}"], found["chat gpt-4o-mini"]
    assert request.parent is not None
    assert call.parent is not None
    assert (request.parent.span_id, call.parent.span_id) == (front.context.span_id, request.context.span_id)
    assert len({span.context.trace_id for span in found.values()}) == 1
    assert WHO.items() <= dict(call.attributes or {}).items()
    said = dict(request.attributes or {})
    assert request.kind is trace.SpanKind.SERVER
    assert (said["http.request.method"], said["url.path"], said["http.response.status_code"]) == (
        "GET",
        "/answers/7",
        200,
    )
    assert "private" not in str(said)


def test_a_stranger_is_not_believed(client: openai.OpenAI, spans: SpanList) -> None:
    """With `trusted=False` a request opens a trace of its own, whatever its headers say."""
    with served(service(client, trusted=False)) as url:
        get(f"{url}/answers/7", traceparent=PARENT, baggage="user.id=somebody-else")
    for span in flushed(spans).values():
        assert span.context.trace_id != TRACE_ID
        assert "user.id" not in (span.attributes or {})


def test_a_streamed_answer_is_one_request(client: openai.OpenAI, spans: SpanList) -> None:
    """The span lasts until the last byte, and what is asked while it streams is below it."""
    with served(service(client)) as url:
        assert get(f"{url}/stream").text == "onetwo"
    found = flushed(spans)
    request, call = found["GET /stream"], found["chat gpt-4o-mini"]
    assert call.parent is not None
    assert call.parent.span_id == request.context.span_id
    assert (request.end_time or 0) >= (call.end_time or 0) > 0


def test_what_runs_after_the_answer_is_not_its_duration(client: openai.OpenAI, spans: SpanList) -> None:
    """A background task begins when the user has the answer."""
    with served(service(client)) as url:
        get(f"{url}/later")
        ends = time.monotonic() + 5  # the user has the answer a moment before the server ends the span
        while not (found := flushed(spans)) and time.monotonic() < ends:
            time.sleep(0.01)
    request = found["GET /later"]
    assert ((request.end_time or 0) - (request.start_time or 0)) < 0.3e9


def test_a_failed_request(client: openai.OpenAI, spans: SpanList) -> None:
    """An answer of 500 and above marks the span, and one that nobody routes is named by its path."""
    with served(service(client)) as url:
        get(f"{url}/fails")
        get(f"{url}/nowhere")
    found = flushed(spans)
    assert not found["GET /fails"].status.is_ok
    assert (found["GET /fails"].attributes or {})["http.response.status_code"] == 503
    assert found["GET /nowhere"].status.is_ok


async def test_an_exception_goes_through(spans: SpanList) -> None:
    """The server gets what the application raised; the span has its class."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("private")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(ValueError, match="private"):
        await rlm_obs.AsgiMiddleware(app)(scope, None, None)  # type: ignore[arg-type]
    request = flushed(spans)["GET /"]
    assert (request.attributes or {})["error.type"] == "ValueError"
    assert "private" not in str(request.to_json())


async def test_what_is_no_request_passes(spans: SpanList) -> None:
    """The application's own start and stop, and whatever ASGI adds, are none of ours."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    middleware = rlm_obs.AsgiMiddleware(app)
    await middleware({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    await middleware({"type": "websocket", "headers": [(b"traceparent", PARENT.encode())]}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "websocket"]
    assert flushed(spans) == {}


async def test_without_a_tracer_there_is_no_span() -> None:
    """An application with the middleware runs as it is until something is switched on."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body"})

    async def send(message: Any) -> None:
        sent.append(message)

    await rlm_obs.AsgiMiddleware(app)({"type": "http", "method": "GET", "path": "/", "headers": []}, None, send)  # type: ignore[arg-type]
    assert sent == [{"type": "http.response.body"}]


# -- through a task queue ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    tuple(map(int, importlib.metadata.version("celery").split(".")[:2])) < (5, 3),
    reason="an older Celery hands no headers to the task",
)
@pytest.mark.skipif(sys.platform == "win32", reason="Celery forks its workers, which Windows does not do")
def test_a_trace_crosses_celery(tmp_path: Path) -> None:
    """A worker of Celery, in processes of its own, goes on with the trace of the sender, for the sender's user."""
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    with fake_openai() as server:
        own = {
            "CELERY_FOLDER": str(tmp_path),
            "OPENAI_API_KEY": "k",
            "OPENAI_BASE_URL": server.base_url,
            "NO_PROXY": "*",
            "RLM_OBS_FILE_PATH": str(tmp_path / "calls.jsonl"),
            "PYTHONPATH": str(TESTS),
        }
        worker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "celery_app",
                "worker",
                "-c",
                "1",
                "-l",
                "error",
                "--without-mingle",
            ],
            cwd=tmp_path,
            env={**os.environ, **own},
        )
        try:
            sent = subprocess.run(
                [sys.executable, "-c", SENDER], cwd=tmp_path, env={**os.environ, **own}, capture_output=True, timeout=60
            )
        finally:
            worker.terminate()
            worker.wait(30)
    assert sent.returncode == 0, sent.stderr.decode()
    trace_id, span_id, answer = sent.stdout.decode().split(maxsplit=2)
    (record,) = rlm_obs.read_records(tmp_path / "calls.jsonl")
    assert answer.strip() == "You said: hello"
    assert (record.trace_id, record.parent_id) == (trace_id, span_id)
    assert {"user.id": "u-17", "tenant.id": "acme"}.items() <= record.attributes.items()


TESTS = Path(__file__).parent
SENDER = """
import rlm_obs
from celery_app import summarise
from rlm_obs.testing import SpanList

tracer = rlm_obs.Tracer("front", exporter=SpanList())
with rlm_obs.context(user_id="u-17", tenant_id="acme"), tracer.span("front") as span:
    sent = summarise.apply_async(["hello"], headers=rlm_obs.inject({}))
own = span.get_span_context()
print(format(own.trace_id, "032x"), format(own.span_id, "016x"), sent.get(timeout=30))
"""
