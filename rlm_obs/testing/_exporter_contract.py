"""The contract of exporters: a pytest class that an exporter's author inherits, so that theirs is held to what ours is held to."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _guard
from rlm_obs._record import Request, Usage
from rlm_obs.testing._collect import collect

T = TypeVar("T")


class ExporterContract:
    """What every exporter keeps to. Inherit it in a test file and write `make_exporter`; pytest runs the rest.

    With `arrived` the contract can tell whether each call arrives, once; with `make_failing_exporter`, whether a loss is
    told. The tests that need them are skipped without them. `secret` is a text that your exporter is configured with and
    must never show (a key); None if it has none. `longest_s` is how long one thing may take, in seconds.
    """

    secret: str | None = None
    longest_s: float = 20.0

    def make_exporter(self) -> SpanExporter:
        """Return a new exporter, ready to export."""
        raise AssertionError("write make_exporter(self) in your test class")

    def make_failing_exporter(self) -> SpanExporter:
        """Return an exporter whose other end fails: a port where nobody listens, a folder that is not there."""
        pytest.skip("whether a loss is told cannot be seen: write make_failing_exporter(self)")

    def arrived(self) -> int:
        """Return how many calls have arrived where your exporters send them, in this test so far."""
        pytest.skip("what arrives cannot be seen: write arrived(self), which counts the calls at the other end")

    @staticmethod
    def spans(calls: int = 1) -> list[ReadableSpan]:
        """Return the spans of real calls under a span of one's own, made through the real pipeline."""
        with collect() as collected:
            _run([("openai", "gpt-4o", None)] * calls)
        assert [r.cost_usd for r in collected.records] == [Decimal("0.000075")] * calls
        return collected.spans

    @staticmethod
    def odd_spans() -> list[ReadableSpan]:
        """Return the spans of calls that failed, that nobody can price, and that have odd names."""
        with collect() as collected:
            _run([("openai", "gpt-4o", RuntimeError("no")), ("acme", "unknown-model", None), ("acme", "名 🧾\n", None)])
        assert [r.cost_usd for r in collected.records][1:] == [None, None]
        return collected.spans

    # -- delivery ----------------------------------------------------------------------------------------------------

    def test_it_is_an_exporter(self) -> None:
        """It is what OpenTelemetry takes for an exporter, so it works in anybody's place; `delay_s` and `check` are ours."""
        exporter = self._new()
        assert isinstance(exporter, SpanExporter)
        delay_s = getattr(exporter, "delay_s", None)
        assert delay_s is None or (isinstance(delay_s, int | float) and delay_s >= 0)
        assert callable(getattr(exporter, "check", str))

    def test_it_accepts_a_batch(self) -> None:
        """A batch of calls and other spans is accepted, and the answer says so."""
        assert self._new().export(self.spans(3)) is SpanExportResult.SUCCESS

    def test_it_accepts_an_empty_batch(self) -> None:
        """An empty batch is no failure."""
        assert self._new().export([]) is SpanExportResult.SUCCESS

    def test_it_accepts_odd_calls(self) -> None:
        """Calls that failed, that nobody can price, and that have odd names are accepted as any other."""
        assert self._new().export(self.odd_spans()) is SpanExportResult.SUCCESS

    def test_each_call_arrives_once(self) -> None:
        """What was exported has arrived after a flush: each call, of every batch, once."""
        exporter, before = self._new(), self.arrived()
        for calls in (1, 3, 2):
            exporter.export(self.spans(calls))
        exporter.force_flush()
        assert self.arrived() - before == 6

    def test_it_leaves_the_spans_alone(self) -> None:
        """Other exporters get the same spans: nothing on them is changed."""
        spans = self.spans()
        before = [(span.name, dict(span.attributes or {}), len(span.events)) for span in spans]
        self._new().export(spans)
        assert [(span.name, dict(span.attributes or {}), len(span.events)) for span in spans] == before

    # -- flush and shutdown ------------------------------------------------------------------------------------------

    def test_a_flush_says_whether_all_has_arrived(self) -> None:
        """`force_flush` takes a time in milliseconds, and answers True where all was delivered within it."""
        exporter = self._new()
        exporter.export(self.spans())
        assert self._in_time(lambda: exporter.force_flush(timeout_millis=10_000)) is True

    def test_a_shutdown_delivers_what_waits(self) -> None:
        """What was accepted before a shutdown arrives, also without a flush."""
        exporter, before = self._new(), self.arrived()
        exporter.export(self.spans(2))
        self._in_time(exporter.shutdown)
        assert self.arrived() - before == 2

    def test_it_shuts_down_twice(self) -> None:
        """Shutting down again does no harm."""
        exporter = self._new()
        exporter.export(self.spans())
        self._in_time(exporter.shutdown)
        self._in_time(exporter.shutdown)

    def test_what_comes_after_a_shutdown_is_not_lost_unseen(self) -> None:
        """What is exported after a shutdown is refused (FAILURE, so it is counted as lost), or it arrives all the same."""
        exporter, before = self._new(), self._arrived_if_told()
        self._in_time(exporter.shutdown)
        accepted = exporter.export(self.spans()) is SpanExportResult.SUCCESS
        if before is not None:
            assert (self._arrived_if_told() or 0) - before == accepted

    # -- failure -----------------------------------------------------------------------------------------------------

    def test_a_loss_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the other end fails the answer is FAILURE, in time, and no exception."""
        monkeypatch.setattr(_guard, "reraise", False)
        exporter = self._new(failing=True)
        assert self._in_time(lambda: exporter.export(self.spans())) is SpanExportResult.FAILURE

    def test_a_failing_one_shuts_down_in_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A program ends also where the other end fails."""
        monkeypatch.setattr(_guard, "reraise", False)
        exporter = self._new(failing=True)
        self._in_time(lambda: exporter.export(self.spans()))
        self._in_time(exporter.shutdown)

    # -- fork --------------------------------------------------------------------------------------------------------

    def test_a_forked_child_exports_too(self) -> None:
        """An exporter made before a fork delivers in the child as well, each call once, and in the parent as before."""
        if not hasattr(os, "fork"):
            pytest.skip("there is no fork on this system")
        exporter, spans = self._new(), self.spans(2)
        exporter.export(spans)
        exporter.force_flush()
        before = self._arrived_if_told()
        accepted, in_child = _in_child(lambda: self._exported(exporter, spans), self.longest_s)
        assert accepted, "the child's calls are not accepted"
        if before is not None:
            assert max(in_child, self._arrived_if_told() or 0) - before == 2
        assert exporter.export(spans) is SpanExportResult.SUCCESS

    def _exported(self, exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> tuple[bool, int]:
        accepted = exporter.export(spans) is SpanExportResult.SUCCESS
        exporter.force_flush()
        return accepted, self._arrived_if_told() or 0

    # -- secrets -----------------------------------------------------------------------------------------------------

    def test_it_shows_no_secret(self, caplog: Any, capsys: Any) -> None:
        """The secret is in no repr, no log line, and nothing printed."""
        exporter = self._new()
        exporter.export(self.spans())
        exporter.force_flush()
        exporter.shutdown()
        self._assert_hidden(exporter, caplog, capsys)

    def test_a_failure_shows_no_secret(self, caplog: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor is it where the other end fails."""
        monkeypatch.setattr(_guard, "reraise", False)
        exporter = self._new(failing=True)
        raised = ""
        try:
            exporter.export(self.spans())
        except Exception as error:
            raised = repr(error)
        self._assert_hidden(exporter, caplog, capsys, raised)

    def _assert_hidden(self, exporter: SpanExporter, caplog: Any, capsys: Any, raised: str = "") -> None:
        printed = capsys.readouterr()
        shown = repr(exporter) + str(exporter) + caplog.text + printed.out + printed.err + raised
        if self.secret and self.secret in shown:
            raise AssertionError("the secret is shown")  # which this message does not do again

    # -- what the tests use ------------------------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _shut_down(self) -> Iterator[None]:
        self._made: list[SpanExporter] = []
        yield
        for exporter in self._made:
            with contextlib.suppress(Exception):
                self._in_time(exporter.shutdown)

    def _new(self, *, failing: bool = False) -> SpanExporter:
        """Return an exporter that is shut down when the test has ended."""
        self._made.append(self.make_failing_exporter() if failing else self.make_exporter())
        return self._made[-1]

    def _arrived_if_told(self) -> int | None:
        with contextlib.suppress(pytest.skip.Exception):
            return self.arrived()
        return None

    def _in_time(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises; it fails where that takes longer than `longest_s`."""
        ended: list[T] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                ended.append(work())
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.longest_s)
        if raised:
            raise raised[0]
        assert ended, f"it takes longer than {self.longest_s:g} seconds"
        return ended[0]


def _run(calls: Sequence[tuple[str, str, Exception | None]]) -> None:
    """Make calls (provider, model, how it fails) through the real pipeline, under a span of one's own."""
    from rlm_obs import _runtime
    from rlm_obs._call import Needs

    holds = _runtime.in_force()
    assert holds is not None and holds.tracer is not None
    with holds.tracer.span("contract"):
        for provider, model, error in calls:
            held = _runtime.in_force()
            assert held is not None
            call = held.call(
                Request(provider=provider, endpoint="/chat/completions", operation="chat", model=model), Needs(None)
            )
            call.start()
            if error is not None:
                call.fail(error)
                continue
            call.answer.usage = Usage(input_tokens=10, output_tokens=5)
            call.answer.http_status = 200
            call.finish()


def _in_child(work: Callable[[], tuple[bool, int]], longest_s: float) -> tuple[bool, int]:
    """Return what `work` returns in a forked child; it fails where the child says nothing in time."""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that a program with threads should not fork is the point
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writes, json.dumps(work()).encode())
        os._exit(0)
    os.close(writes)
    try:
        told, _, _ = select.select([reads], [], [], longest_s)
        said = os.read(reads, 1000) if told else b""
    finally:
        os.close(reads)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert said, "the child hangs" if not told else "the child raises"
    accepted, arrived = json.loads(said)
    return accepted, arrived
