"""Shows each trace as a tree on the terminal as soon as its root has ended; what a bare `instrument()` does."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _guard
from rlm_obs._exporters._tree import Node, Style, Sum, lines_of, node_of
from rlm_obs._exporters.base import after_fork
from rlm_obs._hookspecs import hookimpl
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._settings import Settings

MOST_KEPT = 10_000
Key = tuple[int, int]


class ConsoleExporter(SpanExporter):
    """Print each trace as a tree of its spans, with tokens, seconds and US dollars (`~`: the cost has caveats).

    `show_attributes=False` prints one line a span. `file` is any text file; None is whatever `sys.stdout` is at the
    time. Colour only on a terminal (NO_COLOR and FORCE_COLOR are obeyed). A span that ends after its root is printed as
    a tree of its own, marked "(late)". Raises ConfigError where `file` cannot be written to.
    """

    #: How soon after its end a span is exported, in seconds.
    delay_s: float | None = 0.05

    def __init__(self, show_attributes: bool = True, file: TextIO | None = None) -> None:
        if file is not None and not callable(getattr(file, "write", None)):
            raise ConfigError(
                f"file={file!r} is no open text file: give sys.stderr, or use FileExporter(path) for records"
            )
        #: Where a person sees a trace, by its id; filled in by the tracer from the exporters beside this one.
        self.links: Sequence[Callable[[str], str | None]] = ()
        self.show_attributes = show_attributes
        self.file = file
        self._start_anew()
        after_fork(self._start_anew)

    def __repr__(self) -> str:
        return f"ConsoleExporter(show_attributes={self.show_attributes})"

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, dict[int, Node]] = {}  # trace -> span -> what is not printed yet, oldest trace first
        self._kept = 0
        self._printed: dict[Key, int | None] = {}  # the spans printed last, and their parents
        self._carried: dict[Key, Sum] = {}  # what was printed before the span above it: its total counts it too

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Print the trees whose root is among `spans`, in one piece; keep the others. FAILURE: nothing was written."""
        with self._lock:
            nodes = [node for span in spans if (node := _guard.guarded("ConsoleExporter", node_of, span)) is not None]
            for node in nodes:
                trace = self._open.setdefault(node.trace_id, {})
                self._kept += node.span_id not in trace
                trace[node.span_id] = node
            tops = [n for n in nodes if n.root or (n.trace_id, n.parent_id) in self._printed]
            text = self._trees(sorted(tops, key=lambda node: node.start))
            while self._kept > MOST_KEPT:
                text += self._as_it_is(next(iter(self._open)))
            return self._write(text)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Print what waits for its root, as it is; False where it cannot be written, or another write hangs."""
        if not self._lock.acquire(timeout=timeout_millis / 1000):
            return False
        try:
            text = "".join([self._as_it_is(trace) for trace in list(self._open)])
            return self._write(text) is SpanExportResult.SUCCESS
        finally:
            self._lock.release()

    def shutdown(self) -> None:
        """Print what waits for its root, as it is; a reader that has stopped reading does not hold up the end."""
        self.force_flush(timeout_millis=1000)

    def _as_it_is(self, trace_id: int) -> str:
        nodes = self._open[trace_id]
        tops = [n for n in nodes.values() if n.root or n.parent_id not in nodes]
        return self._trees(sorted(tops, key=lambda node: node.start), unseen="(parent not ended)")

    def _trees(self, tops: Sequence[Node], unseen: str = "(late)") -> str:
        children: dict[int, dict[int, list[Node]]] = {}
        text = ""
        for top in tops:
            nodes = self._open.get(top.trace_id, {})
            if top.span_id not in nodes:
                continue  # it stands in a tree of this very batch
            if top.trace_id not in children:
                below: dict[int, list[Node]] = {}
                for node in nodes.values():
                    if node.parent_id is not None:
                        below.setdefault(node.parent_id, []).append(node)
                children[top.trace_id] = below
            late = (top.trace_id, top.parent_id) in self._printed
            mark = self._links(top.trace_id) if top.root else "(late)" if late else unseen
            text += self._tree(top, children[top.trace_id], mark)
        return text

    def _links(self, trace_id: int) -> str:
        return " ".join([url for link in self.links if (url := link(format(trace_id, "032x")))])

    def _tree(self, top: Node, children: Mapping[int, Sequence[Node]], mark: str) -> str:
        nodes, total, tree = self._open[top.trace_id], Sum(), [top]
        for node in tree:  # grows as it goes
            tree.extend(children.get(node.span_id, ()))
            key = (node.trace_id, node.span_id)
            total.add(node.sum)
            total.add(self._carried.pop(key, Sum()))
            del nodes[node.span_id]
            _keep(self._printed, key, node.parent_id)
        self._kept -= len(tree)
        if not nodes:
            del self._open[top.trace_id]
        self._carry(top, total)
        out = self.file if self.file is not None else sys.stdout
        return "\n".join(lines_of(top, children, total, mark, Style(self.show_attributes, _coloured(out)))) + "\n\n"

    def _carry(self, top: Node, total: Sum) -> None:
        above = top.parent_id
        while above is not None and (top.trace_id, above) in self._printed:
            above = self._printed[top.trace_id, above]
        if above is not None:
            carried = self._carried.get((top.trace_id, above), Sum())
            carried.add(total)
            _keep(self._carried, (top.trace_id, above), carried)

    def _write(self, text: str) -> SpanExportResult:
        if not text:
            return SpanExportResult.SUCCESS
        out = self.file if self.file is not None else sys.stdout
        try:
            out.write(_encodable(text, getattr(out, "encoding", None)))
            out.flush()
        except (OSError, ValueError, RuntimeError, AttributeError) as error:  # gone, closed, detached, or None
            _guard.say_once(
                "ConsoleExporter", "the console exporter cannot write: traces are lost (%s)", type(error).__name__
            )
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


def _keep(into: dict[Key, Any], key: Key, value: Any) -> None:
    into[key] = value
    if len(into) > MOST_KEPT:
        del into[next(iter(into))]


def _coloured(out: Any) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "") not in ("", "0"):
        return True
    try:
        terminal = bool(out.isatty())
    except (OSError, ValueError, AttributeError):
        return False
    known = sys.platform != "win32" or any(name in os.environ for name in ("WT_SESSION", "ANSICON", "TERM"))
    return terminal and known and os.environ.get("TERM") != "dumb"


def _encodable(text: str, encoding: str | None) -> str:
    """Return `text` as the file can say it: ASCII branches where it has no others, escapes for the rest."""
    try:
        text.encode(encoding or "utf-8")
        return text
    except (UnicodeEncodeError, LookupError):
        pass
    try:
        "├─└".encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        text = text.replace("├─", "|-").replace("└─", "`-").replace("…", "...")
    try:
        return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


@hookimpl
def register_exporters() -> Mapping[str, Callable[[Settings], SpanExporter]]:
    """Offer the console tree, which is also what a bare `instrument()` uses."""
    return {"console": lambda settings: ConsoleExporter()}
