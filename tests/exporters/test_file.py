"""The file of records: whole lines by many writers, a crash costs what it cut and no more, exact to read back."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from rlm_obs import _attributes, _otlp_json
from rlm_obs._exporters import _appending
from rlm_obs._exporters import file as file_module
from rlm_obs._exporters._reading import read_records
from rlm_obs._exporters.file import FileExporter
from rlm_obs._record import Cost, Request, Usage
from rlm_obs.errors import ConfigError

TRACER = TracerProvider().get_tracer("test")
PLAIN = Usage(input_tokens=15, output_tokens=234)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def call(usage: Usage | None = PLAIN, cost: Cost | None = None, **said: Any) -> ReadableSpan:
    into: dict[str, Any] = {_attributes.RECORD_ID: os.urandom(8).hex()}
    request = Request(
        provider="openai", endpoint="/chat/completions", operation="chat", model="gpt-4o", params={"temperature": 0.5}
    )
    _attributes.of_request(request, into)
    if usage is not None:
        _attributes.of_usage(usage, into)
    if cost is not None:
        _attributes.of_cost(cost, into)
    return ended(TRACER.start_span("chat gpt-4o", attributes={**into, **said}))


def ended(span: trace.Span) -> ReadableSpan:
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_bytes().splitlines()]


def test_call_line(path: Path) -> None:
    """A call is one line: version, kind, the span's name and the fields of its record."""
    span = call(cost=Cost(total=Decimal("0.002378"), source="test"), **{"user.id": "анна"})
    assert FileExporter(path).export([span]) is SpanExportResult.SUCCESS
    (line,) = written(path)
    record = _attributes.record_of(span)
    assert record is not None
    more = line.pop("more")
    assert more["gen_ai.request.temperature"] == 0.5  # what no field of a record says
    resource = span.resource.attributes.items()
    assert line.pop("resource") == {name: value for name, value in resource if not name.startswith("telemetry.sdk.")}
    assert line.pop("span_kind") == "internal"  # this one of a test: a call's own is "client", and is not said
    assert line == {"v": 1, "kind": "call", "name": "chat gpt-4o", **record.to_dict()}
    assert "анна".encode() in path.read_bytes()


def test_other_spans(path: Path) -> None:
    """A span that is no call keeps its name, place, times, status and attributes."""
    parent = TRACER.start_span("run")
    child = TRACER.start_span("load", context=trace.set_span_in_context(parent), attributes={"docs": 12, "ok": True})
    spans = [ended(child), ended(parent)]
    FileExporter(path).export(spans)
    line, above = written(path)
    assert (line["kind"], line["name"], line["status"], line["error"]) == ("span", "load", "ok", None)
    assert line["attributes"] == {"docs": 12, "ok": True}
    assert line["parent_id"] == above["span_id"] == format(parent.get_span_context().span_id, "016x")
    assert above["parent_id"] is None
    assert line["trace_id"] == above["trace_id"]
    assert line["duration_s"] >= 0
    assert line["started_at"].endswith("+00:00")


def test_errors_by_class_alone(path: Path) -> None:
    """An exception is there by its class; its message and its stack, which may hold prompts and keys, are not."""
    span = TRACER.start_span("work")
    try:
        raise ValueError("sk-secret")
    except ValueError as error:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR, "ValueError: sk-secret")
    FileExporter(path).export([ended(span)])
    (line,) = written(path)
    assert (line["status"], line["error"]) == ("error", "ValueError")
    assert line["events"] == [{"name": "exception", "type": "ValueError"}]
    assert b"sk-secret" not in path.read_bytes()


