"""`rlm-obs tail`: a file as the console tree, of either format, packed or not, while it is written and rotated."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from rlm_obs import FileExporter
from tests.exporters.test_file import TRACER, call, ended

Script = Callable[..., subprocess.CompletedProcess[str]]


def a_trace(name: str, **said: Any) -> list[ReadableSpan]:
    root = TRACER.start_span(name)
    with trace.use_span(root):
        below = call(**said)
    return [below, ended(root)]


@pytest.mark.parametrize("form", ["records", "otlp"])
@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.gz"])
def test_the_tree(tmp_path: Path, rlm_obs_script: Script, form: Any, name: str) -> None:
    """Each trace is a tree of its spans with tokens and cost, as on the console."""
    FileExporter(tmp_path / name, format=form).export(a_trace("answer", **{"user.id": "u-17"}))
    done = rlm_obs_script("tail", str(tmp_path / name))
    lines = done.stdout.splitlines()
    assert lines[0].startswith("[SPAN] answer (")
    assert any(line.startswith("  [SPAN] chat gpt-4o (") for line in lines)
    assert "    ├─ prompt_tokens: 15" in lines and "    └─ user.id: u-17" in lines
    assert (done.returncode, done.stderr) == (0, "")
    brief = rlm_obs_script("tail", "--brief", str(tmp_path / name)).stdout.splitlines()
    assert len(brief) == 3 and "15+234 tokens" in brief[1]


def test_the_last_traces(tmp_path: Path, rlm_obs_script: Script) -> None:
    """Ten traces of the end are shown, or as many as asked for; 0 is all of them."""
    path = tmp_path / "calls.jsonl"
    for number in range(25):
        FileExporter(path).export(a_trace(f"t{number}"))
    for options, first, shown in (((), 15, 10), (("-n", "2"), 23, 2), (("--traces", "0"), 0, 25)):
        out = rlm_obs_script("tail", "--brief", str(path), *options).stdout
        tops = [line.split()[1] for line in out.splitlines() if line.startswith("[SPAN] t")]
        assert tops == [f"t{n}" for n in range(first, first + shown)]


def test_what_is_not_finished(tmp_path: Path, rlm_obs_script: Script) -> None:
    """A trace whose topmost span is not there is shown at the end as it is; what is cut short or foreign is said."""
    path = tmp_path / "calls.jsonl"
    FileExporter(path).export(a_trace("top")[:1])
    with path.open("ab") as file:
        file.write(b'hello\n{"v":1,"kind":"span"}\n{"v":1,"ki')
    done = rlm_obs_script("tail", str(path))
    assert "[SPAN] chat gpt-4o" in done.stdout and "(parent not ended)" in done.stdout
    assert "left out 1 line cut short at the end of a file, 2 lines unreadable" in done.stderr
    assert done.returncode == 0


def test_the_standard_input(tmp_path: Path) -> None:
    """`-` reads a pipe, packed or not."""
    path = tmp_path / "calls.jsonl"
    FileExporter(path).export(a_trace("answer"))
    script = str(Path(sys.executable).parent / "rlm-obs")
    for data in (path.read_bytes(), gzip.compress(path.read_bytes())):
        done = subprocess.run([script, "tail", "-"], input=data, capture_output=True, timeout=60)
        assert done.stdout.startswith(b"[SPAN] answer") and done.stderr == b""


@pytest.mark.parametrize("wrong", ["missing.jsonl", "."])
def test_no_such_file(tmp_path: Path, rlm_obs_script: Script, wrong: str) -> None:
    """A file that is not there, or is a folder, is one line and exit code 2."""
    done = rlm_obs_script("tail", str(tmp_path / wrong))
    assert done.returncode == 2
    assert done.stderr.startswith("rlm-obs: ") and done.stderr.count("\n") == 1


def test_a_newer_format(tmp_path: Path, rlm_obs_script: Script) -> None:
    """A file of a newer rlm_obs is refused, and says what to do."""
    (tmp_path / "a").write_text('{"v": 2, "kind": "call"}\n')
    done = rlm_obs_script("tail", str(tmp_path / "a"))
    assert done.returncode == 2 and "line 1: format 2 is unknown here: pip install -U rlm-obs" in done.stderr


@contextlib.contextmanager
def following(path: Path | str, *options: str, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    script = str(Path(sys.executable).parent / "rlm-obs")
    command = [script, "tail", "--follow", "--brief", str(path), *options]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    if sys.platform != "win32":  # where a shell has begun the tests in the background, interrupts are ignored
        streams["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    tail = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **streams
    )
    try:
        yield tail
    finally:
        tail.kill()
        tail.communicate()


def until(tail: subprocess.Popen[str], *names: str) -> list[str]:
    """Read lines until the last of `names` has come; returns those that begin a trace."""
    assert tail.stdout is not None
    seen: list[str] = []
    for line in tail.stdout:
        if line.startswith("[SPAN]"):
            seen.append(line.split()[1])
        if seen and seen[-1] == names[-1] and line == "\n":
            break
    assert seen == [*names]
    return seen


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.gz"])
@pytest.mark.parametrize("form", ["records", "otlp"])
def test_following(tmp_path: Path, name: str, form: Any) -> None:
    """--follow waits for the file, shows its end, what it gets, its rest when it is rotated, and the next; Ctrl-C ends it."""
    path = tmp_path / name
    with following(path, "-n", "1") as tail:
        time.sleep(0.3)  # begun before there is a file
        exporter = FileExporter(path, format=form, max_bytes=4_000)
        exporter.export(a_trace("one"))
        until(tail, "one")
        names = [f"t{n}" for n in range(30)]
        for one in names:
            exporter.export(a_trace(one))
            time.sleep(0.01)
            if one in ("t9", "t19"):
                until(tail, *names[names.index(one) - 9 : names.index(one) + 1])
        until(tail, *names[20:])
        assert len(list(tmp_path.iterdir())) > 3
        exporter.export(a_trace("open")[:1])
        time.sleep(1)
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=30)
        assert (tail.returncode, err) == (0, "")
        assert "(parent not ended)" in out


def test_following_half_lines(tmp_path: Path) -> None:
    """A line that comes in pieces is shown when it is whole; a file that is cut down to nothing is begun anew."""
    path, whole = tmp_path / "calls.jsonl", tmp_path / "whole.jsonl"
    FileExporter(whole).export(a_trace("one"))
    data = whole.read_bytes()
    path.touch()
    with following(path) as tail:
        for start in range(0, len(data), 400):
            with path.open("ab") as file:
                file.write(data[start : start + 400])
            time.sleep(0.1)
        until(tail, "one")
        whole.unlink()
        FileExporter(whole).export(a_trace("x"))
        with path.open("r+b") as file:
            file.truncate()
            time.sleep(0.6)
            file.write(whole.read_bytes())
        until(tail, "x")


def test_following_past_another_rotation(tmp_path: Path) -> None:
    """A file that logrotate moves away is read to its end, and then the one that stands in its place."""
    path = tmp_path / "calls.jsonl"
    FileExporter(path).export(a_trace("one"))
    with following(path) as tail:
        until(tail, "one")
        path.rename(tmp_path / "calls.jsonl.1")
        FileExporter(tmp_path / "calls.jsonl.1").export(a_trace("two"))  # as by one who has it open still
        until(tail, "two")
        FileExporter(path).export(a_trace("three"))
        until(tail, "three")


def test_following_the_standard_input(tmp_path: Path) -> None:
    """With --follow a pipe is shown while it is open."""
    path = tmp_path / "calls.jsonl"
    FileExporter(path).export(a_trace("one"))
    with following("-", stdin=subprocess.PIPE) as tail:
        assert tail.stdin is not None
        tail.stdin.write(path.read_text())
        tail.stdin.flush()
        until(tail, "one")
        tail.stdin.close()
        assert tail.wait(30) == 0
        tail.stdin = None


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    """Piped into a program that stops reading, it stops too, without a traceback."""
    path = tmp_path / "calls.jsonl"
    for number in range(50):
        FileExporter(path).export(a_trace(f"t{number}"))
    script = str(Path(sys.executable).parent / "rlm-obs")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run([script, "tail", "-n", "0", str(path)], stdout=pipe, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
