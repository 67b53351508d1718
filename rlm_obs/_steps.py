"""Runs a call inside its span or budget, whatever its function is: plain, coroutine, generator or async generator.

The context of its `Block` is attached only while the call's own code runs, step by step: never across a `yield` or an
`await`. So the consumer of a generator never works in the generator's span, and a step may run in any task, thread or
finaliser: what a step has attached, the same step detaches.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from rlm_obs import _guard, _lost, _scope
from rlm_obs._block import NOTHING, Block, Opens


def driver(function: Any, opens: Opens) -> Callable[..., Any]:
    """Return wrapt's wrapper for a function of this kind."""
    kind: Any = function.__func__ if isinstance(function, classmethod | staticmethod) else function
    if not inspect.isroutine(kind) and not isinstance(kind, functools.partial):
        kind = kind.__call__  # an instance that can be called
    if inspect.iscoroutinefunction(kind):
        return _awaiting(opens)
    if inspect.isasyncgenfunction(kind):
        return _calling(opens, _AsyncGenerator)
    if inspect.isgeneratorfunction(kind):
        return _calling(opens, _Generator)
    return _calling(opens)


def _calling(opens: Opens, stands: type[_Generator] | type[_AsyncGenerator] | None = None) -> Callable[..., Any]:
    def call(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        block = opens.open(wrapped, instance, args, kwargs)
        if block is None:
            return wrapped(*args, **kwargs)
        token = _scope.attach(block.context)
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            _scope.detach(token)
            block.end(error)
            raise
        _scope.detach(token)
        if stands is not None:
            return stands(result, _Run(result, block))
        if type(result) in _COROUTINES:  # a plain function in front of an `async` one: the work is still to come
            return _Coroutine(result, _Run(result, block))
        block.end()
        return result

    return call


def _awaiting(opens: Opens) -> Callable[..., Any]:
    def call(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        made = wrapped(*args, **kwargs)
        if not opens.applies():
            return made
        return _Coroutine(made, _Run(made, None, functools.partial(opens.open, wrapped, instance, args, kwargs)))

    return call


@_lost.ends_with_the_program
class _Run:
    """One coroutine or generator on its way, and its block; a coroutine's is opened by its first step."""

    __slots__ = ("_lost", "_made", "_opens", "block")

    def __init__(self, made: Any, block: Block | None, opens: Callable[[], Block | None] | None = None) -> None:
        self._made, self._opens = made, opens
        self.block = block or NOTHING
        self._lost = _lost.lost
        _guard.guarded("traced", self._lost.start)

    def begin(self) -> None:
        if self._opens is not None:
            opens, self._opens = self._opens, None
            self.block = opens() or NOTHING

    @property
    def begun(self) -> float:
        """When its span was begun, in seconds since the epoch."""
        return self.block.begun

    def end_now(self) -> None:
        """End its span as it is: the program ends. One that a forked child has inherited is its parent's."""
        if self._lost is _lost.lost:
            self.block.end()

    def finished(self) -> bool:
        made = self._made
        kind = made.__class__
        if kind is types.GeneratorType:
            return made.gi_frame is None
        return (made.cr_frame if kind is types.CoroutineType else made.ag_frame) is None

    def step(self, advance: Callable[..., Any], *args: Any) -> Any:
        block = self.block
        if not block.open:
            return advance(*args)
        token = _scope.attach(block.context)
        try:
            result = advance(*args)
        except BaseException as error:
            block.suspend(token)
            if self.finished():  # it is not after "generator already executing"
                block.end(None if isinstance(error, StopIteration | StopAsyncIteration) else error)
            raise
        block.suspend(token)
        return result

    def close(self, close: Callable[[], Any]) -> Any:
        result = self.step(close)
        if self.finished():
            self.block.end()
        return result

    def collected(self, close: Callable[[], Any] | None) -> None:
        """Close what nobody holds any more, inside its block, as Python does with what nobody has decorated."""
        if self.block.open:
            self.block.in_finaliser = True
            try:
                if close is not None:
                    self.close(close)
            finally:
                self.block.end()


class _Standing:
    """Stands for what a function has made, which answers everything but its steps: isinstance, inspect, its frame."""

    __slots__ = ("__weakref__", "_made", "_run")

    def __init__(self, made: Any, run: _Run) -> None:
        self._made, self._run = made, run

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._made.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    def __repr__(self) -> str:
        return repr(self._made)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._made.__reduce_ex__(protocol)  # which says that it cannot be copied


class _Steps(_Standing):
    """The steps that coroutines, generators and awaitables have in common."""

    __slots__ = ()

    def send(self, value: Any) -> Any:
        self._run.begin()
        return self._run.step(self._made.send, value)

    def throw(self, *error: Any) -> Any:
        return self._run.step(self._made.throw, *error)

    def close(self) -> Any:
        return self._run.close(self._made.close)


class _Generator(_Steps):
    __slots__ = ()

    def __iter__(self) -> _Generator:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __del__(self) -> None:
        self._run.collected(self._made.close)


class _Coroutine(_Steps):
    __slots__ = ()

    def __await__(self) -> _Awaited:
        return _Awaited(self._made.__await__(), self._run, self)

    def __del__(self) -> None:
        if self._run.block.open:
            begun = inspect.getcoroutinestate(self._made) != inspect.CORO_CREATED
            self._run.collected(self._made.close if begun else None)  # it says by itself that nobody awaited it


class _Awaited(_Steps):
    """One awaiting, of a coroutine or of a step of an async generator: its owner, which it keeps alive."""

    __slots__ = ("_owner",)

    def __init__(self, made: Any, run: _Run, owner: object) -> None:
        super().__init__(made, run)
        self._owner = owner

    def __await__(self) -> _Awaited:
        return self

    __iter__ = __await__

    def __next__(self) -> Any:
        return self.send(None)


class _AsyncGenerator(_Standing):
    __slots__ = ("_finalizer",)

    def __init__(self, made: Any, run: _Run, finalizer: Any = False) -> None:
        super().__init__(made, run)
        self._finalizer = finalizer  # the event loop's; False until the first step

    def __aiter__(self) -> _AsyncGenerator:
        return self

    def __anext__(self) -> _Awaited:
        return self._awaited(self._made.__anext__())

    def asend(self, value: Any) -> _Awaited:
        return self._awaited(self._made.asend(value))

    def athrow(self, *error: Any) -> _Awaited:
        return self._awaited(self._made.athrow(*error))

    def aclose(self) -> _Awaited:
        return self._awaited(self._made.aclose())

    def _awaited(self, step: Any) -> _Awaited:
        if self._finalizer is False:
            self._finalizer = sys.get_asyncgen_hooks().finalizer
        return _Awaited(step, self._run, self)

    def __del__(self) -> None:
        """Have the event loop close one that was left early, still inside its block, as it closes undecorated ones."""
        if self._run.block.open and self._finalizer:
            self._finalizer(_AsyncGenerator(self._made, self._run, None))
        else:
            self._run.collected(None)


_COROUTINES = (types.CoroutineType, _Coroutine)
