"""What cannot be sent is kept on disk within bounds, and sent when the receiver is back, once: over sockets, kills and restarts."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import rlm_obs
from rlm_obs import _guard, _resending, _spool
from rlm_obs._exporters import langfuse
from rlm_obs._spool import Spool
from rlm_obs.testing import SpanList, fake_openai
from tests.exporters.receiver import Receiver, free_port, hang, receiving, reply, reset, spans_of

SECRET = "sk-lf-33334444"
EXPORTERS = ["langfuse", "otlp"]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langfuse, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(_resending, "FIRST_S", 0.1)
    monkeypatch.setattr(_resending, "MOST_S", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("RLM_OBS_SPOOL", "kept")
    monkeypatch.setenv("RLM_OBS_EXIT_TIMEOUT_S", "2")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port where a receiver may come up, and exporters that are told of it."""
    found = free_port()
    point_to(f"http://localhost:{found}", monkeypatch)
    return found


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-11112222")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", SECRET)
    monkeypatch.setenv("LANGFUSE_HOST", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET}")


def ask(number: int = 1) -> None:
    with fake_openai() as model, openai.OpenAI(api_key="k", base_url=model.base_url) as client:
        for _ in range(number):
            client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)


def about() -> dict[str, Any]:
    (one,) = rlm_obs.stats()["exporters"]
    assert isinstance(one, dict)
    assert one["made"] == one["queued"] + one["sent"] + one["spooled"] + sum(one["dropped"].values())
    return one


def until(true: Callable[[], object], within_s: float = 15) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.02)


def ids(receiver: Receiver) -> list[str]:
    return [span.span_id for span in receiver.spans]


def files(state: str = "") -> list[Path]:
    return sorted(path for path in Path("kept").rglob(f"*{state}") if path.is_file() and path.name != "lock")


def made(*names: str) -> list[ReadableSpan]:
    kept = SpanList()
    tracer = rlm_obs.Tracer("t", exporters=[kept], settings={"spool": "elsewhere"})
    for name in names:
        tracer.start(name).end()
    tracer.shutdown()
    return kept.spans


def spool(megabytes: float = 10, hours: float = 1) -> Spool:
    return Spool(Path("kept"), "one", "http://one", int(megabytes * 1e6), hours * 3600)


def taken(one: Spool) -> list[str]:
    """Take all that waits, as one who sends it."""
    assert one.turn.take()
    one.recover(again=False)
    found = []
    for kept in one.waiting():
        claimed = one.take(kept)
        assert claimed is not None
        found += [span.name for span in claimed[1]]
        one.done(claimed[0], 0, ())
    one.turn.release()
    return found


