"""`rlm-obs send`: sends the spans of files to an exporter, later than they were made, and says what became of each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _attributes, _guard, _otlp_json
from rlm_obs._exporters._appending import LineFile
from rlm_obs._exporters._made_back import spans_of
from rlm_obs._exporters._reading import Reader, pieces
from rlm_obs._exporters._rotation import Rotation
from rlm_obs._plugins import loaded
from rlm_obs._settings import near, read_settings
from rlm_obs.errors import CallRefused, ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

BATCH = 512
#: After so many batches in a row that were not taken, the rest is not tried.
MOST_FAILURES = 3


@dataclasses.dataclass
class Sent:
    """What became of the spans, counted."""

    delivered: int = 0
    calls: int = 0
    failed: int = 0
    twice: int = 0
    in_a_row: int = 0


def send(
    files: tuple[Path, ...],
    *,
    to: Annotated[str, "The exporter, by its name: langfuse, otlp, phoenix, console, file, or a plugin's."],
    dry_run: Annotated[bool, "Read the files and make the exporter, but send nothing."] = False,
    rest: Annotated[Path | None, "Write what was not delivered to this file, in OTLP-JSON, to be sent again."] = None,
) -> int:
    """Send files that the exporter "file" wrote to another exporter: ids, times and attributes stay what they were.

    Records and OTLP-JSON are read, plain or gzip; `-` is the standard input. A span that stands in the files twice is sent
    once. The exit code is 1 where something was not delivered, or a line could not be read.
    """
    settings = read_settings()
    offered = loaded(settings).collect("register_exporters")
    if to not in offered:
        raise ConfigError(f"there is no exporter {to!r}{near(to, offered)}")
    _check(files, rest)
    exporter: SpanExporter = offered[to](settings)
    _check(files, getattr(exporter, "path", None))
    kept = None if rest is None or dry_run else LineFile(rest.absolute(), Rotation(), fsync=False)
    sent, left_out, flushed = Sent(), Reader("", spans_of), True
    try:
        for batch in _batches(_spans(files, left_out, sent)):
            if not dry_run and not _deliver(to, exporter, batch, sent) and kept is not None:
                kept.append([_otlp_json.encode([span]) for span in batch])
            if dry_run:
                sent.delivered += len(batch)
                sent.calls += _calls(batch)
        flushed = dry_run or _guard.guarded(f"exporter {to}", exporter.force_flush) is not False
    finally:
        _guard.guarded(f"exporter {to}", exporter.shutdown)
    click.echo(f"{'would send' if dry_run else 'sent'} {_counted(sent.delivered)} ({sent.calls} calls) to {to}")
    if sent.failed:
        where = "" if kept is None else f"; they are in {rest}"
        click.echo(f"not delivered: {_counted(sent.failed)}{where}", err=True)
    if not flushed:
        click.echo(f"{to} does not say that all has arrived", err=True)
    skipped = [left_out.left_out(), f"{_counted(sent.twice)} that stood there twice" if sent.twice else ""]
    if any(skipped):
        click.echo(f"skipped: {', '.join(filter(None, skipped))}", err=True)
    return int(bool(sent.failed or left_out.unknown or not flushed))


def _check(files: Sequence[Path], target: Path | None) -> None:
    """Raise ConfigError for a file that cannot be read, or that would be read and written at the same time."""
    for file in files:
        if str(file) == "-":
            continue
        try:
            with open(file, "rb"):
                pass
            same = target is not None and target.exists() and target.samefile(file)
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        if same:
            raise ConfigError(f"{file} would be read and written at the same time: give another file")


def _spans(files: Sequence[Path], reader: Reader[ReadableSpan], sent: Sent) -> Iterator[ReadableSpan]:
    seen: set[tuple[int, int]] = set()
    for file in files:
        reader.name = str(file)
        parts = itertools.chain((reader.feed(piece) for piece in pieces(file)), [reader.end()])
        for span in itertools.chain.from_iterable(parts):
            key = (span.context.trace_id, span.context.span_id)
            if key in seen:
                sent.twice += 1
                continue
            seen.add(key)
            yield span


def _batches(spans: Iterator[ReadableSpan]) -> Iterator[list[ReadableSpan]]:
    while batch := list(itertools.islice(spans, BATCH)):
        yield batch


def _deliver(name: str, exporter: SpanExporter, batch: Sequence[ReadableSpan], sent: Sent) -> bool:
    taken = False
    if sent.in_a_row < MOST_FAILURES:
        try:
            taken = _guard.guarded(f"exporter {name}", exporter.export, batch) is SpanExportResult.SUCCESS
        except CallRefused as refusal:  # an exporter may call models itself, under a budget
            _guard.failed(f"exporter {name}", refusal)
        sent.in_a_row = 0 if taken else sent.in_a_row + 1
        if sent.in_a_row == MOST_FAILURES:
            click.echo(f"{name} has not taken {MOST_FAILURES} batches in a row: the rest is not tried", err=True)
    if not taken:
        sent.failed += len(batch)
        return False
    sent.delivered += len(batch)
    sent.calls += _calls(batch)
    return True


def _calls(batch: Sequence[ReadableSpan]) -> int:
    return sum(_attributes.RECORD_ID in (span.attributes or {}) for span in batch)


def _counted(spans: int) -> str:
    return f"{spans} span{'' if spans == 1 else 's'}"
