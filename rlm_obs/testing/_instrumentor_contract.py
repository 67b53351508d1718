"""The contract of instrumentors: a pytest class that the author of one inherits, with calls of their SDK to a server of theirs."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import sys
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rlm_obs._hookspecs import Instrumentor
from rlm_obs._plugins import gates
from rlm_obs._record import Record
from rlm_obs.errors import CallRefused
from rlm_obs.testing._collect import Collected, collect

#: What pydantic makes of a class when it is first used.
LATE = re.compile("__pydantic|__signature__")


class InstrumentorContract:
    """What every instrumentor keeps to. Inherit it in a test file, write what follows; pytest runs the rest.

    `module` is the name of the SDK's module. `call`, and `fail`, make a call of it to a server of your test, which counts
    what arrives: `sent`. `stream` and `async_call` are for an SDK that has them; their tests are skipped without them.
    `prompt` is a text that your calls send, and that must be nowhere while content is not recorded.
    """

    module: str
    prompt: str = "a very private question"

    def make_instrumentor(self) -> Instrumentor:
        """Return the instrumentor."""
        raise AssertionError("write make_instrumentor(self) in your test class")

    def call(self) -> object:
        """Make a call that succeeds, with `self.prompt` in it, and return the answer."""
        raise AssertionError("write call(self) in your test class")

    def fail(self) -> object:
        """Make a call that the server answers with an error, which the SDK raises."""
        raise AssertionError("write fail(self) in your test class")

    def sent(self) -> int:
        """Return how many requests have arrived at the server in this test so far."""
        raise AssertionError("write sent(self) in your test class")

    def stream(self) -> Iterable[Any]:
        """Begin a streamed call of at least two events, with `self.prompt` in it, and return the SDK's stream."""
        pytest.skip("streams are not tried: write stream(self)")

    def async_call(self) -> Coroutine[Any, Any, object]:
        """Make the call with the SDK's client for asyncio: `async def async_call(self)`."""
        pytest.skip("asyncio is not tried: write async_call(self)")

    # -- what is seen ------------------------------------------------------------------------------------------------

    def test_a_call_is_seen_once(self) -> None:
        """A call is one record: who was asked, for what, and what it used."""
        with self.on() as seen:
            self.call()
        record = _only(seen)
        assert (record.status, record.error) == ("ok", None)
        assert record.provider and record.operation and (record.model or record.requested_model)
        assert record.usage is not None and record.usage.to_dict(), "the answer's usage is not read"

    def test_instrumented_twice_it_is_seen_once(self) -> None:
        """`instrument` again changes nothing."""
        with self.on() as seen:
            self.instrumentor.instrument()
            self.call()
        _only(seen)

    def test_an_async_call_is_seen_once(self) -> None:
        """So is a call with the client for asyncio."""
        work = self.async_call()
        with self.on() as seen:
            asyncio.run(work)
        assert _only(seen).status == "ok"

    def test_what_is_asked_stays_private(self) -> None:
        """Unless content is recorded, the prompt is on no span and in no record."""
        with self.on() as seen:
            self.call()
        shown = repr(seen.records) + "".join(str(span.to_json()) for span in seen.spans)
        assert self.prompt not in shown

    # -- what is handed on -------------------------------------------------------------------------------------------

    def test_an_answer_is_handed_on(self) -> None:
        """The user gets what the SDK gives: an object of the same class."""
        bare = self.call()
        with self.on():
            assert type(self.call()) is type(bare)

    def test_an_error_is_passed_on_unchanged(self) -> None:
        """The SDK's exception reaches the user as it is, and the record names it."""
        bare = self._raised()
        with self.on() as seen:
            raised = self._raised()
        assert (type(raised), str(raised)) == (type(bare), str(bare))
        assert (raised.__cause__ is None) == (bare.__cause__ is None)
        assert _only(seen).status == "error"
        assert _only(seen).error == type(bare).__name__

    def test_a_stream_is_handed_on(self) -> None:
        """The user gets a stream of the same kind with the same events; at its end the call is one record."""
        bare = self.stream()
        expected = [type(event) for event in bare]
        with self.on() as seen:
            stream = self.stream()
            assert isinstance(stream, type(bare))
            assert [type(event) for event in stream] == expected
        record = _only(seen)
        assert (record.status, record.streamed) == ("ok", True)
        assert record.usage is not None and record.usage.to_dict(), "the stream's usage is not read"

    def test_a_stream_that_is_left_is_one_call(self) -> None:
        """A stream that the user leaves early ends too, as "aborted"."""
        with self.on() as seen:
            stream = self.stream()
            for _ in stream:
                break
            getattr(stream, "close", bool)()
            del stream
            gc.collect()
        record = _only(seen)
        assert (record.status, record.streamed) == ("aborted", True)

    # -- budgets -----------------------------------------------------------------------------------------------------

    def test_a_refused_call_is_not_sent(self) -> None:
        """Where a budget has no room, the call raises CallRefused, or one of its kin, and nothing reaches the server."""
        from rlm_obs._tracker import CostTracker

        before = self.sent()
        with self.on() as seen, CostTracker(budget_usd="0.000000000001"), pytest.raises(CallRefused):
            self.call()
        assert self.sent() == before
        assert _only(seen).status == "refused"

    # -- going again -------------------------------------------------------------------------------------------------

    def test_uninstrument_leaves_everything_as_it_was(self) -> None:
        """Afterwards each class and function of the SDK is the very object that it was; a second time does no harm."""
        self.call()  # what the SDK imports late is there now
        with gates.alone():
            before = _parts_of(self.module)
            instrumentor = self.make_instrumentor()
            instrumentor.instrument()
            instrumentor.uninstrument()
            instrumentor.uninstrument()
            after = _parts_of(self.module)
        known = before.keys() | {name for name in after if name.rpartition(".")[0] in before}
        differ = {name for name in known if before.get(name) is not after.get(name)}
        assert not differ  # what was only imported meanwhile is no difference

    def test_afterwards_nothing_is_seen(self) -> None:
        """A call after `uninstrument` goes by unseen; after `instrument` again it is seen again."""
        with self.on() as seen:
            self.instrumentor.uninstrument()
            self.call()
            assert seen.records == []
            self.instrumentor.instrument()
            self.call()
        _only(seen)

    # -- what the tests use ------------------------------------------------------------------------------------------

    @contextmanager
    def on(self) -> Iterator[Collected]:
        """Collect within the block what your instrumentor alone lets us see; not one that is installed beside it."""
        with gates.alone(), collect() as seen:
            self.instrumentor = self.make_instrumentor()
            self.instrumentor.instrument()
            try:
                yield seen
                seen.records  # noqa: B018  # ends the streams that were left, while the instrumentor still looks
            finally:
                self.instrumentor.uninstrument()

    def _raised(self) -> Exception:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            self.fail()
        return caught.value


def _only(seen: Collected) -> Record:
    assert len(seen.records) == 1, f"{len(seen.records)} records of one call"
    return seen.records[0]


def _parts_of(name: str) -> dict[str, object]:
    """Return the functions and classes of a package, and what is in the classes, by where they are."""
    found: dict[str, object] = {}
    for place, module in list(sys.modules.items()):
        if module is None or place.partition(".")[0] != name.partition(".")[0]:
            continue
        for own, thing in list(vars(module).items()):
            if inspect.isfunction(thing) or inspect.isclass(thing):
                found[f"{place}.{own}"] = thing
            if inspect.isclass(thing) and thing.__module__ == place:
                found |= {f"{place}.{own}.{key}": value for key, value in vars(thing).items() if not LATE.match(key)}
    return found
