"""Writes each span as one JSON line, so that traces outlive the program without a server; reads calls back, exactly."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _attributes, _guard, _otlp_json
from rlm_obs._exporters._copying import copied
from rlm_obs._exporters.base import error_type, is_score
from rlm_obs._hookspecs import hookimpl
from rlm_obs._record import Cost, Record, Usage
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._settings import Settings

#: The format of a line, under "v". Fields may be added to it; it counts up when a reader of the old one would be wrong.
VERSION = 1
LONGEST_WAIT_S = 2.0


class FileExporter(SpanExporter):
    """Append each finished span to `path` as one line of JSON; many threads and processes may share the file.

    A call is `{"v": 1, "kind": "call", "name": …}` with the fields of its Record: amounts are strings of US dollars,
    times are UTC and seconds. Any other span is `"kind": "span"`. An error is there by its class, never its message. A
    new file is readable by its owner alone. Lines are whole: one that a crash cut short spoils no other. `read_records`
    reads it back. `format="otlp"` writes each span as a line of OTLP-JSON instead, as OpenTelemetry's collector reads it.
    Raises ConfigError where `path` is a folder or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, format: str = "records") -> None:  # noqa: A002
        if format not in FORMATS:
            raise ConfigError(f"FileExporter(format={format!r}): give {' or '.join(map(repr, FORMATS))}")
        self._line_of = FORMATS[format]
        try:
            self.path = Path(os.fspath(path)).expanduser().absolute()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(_opened(self.path))
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"FileExporter(path={path!r}): {why}. Give a file that this program may write") from None

    def __repr__(self) -> str:
        return f"FileExporter({str(self.path)!r})"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans, all of them in one piece, or none; FAILURE says that some are not in the file."""
        lines = [line for span in spans if (line := _guard.guarded("FileExporter", self._line_of, span)) is not None]
        try:
            _append(self.path, b"".join(lines))
        except OSError as error:
            _guard.say_once(f"write {self.path}", "cannot write %s (%s): spans are lost", self.path, error.strerror)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS if len(lines) == len(spans) else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Answer True: what was exported is in the file."""
        return True


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Read the calls that FileExporter wrote, in the order of the file; equal to what was exported, digit for digit.

    Other spans are passed over, and so are lines that are not whole (a crash, a full disk), with a warning in the log.
    Raises OSError where the file cannot be read, ConfigError where a newer rlm_obs has written it.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = json.loads(raw)
                version = line["v"]
                record = _record_from(line) if version == VERSION and line["kind"] == "call" else None
            except (ValueError, KeyError, TypeError, ArithmeticError):
                if raw.endswith(b"\n"):  # else it is still being written
                    _guard.say_once(f"read {path}:{number}", "%s, line %d is not whole and is skipped", path, number)
                continue
            if version != VERSION:
                raise ConfigError(f"{path}, line {number}: format {version!r} is unknown here: pip install -U rlm-obs")
            if record is not None:
                yield record


def _line_of(span: ReadableSpan) -> bytes:
    record, said = _attributes.record_of(span), span.attributes or {}
    if is_score(span):
        return _written(_score_of(span))
    line: dict[str, Any] = {"v": VERSION, "kind": "span" if record is None else "call", "name": span.name}
    if record is not None:
        line |= record.to_dict()
        line |= {name: said[attribute] for name, attribute in _attributes.CONTENT.items() if attribute in said}
    else:
        start, error = span.start_time or 0, error_type(span)
        line |= {
            "trace_id": format(span.context.trace_id, "032x"),
            "span_id": format(span.context.span_id, "016x"),
            "parent_id": None if span.parent is None else format(span.parent.span_id, "016x"),
            "started_at": datetime.fromtimestamp(start / 1e9, UTC).isoformat(),
            "duration_s": ((span.end_time or start) - start) / 1e9,
            "status": "error" if error else "ok",
            "error": error,
            "attributes": dict(said),
        }
    if span.events:
        line["events"] = [
            {"name": e.name, "type": kind} if (kind := (e.attributes or {}).get("exception.type")) else {"name": e.name}
            for e in span.events
        ]
    return _written(line)


def _otlp_line_of(span: ReadableSpan) -> bytes:
    return _otlp_json.encode([copied(span, span.attributes or {}, error_type(span))])