def test_otlp_lines(path: Path) -> None:
    """`format="otlp"`: every span is a line of OTLP-JSON, with its ids, times and attributes; no exception's message."""
    span = TRACER.start_span("work", attributes={"n": 1})
    span.record_exception(ValueError("sk-secret"))
    span.set_status(trace.StatusCode.ERROR, "ValueError: sk-secret")
    spans = [call(), ended(span)]
    assert FileExporter(path, format="otlp").export(spans) is SpanExportResult.SUCCESS
    read = [_otlp_json.decode(line) for line in path.read_bytes().splitlines()]
    assert [len(line) for line in read] == [1, 1]
    for (one,), written_one in zip(read, spans, strict=True):
        assert one.context[:2] == written_one.context[:2]
        assert (one.start_time, one.end_time) == (written_one.start_time, written_one.end_time)
        assert dict(one.attributes or {}) == dict(written_one.attributes or {})
    assert b"sk-secret" not in path.read_bytes()
    assert read[1][0].status.description == "ValueError"


def test_otlp_lines_keep_what_records_cannot(path: Path) -> None:
    """An OTLP line keeps events, links and the counts of what the SDK's limits have dropped, also of a span that failed."""
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=2, max_events=1, max_links=1))
    other = trace.Link(trace.SpanContext(7, 8, True), {"why": "retry"})
    span = provider.get_tracer("t", "1").start_span("work", links=[other, other])
    span.set_attributes({"a": (1, 2), "b": "x", "c": 0.1})
    span.add_event("one", {"n": 1}, 5)
    span.record_exception(ValueError("sk-secret"), {"n": 2}, 6)
    span.set_status(trace.StatusCode.ERROR, "sk-secret")
    FileExporter(path, format="otlp").export([ended(span)])
    (read,) = _otlp_json.decode(path.read_bytes())
    assert (read.dropped_attributes, read.dropped_events, read.dropped_links) == (1, 1, 1)
    assert [(k.context.span_id, dict(k.attributes or {})) for k in read.links] == [(8, {"why": "retry"})]
    ((name, at, said),) = [(e.name, e.timestamp, dict(e.attributes or {})) for e in read.events]
    assert (name, at, said["exception.type"], said["n"]) == ("exception", 6, "ValueError", 2)
    assert read.instrumentation_scope == span.instrumentation_scope  # type: ignore[attr-defined]
    assert b"sk-secret" not in path.read_bytes()


def test_check(path: Path) -> None:
    """`check`, which `rlm-obs doctor` asks, says where lines go and what room there is, or why they cannot; it writes none."""
    exporter = FileExporter(path)
    assert str(path) in exporter.check() and "GB are free" in exporter.check()
    assert path.read_bytes() == b""
    assert FileExporter("-").check() == "the standard output is open"
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        exporter.check()


def test_a_format_that_is_not_there(path: Path) -> None:
    """An unknown format is a ConfigError that names the ones there are, and no file is made."""
    with pytest.raises(ConfigError, match="'records' or 'otlp'"):
        FileExporter(path, format="csv")
    assert not path.exists()


def test_content_only_where_it_was_captured(path: Path) -> None:
    """Prompt and answer are on the line of a call where the span carries them, and nowhere else."""
    FileExporter(path).export([call(), call(**{_attributes.INPUT_MESSAGES: "[1]", _attributes.OUTPUT_MESSAGES: "[2]"})])
    bare, full = written(path)
    assert not {"input", "output"} & bare.keys()
    assert (full["input"], full["output"]) == ("[1]", "[2]")


def test_odd_values_stay_json(path: Path) -> None:
    """NaN, infinities, line breaks, half surrogates and bytes give valid JSON on one line."""
    span = call(nan=math.nan, inf=math.inf, text="a\nb\u2028c\ud83d", seq=("x", "y"), raw=b"\xff")
    assert FileExporter(path).export([span, call()]) is SpanExportResult.SUCCESS
    assert path.read_bytes().count(b"\n") == 2
    attributes = written(path)[0]["attributes"]
    assert (attributes["nan"], attributes["inf"]) == ("nan", "inf")
    assert attributes["text"] == "a\nb\u2028c\ud83d"
    assert next(read_records(path)).attributes["seq"] == ("x", "y")