# A receiver that is down, and comes up


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_down_then_up(exporter: str, port: int) -> None:
    """Spans wait on the disk and are sent by themselves when the receiver is back, each once; those after it too."""
    with rlm_obs.instrument(exporters=[exporter]):
        ask(3)
        assert rlm_obs.flush() is False
        assert (about()["spooled"], about()["spool"]["spans"], about()["dropped"]) == (3, 3, {})
        with receiving(port=port) as receiver:
            until(lambda: about()["spool"]["sent"] == 3)
            ask(2)
            assert rlm_obs.flush() is True
            assert about()["sent"] == 2
            assert about()["spool"] == {"spans": 0, "bytes": 0, "sent": 3, "dropped": {}}
    assert len(set(ids(receiver))) == len(ids(receiver)) == 5
    assert files() == []


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_flush_tries_at_once(exporter: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the next time that somebody would have tried, and says True when nothing is left."""
    monkeypatch.setattr(_resending, "FIRST_S", 60.0)
    monkeypatch.setattr(_resending, "MOST_S", 60.0)
    with rlm_obs.instrument(exporters=[exporter]):
        ask()
        assert rlm_obs.flush() is False
        assert rlm_obs.flush() is False, "it is not delivered yet"
        with receiving(port=port) as receiver:
            assert rlm_obs.flush() is True
    assert len(receiver.spans) == 1


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("status", [307, 401, 403, 404, 429, 502, 503, 504])
def test_an_answer_with_which_nothing_was_stored(exporter: str, status: int, port: int) -> None:
    """The spans are kept, and sent when the answer is another."""
    with rlm_obs.instrument(exporters=[exporter]):
        with receiving(reply(status), port=port):
            ask(2)
            assert rlm_obs.flush() is False
            assert (about()["spooled"], about()["dropped"]) == (2, {})
        with receiving(port=port) as receiver:
            assert rlm_obs.flush() is True
    assert len(set(ids(receiver))) == len(ids(receiver)) == 2


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    "answer", [reply(400), reply(413), reply(500), reset, hang], ids=["400", "413", "500", "reset", "hang"]
)
def test_what_may_have_arrived_or_is_refused_is_not_kept(exporter: str, answer: Any, port: int) -> None:
    """A second span would count twice, and what is refused once is refused again: they are dropped and counted."""
    with rlm_obs.instrument(exporters=[exporter]):
        with receiving(answer, port=port):
            ask(1)
            assert rlm_obs.flush() is False
            assert (about()["spooled"], about()["dropped"]) == (0, {"failed": 1})
        with receiving(port=port) as receiver:
            assert rlm_obs.flush() is True
    assert receiver.spans == []


def test_flush_tells_of_a_loss_on_the_disk(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """What the receiver refuses at last is no delivery, though nothing waits any more; the end says it in its line."""
    running = rlm_obs.instrument(exporters=["otlp"])
    with receiving(reply(503), port=port):
        ask(2)
        assert rlm_obs.flush() is False
    with receiving(reply(400), port=port):
        assert rlm_obs.flush() is False
        assert about()["spool"] == {"spans": 0, "bytes": 0, "sent": 0, "dropped": {"refused": 2}}
    with receiving(port=port):
        assert rlm_obs.flush() is True
    running.uninstrument()
    assert "not delivered: 2 spans of otlp (2 refused on disk)" in caplog.text


@pytest.mark.parametrize("answer", [reply(500), reset, hang], ids=["500", "reset", "hang"])
def test_a_receiver_that_counts_a_span_once(answer: Any, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phoenix does: what may have arrived is kept and sent again."""
    monkeypatch.setenv("PHOENIX_COLLECTOR_ENDPOINT", f"http://localhost:{port}")
    with rlm_obs.instrument(exporters=["phoenix"]):
        with receiving(answer, port=port):
            ask(2)
            assert rlm_obs.flush() is False
            assert (about()["spooled"], about()["dropped"]) == (2, {})
        with receiving(port=port) as receiver:
            assert rlm_obs.flush() is True
    assert len(receiver.spans) == 2


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("answer", [reply(500), reset, hang], ids=["500", "reset", "hang"])
def test_one_batch_is_risked_and_no_other(exporter: str, answer: Any, port: int) -> None:
    """After a loss the receiver is asked first: what comes meanwhile waits on the disk."""
    with rlm_obs.instrument(exporters=[exporter]):
        with receiving(answer, port=port):
            ask(1)
            assert rlm_obs.flush() is False
            for _ in range(3):
                ask(1)
                rlm_obs.flush(0.01)
            until(lambda: about()["spooled"] == 3)
            assert about()["dropped"] == {"failed": 1}
        with receiving(port=port) as receiver:
            assert rlm_obs.flush(20) is True
    assert len(receiver.spans) == 3


def test_one_file_is_risked_and_no_other(port: int) -> None:
    """A receiver that answers when it is asked, and hangs when it gets spans, costs one file at a time, after a while each."""
    one = Spool(Path("kept"), "otlp", f"http://localhost:{port}/v1/traces", 10**7, 3600)
    for name in ("a", "b", "c"):
        one.put(made(name))
        one.seal()

    def faulty(request: Any, line: Any) -> None:
        (reset if list(spans_of(request.body)) else reply())(request, line)

    with receiving(faulty, port=port) as receiver:
        tracer = rlm_obs.Tracer("t", exporters=["otlp"])
        until(lambda: len(receiver.spans) == 1)
        assert len(files()) >= 2
        tracer.shutdown()


def test_at_once_and_kept(port: int) -> None:
    """`export="sync"`: while the receiver is down a call has kept its span on the disk when it returns, and asks nobody."""
    with rlm_obs.instrument(exporters=["otlp"], settings={"export": "sync"}):
        for number in range(3):
            ask(1)
            assert about()["spooled"] == number + 1
        with receiving(port=port) as receiver:
            until(lambda: len(receiver.spans) == 3)


@pytest.mark.parametrize("answer", [hang, reply(503), reply(404)], ids=["hang", "503", "404"])
def test_nothing_is_sent_to_one_that_does_not_listen(answer: Any, port: int) -> None:
    """What waits on the disk is not risked: a receiver is asked by a request without spans first."""
    with rlm_obs.instrument(exporters=["otlp"]):
        ask(2)
        rlm_obs.flush()
        with receiving(answer, port=port) as deaf:
            assert rlm_obs.flush(0.5) is False
            until(lambda: deaf.requests)
            assert deaf.spans == []
        with receiving(port=port) as receiver:
            until(lambda: len(receiver.spans) == 2)


def test_while_it_is_down_nobody_waits_for_it(port: int) -> None:
    """After the first failure spans go to the disk at once, and are told in one line of the log."""
    with receiving(reply(503), port=port) as busy, rlm_obs.instrument(exporters=["otlp"]):
        for _ in range(4):
            ask()
            rlm_obs.flush(0.01)
            until(lambda: about()["queued"] == 0)
        assert about()["spooled"] == 4
        assert len([r for r in busy.requests if r.body]) <= 1


# Restarts, other processes, forks

PROGRAM = """
import os, sys, time, rlm_obs
from rlm_obs import _resending
_resending.FIRST_S = _resending.MOST_S = 0.1
tracer = rlm_obs.Tracer("t", exporters=[sys.argv[1]])
def span(name):
    with tracer.span(name): pass
def settled():
    while tracer.stats()[0]["queued"]: tracer.flush(0.5)
"""


def run(script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM + textwrap.dedent(script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_next_process_sends_what_the_last_has_left(exporter: str, port: int) -> None:
    """A program ends while the receiver is down, in time and without a warning; the next one delivers, unasked."""
    done = run("span('a')\nspan('b')", exporter)
    assert "not delivered" not in done.stderr
    assert len(files(".jsonl")) == 1
    with receiving(port=port) as receiver:
        run(
            "deadline = time.monotonic() + 20\nwhile tracer.stats()[0]['spool']['sent'] < 2: time.sleep(0.02)", exporter
        )
    assert sorted(span.name for span in receiver.spans) == ["a", "b"]
    assert files() == []


def test_a_process_that_lives_takes_what_another_has_left(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks from time to time, though it has lost nothing itself."""
    monkeypatch.setattr(_resending, "LOOK_S", 0.1)
    with receiving() as up:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", up.url)
        with rlm_obs.instrument(exporters=["otlp"]):
            for old in files():
                old.unlink()
            up.answer = reply(503)
            run("span('left')", "otlp")
            assert len(files(".jsonl")) == 1
            up.answer = reply(200)
            until(lambda: about()["spool"]["sent"] == 1)


def test_spans_go_where_they_were_to_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One folder for all: another host, another project of Langfuse, another exporter get nothing of it."""
    run("span('a')", "langfuse")
    with receiving(port=port) as receiver:
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-other")
        run("assert rlm_obs.flush()", "langfuse")
        run("assert rlm_obs.flush()", "otlp")
        assert receiver.spans == []
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-11112222")
        run("assert rlm_obs.flush()", "langfuse")
        assert [span.name for span in receiver.spans] == ["a"]


@posix
def test_forked_children_keep_their_own(port: int) -> None:
    """Parent and children write and send one spool, and no span comes twice."""
    script = """
    span("parent-before")
    settled()
    pids = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            span(f"child-{number}")
            settled()
            span(f"child-{number}-late")
            sys.exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    span("parent-after")
    """
    run(script, "otlp")
    with receiving(port=port) as receiver:
        run("assert rlm_obs.flush()", "otlp")
    children = [f"child-{n}{late}" for n in range(3) for late in ("", "-late")]
    assert sorted(span.name for span in receiver.spans) == [*children, "parent-after", "parent-before"]


@posix
def test_a_fork_leaves_the_parent_its_file_and_keeps_no_hold_of_it() -> None:
    """A child that ends gives nothing of the parent's away; one that outlives its parent holds nothing up."""
    one, other = spool(), spool()
    one.put(made("a"))
    pid = os.fork()
    if pid == 0:
        one.after_fork()
        os._exit(0)
    os.waitpid(pid, 0)
    assert taken(other) == []
    one.seal()
    assert taken(other) == ["a"]
    script = """
    span("left")
    settled()
    if os.fork() == 0:
        print("ready", flush=True)  # it has let go of what is its parent's
        sys.stdin.read()
        os._exit(0)
    time.sleep(60)
    """
    command = [sys.executable, "-c", PROGRAM + textwrap.dedent(script), "otlp"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdout.readline()
        process.kill()
        process.wait()
        left = Spool(Path("kept"), "otlp", "http://localhost:4318/v1/traces", 10**7, 3600)
        assert taken(left) == ["left"]
    finally:
        process.stdin.close()
        process.stdout.close()


def test_what_is_on_its_way_at_the_end_arrives(port: int) -> None:
    """A program that ends while it sends what the last one has left ends that file, and leaves the others whole."""
    one = Spool(Path("kept"), "otlp", f"http://localhost:{port}/v1/traces", 10**7, 3600)
    for name in ("a", "b", "c"):
        one.put(made(name))
        one.seal()

    def slowly(request: Any, line: Any) -> None:
        time.sleep(0.3 if list(spans_of(request.body)) else 0)
        reply()(request, line)

    with receiving(slowly, port=port) as receiver:
        script = "while not [n for d in os.walk('kept') for n in d[2] if n.endswith('.sending')]: time.sleep(0.001)"
        assert "not delivered" not in run(script, "otlp").stderr
        assert files(".sending") == []
        run("assert rlm_obs.flush(10)", "otlp")
    assert sorted(span.name for span in receiver.spans) == ["a", "b", "c"]


def test_processes_that_send_at_once(port: int) -> None:
    """Four processes find the same spool: each file is one's, and every span arrives once."""
    one = Spool(Path("kept"), "otlp", f"http://localhost:{port}/v1/traces", 10**7, 3600)
    for number in range(40):
        one.put(made(f"span-{number}"))
        one.seal()
    with receiving(port=port) as receiver:
        command = [sys.executable, "-c", PROGRAM + "assert rlm_obs.flush(30)", "otlp"]
        running = [subprocess.Popen(command) for _ in range(4)]
        assert [process.wait(60) for process in running] == [0, 0, 0, 0]
    assert sorted(span.name for span in receiver.spans) == sorted(f"span-{n}" for n in range(40))


# Kills

WRITER = """
number = 0
while True:
    span(f"{sys.argv[2]}-{number}")
    tracer.flush(0.001)
    while tracer.stats()[0]["queued"]: time.sleep(0.0005)
    print(f"{sys.argv[2]}-{number}", flush=True)  # it is on the disk
    number += 1
"""


@posix
def test_killed_while_it_writes(port: int) -> None:
    """kill -9 at any moment: what was on the disk before arrives, each span once, and nothing is broken by a torn end."""
    safe: list[str] = []
    command = [sys.executable, "-c", PROGRAM + WRITER, "otlp"]
    for turn in range(8):
        process = subprocess.Popen([*command, f"w{turn}"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        safe.append(process.stdout.readline().strip())
        time.sleep(random.random() * 0.15)
        process.kill()
        safe += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait()
        process.stdout.close()
    assert len(safe) > 16
    with receiving(port=port) as receiver:
        run("assert rlm_obs.flush(20)", "otlp")
    arrived = [span.name for span in receiver.spans]
    assert len(arrived) == len(set(arrived))
    assert set(safe) <= set(arrived)
    assert files() == []


@posix
def test_killed_while_it_sends(port: int) -> None:
    """kill -9 at any moment: no span comes twice, and none is missing but of the file that was on its way."""
    one = Spool(Path("kept"), "otlp", f"http://localhost:{port}/v1/traces", 10**7, 3600)
    every = [f"span-{number}" for number in range(160)]
    for name in every:
        one.put(made(name))
        one.seal()

    def slowly(request: Any, line: Any) -> None:
        time.sleep(random.random() * 0.006)
        reply()(request, line)

    on_the_way: set[str] = set()
    command = [sys.executable, "-c", PROGRAM + "rlm_obs.flush(30)", "otlp"]
    with receiving(slowly, port=port) as receiver:
        kills = 0
        while files():
            before = len(receiver.requests)
            process = subprocess.Popen(command)
            until(lambda: len(receiver.requests) > before or process.poll() is not None)  # noqa: B023
            time.sleep(random.random() * 0.2)
            process.kill()
            process.wait()
            kills += 1
            on_the_way |= {name for path in files(".sending") for name in every if f'"{name}"' in path.read_text()}
            assert len(files(".sending")) <= 1
    assert kills > 1
    arrived = [span.name for span in receiver.spans]
    assert len(arrived) == len(set(arrived))
    assert set(every) - set(arrived) <= on_the_way


def test_what_a_dead_process_was_sending(port: int) -> None:
    """It may have arrived: it is dropped and counted, or sent again to a receiver that counts a second span as the first."""
    for again, expected in ((False, []), (True, ["a"])):
        one = spool()
        one.put(made("a"))
        one.seal()
        (waiting,) = one.waiting()
        assert one.take(waiting) is not None
        assert len(files(".sending")) == 1  # and here it was killed
        other = spool()
        assert other.turn.take()
        other.recover(again)
        assert other.dropped == ({} if again else {"may have arrived": 1})
        other.turn.release()
        assert taken(other) == expected


# Files


def test_a_torn_end_is_passed_over() -> None:
    """Whole lines count; half a line is one loss, which is counted."""
    one = spool()
    one.put(made("a", "b", "c"))
    (path,) = files(".open")
    one.after_fork()  # its lock is given up as by a dead one
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    other = spool()
    assert taken(other) == ["a", "b"]
    assert other.dropped == {"torn": 1}


def test_what_is_being_written_is_left_to_its_writer() -> None:
    """While a process lives nobody takes its file away."""
    one, other = spool(), spool()
    one.put(made("a"))
    assert taken(other) == []
    one.put(made("b"))
    one.seal()
    assert taken(other) == ["a", "b"]


def test_one_sends_at_a_time() -> None:
    """It is one's turn until it is given back."""
    one, other = spool(), spool()
    one.put(made("a"))
    assert one.turn.take() is True
    assert other.turn.take() is False
    one.turn.release()
    assert other.turn.take() is True
    other.turn.release()


def test_it_is_bounded_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes, and is counted; what is larger than all of it is not kept."""
    one = spool(megabytes=0.02)
    for number in range(200):
        assert one.put(made(f"span-{number}")) == 1
    assert sum(path.stat().st_size for path in files()) <= 20_000
    one.seal()
    left = taken(one)
    assert left == [f"span-{number}" for number in range(200 - len(left), 200)]
    assert one.dropped == {"no room": 200 - len(left)}
    assert one.put(made("x" * 20_001)) == 0
    assert one.put(made("small")) == 1


def test_it_is_bounded_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too old is dropped, and counted."""
    one = spool(hours=1)
    one.put(made("old"))
    one.seal()
    now = time.time_ns()
    monkeypatch.setattr(_spool.time, "time_ns", lambda: now + 3600 * 10**9)
    one.put(made("new"))
    one.seal()
    assert taken(one) == ["new"]
    assert one.dropped == {"too old": 1}


def test_files_hold_a_batch_at_most() -> None:
    """What waits is sent in batches that a receiver takes."""
    one = spool()
    names = [f"span-{number}" for number in range(1100)]
    assert one.put(made(*names)) == 1100
    one.seal()
    assert [kept.spans for kept in one.waiting()] == [512, 512, 76]
    assert taken(one) == names


def test_nobody_else_reads_it_and_no_key_is_in_it(port: int) -> None:
    """Folders are 0700, files 0600; neither a key nor an exception's message is in a name or in a text."""
    with rlm_obs.instrument(exporters=["langfuse"]) as running:
        assert running.tracer is not None
        with pytest.raises(ValueError, match="the prompt"), running.tracer.span("x") as span:
            span.record_exception(ValueError("the prompt"))
            raise ValueError("the prompt")
        while about()["queued"]:
            rlm_obs.flush(0.5)
        everything = [Path("kept"), *Path("kept").rglob("*")]
        if os.name == "posix":
            assert {oct(path.stat().st_mode & 0o777) for path in everything if path.is_dir()} == {"0o700"}
            assert {oct(path.stat().st_mode & 0o777) for path in everything if path.is_file()} == {"0o600"}
        text = "".join(str(path) + (path.read_text() if path.is_file() else "") for path in everything)
        for secret in (SECRET, "pk-lf-11112222", "the prompt"):
            assert secret not in text


@posix
def test_a_full_disk(port: int) -> None:
    """No exception: what cannot be kept is dropped and counted, what is kept is whole, and it goes on when there is room."""
    script = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    span("first")
    settled()
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk("kept") for f in fs)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    span("no room")
    settled()
    (stats,) = tracer.stats()
    assert (stats["spooled"], stats["dropped"]) == (1, {"failed": 1}), stats
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    span("room again")
    settled()
    """
    done = run(script, "otlp")
    assert "spans cannot be kept in" in done.stderr
    assert "not delivered: 1 spans of otlp (1 failed)" in done.stderr
    with receiving(port=port) as receiver:
        run("assert rlm_obs.flush()", "otlp")
    assert [span.name for span in receiver.spans] == ["first", "room again"]


def test_a_folder_that_cannot_be_made(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """The program goes on, the log says where, once, and the spans are counted as lost."""
    Path("kept").write_text("a file")
    with rlm_obs.instrument(exporters=["otlp"]):
        for _ in range(2):
            ask()
            assert rlm_obs.flush() is False
        assert (about()["spooled"], about()["dropped"]) == (0, {"failed": 2})
    assert len([r for r in caplog.records if "cannot be kept" in r.getMessage()]) == 1


# The end of the program


def test_what_is_queued_at_the_end_is_kept(port: int) -> None:
    """A receiver that hangs: what is on its way may have arrived and is lost, what is behind it is on the disk."""
    with receiving(hang, port=port):
        done = run(
            "for n in range(20): span(f's{n}')",
            "otlp",
            env={**os.environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4", "OTEL_EXPORTER_OTLP_TIMEOUT": "30"},
        )
    assert "not delivered: 4 spans of otlp" in done.stderr
    with receiving(port=port) as receiver:
        run("assert rlm_obs.flush()", "otlp")
    assert [span.name for span in receiver.spans] == [f"s{n}" for n in range(4, 20)]


# Any exporter


class Sending(SpanExporter):
    """A stranger's exporter, which says where it sends to."""

    destination = "https://spans.example"

    def __init__(self) -> None:
        self.down = True
        self.got: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.down:
            return SpanExportResult.FAILURE
        self.got += [span.name for span in spans]
        return SpanExportResult.SUCCESS


def test_a_strangers_exporter() -> None:
    """FAILURE is, by OpenTelemetry's word, "not exported": it is kept, and exported again."""
    stranger = Sending()
    with rlm_obs.instrument(exporters=[stranger]):
        ask(2)
        assert rlm_obs.flush() is False
        assert about()["spooled"] == 2
        stranger.down = False
        assert rlm_obs.flush() is True
        assert len(stranger.got) == 2


def test_a_file_that_nobody_takes_holds_up_no_other() -> None:
    """An exporter that fails at one batch for ever gets the others."""

    class Picky(Sending):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.down = any(span.name == "poison" for span in spans)
            return super().export(spans)

    picky = Picky()
    one = Spool(Path("kept"), "Picky", picky.destination, 10**7, 3600)
    for name in ("poison", "b", "c"):
        one.put(made(name))
        one.seal()
    with rlm_obs.instrument(exporters=[picky]):
        until(lambda: picky.got == ["b", "c"])
        assert rlm_obs.flush(0.3) is False


def test_one_bad_call_puts_no_other_on_the_disk() -> None:
    """What one call is failed for does not make the receiver one that is down."""

    class Choosy(rlm_obs.CallExporter):
        destination = "https://calls.example"

        def export_call(self, record: rlm_obs.Record) -> None:
            if record.model == "bad":
                raise ValueError

    _guard.reraise = False
    with rlm_obs.instrument(exporters=[Choosy()]):
        with fake_openai() as model, openai.OpenAI(api_key="k", base_url=model.base_url) as client:
            for name in ("good", "bad", "good"):
                client.chat.completions.create(model=name, messages=HELLO)
            assert rlm_obs.flush() is False
            assert (about()["sent"], about()["spooled"], about()["spool"]["spans"]) == (2, 1, 1)
            client.chat.completions.create(model="good", messages=HELLO)
            rlm_obs.flush(0.5)
        assert (about()["sent"], about()["spooled"]) == (3, 1)


def test_records_of_calls_are_whole() -> None:
    """A CallExporter gets from the disk what it would have got: the record, digit for digit."""

    class Calls(rlm_obs.CallExporter):
        destination = "https://calls.example"

        def __init__(self) -> None:
            self.down = True
            self.got: list[rlm_obs.Record] = []

        def export_call(self, record: rlm_obs.Record) -> None:
            if self.down:
                raise ConnectionError
            self.got.append(record)

    _guard.reraise = False
    calls, direct = Calls(), Calls()
    direct.down, direct.destination = False, "https://elsewhere.example"
    with rlm_obs.instrument(exporters=[calls, direct]):
        ask(2)
        assert rlm_obs.flush() is False
        calls.down = False
        assert rlm_obs.flush() is True
    assert calls.got == direct.got
    assert len(calls.got) == 2


@pytest.mark.skipif(
    find_spec("opentelemetry.exporter.otlp.common") is None, reason="the oldest one raises where nobody is"
)
def test_opentelemetrys_own_exporter(port: int) -> None:
    """An object of OpenTelemetry's is kept for too, by its address."""
    with rlm_obs.instrument(exporters=[OTLPSpanExporter(f"http://localhost:{port}/v1/traces", timeout=1)]):
        ask()
        assert rlm_obs.flush() is False
        assert about()["spooled"] == 1
        with receiving(port=port) as receiver:
            assert rlm_obs.flush() is True
    assert len(receiver.spans) == 1


def test_an_exporter_that_sends_nowhere_has_no_spool() -> None:
    """The console, a file: what they cannot write is lost, and nothing is on the disk."""
    with rlm_obs.instrument(exporters=["file"]):
        ask()
        assert rlm_obs.flush() is True
        assert "spool" not in about()
    assert not Path("kept").exists()
