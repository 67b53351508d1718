"""What a decorator opens around one call, a span or a budget, and ends once."""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Iterator, Mapping
from contextvars import Token
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import context as otel

from rlm_obs import _guard, _lost, _scope
from rlm_obs._attributes import ARGUMENT_PREFIX
from rlm_obs._content import recorded_arguments
from rlm_obs._plugins import gates, loaded

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from rlm_obs._tracer import Tracer
    from rlm_obs._tracker import CostTracker

MOST_CHARACTERS = 256
SECRET = re.compile(r"key|token|passw|secret|credential|authorization", re.IGNORECASE)
INT64 = 2**63  # an attribute's integers end here


class Block:
    """The context in which one call runs, and its span if it has one; where it needs the gate, it begins after `gates.hold()`."""

    __slots__ = ("_needs_gate", "_span", "context", "in_finaliser", "open")

    def __init__(
        self, context: otel.Context, span: Span | None = None, *, is_open: bool = True, needs_gate: bool = True
    ) -> None:
        self.context, self._span, self.open, self._needs_gate = context, span, is_open, needs_gate
        self.in_finaliser = False

    @property
    def begun(self) -> float:
        """When its span was begun, in seconds since the epoch; 0 where it has none."""
        return (getattr(self._span, "start_time", None) or 0) / 1e9

    def suspend(self, token: Token[otel.Context]) -> None:
        """Keep the context as the code has left it (perhaps inside a span of its own): its next step goes on in it."""
        self.context = _scope.get_current()
        _scope.detach(token)

    def end(self, error: BaseException | None = None) -> None:
        """End it, once. A finaliser may run inside any lock, so there the work is left to a thread, the time is not."""
        if self.open:
            self.open = False
            if self.in_finaliser:
                _lost.lost.gone(functools.partial(self._end, error, time.time_ns()))
            else:
                self._end(error)

    def _end(self, error: BaseException | None, at: int | None = None) -> None:
        try:
            if self._span is not None:
                if error is not None:
                    from rlm_obs._tracer import note_error  # imported already: there is a span

                    note_error(self._span, error)
                self._span.end(at)
        except Exception as failure:
            _guard.failed("traced", failure)
        finally:
            if self._needs_gate:
                gates.release()


NOTHING = Block(otel.Context(), is_open=False)


class Opens(Protocol):
    """What a decorator opens around each call of its function."""

    def applies(self) -> bool:
        """Tell whether there is anything to open."""

    def open(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Block | None:
        """Open it; None where there is nothing to open."""


class OpensSpan:
    """A span of the tracer in force. The choice is made at each call: a module is imported before `instrument()`."""

    def __init__(
        self, name: str, attributes: Mapping[str, Any] | None, *, capture_args: bool, tracer: Tracer | None
    ) -> None:
        self._name, self._attributes, self._capture_args, self._tracer = name, attributes, capture_args, tracer
        self._signatures: dict[bool, inspect.Signature] = {}

    def applies(self) -> bool:
        return _scope.tracer_in_force(self._tracer) is not None

    def open(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Block | None:
        tracer = _scope.tracer_in_force(self._tracer)
        if tracer is None:
            return None
        try:  # what `_guard.guarded` does, a call less: this is the way of each call
            attributes = self._attributes
            if self._capture_args:
                shown = recorded_arguments(
                    loaded(), dict(self._captured(wrapped, instance, args, kwargs)), MOST_CHARACTERS
                )
                attributes = {**(attributes or {}), **{ARGUMENT_PREFIX + name: value for name, value in shown.items()}}
            return self._start(tracer, attributes)
        except Exception as error:
            _guard.failed("traced", error)
            return None

    def _start(self, tracer: Tracer, attributes: Mapping[str, Any] | None) -> Block:
        gates.hold()
        try:
            span = tracer.start(self._name, attributes)
            return Block(tracer.context_of(span), span)
        except BaseException:
            gates.release()
            raise

    def _captured(
        self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[str, Any]]:
        bound = instance is not None
        try:
            signature = self._signatures.get(bound) or inspect.signature(wrapped)
            given = signature.bind_partial(*args, **kwargs).arguments
        except (TypeError, ValueError):  # a call that the function will refuse, or a builtin without a signature
            return
        self._signatures[bound] = signature
        for name, value in given.items():
            named = value if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
            for one, argument in named.items():
                shown = None if one in ("self", "cls") else _shown(one, argument)
                if shown is not None:
                    yield one, shown


def _shown(name: str, value: Any) -> Any:
    """Return an argument as a span may say it; None for one that cannot be shown."""
    counts_tokens = "tokens" in name and isinstance(value, int | float)
    if SECRET.search(name) and not counts_tokens:
        return "***"
    if isinstance(value, str | float | bool) or (isinstance(value, int) and -INT64 <= value < INT64):
        return value
    try:
        return repr(value)
    except Exception as error:  # the user's own: not even a refusal gets out of it
        _guard.failed("traced arguments", error)
        return None


class OpensBudget:
    """The budgets of a function, and the operation's name, for all calls below it."""

    def __init__(self, operation: str, trackers: tuple[CostTracker, ...]) -> None:
        self._operation, self._trackers = operation, trackers

    def applies(self) -> bool:
        return True

    def open(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Block:
        gates.hold()  # not under the guard: where the gate cannot be installed, the budget would not hold
        return Block(_scope.with_scope(_scope.widened(trackers=self._trackers, operation=self._operation)))
