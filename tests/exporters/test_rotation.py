"""Files that end: by size, by time, gzipped, shared by processes, on a disk that is full; nothing is lost uncounted."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

import rlm_obs
from rlm_obs import ConfigError, FileExporter, read_records
from rlm_obs._exporters import _appending, _rotation
from rlm_obs._exporters._made_back import spans_of
from rlm_obs._exporters._reading import Reader, pieces
from rlm_obs._exporters._rotation import old_files
from tests.exporters.test_file import call

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@pytest.fixture(autouse=True)
def _a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rotation, "LONGEST_PACKING_S", 60)


def numbers(*paths: Path) -> list[int]:
    return [record.attributes["number"] for path in paths for record in read_records(path)]


def olds(path: Path) -> list[Path]:
    return [old for _, old in old_files(path)]


def unzipped(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines()


def spans_in(path: Path) -> tuple[list[ReadableSpan], Reader[ReadableSpan]]:
    reader = Reader(str(path), spans_of)
    found = [span for piece in pieces(path) for span in reader.feed(piece)]
    return [*found, *reader.end()], reader


@pytest.mark.parametrize("form", ["records", "otlp"])
def test_by_size(path: Path, form: Any) -> None:
    """No file passes `max_bytes`; the old ones and the new one, in the order of their names, hold every line in order."""
    exporter = FileExporter(path, format=form, max_bytes=10_000)
    for start in range(0, 60, 20):
        assert exporter.export([call(number=n) for n in range(start, start + 20)]) is SUCCESS
    files = [*olds(path), path]
    assert len(files) > 3
    assert all(0 < file.stat().st_size <= 10_000 for file in files)
    assert numbers(*files) == list(range(60))
    assert re.fullmatch(r"calls\.\d{8}T\d{6}\.\d{6}Z\.jsonl", files[0].name)


def test_a_line_longer_than_a_file(path: Path) -> None:
    """A line that is longer than a whole file may be has one of its own, and is not cut."""
    exporter = FileExporter(path, max_bytes=1000)
    exporter.export([call(number=1), call(number=2, text="x" * 5000), call(number=3)])
    assert [numbers(file) for file in (*olds(path), path)] == [[1], [2], [3]]


def test_by_time(path: Path) -> None:
    """A file that was last written in an earlier period is an old one, also where another process wrote it."""
    exporter = FileExporter(path, rotate_every_s=3600)
    exporter.export([call(number=1)])
    exporter.export([call(number=2)])
    hour = time.time() // 3600 * 3600
    assert olds(path) == [] or time.time() // 3600 * 3600 != hour
    os.utime(path, (hour - 1, hour - 1))
    FileExporter(path, rotate_every_s=3600).export([call(number=3)])
    assert numbers(*olds(path)) == [1, 2]
    assert numbers(path) == [3]


def test_an_empty_file_is_no_old_one(path: Path) -> None:
    """A file without a line is not rotated, however old it is."""
    exporter = FileExporter(path, rotate_every_s=60)
    os.utime(path, (0, 0))
    exporter.export([call()])
    assert olds(path) == []


def test_how_many_are_kept(path: Path) -> None:
    """`backup_count` old files stay, the newest; files of other names are never touched."""
    others = [
        path.with_name(name) for name in ("calls.jsonl.1", "calls.2026.jsonl", "callsx.20260101T000000.000000Z.jsonl")
    ]
    for other in others:
        other.write_text("mine")
    exporter = FileExporter(path, max_bytes=1, backup_count=2)
    for number in range(6):
        exporter.export([call(number=number)])
    assert numbers(*olds(path), path) == [3, 4, 5]
    assert [other.read_text() for other in others] == ["mine"] * 3


def test_old_files_are_gzipped(path: Path) -> None:
    """`compress`: old files become gzip, whole, and are read as before; what an earlier run left plain is taken along."""
    FileExporter(path, max_bytes=1).export([call(number=0), call(number=1)])
    assert [old.suffix for old in olds(path)] == [".jsonl"]
    exporter = FileExporter(path, max_bytes=1, compress=True, backup_count=9)
    exporter.export([call(number=2)])
    exporter.shutdown()
    assert [old.suffix for old in olds(path)] == [".gz", ".gz"]
    assert len(list(path.parent.iterdir())) == 3
    assert numbers(*olds(path), path) == [0, 1, 2]
    assert gzip.decompress(olds(path)[0].read_bytes()).endswith(b"}\n")
    assert all(old.stat().st_mode & 0o777 == 0o600 for old in olds(path)) or sys.platform == "win32"


def test_a_file_that_is_rotated_while_we_wait_for_it(path: Path) -> None:
    """A line that waits for the file's lock goes into the new file, not into one that was rotated away meanwhile."""
    fcntl = pytest.importorskip("fcntl")
    exporter = FileExporter(path)
    exporter.export([call(number=1)])
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=exporter.export, args=([call(number=2)],))
        waiting.start()
        time.sleep(0.3)
        path.rename(path.with_suffix(".old"))
    waiting.join()
    assert (numbers(path.with_suffix(".old")), numbers(path)) == ([1], [2])


