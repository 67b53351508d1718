"""The tutorial runs: all of its six Python snippets, as they are written, with only their import lines changed."""

# ruff: noqa: RUF001

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme

import rlm_obs
from rlm_obs.testing import FakeOpenAI
from tests.exporters.receiver import Receiver, receiving

ORIGINAL = Path(__file__).parent / "data" / "tutorial-12.md"
OURS = Path(__file__).parents[1] / "docs" / "tutorial" / "observability-ru.md"
#: `from rlm_toolkit import X` and `from rlm_toolkit.observability import X` become `from rlm_obs import X`.
IMPORTS = re.compile(r"^from rlm_toolkit(?:\.observability)? import", re.M)
LONGEST_S = 20


def snippets(path: Path = ORIGINAL) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


def changed(snippet: str) -> str:
    return IMPORTS.sub("from rlm_obs import", snippet)


class Reader:
    """Follows the tutorial: one namespace, the snippets in their order, and what each of them prints."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "tutorial"}

    def run(self, *numbers: int) -> str:
        printed = io.StringIO()
        with redirect_stdout(printed):
            for number in numbers:
                exec(compile(changed(snippets()[number - 1]), f"tutorial:{number}", "exec"), self.names)
            rlm_obs.flush()
        return printed.getvalue()


@pytest.fixture
def reader(fake_openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, unreachable: str) -> Iterator[Reader]:
    """A reader whose client and whose Langfuse are on loopback: one answers, the other is out of reach."""
    monkeypatch.setenv("OPENAI_BASE_URL", fake_openai.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RLM_OBS_HOSTS", f'{{"{fake_openai.base_url.split("/")[2]}": "openai"}}')
    monkeypatch.setenv("HTTPS_PROXY", unreachable)
    reader = Reader()
    yield reader
    for tracer in {id(t): t for t in reader.names.values() if isinstance(t, rlm_obs.Tracer)}.values():
        tracer.shutdown(timeout_s=1.0)


@pytest.fixture
def unreachable() -> Iterator[str]:
    """A proxy that refuses every connection, so that cloud.langfuse.com is not asked by a test."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listening
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_the_tutorial_has_six_snippets() -> None:
    """The tutorial is the one that this file knows."""
    assert len(snippets()) == 6


def test_our_tutorial_is_the_original_with_other_imports() -> None:
    """What the documentation shows differs from the original in its import lines and its install line alone."""
    assert snippets(OURS) == [changed(snippet) for snippet in snippets()]
    assert 'pip install "rlm-obs[observability]"' in OURS.read_text("utf-8")
    assert "rlm_toolkit" not in OURS.read_text("utf-8")


def test_part_1_the_console_shows_the_run(reader: Reader, fake_openai: FakeOpenAI) -> None:
    """A run prints its tree: a `[SPAN]` line with the seconds, then its facts on branches, the last one on a corner."""
    printed = reader.run(1)
    head, *facts = printed.rstrip().splitlines()
    assert re.fullmatch(r"\[SPAN\] rlm\.run \(\d+\.\d+s\)", head)
    asked = fake_openai.billed[0].usage
    assert facts[0] == f"  ├─ prompt_tokens: {asked['prompt_tokens']}"
    assert facts[1] == f"  ├─ completion_tokens: {asked['completion_tokens']}"
    assert any(re.fullmatch(r"  [├└]─ model: gpt-4o(-[\d-]+)?", fact) for fact in facts)
    last = next(i for i, fact in enumerate(facts) if "└─" in fact)
    assert all(re.match(r"  [├]─ \w+: \S", fact) for fact in facts[:last])
    assert reader.names["result"].final_answer


def test_part_1_an_embedding_shows_its_dimensions(reader: Reader) -> None:
    """The second tree of the tutorial's output: an embedding under its tutorial name, with its dimensions."""
    reader.run(1)
    import openai

    printed = io.StringIO()
    with redirect_stdout(printed), reader.names["tracer"].span("search"):
        openai.OpenAI().embeddings.create(model="text-embedding-3-small", input="кванты", dimensions=1536)
    with redirect_stdout(printed):
        rlm_obs.flush()
    assert re.search(r"\[SPAN\] embedding\.create \(\d+\.\d+s\)", printed.getvalue())
    assert re.search(r"[├└]─ dimensions: 1536$", printed.getvalue(), re.M)


