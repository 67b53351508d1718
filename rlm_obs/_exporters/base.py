"""What every exporter of ours stands on, and what a user's own is made of: finished calls as records, one at a time."""

from __future__ import annotations

import inspect
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _attributes, _guard
from rlm_obs.errors import CallRefused, ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._record import Record


class CallExporter(SpanExporter, ABC):
    """Subclass this and write `export_call(self, record)`: it gets each finished call, once, off the user's thread.

    It is any OpenTelemetry SpanExporter beside: give an object of it to `exporters=[…]`. Spans that are no calls are
    left out. Nothing has to be called in `__init__`.
    """

    #: How soon after its end a span is exported, in seconds. None: OTEL_BSP_SCHEDULE_DELAY, or its default (5 s).
    delay_s: float | None = None
    #: Where calls go, if they leave this machine; what cannot be sent there is kept where the setting `spool` says.
    destination: str | None = None
    _closed = False
    _outcome: tuple[int, Sequence[ReadableSpan]] = (0, ())

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.iscoroutinefunction(cls.export_call):
            raise ConfigError(
                f"{cls.__name__}.export_call is `async`: make it a plain `def`; it runs in its own thread"
            )

    @abstractmethod
    def export_call(self, record: Record) -> None:
        """Take one finished call (sampled ones only). What it raises is counted, logged once; the rest still come."""

    def close(self) -> None:
        """Give back what the exporter holds (files, connections): called once, after the last call."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand the calls among `spans` to `export_call`; FAILURE where any of them was not taken."""
        taken = [not self._closed and self._take(span) for span in spans]
        self._outcome = sum(taken), [span for span, done in zip(spans, taken, strict=True) if not done]
        return SpanExportResult.SUCCESS if all(taken) and not self._closed else SpanExportResult.FAILURE

    def outcome(self) -> tuple[int, Sequence[ReadableSpan]]:
        """Return how many spans of the last export were taken, and which of the others may be exported again."""
        return self._outcome

    def _take(self, span: ReadableSpan) -> bool:
        kind = f"{type(self).__name__}.export_call"
        try:
            return _guard.guarded(kind, self._hand_over, span) is not None
        except CallRefused as error:  # an exporter may call models itself, under a budget
            _guard.failed(kind, error)
            return False

    def _hand_over(self, span: ReadableSpan) -> bool:
        record = _attributes.record_of(span)
        if record is not None:
            self.export_call(record)
        return True

    def shutdown(self) -> None:
        """Close once; nothing is exported afterwards."""
        if not self._closed:
            self._closed = True
            _guard.guarded(f"{type(self).__name__}.close", self.close)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Answer True: nothing waits in here. Override it where your exporter keeps calls back."""
        return True


def is_root(span: ReadableSpan) -> bool:
    """Tell whether the span is the topmost of this program in its trace: marked so by us, or without a local parent."""
    if (span.attributes or {}).get(_attributes.ROOT):
        return True
    return span.parent is None or span.parent.is_remote


def is_score(span: ReadableSpan) -> bool:
    """Tell whether the span is a score, which `rlm_obs.score` has given."""
    return _attributes.SCORE_ID in (span.attributes or {})


def error_type(span: ReadableSpan) -> str | None:
    """Return the class of the error that ended a span, "error" where nobody named it, None where all went well."""
    if span.status.is_ok:
        return None
    named = (span.attributes or {}).get(_attributes.ERROR_TYPE)
    for event in reversed(span.events):
        named = named or (event.attributes or {}).get("exception.type")
    return str(named or "error").rpartition(".")[2]


def after_fork(start_anew: Callable[[], None]) -> None:
    """Call a bound method in each child process that is forked from now on, for as long as its object lives."""
    if hasattr(os, "register_at_fork"):
        method = weakref.WeakMethod(start_anew)

        def in_child() -> None:
            alive = method()
            if alive is not None:
                alive()

        os.register_at_fork(after_in_child=in_child)