COUNT = st.none() | st.integers(0, 2**53)
MONEY = st.decimals(0, 10**6, allow_nan=False, allow_infinity=False)
PART = st.none() | MONEY
USAGES = st.builds(
    Usage,
    input_tokens=COUNT,
    cached_input_tokens=COUNT,
    cache_write_tokens=COUNT,
    output_tokens=COUNT,
    reasoning_tokens=COUNT,
    input_audio_tokens=COUNT,
    seconds=st.none() | st.floats(0, 1e6),
    images=COUNT,
    tool_calls=st.dictionaries(st.sampled_from(["web_search", "file.search"]), st.integers(1, 99)),
)
COSTS = st.builds(
    Cost,
    total=MONEY,
    source=st.text(),
    input=PART,
    cached_input=PART,
    output=PART,
    tools=PART,
    caveats=st.lists(st.text(), max_size=3).map(tuple),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    usage=st.none() | USAGES,
    cost=st.none() | COSTS,
    status=st.sampled_from(["ok", "error", "refused", "aborted"]),
    own=st.dictionaries(st.text(min_size=1), st.text() | st.integers(-(2**63), 2**63) | st.booleans(), max_size=3),
)
def test_round_trip(tmp_path: Path, usage: Usage | None, cost: Cost | None, status: str, own: dict[str, Any]) -> None:
    """What `read_records` reads is what the span says, to the last digit of tokens, dollars and seconds."""
    path = tmp_path / f"{os.urandom(8).hex()}.jsonl"
    span = call(usage, cost, **own, **{_attributes.STATUS: status, _attributes.FIRST_CHUNK: 0.123456789})
    FileExporter(path).export([span])
    (read,) = read_records(path)
    record = _attributes.record_of(span)
    assert read == record
    assert read.cost is None or isinstance(read.cost.total, Decimal)
    path.unlink()


def append_200(path: Path, name: str) -> None:
    exporter = FileExporter(path)
    for number in range(200):
        assert exporter.export([call(worker=name, number=number, text="x" * 3000)]) is SpanExportResult.SUCCESS


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_share_a_file(path: Path, method: str) -> None:
    """Four processes append 200 lines each to one file: every line whole, none lost, each writer's in order."""
    if method != "spawn" and sys.version_info >= (3, 12):
        pytest.skip("the other start methods warn of threads")
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=append_200, args=(path, str(n))) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    by_worker: dict[str, list[int]] = {}
    for record in read_records(path):
        by_worker.setdefault(record.attributes["worker"], []).append(record.attributes["number"])
    assert by_worker == {str(n): list(range(200)) for n in range(4)}
    assert len(written(path)) == 800


def test_threads_share_an_exporter(path: Path) -> None:
    """Threads, and a child forked from them, may use one exporter at once."""
    exporter = FileExporter(path)

    def work() -> None:
        for _ in range(50):
            exporter.export([call(text="y" * 5000), call()])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written(path)) == 400