def test_part_2_the_budget_counts_every_run(reader: Reader, fake_openai: FakeOpenAI) -> None:
    """All hundred questions fit into ten dollars, and the report says what they cost, to four decimals."""
    printed = reader.run(1, 2)
    tracker = reader.names["tracker"]
    assert len(fake_openai.billed) == 101
    assert "Предупреждение" not in printed
    assert f"Всего потрачено: ${tracker.spent:.4f}" in printed
    assert tracker.get_report().calls == 100
    assert 0 < tracker.spent < Decimal(10)


def test_part_2_the_warning_comes_at_the_threshold(reader: Reader, fake_openai: FakeOpenAI) -> None:
    """With dearer answers the loop warns and stops when 80 % are spent."""
    fake_openai.close()
    from rlm_obs.testing import fake_openai as serve

    with (
        serve(usage={"prompt_tokens": 1000, "completion_tokens": 16_000}) as dear,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OPENAI_BASE_URL", dear.base_url)
        patch.setenv("RLM_OBS_HOSTS", f'{{"{dear.base_url.split("/")[2]}": "openai"}}')
        printed = reader.run(1, 2)
    assert re.search(r"⚠️ Предупреждение бюджета на запросе \d+", printed)
    assert Decimal(8) <= reader.names["tracker"].spent <= Decimal(10)


def test_part_2_an_operation_has_its_cost(reader: Reader) -> None:
    """What ran inside `track` is what `get_operation_cost` says."""
    reader.names["huge_document"] = "Длинный документ. " * 200
    reader.run(1, 2)
    before = reader.names["tracker"].spent
    printed = reader.run(3)
    spent = reader.names["tracker"].get_operation_cost("heavy_analysis")
    assert spent == reader.names["tracker"].spent - before > 0
    assert f"Стоимость анализа: ${spent:.4f}" in printed


@pytest.mark.swallows
def test_part_3_langfuse_out_of_reach_hurts_nobody(reader: Reader) -> None:
    """The runs go on, and the end is bounded, while Langfuse cannot be reached."""
    reader.run(1, 4)
    result = reader.names["rlm"].run("Есть ли кто?")
    assert result.final_answer
    began = time.monotonic()
    reader.names["tracer"].shutdown(timeout_s=2.0)
    assert time.monotonic() - began < LONGEST_S
    assert reader.names["exporter"].host == "https://cloud.langfuse.com"


class Tunnel:
    """A proxy that leads whoever asks for one host to a port of ours, as a company's own leads out of its network."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                threading.Thread(target=self._lead, args=(line,), daemon=True).start()

    def _lead(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError), line:
            head = b""
            while b"\r\n\r\n" not in head:
                head += line.recv(4096)
            self.asked.append(head.split(b"\r\n")[0].decode())
            if not head.startswith(f"CONNECT {self._host}:443 ".encode()):
                return
            with socket.create_connection(("127.0.0.1", self._port)) as there:
                line.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                threading.Thread(target=relay, args=(there, line), daemon=True).start()
                relay(line, there)

    def close(self) -> None:
        self._listener.close()


def relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def langfuse(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A server in the place of cloud.langfuse.com, with that name on its certificate, for the reader's program alone."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("cloud.langfuse.com").configure_cert(context)
    with receiving(tls=context) as server, authority.cert_pem.tempfile() as file:
        tunnel = Tunnel("cloud.langfuse.com", int(server.url.rpartition(":")[2]))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", file)
        monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
        yield server
        tunnel.close()
    assert {line.split()[1] for line in tunnel.asked} == {"cloud.langfuse.com:443"}


def test_part_3_langfuse_shows_every_trace(reader: Reader, langfuse: Receiver, fake_openai: FakeOpenAI) -> None:
    """What the snippet sends to cloud.langfuse.com, as its server reads it: each run with latency, cost and tokens."""
    reader.run(1, 4)
    before = len(fake_openai.billed)
    results = [reader.names["rlm"].run(question) for question in ("Кто здесь?", "Есть ли кто?")]
    assert reader.names["tracer"].flush()
    posted = [request for request in langfuse.requests if request.method == "POST"]
    assert {request.path for request in posted} == {"/api/public/otel/v1/traces"}
    assert {request.headers["authorization"] for request in posted} == {
        "Basic " + base64.b64encode(b"pk-lf-...:sk-lf-...").decode()
    }
    calls = [span for span in langfuse.spans if span.said["langfuse.observation.type"] == "generation"]
    billed = fake_openai.billed[before:]
    assert len(calls) == len(billed) >= 2
    for span, bill in zip(calls, billed, strict=True):
        cost = rlm_obs.price(bill.model, bill.usage)
        assert cost is not None
        assert span.resource["service.name"] == "production-api"
        assert span.said["langfuse.observation.model.name"] == bill.model
        assert json.loads(span.said["langfuse.observation.cost_details"])["total"] == float(cost.total)
        assert json.loads(span.said["langfuse.observation.usage_details"])["total"] == bill.usage["total_tokens"]
        assert span.end > span.start
    runs = [span for span in langfuse.spans if span.name == "rlm.run"]
    assert [span.trace_id for span in runs] == [result.trace_id for result in results]
    assert {span.parent_id for span in calls} <= {span.span_id for span in langfuse.spans}


@pytest.mark.swallows
def test_part_4_spans_of_your_own_hold_the_runs(reader: Reader, tmp_path: Path) -> None:
    """The four spans nest as they are written, and each document's run stands below `process`."""
    reader.run(1, 4)
    saved: list[Any] = []
    path = tmp_path / "spans.jsonl"
    tracer = rlm_obs.Tracer("production-api", exporter=rlm_obs.FileExporter(path))
    reader.names |= {
        "tracer": tracer,
        "rlm": rlm_obs.RLM.from_openai("gpt-4o", tracer=tracer),
        "load_all_documents": lambda: ["первый", "второй"],
        "save_to_database": saved.append,
        "results": ["все результаты"],
    }
    reader.run(5)
    tracer.shutdown()
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    names = {line["span_id"]: line["name"] for line in lines}
    tree = sorted((line["name"], names.get(line["parent_id"])) for line in lines if line["kind"] == "span")
    assert tree == [
        ("data_pipeline", None),
        ("load_documents", "data_pipeline"),
        ("process", "data_pipeline"),
        ("rlm.run", "process"),
        ("rlm.run", "process"),
        ("save_results", "data_pipeline"),
    ]
    own = {line["name"]: line["attributes"] for line in lines}
    assert own["load_documents"]["doc_count"] == 2
    assert own["process"]["processed"] is True
    assert saved == [["все результаты"]]


@pytest.mark.swallows
def test_part_5_the_service_answers_and_counts(reader: Reader, fake_openai: FakeOpenAI) -> None:
    """The FastAPI application, served over HTTP: answers come back, and `/metrics` says what the ledger says."""
    httpx = pytest.importorskip("httpx")
    reader.run(6)
    with served(reader.names["app"]) as address, httpx.Client(base_url=address, trust_env=False, timeout=20) as browser:
        for text in ("первый", "второй"):
            answer = browser.post("/analyze", params={"text": text})
            assert answer.status_code == 200
            assert answer.json()["result"]
        metrics = browser.get("/metrics")
    assert metrics.status_code == 200
    said, tracker = metrics.json(), reader.names["cost_tracker"]
    ledger = sum(
        (cost.total for _, model, usage in fake_openai.billed if (cost := rlm_obs.price(model, usage)) is not None),
        Decimal(0),
    )
    assert ledger > 0
    assert Decimal(str(said["total_cost"])) == tracker.spent == ledger
    assert Decimal(str(said["remaining"])) == Decimal(1000) - ledger
    assert {model: Decimal(str(cost)) for model, cost in said["by_model"].items()} == tracker.get_report().by_model


class served:  # noqa: N801
    """A real server for an application, in a thread, on a free port; stopped at the end of the block."""

    def __init__(self, app: Callable[..., Any]) -> None:
        import uvicorn

        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        until = time.monotonic() + LONGEST_S
        while not self._server.started:
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(LONGEST_S)
        self._socket.close()
