"""`rlm-obs send`: files arrive later as they would have at once, what does not is said, and nothing goes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_obs import FileExporter
from rlm_obs._otlp_json import decode
from tests.cli.test_tail import a_trace
from tests.exporters.receiver import Span, in_turn, receiving, reply

Script = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def ids(span: Any) -> tuple[str, str]:
    if isinstance(span, Span):
        return span.trace_id, span.span_id
    return format(span.context.trace_id, "032x"), format(span.context.span_id, "016x")


@pytest.mark.parametrize("form", ["records", "otlp"])
@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.gz"])
def test_what_arrives(tmp_path: Path, rlm_obs_script: Script, form: Any, name: str) -> None:
    """Ids, parents, times, kinds, status, attributes and service arrive by OTLP as they were when the span ended."""
    spans = a_trace("answer", **{"user.id": "u-17", "share": 0.5, "tags": ("a", "b")})
    FileExporter(tmp_path / name, format=form).export(spans)
    with receiving() as receiver:
        done = rlm_obs_script("send", str(tmp_path / name), "--to", "otlp", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent 2 spans (1 calls) to otlp\n", "")
    assert [ids(span) for span in receiver.spans] == [ids(span) for span in spans]
    for came, span in zip(receiver.spans, spans, strict=True):
        said = dict(span.attributes or {})
        assert {name: came.said.get(name) for name in said} == said
        assert came.resource["service.name"] == span.resource.attributes["service.name"]
        assert came.raw.kind == span.kind.value + 1
        assert span.start_time is not None and abs(came.start - span.start_time) < 1000
    below, root = receiver.spans
    assert (below.parent_id, root.parent_id) == (root.span_id, "")


def test_langfuse(path: Path, rlm_obs_script: Script) -> None:
    """To Langfuse it goes as from a running program: the cost, the tokens and the type are on the observation."""
    FileExporter(path).export(a_trace("answer"))
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1"}
    with receiving() as receiver:
        done = rlm_obs_script("send", str(path), "--to", "langfuse", LANGFUSE_HOST=receiver.url, **keys)
    assert done.returncode == 0, done.stderr
    said = receiver.named()["chat gpt-4o"].said
    assert said["langfuse.observation.type"] == "generation"
    assert json.loads(said["langfuse.observation.usage_details"])["total"] == 249
    assert receiver.requests[0].headers["authorization"].startswith("Basic ")


def test_what_stands_there_twice(path: Path, rlm_obs_script: Script) -> None:
    """A span that several files hold (one is the gzip of another) is sent once."""
    spans = a_trace("answer")
    zipped = path.with_name("calls.jsonl.gz")
    FileExporter(path).export(spans)
    FileExporter(zipped).export([*spans, *a_trace("next")])
    with receiving() as receiver:
        done = rlm_obs_script("send", str(zipped), str(path), "--to", "otlp", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert (done.returncode, done.stdout) == (0, "sent 4 spans (2 calls) to otlp\n")
    assert done.stderr == "skipped: 2 spans that stood there twice\n"
    assert len({ids(span) for span in receiver.spans}) == len(receiver.spans) == 4


def test_what_is_not_delivered(path: Path, rlm_obs_script: Script) -> None:
    """A receiver that refuses: exit code 1, the number of spans, and with --rest a file that sends exactly them later."""
    exporter, rest = FileExporter(path), path.with_name("rest.jsonl")
    traces = [a_trace(f"t{n}") for n in range(600)]
    for spans in traces:
        exporter.export(spans)
    with receiving(in_turn(reply(200), reply(400), reply(200))) as receiver:
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        done = rlm_obs_script("send", str(path), "--to", "otlp", "--rest", str(rest), **where)
        assert (done.returncode, done.stdout) == (1, "sent 688 spans (344 calls) to otlp\n")
        assert f"not delivered: 512 spans; they are in {rest}\n" in done.stderr
        left = [ids(span) for line in rest.read_bytes().splitlines() for span in decode(line)]
        every = [ids(span) for spans in traces for span in spans]
        assert left == every[512:1024]
        del receiver.requests[1]
        assert rlm_obs_script("send", str(rest), "--to", "otlp", **where).returncode == 0
    assert sorted(ids(span) for span in receiver.spans) == sorted(every)


def test_a_receiver_that_is_gone(path: Path, rlm_obs_script: Script) -> None:
    """Three batches that are not taken, and the rest is not tried; all of it counts as not delivered."""
    exporter = FileExporter(path)
    for _ in range(1100):
        exporter.export(a_trace("t"))
    with receiving(reply(400)) as receiver:
        done = rlm_obs_script("send", str(path), "--to", "otlp", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert len(receiver.requests) == 3
    assert done.returncode == 1
    assert "not delivered: 2200 spans" in done.stderr and "the rest is not tried" in done.stderr


def test_dry_run(path: Path, rlm_obs_script: Script) -> None:
    """--dry-run reads everything and sends nothing; an exporter without its key says so."""
    FileExporter(path).export(a_trace("answer"))
    with path.open("ab") as file:
        file.write(b'{"v":1,"ki')
    with receiving() as receiver:
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        done = rlm_obs_script("send", str(path), "--to", "otlp", "--dry-run", **where)
        assert (done.returncode, receiver.requests) == (0, [])
    assert done.stdout == "would send 2 spans (1 calls) to otlp\n"
    assert done.stderr == "skipped: 1 line cut short at the end of a file\n"
    done = rlm_obs_script("send", str(path), "--to", "langsmith", "--dry-run", LANGSMITH_API_KEY="")
    assert done.returncode == 2 and "LANGSMITH_API_KEY" in done.stderr


def test_lines_that_are_none(path: Path, rlm_obs_script: Script) -> None:
    """Lines that cannot be read are counted, and make the exit code 1; what can be read is sent."""
    FileExporter(path).export(a_trace("answer"))
    with path.open("ab") as file:
        file.write(b"hello\n[1]\n\n")
    with receiving() as receiver:
        done = rlm_obs_script("send", str(path), "--to", "otlp", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert len(receiver.spans) == 2
    assert done.returncode == 1 and "skipped: 2 lines unreadable\n" in done.stderr


def test_from_one_format_to_the_other(path: Path, rlm_obs_script: Script) -> None:
    """To "file" it changes the format; the same file is never read and written at once."""
    FileExporter(path).export(a_trace("answer"))
    other = path.with_name("otlp.jsonl")
    to = {"RLM_OBS_FILE_PATH": str(other), "RLM_OBS_FILE_FORMAT": "otlp"}
    assert rlm_obs_script("send", str(path), "--to", "file", **to).returncode == 0
    assert [span.name for line in other.read_bytes().splitlines() for span in decode(line)] == ["chat gpt-4o", "answer"]
    for options in (("--to", "file"), ("--to", "console", "--rest", str(path))):
        done = rlm_obs_script("send", str(path), *options, RLM_OBS_FILE_PATH=str(path))
        assert done.returncode == 2 and "read and written at the same time" in done.stderr
    assert len(path.read_bytes().splitlines()) == 2


def test_to_the_console_by_a_pipe(path: Path) -> None:
    """`-` is the standard input, and the console shows what came."""
    FileExporter(path).export(a_trace("answer"))
    script = str(Path(sys.executable).parent / "rlm-obs")
    done = subprocess.run(
        [script, "send", "-", "--to", "console"], input=path.read_bytes(), capture_output=True, timeout=60
    )
    assert done.stdout.startswith(b"[SPAN] answer (") and done.stdout.endswith(b"sent 2 spans (1 calls) to console\n")


STRANGER = """
    import os
    import rlm_obs

    class Exporter(rlm_obs.CallExporter):
        def export_call(self, record):
            if os.environ.get("FAILS"):
                raise ValueError("no")
            print(record.model, record.usage.output_tokens, record.attributes["n"])

        def force_flush(self, timeout_millis=30000):
            return "UNSURE" not in os.environ

    @rlm_obs.hookimpl
    def register_exporters():
        return {"stranger": lambda settings: Exporter()}
