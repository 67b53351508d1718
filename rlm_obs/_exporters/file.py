"""Writes each span as one line of a file, so that traces outlive the program without a server."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _guard
from rlm_obs._exporters._appending import LineFile, Stdout
from rlm_obs._exporters._lines import FORMATS
from rlm_obs._exporters._rotation import Rotation
from rlm_obs._hookspecs import hookimpl
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._settings import Settings


class FileExporter(SpanExporter):
    """Append each finished span to `path` as one line of JSON, in the order of their ends; many processes may share the file.

    `format`: "records" writes a call as its Record and any other span as the facts about it; "otlp" writes every span
    whole, as OpenTelemetry's collector reads it. `read_records` reads both back. An error is there by its class, never
    its message. A new file is readable by its owner alone. Lines are whole: one that a crash cut short spoils no other.
    `path`: `-` is the standard output; a name that ends in `.gz` is written as gzip.

    A file that would pass `max_bytes`, or that was begun before this period of `rotate_every_s` (of UTC: 86400 is a day),
    gets the time in its name (`calls.20261126T093000.000000Z.jsonl`) and a new one is begun; `backup_count` old ones are
    kept (None: all), gzipped by `compress`. `fsync` has the disk take each batch before it counts as sent.
    Raises ConfigError where `path` is a folder or cannot be written, and for limits that cannot be.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: Literal["records", "otlp"] = "records",  # noqa: A002
        max_bytes: int | None = None,
        rotate_every_s: float | None = None,
        backup_count: int | None = None,
        compress: bool = False,
        fsync: bool = False,
    ) -> None:
        if format not in FORMATS:
            raise ConfigError(f"FileExporter(format={format!r}): give {' or '.join(map(repr, FORMATS))}")
        self._line_of = FORMATS[format]
        self._rotation = Rotation(max_bytes, rotate_every_s, backup_count, compress)
        _check(self._rotation)
        try:
            to_stdout = os.fspath(path) == "-"
            self.path = Path(path) if to_stdout else Path(os.fspath(path)).expanduser().absolute()
            self._file = Stdout() if to_stdout else LineFile(self.path, self._rotation, fsync)
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"FileExporter(path={path!r}): {why}. Give a file that this program may write") from None

    def __repr__(self) -> str:
        return f"FileExporter({str(self.path)!r})"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans, all of them in one piece, or none; FAILURE says that some are not in the file.

        Only where a batch fills more than one file may its beginning be there after a FAILURE.
        """
        lines = [line for span in spans if (line := _guard.guarded("FileExporter", self._line_of, span)) is not None]
        try:
            self._file.append(lines)
        except OSError as error:
            _guard.say_once(f"write {self.path}", "cannot write %s (%s): spans are lost", self.path, error.strerror)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS if len(lines) == len(spans) else SpanExportResult.FAILURE

    def check(self) -> str:
        """Return where lines go and what room there is. Raises ConfigError where they cannot go there any more."""
        try:
            return self._file.check()
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written ({error.strerror})") from None

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Answer True: what was exported is in the file."""
        return True

    def shutdown(self) -> None:
        """Wait for an old file that is being gzipped, for 2 s at most."""
        self._rotation.wait()


def _check(rotation: Rotation) -> None:
    for name, whole in (("max_bytes", True), ("rotate_every_s", False), ("backup_count", True)):
        value = getattr(rotation, name)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if value is not None and not (number and value >= 1 and math.isfinite(value)):
            what = "a whole number" if whole else "a number"
            raise ConfigError(f"FileExporter({name}={value!r}): give {what}, 1 or more, or None")
    if (rotation.backup_count or rotation.compress) and not (rotation.max_bytes or rotation.rotate_every_s):
        raise ConfigError(
            "FileExporter: backup_count and compress are about old files: say by max_bytes or rotate_every_s when there are any"
        )


@hookimpl
def register_exporters() -> Mapping[str, Callable[[Settings], SpanExporter]]:
    """Offer the file of RLM_OBS_FILE_PATH."""
    return {"file": _of_settings}


def _of_settings(settings: Settings) -> FileExporter:
    return FileExporter(
        settings.file_path,
        format=settings.file_format,
        max_bytes=settings.file_max_bytes,
        rotate_every_s=settings.file_rotate_every_s,
        backup_count=settings.file_backup_count,
        compress=settings.file_compress,
        fsync=settings.file_fsync,
    )
