"""Spans reach their exporters, or are counted as lost: within bounds of memory and time, at exit, in forks, and by a signal."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import rlm_obs
from rlm_obs import CallRefused, ConfigError, Tracer, _ending, _exit, _guard
from rlm_obs.testing import SpanList, fake_openai


class Hanging(SpanExporter):
    """Holds every batch until it is let go, and its shutdown too."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.got = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.let_go.wait(30)
        self.got += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.let_go.wait(30)


class Failing(SpanExporter):
    """Takes nothing, one way or another."""

    def __init__(self, how: str) -> None:
        self.how: str | None = how

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.how == "raises":
            raise RuntimeError("no")
        if self.how == "refuses":
            raise CallRefused("an exporter under a budget of its own")
        if self.how == "says nothing":
            return None  # type: ignore[return-value]
        return SpanExportResult.FAILURE if self.how == "fails" else SpanExportResult.SUCCESS


@contextmanager
def tracing(*exporters: SpanExporter) -> Iterator[Tracer]:
    tracer = Tracer("t", exporters=list(exporters))
    try:
        yield tracer
    finally:
        for exporter in exporters:
            if isinstance(exporter, Hanging):
                exporter.let_go.set()
        tracer.shutdown()


def some(tracer: Tracer, number: int) -> None:
    for _ in range(number):
        tracer.start("span").end()


# Bounded, and counted


def test_100_000_spans_before_a_hanging_exporter_keep_memory_flat() -> None:
    """What the queue cannot hold is dropped and counted: made = sent + dropped + queued, at any time."""
    hanging = Hanging()
    with tracing(hanging) as tracer:
        some(tracer, 90_000)  # the queue is full, and has been for long
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        some(tracer, 10_000)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        (stats,) = tracer.stats()
        assert grown < 200_000
        assert stats["sent"] == 0
        assert stats["queued"] <= 2048 + 512
        assert stats["queued"] + stats["dropped"]["queue full"] == 100_000
        hanging.let_go.set()
        assert tracer.flush() is False, "what was dropped was not delivered"
        assert tracer.flush() is True
        (stats,) = tracer.stats()
        assert stats["sent"] == hanging.got
        assert stats["sent"] + stats["dropped"]["queue full"] == 100_000