def _score_of(span: ReadableSpan) -> dict[str, Any]:
    said = dict(span.attributes or {})
    number, label = said.pop(_attributes.EVALUATION_VALUE, None), said.pop(_attributes.EVALUATION_LABEL, None)
    return {
        "v": VERSION,
        "kind": "score",
        "name": said.pop(_attributes.EVALUATION_NAME),
        "value": label if number is None else number if label is None else label == "true",
        "comment": said.pop(_attributes.EVALUATION_COMMENT, None),
        "id": said.pop(_attributes.SCORE_ID),
        "trace_id": format(span.context.trace_id, "032x"),
        "span_id": format(span.context.span_id, "016x"),
        "scored_span_id": said.pop(_attributes.SCORED_SPAN, None),
        "started_at": datetime.fromtimestamp((span.start_time or 0) / 1e9, UTC).isoformat(),
        "attributes": _attributes.users_own(said),
    }


def _written(line: Mapping[str, Any]) -> bytes:
    text = json.dumps(_plain(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"  # half a surrogate pair is written \ud83d, as JSON has it


def _plain(value: Any) -> Any:
    """Return `value` as JSON can say it: NaN and the infinities as text, anything unknown by its `str`."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else str(value)


def _record_from(line: Mapping[str, Any]) -> Record:
    said = {"model": None, "requested_model": None} | {f.name: line[f.name] for f in fields(Record) if f.name in line}
    usage, cost = said.get("usage"), said.get("cost")
    if usage is not None:
        said["usage"] = Usage.from_dict(usage)
    if cost is not None:
        parts = {part: Decimal(cost[part]) for part in _attributes.COST_PARTS if part in cost}
        said["cost"] = Cost(**parts, source=cost["source"], caveats=tuple(cost["caveats"]))
    said["started_at"] = datetime.fromisoformat(said["started_at"])
    said["attributes"] = {name: _tuples(value) for name, value in said.get("attributes", {}).items()}
    return Record(**said)


def _tuples(value: Any) -> Any:
    """Return sequences as OpenTelemetry has them."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


#: How a span is written, by the name that `format=` takes.
FORMATS: Mapping[str, Callable[[ReadableSpan], bytes]] = {"records": _line_of, "otlp": _otlp_line_of}


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)


def _append(path: Path, data: bytes) -> None:
    """Add whole lines under the file's lock; opened each time, since it may have been moved, and we may have forked."""
    if not data:
        return
    file = _opened(path)
    try:
        with _locked(file) as alone:
            regular = stat.S_ISREG(os.fstat(file).st_mode)
            end = os.lseek(file, 0, os.SEEK_END) if regular else 0
            if end:
                os.lseek(file, end - 1, os.SEEK_SET)
                if os.read(file, 1) != b"\n":
                    data = b"\n" + data  # another's crash: only its own line is lost
            try:
                while data:
                    data = data[os.write(file, data) :]
            except OSError:
                if alone and regular:
                    with suppress(OSError):
                        os.ftruncate(file, end)  # a full disk: no half lines
                raise
    finally:
        os.close(file)


@contextmanager
def _locked(file: int) -> Iterator[bool]:
    """Hold the file's lock, or go on without it (False) where there is none, or another process sits on it."""
    until, held = time.monotonic() + LONGEST_WAIT_S, False
    while not held:
        try:
            _lock(file, True)
            held = True
        except BlockingIOError:
            if time.monotonic() > until:
                break
            time.sleep(0.002)
        except OSError:  # a file system without locks
            break
    try:
        yield held
    finally:
        if held:
            _lock(file, False)


if sys.platform == "win32":

    def _lock(file: int, take: bool) -> None:
        import msvcrt

        os.lseek(file, 2**31 - 2, os.SEEK_SET)  # a byte that readers do not want: locks bind them too
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK if take else msvcrt.LK_UNLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None

else:

    def _lock(file: int, take: bool) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if take else fcntl.LOCK_UN)


@hookimpl
def register_exporters() -> Mapping[str, Callable[[Settings], SpanExporter]]:
    """Offer the file of RLM_OBS_FILE_PATH."""
    return {"file": lambda settings: FileExporter(settings.file_path)}
