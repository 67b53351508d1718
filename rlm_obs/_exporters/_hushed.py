"""Keeps OpenTelemetry's exporters from telling of each try of ours in the log: what became of the spans we say ourselves, once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
)
_here = threading.local()


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not getattr(_here, "hushed", False)


@contextmanager
def hushed() -> Iterator[None]:
    """Let those loggers say nothing in this thread while a block runs; a program's own exporters go on in theirs."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_not_ours)  # once: it is added no second time
    _here.hushed = True
    try:
        yield
    finally:
        _here.hushed = False