def test_a_slow_exporter_gets_all_that_fits() -> None:
    """Whatever the speed, the counts add up, also while threads make spans."""

    class Slow(SpanExporter):
        got = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            time.sleep(0.005)
            self.got += len(spans)
            return SpanExportResult.SUCCESS

    slow = Slow()
    with tracing(slow) as tracer:
        threads = [threading.Thread(target=some, args=(tracer, 5_000)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            (stats,) = tracer.stats()
            assert stats["queued"] >= 0
            time.sleep(0.002)
        for thread in threads:
            thread.join()
        tracer.flush()
        (stats,) = tracer.stats()
        assert stats["queued"] == 0
        assert stats["sent"] == slow.got
        assert stats["sent"] + sum(stats["dropped"].values()) == 20_000


def test_spans_after_shutdown_are_counted() -> None:
    """They are dropped, and a log line says so once."""
    with tracing(SpanList()) as tracer:
        some(tracer, 2)
        assert tracer.shutdown() is True
        some(tracer, 3)
        (stats,) = tracer.stats()
    assert (stats["sent"], stats["queued"], stats["dropped"]) == (2, 0, {"shut down": 3})


@pytest.mark.parametrize("spans", [1, 600])
def test_what_arrives_after_its_time_is_counted_as_sent(spans: int) -> None:
    """A batch given up at shutdown that gets through after all is no loss, and nothing is counted twice or below zero."""
    hanging = Hanging()
    with tracing(hanging) as tracer:
        some(tracer, spans)
        assert tracer.shutdown(0.1) is False
        (stats,) = tracer.stats()
        assert (stats["sent"], stats["queued"], stats["dropped"]) == (0, 0, {"shut down": spans})
        hanging.let_go.set()
        ends = time.monotonic() + 5
        while not hanging.got or not stats["sent"]:
            assert time.monotonic() < ends
            (stats,) = tracer.stats()
        assert stats["sent"] == hanging.got
        assert stats["queued"] == 0
        assert stats["sent"] + sum(stats["dropped"].values()) == spans


# Exporters that fail


@pytest.mark.swallows
@pytest.mark.parametrize("how", ["raises", "fails", "refuses", "says nothing"])
def test_a_failing_exporter_is_told_by_flush_and_stats(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """`flush` says False once for what was not accepted, True afterwards; the program goes on, with one log line per kind."""
    failing = Failing(how)
    with tracing(failing) as tracer:
        for _ in range(3):
            some(tracer, 1)
            assert tracer.flush() is False
        (stats,) = tracer.stats()
        assert (stats["sent"], stats["queued"], stats["dropped"]) == (0, 0, {"failed": 3})
        failing.how = None
        some(tracer, 1)
        assert tracer.flush() is True
        assert tracer.flush() is True
        assert rlm_obs.stats()["exporters"][-1]["dropped"] == {"failed": 3}
        raised = how in ("raises", "refuses")
        assert rlm_obs.stats()["failures"] == ({"exporter Failing": 3} if raised else {})
        assert len([r for r in caplog.records if "failed and was skipped" in r.getMessage()]) == raised


@pytest.mark.swallows
def test_flush_never_forgets_a_failure() -> None:
    """However quick the exporter fails, one of two flushes in a row says so, and never none."""
    failing = Failing("fails")
    with tracing(failing, SpanList()) as tracer:
        for _ in range(100):
            some(tracer, 1)
            assert tracer.flush() is False


def test_flush_says_false_where_the_exporter_keeps_spans_back() -> None:
    """An exporter whose own `force_flush` fails has not delivered."""

    class Keeping(SpanList):
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return False

    with tracing(Keeping()) as tracer:
        some(tracer, 1)
        assert tracer.flush() is False


def test_flush_keeps_its_bound() -> None:
    """A hanging exporter costs `timeout_s` and no more, and the answer is False; afterwards it is True."""
    hanging = Hanging()
    with tracing(hanging) as tracer:
        some(tracer, 1)
        for _ in range(2):
            began = time.monotonic()
            assert tracer.flush(0.1) is False
            assert 0.05 < time.monotonic() - began < 1
        hanging.let_go.set()
        assert tracer.flush(5) is True


def test_flushes_share_a_thread_that_ends_with_its_tracer() -> None:
    """However often a tracer is flushed, one thread does it, which is gone once the tracer is shut down."""
    known = set(threading.enumerate())

    def flushing() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one not in known and one.name == "rlm_obs-flush"]

    with tracing(SpanList()) as tracer:
        for _ in range(20):
            some(tracer, 1)
            assert tracer.flush() is True
        (thread,) = flushing()
    thread.join(5)
    assert not flushing()


def test_flush_waits_for_what_came_after_another_flush_began() -> None:
    """Two threads flush: each waits for what was queued before its own call."""
    hanging = Hanging()
    with tracing(hanging) as tracer:
        some(tracer, 1)
        threading.Thread(target=tracer.flush, args=(5,)).start()
        time.sleep(0.05)
        some(tracer, 1)
        threading.Timer(0.1, hanging.let_go.set).start()
        assert tracer.flush(5) is True
        assert hanging.got == 2


def test_shutdown_keeps_its_bound() -> None:
    """Neither a hanging export nor a hanging shutdown of the exporter costs more than `timeout_s`."""
    hanging = Hanging()
    with tracing(hanging) as tracer:
        some(tracer, 1)
        began = time.monotonic()
        assert tracer.shutdown(0.2) is False
        assert time.monotonic() - began < 1
        assert tracer.shutdown(0.2) is False, "asked again, it is the same truth"


def test_a_hanging_exporter_delays_no_other() -> None:
    """Each exporter has its own queue and thread."""
    hanging, quick = Hanging(), SpanList()
    with tracing(hanging, quick) as tracer:
        some(tracer, 3)
        ends = time.monotonic() + 2
        while len(quick.spans) < 3:
            assert time.monotonic() < ends
            time.sleep(0.005)
        assert tracer.flush(0.05) is False
        assert [s["sent"] for s in tracer.stats()] == [0, 3]


@pytest.mark.swallows
def test_an_object_that_can_only_export_is_enough() -> None:
    """`shutdown` and `force_flush` are asked for where they are there."""

    class Bare:
        got = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.got += len(spans)
            return SpanExportResult.SUCCESS

    bare = Bare()
    tracer = Tracer("t", exporter=bare)  # type: ignore[arg-type]
    some(tracer, 2)
    assert tracer.flush() is True
    assert tracer.shutdown() is True
    assert bare.got == 2
    assert not _guard.failures


def test_listing_pipelines_while_others_are_made() -> None:
    """Threads that make tracers do not disturb a thread that reads the stats."""
    done = threading.Event()

    def make() -> None:
        while not done.is_set():
            Tracer("t", exporters=[SpanList()]).shutdown()

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        rlm_obs.stats()
    done.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("wanted", ["console", 5, [SpanList], [object()], ["consle"]])
def test_what_is_no_exporter_is_said_where_it_is_given(wanted: Any) -> None:
    """A ConfigError names what was given, and the near names."""
    with pytest.raises(ConfigError, match="exporters") as wrong:
        Tracer("t", exporters=wanted)
    if wanted == ["consle"]:
        assert "did you mean 'console'" in str(wrong.value)


def test_otel_bsp_variables_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queue, batch and delay are OpenTelemetry's variables."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    hanging, quiet = Hanging(), SpanList()  # SpanList asks for 10 ms: the variable wins
    with tracing(hanging, quiet) as tracer:
        some(tracer, 1)
        time.sleep(0.1)
        assert not quiet.spans
        some(tracer, 50)
        stats = tracer.stats()[0]
        assert stats["queued"] <= 4 + 2
        assert stats["dropped"]["queue full"] >= 45


def test_what_becomes_of_each_span_adds_up() -> None:
    """made = queued + sent + dropped, and what was not made since its trace is not kept is counted beside."""
    failing, quick = Failing("fails"), SpanList()
    tracer = Tracer("t", exporters=[failing, quick])
    some(tracer, 3)
    tracer.flush()
    failing.how = None
    some(tracer, 2)
    tracer.flush()
    tracer.shutdown()
    some(tracer, 1)
    assert tracer.stats() == [
        {
            "exporter": "Failing",
            "made": 6,
            "sampled_out": 0,
            "queued": 0,
            "sent": 2,
            "dropped": {"failed": 3, "shut down": 1},
            "spooled": 0,
            "retried": 0,
        },
        {
            "exporter": "SpanList",
            "made": 6,
            "sampled_out": 0,
            "queued": 0,
            "sent": 5,
            "dropped": {"shut down": 1},
            "spooled": 0,
            "retried": 0,
        },
    ]


def test_what_is_sampled_out_is_counted() -> None:
    """Whoever has decided: the rate, or the trace that a span continues."""
    tracer = Tracer("t", exporters=[SpanList()], sample_rate=0)
    some(tracer, 2)
    unsampled = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    kept = Tracer("t", exporters=[SpanList()])
    with rlm_obs.extract(unsampled):
        some(kept, 3)
    some(kept, 1)
    assert [tracer.stats()[0][what] for what in ("made", "sampled_out")] == [0, 2]
    assert [kept.stats()[0][what] for what in ("made", "sampled_out")] == [1, 3]
    tracer.shutdown()
    kept.shutdown()


def test_an_exporter_that_knows_more_than_failure_is_believed() -> None:
    """`outcome()` says how many spans of a batch were taken; calls that a CallExporter has taken are not lost."""

    class Picky(rlm_obs.CallExporter):
        def export_call(self, record: rlm_obs.Record) -> None:
            if record.model == "bad":
                raise ConnectionError

    _guard.reraise = False
    with fake_openai() as server, openai.OpenAI(api_key="k", base_url=server.base_url, max_retries=0) as client:
        with rlm_obs.instrument(exporters=[Picky()]):
            for model in ("good", "bad", "good"):
                client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}])
            assert rlm_obs.flush() is False
            (stats,) = rlm_obs.stats()["exporters"]
    assert (stats["sent"], stats["dropped"]) == (2, {"failed": 1})


