"""Short-lived programs deliver: before the outermost call returns where that is asked for, at a flush, and at the end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import rlm_obs
from rlm_obs.testing import FakeOpenAI, SpanList, fake_openai
from tests.exporters.receiver import Receiver, receiving

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
SYNC = {"export": "sync", "exit_timeout_s": 0.3}
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


class Slow(SpanList):
    """Would export in a minute, if nobody asked earlier."""

    delay_s = 60


class Hanging(SpanExporter):
    """Holds every batch."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        time.sleep(3)
        return SpanExportResult.SUCCESS


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with fake_openai("a b c") as server, openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=0) as made:
        yield made


def test_a_call_is_exported_before_it_returns(client: openai.OpenAI) -> None:
    """`export="sync"`: by every exporter, and a stream at its end."""
    one, two = Slow(), Slow()
    with rlm_obs.instrument(exporters=[one, two], settings=SYNC):
        client.chat.completions.create(**CHAT)
        assert len(one.spans) == len(two.spans) == 1
        list(client.chat.completions.create(**CHAT, stream=True))
        assert len(one.spans) == len(two.spans) == 2


def test_a_trace_is_exported_as_one(client: openai.OpenAI) -> None:
    """The calls below a span wait for its end: one flush a trace, not one a call."""
    slow = Slow()
    with rlm_obs.instrument(exporters=[slow], settings=SYNC) as running:
        assert running.tracer is not None
        with running.tracer.span("job"):
            client.chat.completions.create(**CHAT)
            client.chat.completions.create(**CHAT)
            assert slow.spans == []
        assert len(slow.spans) == 3


def test_the_background_is_the_default(client: openai.OpenAI) -> None:
    """Unasked, nothing waits for an exporter."""
    slow = Slow()
    with rlm_obs.instrument(exporters=[slow]):
        client.chat.completions.create(**CHAT)
        assert slow.spans == []


def test_a_hanging_receiver_costs_no_more_than_the_bound(client: openai.OpenAI) -> None:
    """The end of a trace waits for `exit_timeout_s`, for all exporters together; no exception, and the others deliver."""
    slow = Slow()
    with rlm_obs.instrument(exporters=[Hanging(), slow, Hanging()], settings=SYNC):
        began = time.monotonic()
        client.chat.completions.create(**CHAT)
        assert 0.3 <= time.monotonic() - began < 2.5
        assert len(slow.spans) == 1


def test_an_exporter_that_makes_spans_waits_for_nobody(client: openai.OpenAI) -> None:
    """Its spans end in the thread that exports, which cannot wait for itself."""

    class Asking(Slow):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            with other.span("inside"):
                pass
            return super().export(spans)

    inner = Slow()
    other = rlm_obs.Tracer("other", exporters=[inner], settings=SYNC)
    asking = Asking()
    with rlm_obs.instrument(exporters=[asking], settings=SYNC):
        client.chat.completions.create(**CHAT)
        assert len(asking.spans) == 1
    assert other.shutdown()
    assert [span.name for span in inner.spans] == ["inside"]


async def test_in_a_loop_that_runs_already() -> None:
    """As in a notebook: cells are executed inside a running loop, and what they have called is delivered."""
    slow = Slow()
    with fake_openai() as server:
        names: dict[str, Any] = {
            "openai": openai,
            "rlm_obs": rlm_obs,
            "slow": slow,
            "url": server.base_url,
            "CHAT": CHAT,
        }
        exec("running = rlm_obs.instrument(exporters=[slow], settings={'export': 'sync'})", names)
        exec(
            "with openai.OpenAI(base_url=url, api_key='k') as client: client.chat.completions.create(**CHAT)",
            names,
        )
        assert len(slow.spans) == 1
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="k") as client:
            await client.chat.completions.create(**CHAT)
        assert len(slow.spans) == 2
        exec("running.uninstrument()", names)


# Processes


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def environment(collector: Receiver, server: FakeOpenAI, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "NO_PROXY": "*",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "RLM_OBS_EXPORTERS": "otlp",
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "k",
        **more,
    }


PROGRAM = """
import os, sys, openai, rlm_obs
rlm_obs.instrument()
def ask(text):
    with openai.OpenAI(max_retries=0) as client:
        client.chat.completions.create(model=text, messages=[{"role": "user", "content": text}])
"""


def models(collector: Receiver) -> list[str]:
    return sorted(span.said["gen_ai.request.model"] for span in collector.spans)