def test_a_cut_line_spoils_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A last line without its end (a crash) is the only one lost: the next writer starts a new line."""
    FileExporter(path).export([call(number=1)])
    with path.open("ab") as file:
        file.write(b'{"v": 1, "kind": "ca')
    assert [r.attributes["number"] for r in read_records(path)] == [1]
    assert caplog.text == ""  # it may be being written right now
    FileExporter(path).export([call(number=2)])
    assert [r.attributes["number"] for r in read_records(path)] == [1, 2]
    assert "line 2" in caplog.text


def test_other_lines_are_passed_over(path: Path) -> None:
    """Spans, blank lines and JSON of others do not stop the reader; fields that a later version adds do not either."""
    FileExporter(path).export([ended(TRACER.start_span("work")), call(number=1)])
    line = written(path)[1]
    line["something_new"] = {"a": 1}
    line["usage"]["new_tokens"] = 3
    with path.open("a") as file:
        file.write('\n[]\n"x"\n{"v": 1, "kind": "call"}\n' + json.dumps(line) + "\n")
    assert [r.attributes["number"] for r in read_records(path)] == [1, 1]


def test_a_newer_format_is_refused(path: Path) -> None:
    """A file of a newer format is a ConfigError that names the line, not records read wrongly."""
    FileExporter(path).export([call()])
    with path.open("a") as file:
        file.write('{"v": 2, "kind": "call"}\n')
    records = read_records(path)
    next(records)
    with pytest.raises(ConfigError, match="line 2"):
        next(records)


def test_where_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parent folders are made, `~` is the home, a relative path stays where it was, and only the owner may read."""
    monkeypatch.chdir(tmp_path)
    exporter = FileExporter("deep/er/calls.jsonl")
    monkeypatch.chdir("/")
    exporter.export([call()])
    path = tmp_path / "deep/er/calls.jsonl"
    assert len(written(path)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in repr(exporter)
    monkeypatch.setenv("HOME", str(tmp_path))
    FileExporter("~/home.jsonl")
    assert (tmp_path / "home.jsonl").exists()


@pytest.mark.parametrize("wrong", [".", "", "taken/calls.jsonl", None, 5, b"x", "a\0b"])
def test_a_path_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    """A folder, a path below a file, or no path at all is a ConfigError where it is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match="FileExporter"):
        FileExporter(wrong)


def test_a_file_that_was_moved_away(path: Path) -> None:
    """Log rotation needs no signal: after the file is moved away, the next lines go to a new one."""
    exporter = FileExporter(path)
    exporter.export([call()])
    path.rename(path.with_suffix(".1"))
    exporter.export([call(), call()])
    assert len(written(path)) == 2
    assert len(written(path.with_suffix(".1"))) == 1


def test_a_folder_that_is_gone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that can no longer be written is a FAILURE and one line in the log, never an exception."""
    exporter = FileExporter(path.parent / "gone" / "x")
    exporter.path.unlink()
    exporter.path.parent.rmdir()
    assert [exporter.export([call()]) for _ in range(3)] == [SpanExportResult.FAILURE] * 3
    assert len(caplog.records) == 1
    assert str(exporter.path) in caplog.text


def test_a_full_disk_leaves_whole_lines(path: Path) -> None:
    """A batch that does not fit is not there at all: the lines before it are whole, and later ones may follow."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    exporter = FileExporter(path)
    exporter.export([call(number=1)])
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, limits[1]))
        assert exporter.export([call(text="z" * 5000)]) is SpanExportResult.FAILURE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.stat().st_size == size
    exporter.export([call(number=2)])
    assert [r.attributes["number"] for r in read_records(path)] == [1, 2]


def test_short_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that the system takes only a part of goes on where it stopped."""
    whole = os.write
    monkeypatch.setattr(os, "write", lambda file, data: whole(file, data[:100]))
    FileExporter(path).export([call(text="w" * 1000), call()])
    monkeypatch.undo()
    assert len(list(read_records(path))) == 2


def test_a_lock_that_is_never_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process that holds the lock does not hold up our exports for ever: the line is written all the same."""
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(_appending, "LONGEST_WAIT_S", 0.05)
    exporter = FileExporter(path)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        assert exporter.export([call()]) is SpanExportResult.SUCCESS
        assert time.monotonic() - began < 5
    assert len(written(path)) == 1


def test_importing_it_is_light() -> None:
    """The three built-in modules import neither OTLP, requests nor langfuse; offering them by name does not either."""
    code = (
        "import sys\n"
        "from rlm_obs._exporters import console, file, langfuse\n"
        "names = [*console.register_exporters(), *file.register_exporters(), *langfuse.register_exporters()]\n"
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('requests', 'langfuse', 'openai') or 'exporter.otlp' in m]\n"
        "print(names, heavy)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['console', 'file', 'langfuse'] []"


def test_factories_take_the_settings(path: Path) -> None:
    """`exporters=["file"]` writes to the path of the settings."""
    from rlm_obs._settings import read_settings

    built = file_module.register_exporters()["file"](read_settings({"file_path": path}))
    spans: Sequence[ReadableSpan] = [call()]
    assert built.export(spans) is SpanExportResult.SUCCESS
    assert built.force_flush() is True
    assert len(written(path)) == 1