def test_an_old_file_that_another_process_gzips(path: Path) -> None:
    """Of two processes that would gzip one old file, one does; the other leaves it alone."""
    fcntl = pytest.importorskip("fcntl")
    FileExporter(path, max_bytes=1).export([call(number=0), call(number=1)])
    (old,) = olds(path)
    exporter = FileExporter(path, max_bytes=1, compress=True)
    with old.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        exporter.export([call(number=2)])
        exporter.shutdown()
        assert [one.suffix for one in olds(path)] == [".jsonl", ".gz"]
        assert not list(path.parent.glob("*.part"))
    exporter.export([call(number=3)])
    exporter.shutdown()
    assert [one.suffix for one in olds(path)] == [".gz"] * 3
    assert numbers(*olds(path), path) == [0, 1, 2, 3]


def test_an_old_file_that_is_open_still(path: Path) -> None:
    """A process that has just written to a file may hold it for a moment when it is old: it is gzipped then all the same."""
    fcntl = pytest.importorskip("fcntl")
    FileExporter(path, max_bytes=1).export([call(number=0), call(number=1)])
    (old,) = olds(path)
    exporter = FileExporter(path, max_bytes=1, compress=True)
    with old.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        exporter.export([call(number=2)])
        time.sleep(0.3)
    exporter.shutdown()
    assert [one.suffix for one in olds(path)] == [".gz", ".gz"]


def test_a_gzip_that_was_not_finished(path: Path) -> None:
    """What a crash has left of a file that was being gzipped is no file of spans, and the next run makes it whole."""
    FileExporter(path, max_bytes=1).export([call(number=0), call(number=1)])
    (old,) = olds(path)
    old.with_name(old.name + ".gz.part").write_bytes(b"\x1f\x8bhalf")
    assert olds(path) == [old]
    exporter = FileExporter(path, max_bytes=1, compress=True)
    exporter.export([call(number=2)])
    exporter.shutdown()
    assert numbers(*olds(path), path) == [0, 1, 2]
    assert not list(path.parent.glob("*.part"))


def test_written_as_gzip(tmp_path: Path) -> None:
    """A name in `.gz` is written as gzip that every tool reads, batch after batch, rotated too."""
    path = tmp_path / "calls.jsonl.gz"
    exporter = FileExporter(path, max_bytes=2000)
    for number in range(20):
        assert exporter.export([call(number=number)]) is SUCCESS
    files = [*olds(path), path]
    assert len(files) > 2 and all(re.search(r"Z\.jsonl\.gz$", old.name) for old in files[:-1])
    assert all(file.stat().st_size <= 2000 for file in files)
    assert [json.loads(line)["attributes"]["number"] for file in files for line in unzipped(file)] == [*range(20)]
    assert numbers(*files) == [*range(20)]


def test_the_end_of_a_piece_of_gzip(tmp_path: Path) -> None:
    """What ends each piece is an empty member of gzip, the same in every Python."""
    assert gzip.decompress(_appending.WHOLE) == b"" and len(_appending.WHOLE) == 20
    path = tmp_path / "calls.jsonl.gz"
    FileExporter(path).export([call()])
    assert path.read_bytes().endswith(_appending.WHOLE)