"""


def test_a_strangers_exporter(path: Path, tmp_path: Path, rlm_obs_script: Script) -> None:
    """Any plugin's exporter gets the records; what it fails to take, or does not confirm, is the exit code 1."""
    (tmp_path / "stranger.py").write_text(textwrap.dedent(STRANGER))
    dist = tmp_path / "stranger-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text("[rlm_obs]\nstranger = stranger\n")
    FileExporter(path).export(a_trace("answer", n=5))
    here = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = rlm_obs_script("send", str(path), "--to", "stranger", **here)
    assert (done.returncode, done.stdout) == (0, "gpt-4o 234 5\nsent 2 spans (1 calls) to stranger\n")
    done = rlm_obs_script("send", str(path), "--to", "stranger", FAILS="1", **here)
    assert done.returncode == 1 and "not delivered: 2 spans" in done.stderr
    done = rlm_obs_script("send", str(path), "--to", "stranger", UNSURE="1", **here)
    assert done.returncode == 1 and "does not say that all has arrived" in done.stderr


def test_wrong_arguments(path: Path, rlm_obs_script: Script) -> None:
    """An exporter or a file that is not there is one line and exit code 2, before anything is sent."""
    FileExporter(path).export(a_trace("answer"))
    for arguments, said in (
        ((str(path), "--to", "langfus"), "did you mean 'langfuse'"),
        ((str(path), "gone.jsonl", "--to", "console"), "gone.jsonl: No such file"),
        ((str(path),), "--to"),
        (("--to", "console"), "FILES"),
    ):
        done = rlm_obs_script("send", *arguments)
        assert done.returncode == 2 and said in done.stderr and done.stdout == ""
