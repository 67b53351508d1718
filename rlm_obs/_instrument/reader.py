"""What a gate asks of whoever knows an SDK: what a request means, how to change it, what an answer and its events say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry import context as otel

from rlm_obs import _scope
from rlm_obs._call import Answer, Needing
from rlm_obs._record import Request, Usage
from rlm_obs._runtime import InForce


@dataclass(slots=True)
class Asked:
    """What a reader has read of one request: the facts, what it may cost, whether to ask a stream for its usage.

    `content` gives what was said (`input`, `instructions`, `tools`); it is called where that is recorded. `lines` says
    that nothing is billed for this request, and that each line of its answer is the answer of a call made before.
    """

    request: Request
    needs: Needing
    content: Callable[[], Mapping[str, Any]] | None = None
    ask_usage: bool = False
    #: No more than a single text was asked for: no tools, and no choice of several.
    one_text: bool = False
    lines: bool = False
    #: The SDK makes the answer what the user asked for by a parser of its own, which may fail: see `Reader.overhear`.
    parses: bool = False
    #: What is used whatever is answered; the answer's own word counts more.
    known: Usage | None = None
    #: Told the answer of a call that goes on behind it.
    begun: Callable[[Answer], None] | None = None
    #: Reads an answer (an object, its JSON, the bytes of a file) that may tell what something cost; if it does not, the
    #: call is none of ours: no hold before it, no record after it.
    later: Callable[[Any, Answer], bool] | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a budget, or a setting, changes of a request: a lower output limit, another model, more headers."""

    output_limit: int | None = None
    model: str | None = None
    headers: Mapping[str, str] | None = None


class Reader(Protocol):
    """The pure functions that know one SDK's shapes; subclass it, and what an SDK has not need not be written."""

    #: A stream event that holds none of these says nothing about usage, model or end, and is not parsed.
    signs: tuple[bytes, ...]
    #: The endpoints none of whose events `event` calls the last one: they may be read a little later than they pass.
    patient: frozenset[str] = frozenset()

    def read(self, client: Any, options: Any, stream: bool, awaits: bool, holds: InForce) -> Asked | None:
        """Read a request; None for an endpoint that costs nothing, which passes straight through."""

    def change(self, options: Any, asked: Asked, changes: Changes) -> Any:
        """Return a changed copy of the options: with these changes, and the usage asked for where `asked` says so."""

    def overhear(self, options: Any, into: Answer) -> Any:
        """Return a copy of the options whose parser (see `Asked.parses`), if it fails, tells `into` what the answer says."""
        return None

    def answered(self, answer: Any, into: Answer) -> None:
        """Take from a whole answer (an object of the SDK, or its JSON) what it says."""

    def event(self, event: Any, into: Answer) -> bool:
        """Take from one stream event what it says; True if it is the last one."""

    def written(self, event: Any) -> str | None:
        """Return the text that a stream event brings, "" for output that is no text; None for an event without output."""
        return None

    def mere_text(self, event: Any) -> str | None:
        """Return the text of an event (an object of the SDK) that brings a text, "" for other output, and says nothing else;
        None if in doubt."""
        return None

    def at_once(self, data: bytes | bytearray, start: int, asked: Asked, into: Answer) -> bool:
        """Take from the bytes of a whole stream, which begins at `start`, what its events say, where that is quick to tell;
        False where it is not, and nothing was taken: each event is read then. Asked at endpoints that are `patient`."""
        return False

    def only_usage(self, event: Any) -> bool:
        """Tell whether an event carries the usage and nothing for the user."""
        return False

    def line(self, line: Any, number: int, asked: Asked) -> tuple[Request, Any] | None:
        """Return the call that the nth line of a batch's output is about, and its answer; None for a line without one."""
        return None


class Unbilled:
    """Stands where the call would, for a request that costs nothing by itself: it is no record and no span."""

    output_limit = output_room = switched_from = None
    started_at = 0.0

    def __init__(self) -> None:
        self.answer, self.ended = Answer(), False

    def admit(self) -> None:
        """Hold nothing."""

    def start(self, held: Mapping[str, object]) -> otel.Context:
        """Start no span."""
        return otel.Context({**_scope.get_current(), **held})

    def first_chunk(self) -> None:
        """Measure nothing."""

    def finish(self) -> None:
        """End it, as `fail` and `abort` do."""
        self.ended = True

    abort = finish

    def fail(self, error: BaseException) -> None:
        """End it."""
        self.ended = True