def test_gzip_cut_short(tmp_path: Path) -> None:
    """Cut anywhere, a gzip file keeps its whole lines readable, the cut one is counted; the next writer begins a new file."""
    path = tmp_path / "calls.jsonl.gz"
    FileExporter(path).export([call(number=1)])
    first = path.stat().st_size
    FileExporter(path).export([call(number=2)])
    whole = path.read_bytes()
    for size in range(first + 1, len(whole), 7):
        path.write_bytes(whole[:size])
        spans, reader = spans_in(path)
        found = [(span.attributes or {})["number"] for span in spans]
        assert (found, reader.torn, reader.unknown) in (([1], 1, 0), ([1, 2], 0, 0), ([1, 2], 1, 0))
    path.write_bytes(whole[: first + 30])
    FileExporter(path).export([call(number=3)])
    assert numbers(path) == [3]
    assert numbers(*olds(path)) == [1]


def test_cut_short_anywhere(path: Path) -> None:
    """Cut at any byte, the last line is never taken for a record: it is counted, and those before it are whole."""
    FileExporter(path).export([call(number=1)])
    first = path.stat().st_size
    FileExporter(path).export([call(number=2, text="анна")])
    whole = path.read_bytes()
    for size in range(first + 1, len(whole) - 1):
        path.write_bytes(whole[:size])
        spans, reader = spans_in(path)
        assert [(span.attributes or {})["number"] for span in spans] == [1]
        assert (reader.torn, reader.unknown) == (1, 0)
        assert numbers(path) == [1]
    path.write_bytes(whole[:-1])  # only the line break is missing: nothing of the record is
    assert numbers(path) == [1, 2]


WRITER = """
    import itertools, os, sys
    from rlm_obs import FileExporter
    from tests.exporters.test_file import call

    path, name, many, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
    exporter = FileExporter(path, **options)
    for number in range(many) if many else itertools.count():
        exporter.export([call(worker=name, number=2 * number, text="x" * 300), call(worker=name, number=2 * number + 1)])
        print(number, flush=True)
    exporter.shutdown()
"""


