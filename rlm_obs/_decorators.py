"""`@traced` and `@cost_tracked`: a span or a budget around each call of a function, which stays what it was."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import wrapt

from rlm_obs._block import OpensBudget, OpensSpan
from rlm_obs._steps import driver
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from decimal import Decimal

    from rlm_obs._tracer import Tracer
    from rlm_obs._tracker import CostTracker

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)


class Tracked(Protocol[P, R_co]):
    """What `@cost_tracked` returns: the function, and what it has spent."""

    @property
    def tracker(self) -> CostTracker:
        """The budget and the book of the function's own."""

    def cost(self) -> Decimal:
        """Return US dollars: what the calls below this function have cost so far, over all its invocations."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Tracked[P, R_co]: ...
    @overload
    def __get__(self: Tracked[Concatenate[Any, Q], R_co], instance: object, owner: Any = None) -> Tracked[Q, R_co]: ...


class _Tracks(Protocol):
    @overload
    def __call__(self, function: C, /) -> C: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R_co], /) -> Tracked[P, R_co]: ...


@overload
def traced(function: F, /) -> F: ...
@overload
def traced(
    name: str | None = None,
    /,
    *,
    attributes: Mapping[str, Any] | None = None,
    capture_args: bool = False,
    tracer: Tracer | None = None,
) -> Callable[[F], F]: ...
@overload
def traced(
    *,
    name: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    capture_args: bool = False,
    tracer: Tracer | None = None,
) -> Callable[[F], F]: ...
def traced(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    capture_args: bool = False,
    tracer: Tracer | None = None,
) -> Any:
    """Open a span around each call of a function: `@traced`, `@traced("load")` or `@traced(name="load", …)`.

    Plain functions, coroutines, generators of both kinds (the span lasts until they end, and is current only while
    their own code runs), methods, and classes: each public method is decorated in place, as `name.method`. Without a
    tracer in force (`tracer`, a block's, or `instrument()`'s) the function is called as it is.

    `name`: of the span; unset, the function's qualified name. `attributes`: of each span. `capture_args`: write the
    arguments as `rlm_obs.args.<name>`, cut at 256 characters; those whose names look secret are written as `***`.
    An exception is noted by its type, and raised on as it is. Raises ConfigError for a bad argument.
    """
    function, name = _read(function, name, "traced", "name")
    if attributes is not None and not isinstance(attributes, Mapping):
        raise ConfigError(f"attributes={attributes!r}: give a mapping, such as {{'team': 'search'}}")
    if tracer is not None and not hasattr(tracer, "context_of"):
        raise ConfigError(
            f"tracer={tracer!r}: give an rlm_obs.Tracer; Tracer(tracer_provider=…) uses another's provider"
        )
    attributes = None if attributes is None else dict(attributes)

    def decorate(function: Any) -> Any:
        def one(function: Any, name: str) -> Any:
            opens = OpensSpan(name, attributes, capture_args=bool(capture_args), tracer=tracer)
            return Decorated(function, driver(function, opens))

        return each(function, name, one, "traced")

    return decorate if function is None else decorate(function)


@overload
def cost_tracked(function: C, /) -> C: ...  # type: ignore[overload-overlap]
@overload
def cost_tracked(function: Callable[P, R_co], /) -> Tracked[P, R_co]: ...
@overload
def cost_tracked(
    operation: str | None = None,
    /,
    *,
    budget_usd: Decimal | float | str | None = None,
    tracker: CostTracker | None = None,
) -> _Tracks: ...
@overload
def cost_tracked(
    *,
    operation: str | None = None,
    budget_usd: Decimal | float | str | None = None,
    tracker: CostTracker | None = None,
) -> _Tracks: ...
def cost_tracked(
    function: Any = None,
    /,
    *,
    operation: str | None = None,
    budget_usd: Decimal | float | str | None = None,
    tracker: CostTracker | None = None,
) -> Any:
    """Count what the calls below a function cost, and stop the next one before it overspends `budget_usd`.

    `@cost_tracked`, `@cost_tracked("summarise")` or `@cost_tracked(operation="summarise", budget_usd="0.50")`. The
    function gets `.cost()`, what it has spent over all its invocations (Decimal, US dollars), and `.tracker`, the
    CostTracker that holds its budget, which is for all invocations together. Functions of every kind, as with `traced`;
    the methods of a class share one budget.

    `operation`: the name to count under; unset, the function's qualified name. `budget_usd`: US dollars; None only
    counts. `tracker`: a CostTracker under which the calls fall as well.
    Raises ConfigError for a bad argument; calls below raise BudgetExceeded or UnknownPrice, and then nothing is sent.
    """
    from rlm_obs._tracker import CostTracker as Tracker

    if isinstance(function, Tracker) or not isinstance(tracker, Tracker | None):
        raise ConfigError(f"@cost_tracked: {function or tracker!r}: give a CostTracker, as @cost_tracked(tracker=…)")
    function, operation = _read(function, operation, "cost_tracked", "operation")
    Tracker(budget_usd)  # a bad budget is found here, not where the function stands

    def decorate(function: Any) -> Any:
        own = Tracker(budget_usd, name=operation or _name_of(function))
        trackers = (own,) if tracker is None else (own, tracker)

        def one(function: Any, operation: str) -> Any:
            return _Tracked(function, driver(function, OpensBudget(operation, trackers)), operation, own)

        return each(function, operation, one, "cost_tracked")

    return decorate if function is None else decorate(function)


def _read(function: Any, name: Any, decorator: str, argument: str) -> tuple[Any, str | None]:
    """Tell the forms apart: what stands first is the function, or its name."""
    if isinstance(function, str):
        if name is not None:
            raise ConfigError(f"@{decorator}: give one name, not both {function!r} and {argument}={name!r}")
        function, name = None, function
    if name is not None and not (isinstance(name, str) and name):
        raise ConfigError(f"@{decorator}({argument}={name!r}): give a name, such as @{decorator}({argument}='load')")
    return function, name


def each(thing: Any, name: str | None, one: Callable[[Any, str], Any], decorator: str) -> Any:
    """Decorate a function; of a class, each public method of its own, in place: the class stays the same object."""
    if not isinstance(thing, type):
        if not callable(thing) and not isinstance(thing, classmethod | staticmethod):
            raise ConfigError(f"@{decorator}: {thing!r} is no function: give one, or @{decorator}('a name')")
        return one(thing, name or _name_of(thing))
    for attribute, found in list(vars(thing).items()):
        if not attribute.startswith("_") and _is_method(found):
            setattr(thing, attribute, one(found, f"{name}.{attribute}" if name else _name_of(found)))
    return thing


def _is_method(found: Any) -> bool:
    return isinstance(found, classmethod) or (callable(found) and hasattr(type(found), "__get__"))  # no nested class


def _name_of(function: Any) -> str:
    """Return the qualified name: of the function, of what a partial calls, of an instance's class."""
    while isinstance(function, functools.partial):
        function = function.func
    qualified = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(qualified).replace("<locals>.", "")


class _DecoratedMethod(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]
    def __reduce_ex__(self, protocol: Any) -> Any:
        return getattr, (self.__self__, self.__name__)

    def __copy__(self) -> Any:
        return self


class Decorated(wrapt.FunctionWrapper):  # type: ignore[type-arg]
    """A function of ours: copied and pickled as functions are, by its name."""

    __bound_function_wrapper__ = _DecoratedMethod

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__qualname__

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class _TrackedMethod(_DecoratedMethod):
    @property
    def tracker(self) -> Any:
        return self._self_parent.tracker

    def cost(self) -> Any:
        return self._self_parent.cost()


class _Tracked(Decorated):
    __bound_function_wrapper__ = _TrackedMethod

    def __init__(self, function: Any, wrapper: Callable[..., Any], operation: str, tracker: CostTracker) -> None:
        super().__init__(function, wrapper)
        self._self_operation, self._self_tracker = operation, tracker

    @property
    def tracker(self) -> Any:
        return self._self_tracker

    def cost(self) -> Any:
        return self._self_tracker.get_operation_cost(self._self_operation)
