"""Exporters that each break one promise of the contract, and one that keeps them all; `breaks` says which tests must fail."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs._attributes import record_of
from rlm_obs.testing import ExporterContract

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class Lines(SpanExporter):
    """Writes a line per call; keeps every promise."""

    def __init__(self, path: Path) -> None:
        self.path, self.key, self.closed = path, "a-secret-key", False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.closed:
            return FAILURE
        try:
            self.write([span for span in spans if record_of(span) is not None])
        except OSError:
            return FAILURE
        return SUCCESS

    def write(self, calls: Sequence[ReadableSpan]) -> None:
        with self.path.open("a") as file:
            file.writelines("call\n" for _ in calls)

    def shutdown(self) -> None:
        self.closed = True

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


class Kept(ExporterContract):
    """The contract on a file of the test's own."""

    exporter: type[Lines] = Lines
    breaks: str = ""
    secret = "a-secret-key"
    longest_s = 2.0

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "calls"

    def make_exporter(self) -> SpanExporter:
        return self.exporter(self.path)

    def make_failing_exporter(self) -> SpanExporter:
        return self.exporter(self.path / "no" / "folder")

    def arrived(self) -> int:
        return len(self.path.read_text().splitlines()) if self.path.exists() else 0


class TestNothing(Kept):
    """Nothing is broken."""


class TestNoExporter(Kept):
    """It has the methods, but is none of OpenTelemetry's."""

    breaks = "test_it_is_an_exporter"

    class exporter(Lines):  # noqa: N801
        delay_s = "soon"


class TestSaysNothing(Kept):
    """It forgets to answer."""

    breaks = (
        "test_it_accepts_a_batch test_it_accepts_an_empty_batch test_it_accepts_odd_calls test_a_loss_is_told "
        "test_a_forked_child_exports_too test_what_comes_after_a_shutdown_is_not_lost_unseen"
    )

    class exporter(Lines):  # noqa: N801
        def export(self, spans: Sequence[ReadableSpan]) -> Any:
            super().export(spans)

        def shutdown(self) -> None:
            pass


class TestRefusesTheEmpty(Kept):
    """It takes an empty batch for a failure."""

    breaks = "test_it_accepts_an_empty_batch"

    class exporter(Lines):  # noqa: N801
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return super().export(spans) if spans else FAILURE


class TestOnlyKnownPrices(Kept):
    """It fails on a call without a cost."""

    breaks = "test_it_accepts_odd_calls"

    class exporter(Lines):  # noqa: N801
        def write(self, calls: Sequence[ReadableSpan]) -> None:
            for call in calls:
                record = record_of(call)
                assert record is not None
                float(record.cost_usd)  # type: ignore[arg-type]
            super().write(calls)


class TestLosesTheLast(Kept):
    """It loses the last call of a batch, and says that all is well."""

    breaks = "test_each_call_arrives_once test_a_shutdown_delivers_what_waits test_a_forked_child_exports_too "

    class exporter(Lines):  # noqa: N801
        def write(self, calls: Sequence[ReadableSpan]) -> None:
            super().write(calls[:-1])


class TestTwice(Kept):
    """It writes each call twice."""

    breaks = "test_each_call_arrives_once test_a_shutdown_delivers_what_waits test_a_forked_child_exports_too"

    class exporter(Lines):  # noqa: N801
        def write(self, calls: Sequence[ReadableSpan]) -> None:
            super().write([*calls, *calls])


class TestChangesSpans(Kept):
    """It cleans the spans that the other exporters are given too."""

    breaks = "test_it_leaves_the_spans_alone"

    class exporter(Lines):  # noqa: N801
        def write(self, calls: Sequence[ReadableSpan]) -> None:
            for call in calls:
                call._name = "call"
            super().write(calls)


class TestKeepsBack(Kept):
    """It keeps calls back, and forgets them when it is flushed or shut down."""

    breaks = "test_a_loss_is_told test_each_call_arrives_once test_a_shutdown_delivers_what_waits test_a_forked_child_exports_too"

    class exporter(Lines):  # noqa: N801
        def write(self, calls: Sequence[ReadableSpan]) -> None:
            self.waiting = calls


class TestLiesOfItsFlush(Kept):
    """It says that a flush has failed, where it has not."""

    breaks = "test_a_flush_says_whether_all_has_arrived"

    class exporter(Lines):  # noqa: N801
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return False


class TestHangsInItsFlush(Kept):
    """It never comes back from a flush."""

    breaks = "test_a_flush_says_whether_all_has_arrived"

    class exporter(Lines):  # noqa: N801
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            time.sleep(4 if timeout_millis == 10_000 else 0)
            return True


class TestShutsDownOnce(Kept):
    """It raises when it is shut down again."""

    breaks = "test_it_shuts_down_twice"

    class exporter(Lines):  # noqa: N801
        def shutdown(self) -> None:
            assert not self.closed
            super().shutdown()


class TestTakesAfterItsEnd(Kept):
    """It takes calls after its end, and writes them nowhere."""

    breaks = "test_what_comes_after_a_shutdown_is_not_lost_unseen"

    class exporter(Lines):  # noqa: N801
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SUCCESS if self.closed else super().export(spans)


class TestRaises(Kept):
    """It raises where its other end fails."""

    breaks = "test_a_loss_is_told test_a_failing_one_shuts_down_in_time"

    class exporter(Lines):  # noqa: N801
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            if not self.path.parent.exists():
                raise OSError("no")
            return super().export(spans)


class TestHidesALoss(Kept):
    """It answers that all is well, whatever happens."""

    breaks = "test_a_loss_is_told test_what_comes_after_a_shutdown_is_not_lost_unseen"

    class exporter(Lines):  # noqa: N801
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            super().export(spans)
            return SUCCESS


class TestNeverEnds(Kept):
    """It tries for ever to deliver, also at the end of the program."""

    breaks = "test_a_failing_one_shuts_down_in_time"

    class exporter(Lines):  # noqa: N801
        def shutdown(self) -> None:
            time.sleep(0 if self.path.parent.exists() else 4)


class TestOwnProcessOnly(Kept):
    """It delivers only in the process that made it."""

    breaks = "test_a_forked_child_exports_too"

    class exporter(Lines):  # noqa: N801
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.process = os.getpid()

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return super().export(spans) if os.getpid() == self.process else FAILURE


class TestHangsInAChild(Kept):
    """It waits in the child for a thread that is there in the parent only."""

    breaks = "test_a_forked_child_exports_too"

    class exporter(Lines):  # noqa: N801
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.process = os.getpid()

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            time.sleep(0 if os.getpid() == self.process else 60)
            return True


class TestLosesInAChild(Kept):
    """It accepts calls in the child, and writes them nowhere."""

    breaks = "test_a_forked_child_exports_too"

    class exporter(Lines):  # noqa: N801
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.process = os.getpid()

        def write(self, calls: Sequence[ReadableSpan]) -> None:
            if os.getpid() == self.process:
                super().write(calls)


class TestShowsItself(Kept):
    """Its key is in its repr."""

    breaks = "test_it_shows_no_secret test_a_failure_shows_no_secret"

    class exporter(Lines):  # noqa: N801
        def __repr__(self) -> str:
            return f"Lines(key={self.key!r})"


class TestLogsItsKey(Kept):
    """Its key is in the log, where it fails."""

    breaks = "test_a_failure_shows_no_secret"
    turns = itertools.count()

    class exporter(Lines):  # noqa: N801
        def write(self, calls: Sequence[ReadableSpan]) -> None:
            try:
                super().write(calls)
            except OSError:
                logging.getLogger("lines").warning("not taken with key %s", self.key)
                raise
