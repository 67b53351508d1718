"""The console tree: what a person sees of a trace, on real spans of a real OpenTelemetry provider."""

from __future__ import annotations

import gc
import io
import os
import re
import sys
import threading
import weakref
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rlm_obs import _attributes, _guard
from rlm_obs._exporters import console
from rlm_obs._exporters._tree import usd
from rlm_obs._exporters.base import CallExporter
from rlm_obs._exporters.console import ConsoleExporter
from rlm_obs._record import Cost, Record, Request, Usage
from rlm_obs.errors import BudgetExceeded, ConfigError

SECOND = 10**9
PLAIN = Usage(input_tokens=15, output_tokens=234)


class Traces:
    """Starts real spans by hand, with times that do not shake; `ended` are those that have ended, in that order."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = self.provider.get_tracer("test")
        self.clock = SECOND

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        return self.memory.get_finished_spans()

    def tick(self) -> int:
        self.clock += SECOND // 4
        return self.clock

    def start(self, name: str, parent: trace.Span | None = None, **said: Any) -> trace.Span:
        within = None if parent is None else trace.set_span_in_context(parent)
        attributes = {key.replace("__", "."): value for key, value in said.items()}
        return self.tracer.start_span(name, context=within, attributes=attributes, start_time=self.tick())

    def end(self, span: trace.Span) -> ReadableSpan:
        span.end(self.tick())
        return self.ended[-1]

    def call(
        self,
        parent: trace.Span | None = None,
        cost: str | None = "0.002378",
        usage: Usage | None = PLAIN,
        status: str = "ok",
        operation: str = "chat",
        caveats: tuple[str, ...] = (),
        **said: Any,
    ) -> ReadableSpan:
        into: dict[str, Any] = {_attributes.RECORD_ID: os.urandom(8).hex(), _attributes.STATUS: status}
        model = "gpt-4o" if operation == "chat" else "text-embedding-3-small"
        _attributes.of_request(Request(provider="openai", endpoint="/x", operation=operation, model=model), into)
        if usage is not None:
            _attributes.of_usage(usage, into)
        if cost is not None:
            _attributes.of_cost(Cost(total=Decimal(cost), source="test", caveats=caveats), into)
        return self.end(self.start(f"{operation} {model}", parent, **into, **said))


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def shown(*batches: list[ReadableSpan], **options: Any) -> str:
    out = io.StringIO()
    exporter = ConsoleExporter(file=out, **options)
    for batch in batches:
        assert exporter.export(batch) is SpanExportResult.SUCCESS
    return out.getvalue()


def test_tree(traces: Traces) -> None:
    """A trace is a tree in the order of the starts, facts under short names, the cost of all its calls at the top."""
    root = traces.start("data_pipeline")
    load = traces.start("load_documents", root, doc_count=12)
    traces.end(load)
    work = traces.start("process", root)
    traces.call(work, usage=Usage(input_tokens=15, cached_input_tokens=5, output_tokens=234, reasoning_tokens=200))
    traces.end(work)
    traces.end(root)
    assert shown(list(traces.ended)) == (
        "[SPAN] data_pipeline (1.75s)\n"
        "  ├─ prompt_tokens: 15\n"
        "  ├─ completion_tokens: 234\n"
        "  ├─ model: gpt-4o\n"
        "  └─ cost: $0.002378 (1 call)\n"
        "  [SPAN] load_documents (0.25s)\n"
        "    └─ doc_count: 12\n"
        "  [SPAN] process (0.75s)\n"
        "    [SPAN] chat gpt-4o (0.25s)\n"
        "      ├─ prompt_tokens: 15\n"
        "      ├─ completion_tokens: 234\n"
        "      ├─ cached_tokens: 5\n"
        "      ├─ reasoning_tokens: 200\n"
        "      ├─ model: gpt-4o\n"
        "      └─ cost: $0.002378\n"
        "\n"
    )


def test_parts_that_are_nothing_are_not_shown(traces: Traces) -> None:
    """Zero cached or reasoning tokens are not worth a line; zero tokens in all are."""
    usage = Usage(input_tokens=3, cached_input_tokens=0, output_tokens=0, reasoning_tokens=0)
    text = shown([traces.call(usage=usage)])
    assert "completion_tokens: 0\n" in text
    assert "cached" not in text
    assert "reasoning" not in text


def test_embedding(traces: Traces) -> None:
    """An embeddings call is shown as `embedding.create`, with its dimensions and a tiny cost that can be read."""
    call = traces.call(
        operation="embeddings", cost="0.00000016", usage=Usage(input_tokens=8), **{_attributes.DIMENSIONS: 1536}
    )
    assert shown([call]) == (
        "[SPAN] embedding.create (0.25s)\n"
        "  ├─ prompt_tokens: 8\n"
        "  ├─ model: text-embedding-3-small\n"
        "  ├─ dimensions: 1536\n"
        "  └─ cost: $0.00000016\n\n"
    )


def test_stream(traces: Traces) -> None:
    """A stream says when its first chunk came."""
    assert "first_chunk: 0.21s" in shown([traces.call(**{_attributes.FIRST_CHUNK: 0.2134})])


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("0.000123", "$0.000123"),
        ("0.0000123456", "$0.0000123"),
        ("0.1", "$0.100000"),
        ("12.345678", "$12.35"),
        ("1E-9", "$0.000000001"),
    ],
)
def test_dollars(amount: str, text: str) -> None:
    """Dollars are written without an exponent, and never as 0 where they are not."""
    assert usd(Decimal(amount)) == text


def test_what_is_not_exact_says_so(traces: Traces) -> None:
    """A cost with caveats has a leading ~, an unknown one says `unknown`, and a sum says how many it lacks."""
    root = traces.start("run")
    traces.call(root, caveats=("estimated",))
    traces.call(root, cost=None)
    traces.call(root, cost="0", status="error", usage=None)
    traces.call(root, cost="0", status="refused", usage=None)
    traces.end(root)
    text = shown(list(traces.ended))
    assert "├─ cost: ~$0.002378\n" not in text
    assert "└─ cost: ~$0.002378\n" in text
    assert text.count("cost: unknown\n") == 1
    assert text.count("cost: $0.00\n") == 1  # an error that cost nothing; a refused call has no cost to speak of
    assert "cost: ~$0.002378 + 1 unpriced (3 calls, 1 refused)\n" in text


def test_trouble_is_on_the_line_of_its_span(traces: Traces) -> None:
    """A failed span names its error on its own line; a call also says its status."""
    refused = traces.call(cost=None, usage=None, status="refused", **{_attributes.ERROR_TYPE: "BudgetExceeded"})
    span = traces.start("work")
    span.record_exception(KeyError("secret prompt"))
    span.set_status(trace.StatusCode.ERROR, "KeyError: secret prompt")
    text = shown([refused, traces.end(span)])
    assert "[SPAN] chat gpt-4o (0.25s) REFUSED BudgetExceeded\n" in text
    assert "├─ status: refused\n  └─ error: BudgetExceeded\n" in text
    assert "[SPAN] work (0.25s) ERROR KeyError\n" in text
    assert "secret" not in text


def test_without_attributes(traces: Traces) -> None:
    """`show_attributes=False` leaves the [SPAN] lines, with tokens and cost behind those of calls."""
    root = traces.start("run", user="u1")
    traces.call(root)
    traces.call(root, cost=None, usage=None)
    traces.end(root)
    assert shown(list(traces.ended), show_attributes=False) == (
        "[SPAN] run (1.25s) $0.002378 + 1 unpriced (2 calls)\n"
        "  [SPAN] chat gpt-4o (0.25s) 15+234 tokens $0.002378\n"
        "  [SPAN] chat gpt-4o (0.25s) cost unknown\n\n"
    )


def test_own_attributes(traces: Traces) -> None:
    """A user's attributes are shown once, where they begin; ours are hidden, the conventions' have short names."""
    root = traces.start("run", user__id="u1", rlm_obs__root=True, gen_ai__agent__name="planner")
    traces.call(root, user__id="u1", step=1)
    traces.end(root)
    text = shown(list(traces.ended))
    assert text.count("user.id: u1\n") == 1
    assert "agent.name: planner\n" in text
    assert "step: 1\n" in text
    assert "rlm_obs" not in text


def test_nothing_is_said_before_the_root_ends(traces: Traces) -> None:
    """Children wait for their root; a child that ends after it is a tree of its own, marked (late)."""
    root = traces.start("run")
    slow = traces.start("slow", root)
    first = traces.call(root)
    out = io.StringIO()
    exporter = ConsoleExporter(file=out)
    exporter.export([first])
    assert out.getvalue() == ""
    exporter.export([traces.end(root)])
    assert out.getvalue().startswith("[SPAN] run (1.00s)\n")
    below = traces.call(slow)
    before = out.getvalue()
    exporter.export([below])
    assert out.getvalue() == before
    exporter.export([traces.end(slow)])
    assert out.getvalue().removeprefix(before).startswith("[SPAN] slow (1.50s) (late)\n")
    assert "chat gpt-4o" in out.getvalue().removeprefix(before)


@pytest.mark.parametrize("finish", ["force_flush", "shutdown"])
def test_flush_prints_what_waits(traces: Traces, finish: str) -> None:
    """A flush and the end print spans whose root is still open; the root's sum counts them all the same."""
    root = traces.start("run")
    step = traces.start("step", root)
    out = io.StringIO()
    exporter = ConsoleExporter(file=out)
    exporter.export([traces.call(step)])
    getattr(exporter, finish)()
    assert out.getvalue().startswith("[SPAN] chat gpt-4o (0.25s) (parent not ended)\n")
    exporter.export([traces.end(step)])
    exporter.force_flush()
    exporter.export([traces.call(root), traces.end(root)])
    assert "cost: $0.004756 (2 calls)\n" in out.getvalue()


