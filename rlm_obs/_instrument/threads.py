"""Carries the OpenTelemetry context, and so traces and budgets, into threads and thread pools.

`opentelemetry-instrumentation-threading` does the like, but each of its releases asks for one exact version of the API,
so that a library which depends on it cannot be installed beside the newest SDK. The two get along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry import context as otel
from opentelemetry import trace

from rlm_obs import _guard, _scope
from rlm_obs._hookspecs import hookimpl

if TYPE_CHECKING:
    from rlm_obs._settings import Settings

#: Threads that deliver spans work for the whole program, not for the block that happened to start them.
DELIVERING = ("Otel", "rlm_obs-")
EMPTY = otel.Context()

_wanted = True


@hookimpl
def configured(settings: Settings) -> None:
    """Keep the setting `threads`; patches that are in place follow it at once."""
    global _wanted
    _wanted = settings.threads


@hookimpl
def register_instrumentors() -> Mapping[str, Callable[[], Threads]]:
    """Offer the instrumentor of threads."""
    return {"threads": Threads}


@dataclass(slots=True)
class Patch:
    """One patched method: what stood there before us, our wrapper, and whether it does anything."""

    cls: type
    name: str
    before: Any
    wrapper: Any = None
    on: bool = True

    def take_away(self) -> None:
        """Put back what stood there; from under a wrapper that somebody has put over ours, take ours out."""
        self.on = False
        outer = vars(self.cls)[self.name]
        if outer is self.wrapper:
            setattr(self.cls, self.name, self.before)
            return
        while isinstance(outer, wrapt.FunctionWrapper):
            if outer.__wrapped__ is self.wrapper:
                outer.__wrapped__ = self.before
            outer = outer.__wrapped__


class Threads:
    """Patches `Thread.start` and `ThreadPoolExecutor.submit` (so `map` and `loop.run_in_executor` too)."""

    def instrument(self) -> None:
        """Patch them; again, or where the setting `threads` is off, it does nothing."""
        with _lock:
            if _patches or not _wanted:
                return
            for cls, name, through in ((threading.Thread, "start", _start), (ThreadPoolExecutor, "submit", _submit)):
                patch = Patch(cls, name, vars(cls)[name])
                patch.wrapper = wrapt.FunctionWrapper(patch.before, through, enabled=_switch(patch))
                setattr(cls, name, patch.wrapper)
                _patches.append(patch)

    def uninstrument(self) -> None:
        """Leave both classes as they were; where a plain function calls ours by now, ours stays and does nothing."""
        with _lock:
            while _patches:
                _patches.pop().take_away()


_patches: list[Patch] = []
_lock = threading.Lock()


def _switch(patch: Patch) -> Callable[[], bool]:
    return lambda: patch.on and _wanted


def _carried() -> otel.Context | None:
    """Return the context to carry; None where it holds neither a span nor anything of ours."""
    context = otel.get_current()
    if not context:
        return None
    if _scope.KEY in context or trace.get_current_span(context).get_span_context().is_valid:
        return context
    return None


def _submit(wrapped: Callable[..., Any], pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    context = _guard.guarded("threads", _carried)
    if context is None or not args:
        return wrapped(*args, **kwargs)
    # A worker that is born here outlives the task: it starts in the empty context, and each task brings its own.
    token = otel.attach(EMPTY)
    try:
        return wrapped(_run_in, context, *args, **kwargs)
    finally:
        otel.detach(token)


def _run_in(context: otel.Context, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = otel.attach(context)
    try:
        return function(*args, **kwargs)
    finally:
        otel.detach(token)


def _start(wrapped: Callable[..., Any], thread: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    undo = _guard.guarded("threads", _shadow_run, thread)
    try:
        return wrapped(*args, **kwargs)
    except BaseException:
        if undo is not None:
            undo()  # it did not start
        raise


def _shadow_run(thread: threading.Thread) -> Callable[[], None] | None:
    """Have `thread.run`, whoever has written it, run in the current context; its shadow goes when the run begins."""
    context = _carried()
    if context is None or thread.name.startswith(DELIVERING):
        return None
    run, own = thread.run, vars(thread).get("run")

    def undo() -> None:
        if own is None:
            vars(thread).pop("run", None)
        else:
            vars(thread)["run"] = own

    def run_carried() -> None:
        undo()
        _run_in(context, run)

    vars(thread)["run"] = run_carried
    return undo
