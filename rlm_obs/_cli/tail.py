"""`rlm-obs tail`: a file of spans as the console tree, while it is being written too."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from opentelemetry.sdk.trace.export import SpanExportResult

from rlm_obs._exporters._made_back import spans_of
from rlm_obs._exporters._reading import Reader, followed, pieces
from rlm_obs._exporters.console import ConsoleExporter
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


def tail(
    file: Path,
    follow: Annotated[bool, "Go on with what the file gets, also when it is rotated, until Ctrl-C.", "-f"] = False,
    traces: Annotated[int, "How many traces of its end are shown; 0: all.", "-n"] = 10,
    brief: Annotated[bool, "Show one line a span."] = False,
) -> None:
    """Show the end of a file that the exporter "file" wrote, as the console shows traces; `-` is the standard input.

    Records and OTLP-JSON are read, plain or gzip. With --follow a trace is shown when its topmost span has ended.
    """
    reader = Reader(str(file), spans_of)
    console = ConsoleExporter(show_attributes=not brief)
    piped = str(file) == "-"
    try:
        if follow and not piped:
            _show_each(followed(file, reader), console, traces)
        else:
            _show_each(_whole(file, reader), console, 0 if follow else traces)
    except KeyboardInterrupt:
        pass  # what waits for its root is shown all the same
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise ConfigError(f"{file}: {error.strerror}") from None
    console.force_flush()
    if reader.left_out():
        click.echo(f"rlm-obs: {file}: left out {reader.left_out()}", err=True)


def _whole(file: Path, reader: Reader[ReadableSpan]) -> Iterator[Sequence[ReadableSpan]]:
    for piece in pieces(file):
        yield list(reader.feed(piece))
    yield list(reader.end())


def _show_each(found: Iterator[Sequence[ReadableSpan] | None], console: ConsoleExporter, traces: int) -> None:
    """Show the last traces of what there is so far, then what comes, as it comes."""
    last: dict[int, list[ReadableSpan]] = {}
    for spans in found:
        if not traces:
            _show(spans or (), console)
        elif spans is None:  # all that there is for now has been read
            _show(list(chain(*last.values())), console)
            last, traces = {}, 0
        else:
            for span in spans:
                kept = last.pop(span.context.trace_id, [])
                kept.append(span)
                last[span.context.trace_id] = kept
                if len(last) > traces:
                    del last[next(iter(last))]
    _show(list(chain(*last.values())), console)


def _show(spans: Sequence[ReadableSpan], console: ConsoleExporter) -> None:
    if spans and console.export(spans) is not SpanExportResult.SUCCESS:
        raise BrokenPipeError(errno.EPIPE, "nobody reads what is shown")