def writer(path: Path, name: str, many: int, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), name, str(many), repr(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.gz"])
@pytest.mark.parametrize("compress", [False, True])
def test_processes_rotate_one_file(tmp_path: Path, name: str, compress: bool) -> None:
    """Three processes write to one file that each of them rotates: every line is in one of the files, whole, once, in order."""
    path = tmp_path / name
    workers = [writer(path, str(n), 100, max_bytes=20_000, compress=compress) for n in range(3)]
    for worker in workers:
        worker.communicate(timeout=120)
        assert worker.returncode == 0
    by_worker: dict[str, list[int]] = {}
    files = [*olds(path), path]
    for file in files:
        spans, reader = spans_in(file)
        assert not reader.left_out()
        for span in spans:
            said: Any = span.attributes or {}
            by_worker.setdefault(said["worker"], []).append(said["number"])
    assert len(files) > 4
    assert by_worker == {str(n): list(range(200)) for n in range(3)}


def whole(path: Path) -> list[Any]:
    """Return the attributes of the spans of a file and its old ones; of those that were just being gzipped, once."""
    said = []
    for file in (*olds(path), path):
        if not file.exists() or file.with_name(f"{file.name}.gz").exists():
            continue
        spans, reader = spans_in(file)
        assert reader.unknown <= 2  # the ends that those before were killed at
        said += [span.attributes for span in spans]
    return said


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 there")
@pytest.mark.parametrize(
    "options", [{}, {"max_bytes": 30_000}, {"max_bytes": 30_000, "compress": True}, {"fsync": True}]
)
@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.gz"])
def test_killed(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """Killed (-9) while it writes, a program leaves whole lines, in order, at most the last batch cut; others go on after it."""
    path = tmp_path / name
    for turn in range(3):
        with writer(path, str(turn), 0, **options) as worker:
            assert worker.stdout is not None
            for _ in range(20 + 7 * turn):
                said = worker.stdout.readline()
            worker.kill()
            rest = worker.stdout.read()
        sure = 2 * int((rest or said).split()[-1]) + 2
        found = [said["number"] for said in whole(path) if said["worker"] == str(turn)]
        assert found[:sure] == list(range(sure))
        assert found == list(range(len(found)))


def test_the_order_is_that_of_the_ends(path: Path) -> None:
    """Lines stand in the order in which the spans of this process have ended."""
    tracer = rlm_obs.Tracer("t", exporter=FileExporter(path, format="otlp"))
    with tracer.span("a"):
        for number in range(200):
            with tracer.span(f"b{number}"):
                pass
    assert tracer.shutdown()
    assert [span.name for span in spans_in(path)[0]] == [*(f"b{n}" for n in range(200)), "a"]


def run(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], **options,
    )  # fmt: skip


def test_standard_output() -> None:
    """`-` is the standard output: UTF-8 lines in their order, among what the program prints, whatever its encoding is."""
    code = """
        import rlm_obs
        from tests.exporters.test_file import call
        exporter = rlm_obs.FileExporter("-")
        print("before")
        exporter.export([call(number=1, who="анна")])
        print("after")
        assert repr(exporter) == "FileExporter('-')"
    """
    done = run(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    before, line, after = done.stdout.splitlines()
    assert (before, after, done.stderr) == ("before", "after", "")
    assert json.loads(line)["attributes"]["who"] == "анна"


def test_standard_output_that_nobody_reads(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A standard output that is closed, or a pipe without a reader, is a FAILURE and one line in the log."""
    exporter = FileExporter("-")
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    assert exporter.export([call()]) is FAILURE
    read, write = os.pipe()
    os.close(read)
    pipe = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    assert exporter.export([call()]) is FAILURE
    monkeypatch.undo()
    assert len(caplog.records) == 1
    with pytest.raises(BrokenPipeError):
        pipe.close()


def test_a_notebooks_output(capsys: pytest.CaptureFixture[str]) -> None:
    """An output without bytes below it, as a notebook has, is written as text."""
    text = io.StringIO()
    before, sys.stdout = sys.stdout, text
    try:
        FileExporter("-", format="otlp").export([call()])
    finally:
        sys.stdout = before
    assert text.getvalue().startswith('{"resourceSpans"') and text.getvalue().endswith("}\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this machine lets us have one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "rlm_obs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    "options", [{}, {"max_bytes": 20_000}, {"max_bytes": 20_000, "compress": True}, {"fsync": True}]
)
def test_a_disk_that_is_full(small_disk: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Where the disk is full, batches fail and are counted; what is there is whole, and goes on when there is room again."""
    path, stone = small_disk / "calls.jsonl", small_disk / "stone"
    stone.write_bytes(b"x" * 20_000)
    tracer = rlm_obs.Tracer("t", exporter=FileExporter(path, **options))
    for number in range(100):
        with tracer.span("work", {"number": number, "text": os.urandom(1000).hex()}):
            pass
        if number % 5 == 4:
            tracer.flush()
    stone.unlink()
    with tracer.span("work", {"number": 100}):
        pass
    tracer.shutdown()
    (stats,) = tracer.stats()
    lost = stats["dropped"]["failed"]
    assert stats["sent"] + lost == 101 and lost > 0
    found = []
    for file in (*olds(path), path):
        spans, reader = spans_in(file)
        assert not reader.left_out()
        found += [(span.attributes or {})["number"] for span in spans]
    assert found == sorted(set(found)) and found[-1] == 100
    assert len(found) >= stats["sent"]
    assert "No space left" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_device_that_is_full() -> None:
    """A device that takes nothing: every span is counted as dropped, and no exception comes out."""
    tracer = rlm_obs.Tracer("t", exporter=FileExporter("/dev/full", max_bytes=10, fsync=True))
    with tracer.span("work"):
        pass
    tracer.flush()
    assert tracer.stats()[0]["dropped"] == {"failed": 1}
    tracer.shutdown()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_permission_denied() -> None:
    """A file that may not be written is a ConfigError where it is given; one that may no longer be, a counted loss."""
    code = """
        import os, pathlib, tempfile, rlm_obs
        from opentelemetry.sdk.trace.export import SpanExportResult
        from tests.exporters.test_file import call
        rlm_obs.Tracer("t", exporter=rlm_obs.FileExporter(os.devnull)).shutdown()  # imports what it needs
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            os.chmod(folder, 0o777)
            if not os.getuid():
                os.seteuid(65534)  # root may do anything
            locked, mine = pathlib.Path(folder, "locked"), pathlib.Path(folder, "mine")
            locked.touch(0o400)
            try:
                rlm_obs.FileExporter(locked)
            except rlm_obs.ConfigError as error:
                print(error)
            tracer = rlm_obs.Tracer("t", exporter=rlm_obs.FileExporter(mine, max_bytes=1))
            mine.chmod(0o400)
            with tracer.span("work"):
                pass
            tracer.shutdown()
            print(tracer.stats()[0]["dropped"])
            if not os.getuid():
                os.seteuid(0)
    """
    done = run(code)
    assert done.returncode == 0, done.stderr
    denied, dropped = done.stdout.splitlines()
    assert "Permission denied. Give a file" in denied
    assert dropped == "{'failed': 1}"


def test_a_file_that_cannot_be_rotated(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the file cannot get its old name, it goes on growing and says so once: no line is lost."""
    exporter = FileExporter(path, max_bytes=10)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    assert exporter.export([call(number=n) for n in range(5)]) is SUCCESS
    assert exporter.export([call(number=5)]) is SUCCESS
    assert numbers(path) == list(range(6))
    assert len(caplog.records) == 1 and "goes on growing" in caplog.text


def test_fsync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fsync`: a batch counts as sent when the disk has taken it, and a new file's name too; without it, nothing is forced."""
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), real(file))[1])
    exporter = FileExporter(path, fsync=True)
    exporter.export([call()])
    assert len(synced) == 2 or sys.platform == "win32"
    exporter.export([call()])
    assert len(synced) == 3 or sys.platform == "win32"
    FileExporter(path).export([call()])
    assert len(synced) == 3 or sys.platform == "win32"


def test_a_disk_that_does_not_take_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk refuses a batch at its `fsync`, the batch is taken back and counts as failed."""
    exporter = FileExporter(path, fsync=True)
    exporter.export([call(number=1)])

    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    assert exporter.export([call(number=2)]) is FAILURE
    monkeypatch.undo()
    assert numbers(path) == [1]


def test_a_file_system_without_inodes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file never looks like the one that was opened, the line is written all the same."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    monkeypatch.setattr(_appending, "MOST_TRIES", 5)
    assert FileExporter(path).export([call(number=1)]) is SUCCESS
    assert numbers(path) == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": 0},
        {"max_bytes": 1.5},
        {"max_bytes": "10"},
        {"max_bytes": True},
        {"rotate_every_s": 0},
        {"rotate_every_s": float("nan")},
        {"rotate_every_s": float("inf")},
        {"max_bytes": 9, "backup_count": 0},
        {"backup_count": 3},
        {"compress": True},
        {"format": "csv"},
    ],
)
def test_limits_that_cannot_be(path: Path, wrong: dict[str, Any]) -> None:
    """A limit that cannot be, or that is about old files where there are none, is a ConfigError; no file is made."""
    with pytest.raises(ConfigError, match="FileExporter"):
        FileExporter(path, **wrong)
    assert not path.exists()


def test_by_variables(tmp_path: Path) -> None:
    """`RLM_OBS_FILE_…` say all of it to the exporter "file"; a value that cannot be is named."""
    code = """
        import rlm_obs
        rlm_obs.instrument(exporters=["file"])
        for number in range(9):
            with rlm_obs.Tracer("t", exporters=["file"]).span(f"s{number}"):
                pass
            rlm_obs.flush()
    """
    said = {
        "PATH": "a.jsonl",
        "FORMAT": "otlp",
        "MAX_BYTES": "1000",
        "BACKUP_COUNT": "2",
        "COMPRESS": "1",
        "FSYNC": "1",
    }
    variables = {f"RLM_OBS_FILE_{name}": value for name, value in said.items()}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": root, **variables}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = olds(tmp_path / "a.jsonl")
    assert len(kept) == 2
    names = [span.name for file in (*kept, tmp_path / "a.jsonl") for span in spans_in(file)[0]]
    assert names[-1] == "s8"
    for name, wrong in (("MAX_BYTES", "0"), ("FORMAT", "csv"), ("ROTATE_EVERY_S", "nan"), ("BACKUP_COUNT", "x")):
        done = subprocess.run(
            [sys.executable, "-c", "import rlm_obs; rlm_obs.instrument(exporters=['file'])"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": root, f"RLM_OBS_FILE_{name}": wrong},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert f"ConfigError: RLM_OBS_FILE_{name}='{wrong}'" in done.stderr