@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3), ("os._exit(0)", 0)])
def test_a_script(end: str, code: int, collector: Receiver) -> None:
    """A script delivers at its end, by sys.exit too; one that ends by os._exit does where `RLM_OBS_EXPORT=sync`."""
    with fake_openai() as server:
        more = {"RLM_OBS_EXPORT": "sync"} if "_exit(0" in end else {}
        done = subprocess.run(
            [sys.executable, "-c", f"{PROGRAM}\nask('a')\nask('b')\n{end}"],
            env=environment(collector, server, **more),
            timeout=30,
            check=False,
        )
    assert done.returncode == code
    assert models(collector) == ["a", "b"]


@posix
@pytest.mark.parametrize("how", ["sync", "flush"])
def test_a_function_that_is_frozen_between_its_calls(how: str, collector: Receiver) -> None:
    """As on AWS Lambda: each invocation has delivered before it answers, though the process gets no time after it."""
    script = PROGRAM + textwrap.dedent("""
    def handler(event):
        try:
            ask(event)
        finally:
            if os.environ["HOW"] == "flush":
                assert rlm_obs.flush(timeout_s=5.0)
    for line in sys.stdin:
        handler(line.strip())
        print("answered", flush=True)
    """)
    with fake_openai() as server:
        extra = {"RLM_OBS_EXPORT": "sync"} if how == "sync" else {}
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(collector, server, HOW=how, **extra),
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            for number in range(3):
                process.send_signal(signal.SIGCONT)
                process.stdin.write(f"m{number}\n")
                process.stdin.flush()
                assert process.stdout.readline() == "answered\n"
                process.send_signal(signal.SIGSTOP)
                assert models(collector) == [f"m{n}" for n in range(number + 1)]
        finally:
            process.kill()  # as a frozen sandbox ends
            process.wait()
            process.stdin.close()
            process.stdout.close()


@posix
def test_workers_of_a_server_that_loads_before_it_forks(collector: Receiver, tmp_path: Path) -> None:
    """As gunicorn with preload: the application is made once, each worker serves by itself, and is told to stop by SIGTERM."""
    script = PROGRAM + textwrap.dedent("""
    import signal, time
    ask("before-fork")
    workers = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as gunicorn's worker does
            for turn in range(2):
                ask(f"worker-{number}-{turn}")
            open(os.path.join(sys.argv[1], str(number)), "w").close()
            time.sleep(60)
        workers.append(pid)
    while len(os.listdir(sys.argv[1])) < 3:
        time.sleep(0.02)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0, 0, 0]
    """)
    with fake_openai() as server:
        env = environment(collector, server)
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=env, timeout=60, check=True)
    assert models(collector) == ["before-fork", *(f"worker-{n}-{turn}" for n in range(3) for turn in range(2))]


APPLICATION = """
import openai, rlm_obs
rlm_obs.instrument()
client = openai.OpenAI(max_retries=0)
def application(environ, start_response):
    model = environ["PATH_INFO"].strip("/")
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": model}])
    start_response("200 OK", [])
    return [b"ok"]
"""
FOLDER = Path(__file__).parents[1]


@posix
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["loaded by each", "preloaded"])
def test_gunicorn(preload: list[str], collector: Receiver, tmp_path: Path) -> None:
    """Three workers of the real gunicorn, with the configuration that the docs show: stopped, they have sent each call once."""
    page = (FOLDER / "docs/how-to/processes.md").read_text("utf-8")
    shown = re.search(r"```python [^\n]*gunicorn\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    (tmp_path / "gunicorn.conf.py").write_text(shown[1])
    (tmp_path / "served.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["--workers=3", f"--bind=127.0.0.1:{port}", f"--chdir={tmp_path}", "--config=gunicorn.conf.py"]
    command = [sys.executable, "-m", "gunicorn", *arguments, *preload, "served:application"]
    asked = [f"call-{number:02}" for number in range(12)]
    with fake_openai() as server:
        running = subprocess.Popen(command, env=environment(collector, server), stderr=subprocess.PIPE, cwd=tmp_path)
        try:
            for model in asked:
                assert answered(f"http://127.0.0.1:{port}/{model}") == b"ok"
        finally:
            running.terminate()
            said = running.communicate(timeout=60)[1].decode()
    assert running.returncode == 0, said
    assert models(collector) == asked, said


def answered(url: str) -> bytes:
    """Return what a server answers that may be starting."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(0.1)
    raise AssertionError("nobody answers")