def test_memory_is_bounded(traces: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most MOST_KEPT spans wait: the oldest trace is then printed as it is, and no dollar is lost from its sum."""
    monkeypatch.setattr(console, "MOST_KEPT", 5)
    root = traces.start("run")
    out = io.StringIO()
    exporter = ConsoleExporter(file=out)
    for _ in range(12):
        exporter.export([traces.call(root)])
        assert exporter._kept <= 5
    exporter.export([traces.end(root)])
    assert out.getvalue().count("[SPAN] chat gpt-4o") == 12
    assert "cost: $0.028536 (12 calls)\n" in out.getvalue()
    assert (exporter._kept, exporter._open) == (0, {})
    assert len(exporter._printed) <= 5


def test_two_roots_of_one_trace(traces: Traces) -> None:
    """Two roots that share a trace (two requests from one remote parent) are two trees, each with its own sum."""
    remote = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1)))
    one, two = traces.start("one", remote), traces.start("two", remote)
    traces.call(one)
    traces.call(two)
    traces.end(one)
    traces.end(two)
    text = shown(list(traces.ended))
    assert re.findall(r"^\[SPAN\] (\w+)", text, re.MULTILINE) == ["one", "two"]
    assert text.count("cost: $0.002378 (1 call)\n") == 2


def test_our_root_below_a_foreign_span(traces: Traces) -> None:
    """A span that we marked as the topmost is a root, though a span of another library stands above it."""
    foreign = traces.start("GET /")
    root = traces.start("run", foreign, **{_attributes.ROOT: True})
    assert shown([traces.end(root)]).startswith("[SPAN] run (0.25s)\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "variables", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "0"}, False),
    ],
)
def test_colour(
    traces: Traces, monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], coloured: bool
) -> None:
    """Colour is for terminals, unless NO_COLOR or FORCE_COLOR say otherwise."""
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = Terminal() if terminal else io.StringIO()
    ConsoleExporter(file=out).export([traces.call()])
    assert ("\x1b[" in out.getvalue()) is coloured


def test_stdout_is_looked_up_when_it_prints(traces: Traces, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file the tree goes to what `sys.stdout` is at the time."""
    exporter = ConsoleExporter()
    with capsys.disabled():
        call = traces.call()
    exporter.export([call])
    assert capsys.readouterr().out.startswith("[SPAN] chat gpt-4o")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp866", "utf-8"])
def test_any_encoding(traces: Traces, encoding: str) -> None:
    """A file that cannot say the branches gets ASCII ones, and escapes for other letters; nothing raises."""
    span = traces.end(traces.start("анализ", note="naïve \ud83d"))
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    assert ConsoleExporter(file=out).export([span, traces.call()]) is SpanExportResult.SUCCESS
    text = raw.getvalue().decode(encoding)
    assert ("└─" in text) is (encoding in ("utf-8", "cp866"))
    assert ("`- cost" in text) is (encoding in ("ascii", "cp1252"))
    assert ("анализ" in text) is (encoding in ("utf-8", "cp866"))
    assert "\\ud83d" in text


def test_text_cannot_steer_the_terminal(traces: Traces) -> None:
    """Names and values stay on their line: control characters are written out, long values cut."""
    text = shown([traces.end(traces.start("a\x1b[2J\nb", key="x\r\ny" + "z" * 5000))])
    assert text.count("\n") == 3
    assert "\x1b" not in text
    assert "\\x1b[2J\\nb" in text
    assert len(text) < 300


class Pieces(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


def test_a_tree_is_one_write(traces: Traces) -> None:
    """Trees of several threads never interleave: each goes out in one write."""
    batches = []
    for _ in range(40):
        root = traces.start("run")
        batches.append([traces.call(root), traces.call(root), traces.end(root)])
    out = Pieces()
    exporter = ConsoleExporter(file=out)
    threads = [threading.Thread(target=exporter.export, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(out.pieces) == 40
    assert all(piece.startswith("[SPAN] run") and piece.count("[SPAN] chat") == 2 for piece in out.pieces)


class Broken(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_closed_output_never_raises(
    traces: Traces, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An output that is closed, broken or missing is a FAILURE and one line in the log, never an exception."""
    closed = io.StringIO()
    closed.close()
    for out in (closed, Broken()):
        assert ConsoleExporter(file=out).export([traces.call()]) is SpanExportResult.FAILURE
    monkeypatch.setattr(sys, "stdout", None)
    exporter = ConsoleExporter()
    assert exporter.export([traces.call()]) is SpanExportResult.FAILURE
    exporter.export([traces.call(traces.start("run"))])
    assert exporter.force_flush() is False
    assert len(caplog.records) == 1


def test_a_stuck_output_does_not_hold_up_the_end(traces: Traces) -> None:
    """While another thread hangs in a write, a flush gives up within its time and says so."""
    exporter = ConsoleExporter(file=io.StringIO())
    with exporter._lock:
        assert exporter.force_flush(timeout_millis=20) is False


def test_a_path_is_no_file() -> None:
    """A path in place of an open file is refused where it is given, with what to write instead."""
    with pytest.raises(ConfigError, match="FileExporter"):
        ConsoleExporter(file="traces.txt")  # type: ignore[arg-type]


def test_deep_traces(traces: Traces) -> None:
    """A trace may be deeper than Python's stack, and its text does not grow with the square of that."""
    spans = [traces.start("s0")]
    for depth in range(1, sys.getrecursionlimit() + 500):
        spans.append(traces.start(f"s{depth}", spans[-1]))
    for span in reversed(spans):
        traces.end(span)
    text = shown(list(traces.ended))
    assert text.count("[SPAN]") == len(spans)
    assert len(text) < 150 * len(spans)


def test_prompts_are_not_kept(traces: Traces) -> None:
    """A span that waits for its root is not kept alive, nor are the prompts on it."""
    exporter = ConsoleExporter(file=io.StringIO())
    call = traces.call(traces.start("run"), **{_attributes.INPUT_MESSAGES: "prompt" * 1000})
    alive = weakref.ref(call)
    exporter.export([call])
    traces.memory.clear()
    del call
    gc.collect()
    assert alive() is None
    (node,) = next(iter(exporter._open.values())).values()
    assert "prompt" * 100 not in repr(node)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork(traces: Traces) -> None:
    """A forked child starts with nothing to print and a free lock, whatever its parent's threads were doing."""
    exporter = ConsoleExporter(file=io.StringIO())
    exporter.export([traces.call(traces.start("run"))])
    with exporter._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if exporter._lock.acquire(timeout=5) and not exporter._open else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Collecting(CallExporter):
    def __init__(self, raises: BaseException | None = None) -> None:
        self.records: list[Record] = []
        self.raises = raises
        self.closed = 0

    def export_call(self, record: Record) -> None:
        self.records.append(record)
        if self.raises is not None and len(self.records) == 2:
            raise self.raises

    def close(self) -> None:
        self.closed += 1


def test_call_exporter(traces: Traces) -> None:
    """A user's exporter gets the records of the calls, digit for digit, no other spans; and is closed once."""
    spans = [traces.call(), traces.end(traces.start("work")), traces.call(cost="0.1")]
    exporter = Collecting()
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    assert exporter.records == [_attributes.record_of(spans[0]), _attributes.record_of(spans[2])]
    exporter.shutdown()
    exporter.shutdown()
    assert exporter.closed == 1
    assert exporter.export(spans) is SpanExportResult.FAILURE
    assert len(exporter.records) == 2


@pytest.mark.swallows
@pytest.mark.parametrize(
    "error", [ValueError("x"), BudgetExceeded("b", Decimal(1), Decimal(0), Decimal(1), Decimal(1))]
)
def test_one_bad_record_loses_no_other(traces: Traces, caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """A record that the user's exporter fails on is counted and logged, and those after it still come."""
    exporter = Collecting(error)
    assert exporter.export([traces.call() for _ in range(4)]) is SpanExportResult.FAILURE
    assert len(exporter.records) == 4
    assert _guard.failures["Collecting.export_call"] == 1
    assert "Collecting.export_call" in caplog.text


def test_call_exporter_is_written_as_a_plain_method() -> None:
    """An `async def export_call`, which nobody would await, and a missing one are errors where they are made."""
    with pytest.raises(ConfigError, match="plain `def`"):
        type("Wrong", (CallExporter,), {"export_call": _async_method})
    with pytest.raises(TypeError, match="export_call"):
        CallExporter()  # type: ignore[abstract]


async def _async_method(self: Any, record: Record) -> None: ...
