"""The SDK's stream under watch: its own class, but that each of its events is heard once, and a loop that leaves it is noticed."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, Generic

from rlm_obs import _guard
from rlm_obs._instrument.watch import ITEMS, Watch


@functools.lru_cache(maxsize=256)
def leaving(cls: Any, quiet: bool = False, hides: Callable[[Any], bool] | None = None) -> Any:
    """Return a subclass of a stream class (or of its alias `Stream[X]`) that tells its watch what its events say,
    and when a loop has left it. A quiet one only tells what reads its response: its events are read from the bytes.
    Where the bytes are kept, `hides` tells which event is kept from the user.

    A generic class of the user's own is returned as it is: the SDK looks for its `Stream[X]` one step up only.
    """
    origin = getattr(cls, "__origin__", cls)
    if origin is not cls and origin.__bases__ != (Generic,):
        return cls
    shows = None if hides is None else _all_but(hides)

    def __iter__(self: Any) -> Iterator[Any]:  # noqa: N807
        loop: Iterator[Any] = origin.__iter__(self)
        _guard.guarded("stream", _take_up, self, loop)
        return loop

    def __aiter__(self: Any) -> AsyncIterator[Any]:  # noqa: N807
        loop: AsyncIterator[Any] = origin.__aiter__(self)
        _guard.guarded("stream", _take_up, self, loop)
        return loop

    def __stream__(self: Any) -> Any:  # noqa: N807
        items = origin.__stream__(self)
        if quiet:
            return _counted(self, items, shows)
        return _heard_async(self, items, shows) if hasattr(items, "__anext__") else _heard(self, items)

    body: dict[str, Any] = {"__iter__": __iter__} if hasattr(origin, "__iter__") else {"__aiter__": __aiter__}
    if hasattr(origin, "__stream__"):
        body["__stream__"] = __stream__
    named = {**body, "__module__": origin.__module__, "__qualname__": origin.__qualname__, "__doc__": origin.__doc__}
    return types.new_class(origin.__name__, (cls,), {}, lambda space: space.update(named))


def _counted(stream: Any, items: Any, shows: Callable[[Any], bool] | None) -> Any:
    """Return what the SDK's stream yields, where its bytes are kept: no code of ours counts what passes, but C."""
    count = None if hasattr(items, "__anext__") else itertools.count(1)
    _guard.guarded("stream", _reads, stream.response.__dict__, items, count)
    if count is None:
        return items  # awaited ones are counted in their bytes
    counted = itertools.compress(items, count)
    return counted if shows is None else filter(shows, counted)


def _heard(stream: Any, items: types.GeneratorType[Any, None, None]) -> Iterator[Any]:
    """Pass on what the SDK's stream yields, and let the watch read from it what the events say."""
    watch: Watch | None = stream.response.__dict__.get("_rlm_obs_watch")
    if watch is None or not _guard.guarded("stream", watch.listen, items):
        yield from items
        return
    try:
        yield from filter(watch.passes, items)
    except BaseException as error:
        watch.all_heard(error)
        raise
    finally:
        items.close()  # or an exception that is kept would keep the response open
    watch.all_heard()


async def _heard_async(
    stream: Any, items: AsyncGenerator[Any], shows: Callable[[Any], bool] | None
) -> AsyncIterator[Any]:
    watch: Watch | None = stream.response.__dict__.get("_rlm_obs_watch")
    if watch is None or not _guard.guarded("stream", watch.listen, items):
        async for item in items:
            yield item
        return
    try:
        passes = watch.passes if shows is None or not watch.keeps else shows
        async for item in items:
            if passes(item):
                yield item
    except BaseException as error:
        watch.all_heard(error)
        raise
    finally:
        await items.aclose()  # or it would be left to the event loop, which closes it later
    watch.all_heard()


def _reads(shadows: dict[str, Any], items: Any, count: Iterator[int] | None) -> None:
    """Tell the watch on a response what reads it and what counts that, now or when there is one."""
    watch: Watch | None = shadows.get("_rlm_obs_watch")
    if watch is None:
        shadows[ITEMS] = items, count
    else:
        watch.listen(items, count)


def _all_but(hides: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return what tells whether the user gets an event. It is asked of each, so it asks little: what has choices is no mere
    usage."""

    def shown(item: Any) -> bool:
        try:
            if item.choices:
                return True
        except AttributeError:
            pass
        return not _guard.guarded("stream", hides, item)

    return shown


def _take_up(stream: Any, loop: Any) -> None:
    watch = stream.response.__dict__.get("_rlm_obs_watch")
    if watch is not None:
        watch.take_up(loop)