# The end of the program


def run(
    script: str, *arguments: str, check: int | None = 0, timeout: float = 20, env: dict[str, str] | None = None
) -> Any:
    """Run a script in a process of its own, and return how it ended and how long it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert check is None or done.returncode == check, done.stderr
    done.took = time.monotonic() - began  # type: ignore[attr-defined]
    return done


#: An exporter that writes the names of spans as lines, each with the process that sent it.
WRITER = """
import os, sys, time, threading, signal
import rlm_obs
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class Writer(SpanExporter):
    def __init__(self, path): self.path = path
    def export(self, spans):
        data = "".join(f"{os.getpid()} {s.name}\\n" for s in spans).encode()
        fd = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(fd, data)
        os.close(fd)
        return SpanExportResult.SUCCESS

class Hanging(SpanExporter):
    def export(self, spans): time.sleep(60)
    def shutdown(self): time.sleep(60)

def span(tracer, name):
    with tracer.span(name): pass
"""


def names(path: Path) -> list[str]:
    return sorted(line.split()[1] for line in path.read_text().splitlines()) if path.exists() else []


@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("sys.exit(3)", 3), ("raise RuntimeError('the user')", 1), ("raise KeyboardInterrupt", None)],
)
def test_what_is_queued_is_delivered_at_the_end(end: str, code: int | None, tmp_path: Path) -> None:
    """However the program ends: at its last line, by sys.exit, by an exception that nobody caught."""
    path = tmp_path / "spans"
    run(
        f"{WRITER}\ntracer = rlm_obs.Tracer('t', exporter=Writer(sys.argv[1]))\nspan(tracer, 'last')\n{end}",
        str(path),
        check=code,
    )
    assert names(path) == ["last"]


def test_a_stream_left_open_is_delivered_at_the_end(tmp_path: Path) -> None:
    """A stream that was left by `break` and is still held by a name when the program ends has its record and its span."""
    path = tmp_path / "spans"
    script = """
    import openai
    from rlm_obs.testing import fake_openai
    rlm_obs.instrument(exporters=[Writer(sys.argv[1])])
    server = fake_openai()
    client = openai.OpenAI(api_key="k", base_url=server.base_url, max_retries=0)
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
    for chunk in stream:
        break
    """
    run(WRITER + textwrap.dedent(script), str(path))
    assert names(path) == ["chat"]


#: A program in which streams, generators and coroutines can be opened.
OPEN = """
import asyncio, openai
from rlm_obs.testing import fake_openai
rlm_obs.instrument(exporters=[Writer(sys.argv[1])])
server = fake_openai()
ASKED = dict(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
client = openai.OpenAI(api_key="k", base_url=server.base_url, max_retries=0)
aclient = openai.AsyncOpenAI(api_key="k", base_url=server.base_url, max_retries=0)
def stream(): return client.chat.completions.create(**ASKED)
@rlm_obs.traced
def work(step):
    step(1)
    yield 1
    yield 2
@rlm_obs.traced
async def wait():
    await asyncio.sleep(0)
async def advance(stream):
    return await anext(await stream)
"""


@pytest.mark.parametrize(
    ("opened", "delivered"),
    [
        ("held = stream()", ["chat"]),
        ("held = stream(); next(held)", ["chat"]),
        ("next(stream())", ["chat"]),
        ("held = iter(stream()); next(held)", ["chat"]),
        ("asyncio.run(advance(aclient.chat.completions.create(**ASKED)))", ["chat"]),
        ("held = client.with_options().chat.completions.with_raw_response.create(**ASKED)", ["chat"]),
        ("held = work(lambda _: stream()); next(held)", ["chat", "work"]),
        ("held = wait(); held.send(None)", ["wait"]),
    ],
)
def test_what_is_open_is_delivered_at_the_end(opened: str, delivered: list[str], tmp_path: Path) -> None:
    """What somebody holds, or nobody has collected, when the program ends: a stream that was never read or not to its end,
    a generator, a coroutine. What was begun inside of another comes before it."""
    path = tmp_path / "spans"
    run(f"{WRITER}{OPEN}{opened}", str(path))
    assert [line.split()[1] for line in path.read_text().splitlines()] == delivered


def test_what_is_open_is_delivered_where_a_signal_ends_the_program(tmp_path: Path) -> None:
    """A server that is told to stop while a stream is on its way, with `flush_on_sigterm`."""
    path = tmp_path / "spans"
    script = """
    rlm_obs.instrument(exporters=[Writer(sys.argv[1])], settings={"flush_on_sigterm": True})
    held = stream()
    next(held)
    os.kill(os.getpid(), 15)
    time.sleep(60)
    """
    run(f"{WRITER}{OPEN}{textwrap.dedent(script)}", str(path), check=-signal.SIGTERM)
    assert names(path) == ["chat"]


def test_a_signal_that_the_program_survives_ends_nothing(tmp_path: Path) -> None:
    """With `flush_on_sigterm` and a handler of the program's own, a stream that is on its way goes on, and is a whole one."""
    path = tmp_path / "spans"
    script = """
    signal.signal(signal.SIGTERM, lambda *_: None)
    made = rlm_obs.instrument(exporters=[Writer(sys.argv[1])], settings={"flush_on_sigterm": True})
    with rlm_obs.CostTracker() as tracker:
        held = stream()
    next(held)
    os.kill(os.getpid(), signal.SIGTERM)
    assert tracker.get_report().calls == 0
    list(held)
    print(tracker.get_report().calls)
    """
    assert run(f"{WRITER}{OPEN}{textwrap.dedent(script)}", str(path)).stdout == "1\n"
    assert names(path) == ["chat"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_is_open_is_delivered_by_the_process_that_has_begun_it(tmp_path: Path) -> None:
    """A forked child that ends does not end the stream and the generator of its parent."""
    path = tmp_path / "spans"
    script = """
    held = work(lambda _: stream())
    next(held)
    pid = os.fork()
    if pid == 0:
        own = stream()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print(os.getpid())
    """
    parent = run(f"{WRITER}{OPEN}{textwrap.dedent(script)}", str(path)).stdout.strip()
    sent = [line.split()[:2] for line in path.read_text().splitlines()]
    assert [name for process, name in sent if process != parent] == ["chat"]
    assert [name for process, name in sent if process == parent] == ["chat", "work"]


def test_a_hanging_exporter_does_not_hold_the_program_up(tmp_path: Path) -> None:
    """The end is bounded by `exit_timeout_s`, for all exporters together, and the others deliver."""
    path = tmp_path / "spans"
    done = run(
        f"{WRITER}\nrlm_obs.instrument(exporters=[Hanging(), Writer(sys.argv[1]), Hanging()], settings={{'exit_timeout_s': 0.6}})\n"
        "from rlm_obs import _scope\nspan(_scope.default.tracer, 'last')",
        str(path),
    )
    assert names(path) == ["last"]
    assert done.took < 6  # the interpreter's own start and end, and 0.6 s
    assert done.stderr.splitlines() == [
        "not delivered: 1 spans of Hanging (1 shut down); 1 spans of Hanging (1 shut down)"
    ]


def test_no_signal_handler_is_installed_unasked() -> None:
    """A library does not touch a program's signals."""
    before = signal.getsignal(signal.SIGTERM)
    with rlm_obs.instrument(exporters=[]):
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("previous", ["none", "function", "ignored"])
def test_sigterm_flushes_and_then_does_what_was_there_before(previous: str, tmp_path: Path) -> None:
    """`flush_on_sigterm=True`: spans are sent, and the program ends as it would have without us."""
    path = tmp_path / "spans"
    handler = {
        "none": "",
        "function": "signal.signal(15, lambda *_: sys.exit(7))",
        "ignored": "signal.signal(15, signal.SIG_IGN)",
    }
    done = run(
        f"{WRITER}\n{handler[previous]}\n"
        "made = rlm_obs.instrument(exporters=[Writer(sys.argv[1])], settings={'flush_on_sigterm': True})\n"
        "span(made.tracer, 'last')\nos.kill(os.getpid(), 15)\ntime.sleep(0.1)\n"
        "print('still here', open(sys.argv[1]).read().split()[1:])",
        str(path),
        check={"none": -signal.SIGTERM, "function": 7, "ignored": 0}[previous],
    )
    assert names(path) == ["last"]
    assert ("still here ['last']" in done.stdout) == (previous == "ignored")


def test_sigterm_with_a_hanging_exporter_is_bounded(tmp_path: Path) -> None:
    """A process that is told to stop stops."""
    done = run(
        f"{WRITER}\nmade = rlm_obs.instrument(exporters=[Hanging()], settings={{'flush_on_sigterm': True, 'exit_timeout_s': 0.3}})\n"
        "span(made.tracer, 'last')\nos.kill(os.getpid(), 15)\ntime.sleep(60)",
        check=-signal.SIGTERM,
    )
    assert done.took < 6


def test_the_handler_goes_with_uninstrument() -> None:
    """What was installed before is installed again; from another thread it stays, and raises nothing."""
    before = signal.getsignal(signal.SIGTERM)
    with rlm_obs.instrument(exporters=[], settings={"flush_on_sigterm": True}):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    rlm_obs.instrument(exporters=[], settings={"flush_on_sigterm": True})
    failed: list[BaseException] = []

    def undo() -> None:
        try:
            rlm_obs.uninstrument()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=undo)
    thread.start()
    thread.join()
    signal.signal(signal.SIGTERM, before)
    assert not failed


def test_a_handler_asked_for_in_a_thread_is_a_config_error() -> None:
    """Python sets signal handlers in the main thread only; nothing is left half switched on."""
    failed: list[BaseException] = []

    def start() -> None:
        try:
            rlm_obs.instrument(exporters=[], settings={"flush_on_sigterm": True})
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert isinstance(failed[0], ConfigError)
    assert "flush_on_sigterm" in str(failed[0])


# Processes


def test_a_forked_child_sends_its_own_spans_once(tmp_path: Path) -> None:
    """os.fork: what was queued before is the parent's, what the child makes is the child's, and nothing is sent twice."""
    path = tmp_path / "spans"
    script = """
    tracer = rlm_obs.Tracer("t", exporter=Writer(sys.argv[1]))
    span(tracer, "parent-before")
    pid = os.fork()
    if pid == 0:
        span(tracer, "child")
        assert rlm_obs.stats()["exporters"][0]["queued"] == 1
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    span(tracer, "parent-after")
    """
    run(WRITER + textwrap.dedent(script), str(path))
    assert names(path) == ["child", "parent-after", "parent-before"]
    assert len({line.split()[0] for line in path.read_text().splitlines()}) == 2


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_deliver(method: str, tmp_path: Path) -> None:
    """They end by os._exit, past atexit: what they have made is delivered all the same, once."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    path, module = tmp_path / "spans", tmp_path / "program.py"
    module.write_text(
        WRITER
        + textwrap.dedent("""
        import multiprocessing

        def work(path, number):
            tracer = TRACER or rlm_obs.Tracer("t", exporter=Writer(path))
            span(tracer, f"child-{number}")

        TRACER = None
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[2])
            if sys.argv[2] == "fork":
                TRACER = rlm_obs.Tracer("t", exporter=Writer(sys.argv[1]))
                span(TRACER, "parent")
            children = [context.Process(target=work, args=(sys.argv[1], n)) for n in range(3)]
            for child in children: child.start()
            for child in children: child.join(10)
            assert [child.exitcode for child in children] == [0, 0, 0]
        """)
    )
    done = subprocess.run(
        [sys.executable, str(module), str(path), method], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert names(path) == ["child-0", "child-1", "child-2", *(["parent"] if method == "fork" else [])]


def test_forks_while_other_threads_are_at_work_do_not_hang(tmp_path: Path) -> None:
    """Fifty forks while threads make spans, ask a budget and read reports: each child answers, and ends."""
    path = tmp_path / "spans"
    script = """
    import openai
    from rlm_obs._budgets.desk import desk, Need, Waiting
    from rlm_obs.testing import fake_openai, Answer
    from decimal import Decimal
    made = rlm_obs.instrument(exporters=[Writer(sys.argv[1])], budget_usd="100", settings={"prices": {"m": {"input": 1, "output": 1}}})
    tracer, stop = made.tracer, threading.Event()

    def work():
        while not stop.is_set():
            span(tracer, "busy")
            hold = desk.ask(Need(Decimal(0), Decimal("0.1")), (made.tracker._account,), "x", may_wait=True)
            if not isinstance(hold, Waiting):
                desk.settle(hold, Decimal(0))
            rlm_obs.report(); rlm_obs.stats()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads: thread.start()
    children = []
    for number in range(50):
        pid = os.fork()
        if pid == 0:
            signal.alarm(8)
            span(tracer, f"child-{number}")
            desk.settle(desk.ask(Need(Decimal(0), Decimal(50)), (made.tracker._account,), "x", may_wait=True), Decimal(0))
            assert made.tracker.held == 0
            rlm_obs.register_plugin(object())
            ok = rlm_obs.flush(5)
            os._exit(0 if ok else 9)
        children.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    stop.set()
    for thread in threads: thread.join()
    assert codes == [0] * 50, codes
    """
    run(WRITER + textwrap.dedent(script), str(path), timeout=60)
    assert sorted(n for n in names(path) if n.startswith("child")) == sorted(f"child-{n}" for n in range(50))


def test_the_file_exporter_in_a_forked_pool(tmp_path: Path) -> None:
    """A real exporter, a real pool: every record once, by several processes into one file."""
    path = tmp_path / "calls.jsonl"
    script = """
    import concurrent.futures, multiprocessing, sys, openai, rlm_obs
    from rlm_obs.testing import fake_openai
    server = fake_openai()
    rlm_obs.instrument(exporters=[rlm_obs.FileExporter(sys.argv[1])])

    def ask(n):
        client = openai.OpenAI(api_key="k", base_url=server.base_url, max_retries=0)
        client.chat.completions.create(model=f"m{n}", messages=[{"role": "user", "content": "x"}])

    if __name__ == "__main__":
        ask(100)
        fork = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:
            list(pool.map(ask, range(4)))
    """
    run(script, str(path), timeout=60)
    assert sorted(r.model or "" for r in rlm_obs.read_records(path)) == ["m0", "m1", "m100", "m2", "m3"]


def test_the_end_is_watched_once() -> None:
    """Many tracers, one function at the end of the program."""
    for _ in range(3):
        Tracer("t", exporters=[SpanList()]).shutdown()
    assert _exit._last.count(_ending.at_exit) == 1


def test_exporters_of_two_tracers_get_their_own_spans_only(caplog: pytest.LogCaptureFixture) -> None:
    """Nested in either order, and beside `instrument()`: nobody receives another's spans."""
    mine, yours, program = SpanList(), SpanList(), SpanList()
    with rlm_obs.instrument(exporters=[program]) as made, tracing(mine) as one, tracing(yours) as two:
        assert made.tracer is not None
        with one.span("a"), two.span("b"), one.span("c"):
            pass
        with two.span("d"), made.tracer.span("e"), one.span("f"):
            pass
        for tracer in (one, two, made.tracer):
            assert tracer.flush()
    assert sorted(s.name for s in mine.spans) == ["a", "c", "f"]
    assert sorted(s.name for s in yours.spans) == ["b", "d"]
    assert [s.name for s in program.spans] == ["e"]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
