"""Decorated functions of every kind: they do what they did, and each call has one span or one budget around it."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import rlm_obs
from rlm_obs import BudgetExceeded, ConfigError, CostTracker, Tracer, _guard, _lost, _runtime, cost_tracked, traced
from rlm_obs._plugins import gates
from rlm_obs.testing import FakeOpenAI, fake_openai


class Kept(SpanExporter):
    """Keeps what is delivered; `spans` is in the order of the ends."""

    def __init__(self) -> None:
        self.delivered: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.delivered += spans
        return SpanExportResult.SUCCESS

    @property
    def spans(self) -> list[ReadableSpan]:
        _lost.lost.end_gone()
        assert rlm_obs.flush()
        return self.delivered

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def one(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
def kept() -> Kept:
    """`instrument()` is on, and its spans are kept."""
    exporter = Kept()
    rlm_obs.instrument(exporters=[exporter])
    return exporter


@pytest.fixture
def tracer_to() -> Iterator[Callable[[SpanExporter], Tracer]]:
    """Makes tracers, and shuts them down after the test."""
    made: list[Tracer] = []

    def make(exporter: SpanExporter) -> Tracer:
        made.append(Tracer("t", exporter=exporter))
        return made[-1]

    yield make
    for tracer in made:
        tracer.shutdown()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """OpenTelemetry does not complain ("Failed to detach context"), and no context and no gate is left behind."""
    before, blocks = otel.get_current(), gates._open_blocks
    yield
    _lost.lost.end_gone()
    assert [r.getMessage() for r in caplog.get_records("call") if r.name.startswith("opentelemetry")] == []
    assert otel.get_current() == before
    assert gates._open_blocks == blocks


def current_name() -> str | None:
    """Return the name of the current span."""
    return getattr(trace.get_current_span(), "name", None)


def parents(spans: Sequence[ReadableSpan]) -> dict[str, str | None]:
    """Return name -> name of the parent."""
    names = {span.context.span_id: span.name for span in spans}
    return {span.name: None if span.parent is None else names[span.parent.span_id] for span in spans}


# -- plain functions ---------------------------------------------------------------------------------------------------


@traced
def load(path: str, limit: int = 10) -> str | None:
    """Load a file."""
    return current_name()


def test_a_call_runs_inside_its_span(kept: Kept) -> None:
    """The span is named like the function, current while it runs, and no longer."""
    assert load("a") == "load"
    assert current_name() is None
    assert kept.names == ["load"]


def test_without_a_tracer_the_function_is_just_called() -> None:
    """Whether there is a tracer is asked at each call: a module is imported before `instrument()` is called."""
    assert load("a") is None
    exporter = Kept()
    rlm_obs.instrument(exporters=[exporter])
    assert load("a") == "load"
    rlm_obs.uninstrument()
    assert load("a") is None
    assert exporter.names == ["load"]


def test_without_a_tracer_nothing_stands_in_between() -> None:
    """A coroutine or a generator is then the function's own object."""
    coroutine = traced(_plus_one)(1)
    assert type(coroutine) is types.CoroutineType
    coroutine.close()
    assert type(numbers(1)) is types.GeneratorType


def test_forms_of_traced(kept: Kept) -> None:
    """`@traced`, `@traced()`, `@traced("a")` and `@traced(name="b", attributes=…)` are all taken."""
    traced()(load.__wrapped__)("x")
    traced("a")(load)("x")
    traced(name="b", attributes={"team": "search"})(load)("x")
    assert kept.names == ["load", "load", "a", "load", "b"]
    assert kept.one("b").attributes["team"] == "search"
    assert "team" not in kept.one("a").attributes


def test_tracers(kept: Kept, tracer_to: Callable[[SpanExporter], Tracer]) -> None:
    """The tracer that was given comes before that of the block, and that before `instrument()`'s."""
    own, block = Kept(), Kept()
    given_tracer, block_tracer = tracer_to(own), tracer_to(block)
    with block_tracer.span("block"):
        traced("given", tracer=given_tracer)(load)("x")
        load("y")
    load("z")
    assert (own.names, block.names, kept.names) == (["load", "given"], ["load", "block"], ["load"])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: traced(5), "5 is no function"),  # type: ignore[call-overload]
        (lambda: traced("a", name="b"), "one name"),  # type: ignore[call-overload]
        (lambda: traced(name=""), "give a name"),
        (lambda: traced(name=load), "give a name"),  # type: ignore[call-overload]
        (lambda: traced(attributes=["a"]), "a mapping"),  # type: ignore[call-overload]
        (lambda: traced(tracer=trace.get_tracer("x")), "rlm_obs.Tracer"),  # type: ignore[call-overload]
        (lambda: cost_tracked(budget_usd=-1), "budget_usd"),
        (lambda: cost_tracked(CostTracker()), "tracker=…"),
        (lambda: cost_tracked(tracker="x"), "tracker=…"),  # type: ignore[call-overload]
        (lambda: cost_tracked(operation=5), "give a name"),  # type: ignore[call-overload]
    ],
)
def test_a_wrong_argument_is_found_where_it_stands(wrong: Callable[[], object], says: str) -> None:
    """A bad argument is a ConfigError at the decoration, which says what to write."""
    with pytest.raises(ConfigError, match=says):
        wrong()


def test_an_error_comes_out_as_it_is(kept: Kept) -> None:
    """The exception is the same object; the span says its type, and not its message, which may hold a prompt."""
    error = KeyError("a prompt")

    @traced("fails")
    def fails() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        fails()
    assert caught.value is error
    span = kept.one("fails")
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "prompt" not in span.to_json()
    assert span.attributes["error.type"] == "KeyError"


class Kind:
    @classmethod
    @traced(capture_args=True)
    def make(cls, limit: int, api_key: str) -> None: ...


class Broken:
    """A value that cannot be shown."""

    def __repr__(self) -> str:
        raise rlm_obs.CallRefused("even this")


@pytest.mark.swallows
def test_capture_args(kept: Kept) -> None:
    """Arguments are written by name: plain ones as they are, others cut at 256, secrets masked, `self` never."""

    class Bot:
        @traced("ask", capture_args=True)
        def ask(self, prompt: str, *parts: int, api_key: str, max_tokens: int, **more: Any) -> int:
            return len(parts)

    more = {"big": 2**70, "long": ["x" * 300], "PASSWORD": 1, "broken": Broken(), "none": None, "on": True, "rate": 0.5}
    assert Bot().ask("hi", 1, 2, api_key="sk-1", max_tokens=5, **more) == 2
    assert Bot.ask(Bot(), "again", api_key="sk-1", max_tokens=5) == 0
    Kind.make(api_key="sk-1", limit=1)
    first, second, third = ({k: v for k, v in span.attributes.items() if "args" in k} for span in kept.spans)
    assert first == {
        "rlm_obs.args.prompt": "hi",
        "rlm_obs.args.parts": "(1, 2)",
        "rlm_obs.args.api_key": "***",
        "rlm_obs.args.max_tokens": 5,
        "rlm_obs.args.big": str(2**70),
        "rlm_obs.args.long": ("['" + "x" * 300)[:256] + "… (cut)",
        "rlm_obs.args.PASSWORD": "***",
        "rlm_obs.args.none": "None",
        "rlm_obs.args.on": True,
        "rlm_obs.args.rate": 0.5,
    }
    assert second == {"rlm_obs.args.prompt": "again", "rlm_obs.args.api_key": "***", "rlm_obs.args.max_tokens": 5}
    assert third == {"rlm_obs.args.limit": 1, "rlm_obs.args.api_key": "***"}


def test_a_wrong_call_fails_as_it_always_did(kept: Kept) -> None:
    """Arguments that the function does not take are its own TypeError, captured or not."""
    bare: Any = traced(capture_args=True)(load.__wrapped__)
    with pytest.raises(TypeError, match=r"load\(\) got an unexpected keyword argument 'nonsense'"):
        bare(nonsense=1)


def test_nothing_is_captured_unless_asked(kept: Kept) -> None:
    """Without `capture_args`, no argument is on the span."""
    load("secret file")
    assert "secret file" not in kept.one("load").to_json()


class BrokenTracer:
    """A tracer that cannot start a span, or gives one that cannot end."""

    def __init__(self, span: Any = None) -> None:
        self.span = span

    def start(self, name: str, attributes: Any) -> Any:
        if self.span is None:
            raise RuntimeError("no span today")
        return self.span

    def context_of(self, span: Any) -> otel.Context:
        return otel.get_current()


class EndlessSpan(trace.NonRecordingSpan):
    def end(self, end_time: int | None = None) -> None:
        raise RuntimeError("no end")


@pytest.mark.swallows
@pytest.mark.parametrize("span", [None, EndlessSpan(trace.INVALID_SPAN_CONTEXT)])
def test_a_failure_of_ours_is_not_the_functions(span: Any) -> None:
    """Where the span cannot start, or cannot end, the function runs exactly once all the same; it is counted."""
    runs = []
    broken: Any = BrokenTracer(span)
    assert traced(tracer=broken)(lambda: runs.append(1) or 7)() == 7
    assert asyncio.run(_awaited(traced(tracer=broken)(_plus_one), 1)) == 2
    assert list(traced(tracer=broken)(_count)(2)) == [0, 1]
    assert runs == [1]
    assert _guard.failures["traced"] == 3


async def _awaited(function: Any, *args: Any) -> Any:
    return await function(*args)


async def _plus_one(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def _count(n: int) -> Iterator[int]:
    yield from range(n)


# -- coroutines --------------------------------------------------------------------------------------------------------


def test_a_coroutines_span_is_its_awaiting(kept: Kept) -> None:
    """Making a coroutine opens nothing; the span lasts from the first step to the end, and is current in between."""
    seen = []

    @traced("work")
    async def work() -> str | None:
        seen.append(current_name())
        await asyncio.sleep(0)
        return current_name()

    async def main() -> None:
        made = work()
        assert (inspect.iscoroutine(made), asyncio.iscoroutine(made)) == (True, True)
        assert kept.spans == []
        assert await made == "work"
        assert current_name() is None
        assert await asyncio.gather(work(), asyncio.create_task(work()), asyncio.wait_for(work(), 5)) == ["work"] * 3

    asyncio.run(main())
    assert asyncio.run(work()) == "work"
    assert kept.names == ["work"] * 5
    assert all(span.status.status_code is trace.StatusCode.UNSET for span in kept.spans)
    assert seen == ["work"] * 5


def test_a_coroutine_that_nobody_awaits(kept: Kept) -> None:
    """It opens no span, and Python warns as ever, once, by the function's own name."""
    with pytest.warns(RuntimeWarning, match=r"coroutine '_plus_one' was never awaited") as warned:
        traced(_plus_one)(1)
    assert len(warned) == 1
    unstarted = traced(_plus_one)(1)
    unstarted.close()
    assert kept.spans == []


def test_a_span_inside_a_coroutine_goes_on_after_an_await(kept: Kept) -> None:
    """What the coroutine itself has made current is current again after an `await`, and then what was before."""

    @traced("outer")
    async def outer() -> None:
        with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 2, False))):
            await asyncio.sleep(0)
            assert trace.get_current_span().get_span_context().span_id == 2
        await asyncio.sleep(0)
        assert current_name() == "outer"
        load("x")

    asyncio.run(outer())
    assert parents(kept.spans) == {"load": "outer", "outer": None}


def test_a_cancelled_coroutine_ends_its_span(kept: Kept) -> None:
    """Cancelling goes through, the clean-up runs inside the span, and the span says CancelledError."""

    @traced("slow")
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            load("clean-up")

    async def main() -> None:
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert parents(kept.spans) == {"load": "slow", "slow": None}
    assert kept.one("slow").attributes["error.type"] == "CancelledError"


def test_a_coroutine_that_is_dropped_halfway(kept: Kept) -> None:
    """Its span ends once, whichever context it is collected in; closing it is no error."""

    @types.coroutine
    def pause() -> Iterator[None]:
        yield

    @traced("half")
    async def half() -> None:
        try:
            await pause()
        finally:
            load("clean-up")

    made: Any = half()
    made.send(None)
    assert current_name() is None
    del made
    assert parents(kept.spans) == {"load": "half", "half": None}
    assert "error.type" not in kept.one("half").attributes


def test_a_plain_function_in_front_of_a_coroutine(kept: Kept) -> None:
    """Where another decorator hides the `async`, the span still covers the work, not the making of the coroutine."""

    @traced("hidden")
    @functools.wraps(_plus_one)
    def hidden(x: int) -> Any:
        return _plus_one(x)

    async def main() -> None:
        made = hidden(1)
        assert kept.spans == []
        assert await made == 2

    asyncio.run(main())
    assert kept.names == ["hidden"]
    with pytest.warns(RuntimeWarning, match=r"coroutine '_plus_one' was never awaited"):
        hidden(1)
    assert kept.names == ["hidden", "hidden"]


def test_contextvars_of_a_coroutine_reach_its_caller(kept: Kept) -> None:
    """Only OpenTelemetry's context is ours: other context variables that a coroutine sets, its caller sees."""
    import contextvars

    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    @traced
    async def log_in() -> None:
        user.set("somebody")

    async def main() -> str:
        await log_in()
        return user.get()

    assert asyncio.run(main()) == "somebody"


# -- generators --------------------------------------------------------------------------------------------------------

ACTS = st.lists(st.sampled_from(["yield", "catch", "stubborn", "raise", "return"]), max_size=5)
STEPS = st.lists(st.sampled_from(["next", "send", "throw", "throw class", "key error", "exit", "close"]), max_size=8)


def scripted(acts: Sequence[str], log: list[Any]) -> Any:
    """A generator that does what `acts` say."""
    try:
        for act in acts:
            log.append(act)
            if act == "yield":
                log.append((yield len(log)))
            elif act == "catch":
                try:
                    log.append((yield len(log)))
                except ValueError as error:
                    log.append(str(error))
            elif act == "stubborn":
                try:
                    yield len(log)
                except GeneratorExit:
                    log.append((yield "still here"))
            elif act == "raise":
                raise KeyError(act)
            else:
                return log
    finally:
        log.append("clean-up")
    return None


@types.coroutine
def pause() -> Iterator[str]:
    yield "pause"


async def scripted_async(acts: Sequence[str], log: list[Any]) -> AsyncIterator[Any]:
    """The same, with an `await` in every place that can have one."""
    try:
        for act in acts:
            log.append(act)
            await pause()
            if act == "yield":
                log.append((yield len(log)))
            elif act == "catch":
                try:
                    log.append((yield len(log)))
                except ValueError as error:
                    log.append(str(error))
            elif act == "stubborn":
                try:
                    yield len(log)
                except GeneratorExit:
                    log.append((yield "still here"))
            elif act == "raise":
                raise KeyError(act)
            else:
                return
    finally:
        await pause()
        log.append("clean-up")


def drive(made: Any) -> Any:
    """Run an awaitable to its end, without an event loop."""
    stepping = made.__await__()
    while True:
        try:
            assert stepping.send(None) == "pause"
        except StopIteration as end:
            return end.value


MOVES: dict[str, Callable[[Any], Any]] = {
    "next": next,
    "send": lambda g: g.send(7),
    "throw": lambda g: g.throw(ValueError("thrown")),
    "throw class": lambda g: g.throw(ValueError),
    "key error": lambda g: g.throw(KeyError("thrown")),
    "exit": lambda g: g.throw(GeneratorExit),
    "close": lambda g: g.close(),
}
ASYNC_MOVES: dict[str, Callable[[Any], Any]] = {
    "next": lambda g: drive(g.__anext__()),
    "send": lambda g: drive(g.asend(7)),
    "throw": lambda g: drive(g.athrow(ValueError("thrown"))),
    "throw class": lambda g: drive(g.athrow(ValueError)),
    "key error": lambda g: drive(g.athrow(KeyError("thrown"))),
    "exit": lambda g: drive(g.athrow(GeneratorExit)),
    "close": lambda g: drive(g.aclose()),
}


def observed(moves: dict[str, Callable[[Any], Any]], step: str, generator: Any) -> tuple[Any, ...]:
    """Do one step and say all that its caller can see of it."""
    try:
        return "value", moves[step](generator)
    except BaseException as error:
        return type(error), error.args, getattr(error, "value", None)
    finally:
        assert current_name() is None  # the consumer is never in the generator's span


class Ended(SpanProcessor):
    """Counts the ends of spans as they come."""

    def __init__(self) -> None:
        self.count = 0

    def on_end(self, span: ReadableSpan) -> None:
        self.count += 1


def compare(
    function: Any, frame: str, moves: dict[str, Callable[[Any], Any]], acts: Sequence[str], steps: Sequence[str]
) -> None:
    """Take a bare and a decorated generator through the same steps, and drop them."""
    ended, provider = Ended(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ended)
    logs: tuple[list[Any], list[Any]] = ([], [])
    bare = function(acts, logs[0])
    ours = traced(tracer=Tracer("t", tracer_provider=provider))(function)(acts, logs[1])
    assert isinstance(ours, type(bare))
    # One that will not be closed is run to its end: Python would complain when it is dropped, of both alike.
    for step in [*steps, *["next"] * (2 * len(acts) + 1 if "stubborn" in acts else 0)]:
        assert observed(moves, step, ours) == observed(moves, step, bare)
        assert logs[0] == logs[1]
        assert getattr(ours, frame) is None or not ended.count
        _lost.lost.end_gone()
        assert ended.count == (getattr(bare, frame) is None)
    del bare, ours
    _lost.lost.end_gone()
    assert ended.count == 1
    assert "clean-up" not in logs[0] or logs[0] == logs[1]


@settings(max_examples=300, deadline=None)
@given(ACTS, STEPS)
def test_a_decorated_generator_does_what_the_bare_one_does(acts: Sequence[str], steps: Sequence[str]) -> None:
    """Whatever is sent, thrown or closed: the same values, errors and side effects; its span ends exactly once."""
    compare(scripted, "gi_frame", MOVES, acts, steps)


@settings(max_examples=300, deadline=None)
@given(ACTS.filter(lambda acts: "stubborn" not in acts), STEPS)
def test_a_decorated_async_generator_does_what_the_bare_one_does(acts: Sequence[str], steps: Sequence[str]) -> None:
    """Whatever is sent, thrown or closed: the same values, errors and side effects; its span ends exactly once."""
    compare(scripted_async, "ag_frame", ASYNC_MOVES, acts, [*steps, "close"])


@traced("numbers")
def numbers(n: int) -> Iterator[str | None]:
    for _ in range(n):
        load("x")
        yield current_name()


@traced("async numbers")
async def async_numbers(n: int) -> AsyncIterator[str | None]:
    for _ in range(n):
        await asyncio.sleep(0)
        load("x")
        yield current_name()


def test_a_generator_belongs_where_it_was_made(kept: Kept) -> None:
    """Its span is a child of the span around its making, wherever it is consumed, and lasts until it is exhausted."""
    tracer = rlm_obs.instrument(exporters=[kept]).tracer
    assert tracer is not None
    elsewhere: list[Any] = []
    with tracer.span("maker"):
        made = numbers(2)
    with tracer.span("consumer"):
        assert next(made) == "numbers"
        assert current_name() == "consumer"
        thread = threading.Thread(target=lambda: elsewhere.extend(made))
        thread.start()
        thread.join()
    assert elsewhere == ["numbers"]
    spans = kept.spans
    assert parents(spans) == {"maker": None, "consumer": None, "numbers": "maker", "load": "numbers"}
    assert kept.one("numbers").end_time > kept.one("maker").end_time
    assert kept.one("numbers").status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize("begun", [False, True])
def test_a_generator_that_is_dropped_ends_its_span(kept: Kept, begun: bool) -> None:
    """Never started or left by `break`, also inside a reference cycle: one end, no error, and the gate is let go."""
    made = numbers(3)
    if begun:
        next(made)
    cycle: list[Any] = [made]
    cycle.append(cycle)
    del made, cycle
    gc.collect()
    assert kept.names.count("numbers") == 1
    assert "error.type" not in kept.one("numbers").attributes


def test_what_was_dropped_is_delivered_by_a_flush(tracer_to: Callable[[SpanExporter], Tracer]) -> None:
    """A generator that was left by `break` before `flush()` is delivered by it, the tracer's own or everybody's."""
    exporter = Kept()
    tracer = tracer_to(exporter)
    left = traced(tracer=tracer)(_count)
    for i in range(1, 41):
        for _ in left(3):
            break
        assert tracer.flush() if i % 2 else rlm_obs.flush()
        assert len(exporter.delivered) == i


def test_what_was_dropped_last_is_delivered_at_exit() -> None:
    """The end of the program delivers the span of a generator that was left a moment before."""
    program = """
import rlm_obs

@rlm_obs.traced("left")
def left():
    yield 1

rlm_obs.instrument(exporters=["console"])
for _ in left():
    break
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "left" in done.stdout + done.stderr


def test_a_generator_keeps_its_return_value(kept: Kept) -> None:
    """`yield from` gets what the generator returns."""

    @traced
    def returns() -> Any:
        yield 1
        return "value"

    def delegating() -> Any:
        return (yield from returns())

    generator = delegating()
    assert next(generator) == 1
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == "value"


def test_a_generator_cannot_be_copied(kept: Kept) -> None:
    """A copy would run the same code twice: it is refused, as Python refuses it."""
    with pytest.raises(TypeError, match="cannot pickle 'generator' object"):
        copy.copy(numbers(1))


def test_an_async_generator_left_early_is_closed_inside_its_span(kept: Kept) -> None:
    """After `break` the event loop closes it, in another task: its clean-up belongs to its span, which ends then."""

    @traced("stream")
    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            load("clean-up")

    async def main() -> None:
        async for _ in stream():
            assert current_name() is None
            break
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert parents(kept.spans) == {"load": "stream", "stream": None}


def test_an_async_generator_that_nobody_closes(kept: Kept) -> None:
    """Still suspended when its loop shuts down, or never begun: its span ends once, and nothing is logged."""

    longer_than_the_loop = []

    async def main() -> None:
        made = async_numbers(3)
        assert await anext(made) == "async numbers"
        async_numbers(1)
        longer_than_the_loop.append(made)

    asyncio.run(main())
    longer_than_the_loop.clear()
    assert kept.names.count("async numbers") == 2


def test_an_async_generator_in_the_loop(kept: Kept) -> None:
    """`async for`, `aclosing`, `anext` with a default and a task per step: values, parents and one span each."""

    async def main() -> None:
        assert [name async for name in async_numbers(2)] == ["async numbers"] * 2
        async with aclosing(async_numbers(2)) as made:  # type: ignore[type-var]
            assert await asyncio.create_task(anext(made)) == "async numbers"  # type: ignore[arg-type]
        assert await anext(async_numbers(0), "default") == "default"

    asyncio.run(main())
    assert kept.names.count("async numbers") == 3
    assert parents(kept.spans)["load"] == "async numbers"


def test_context_managers_are_generators(kept: Kept) -> None:
    """Under `@contextmanager` the span lasts as long as the block, and the block is not in it."""

    @contextmanager
    @traced("resource")
    def resource() -> Iterator[str | None]:
        try:
            yield current_name()
        except KeyError:
            load("rolled back")

    @asynccontextmanager
    @traced("async resource")
    async def async_resource() -> AsyncIterator[str | None]:
        yield current_name()

    with resource() as name:
        assert (name, current_name()) == ("resource", None)
        assert kept.spans == []
        raise KeyError

    async def main() -> None:
        async with async_resource() as name:
            assert (name, current_name()) == ("async resource", None)

    asyncio.run(main())
    assert parents(kept.spans) == {"load": "resource", "resource": None, "async resource": None}


# -- what the function was, it still is --------------------------------------------------------------------------------


@traced
async def fetch(url: str) -> str:
    """Fetch."""
    return url


@cost_tracked
def spend(amount: int = 1) -> int:
    """Spend."""
    return amount


@traced
@cost_tracked("both")
def both(x: int) -> int:
    """Do both."""
    return x


@traced
class Bot:
    """A class with methods of every kind."""

    limit = 3

    class Inner:
        def method(self) -> str | None:
            return current_name()

    def __init__(self, name: str = "bot") -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bot) and other.name == self.name

    __hash__ = None  # type: ignore[assignment]

    def ask(self) -> str | None:
        return current_name()

    async def ask_async(self) -> str | None:
        return current_name()

    @classmethod
    def make(cls) -> tuple[type, str | None]:
        return cls, current_name()

    @staticmethod
    def help() -> str | None:
        return current_name()

    @property
    def shown(self) -> str | None:
        return current_name()

    @functools.cached_property
    def cached(self) -> str | None:
        return current_name()

    def _private(self) -> str | None:
        return current_name()


class Child(Bot):
    def own(self) -> str | None:
        return current_name()


@pytest.mark.parametrize(
    "decorated", [load, fetch, numbers, async_numbers, spend, both, Bot.ask, Bot.help, Bot().ask_async]
)
def test_a_decorated_function_looks_like_itself(decorated: Any) -> None:
    """Name, docstring, signature and kind are the function's own."""
    bare = inspect.unwrap(decorated)
    for name in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        assert getattr(decorated, name) == getattr(bare, name)
    assert inspect.signature(decorated) == inspect.signature(bare)
    for asks in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
        inspect.isroutine,
    ):
        assert asks(decorated) == asks(bare)


@pytest.mark.parametrize("decorated", [load, fetch, numbers, spend, both, Bot.make])
def test_a_decorated_function_is_pickled_by_its_name(decorated: Any) -> None:
    """At every protocol, and in process pools: what comes back is the same function; copies are the function itself."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(decorated, protocol)) == decorated
    assert copy.copy(decorated) is decorated


def test_a_bound_method_is_pickled_with_its_object() -> None:
    """As any bound method."""
    assert pickle.loads(pickle.dumps(Bot("x").ask)).__self__.name == "x"
    assert copy.deepcopy([load])[0] is load
    with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
        pickle.dumps(traced(lambda: 1))


def test_a_class_stays_the_class(kept: Kept) -> None:
    """The very same class, whose instances pickle and whose subclasses inherit; its own public methods have spans."""

    class Plain:
        def method(self) -> None: ...

    before = Plain
    assert traced(Plain) is before
    assert pickle.loads(pickle.dumps(Bot("x"))) == Bot("x")
    assert isinstance(Child(), Bot)
    assert Child().ask() == "Bot.ask"
    assert asyncio.run(Child().ask_async()) == "Bot.ask_async"
    assert Child.make() == (Child, "Bot.make")
    assert Bot.help() == Bot().help() == "Bot.help"
    for bare in (Bot()._private(), Bot().shown, Bot().cached, Bot.Inner().method(), Child().own()):
        assert bare is None
    assert kept.names == ["Bot.ask", "Bot.ask_async", "Bot.make", "Bot.help", "Bot.help"]


def test_the_name_of_a_class_stands_before_its_methods(kept: Kept) -> None:
    """`@traced("agent")` on a class makes spans `agent.method`."""

    @traced("agent")
    class Agent:
        def step(self) -> str | None:
            return current_name()

    assert Agent().step() == "agent.step"


def test_methods_below_and_above(kept: Kept) -> None:
    """The decorator may stand below or above @classmethod and @staticmethod."""

    class Tool:
        @traced("a")
        @classmethod
        def a(cls, x: int) -> tuple[Any, ...]:
            return cls, x, current_name()

        @classmethod
        @traced("b")
        def b(cls, x: int) -> tuple[Any, ...]:
            return cls, x, current_name()

        @traced("c")
        @staticmethod
        def c(x: int) -> tuple[Any, ...]:
            return x, current_name()

        @staticmethod
        @traced("d")
        async def d(x: int) -> tuple[Any, ...]:
            return x, current_name()

    class Other(Tool):
        pass

    assert Other.a(1) == Other().a(1) == (Other, 1, "a")
    assert Other.b(1) == Other().b(1) == (Other, 1, "b")
    assert Other.c(1) == Other().c(1) == (1, "c")
    assert asyncio.run(Other.d(1)) == asyncio.run(Other().d(1)) == (1, "d")


class Callable_:  # noqa: N801
    async def __call__(self, x: int) -> tuple[int, str | None]:
        await asyncio.sleep(0)
        return x, current_name()


class Iterating:
    def __call__(self, n: int) -> Iterator[str | None]:
        for _ in range(n):
            yield current_name()


def test_partials_and_instances_that_can_be_called(kept: Kept) -> None:
    """A partial has the name of what it calls, an instance that of its class; a coroutine inside is seen."""
    assert traced(functools.partial(load.__wrapped__, "x"))() == "load"
    assert asyncio.run(_awaited(traced(functools.partial(_plus_one, 1)))) == 2
    assert asyncio.run(_awaited(traced(Callable_()), 1)) == (1, "Callable_")
    assert list(traced(functools.partial(_count, 2))()) == [0, 1]
    assert traced(len)([1]) == 1
    assert list(traced("instance")(Iterating())(2)) == ["instance"] * 2
    assert kept.names == ["load", "_plus_one", "Callable_", "_count", "len", "instance"]


def test_a_local_function_is_named_without_locals(kept: Kept) -> None:
    """`<locals>.` is left out of the name."""

    @traced
    def inner() -> None: ...

    inner()
    assert kept.names == ["test_a_local_function_is_named_without_locals.inner"]


@pytest.mark.parametrize("order", ["traced, tracked", "tracked, traced", "traced, traced"])
def test_decorators_stack_in_any_order(kept: Kept, order: str) -> None:
    """Each does its own, for every kind of function."""
    apply: dict[str, Callable[[Any], Any]] = {"traced": traced("span"), "tracked": cost_tracked("op")}

    def stacked(function: Any) -> Any:
        for name in order.split(", "):
            function = apply[name](function)
        return function

    spans = order.split(", ").count("traced")
    assert stacked(lambda: current_name())() == "span"
    assert asyncio.run(_awaited(stacked(_plus_one), 1)) == 2
    assert list(stacked(_count)(2)) == [0, 1]

    async def collect() -> list[Any]:
        return [x async for x in stacked(async_numbers.__wrapped__)(1)]

    assert asyncio.run(collect()) == ["span"]
    assert kept.names.count("span") == 4 * spans
    if "tracked" in order:
        assert stacked(_count).cost() == 0


# -- costs -------------------------------------------------------------------------------------------------------------

#: 1000 tokens in, 100 out, on gpt-4o (2.50 and 10 dollars per million): 0.0025 + 0.001 dollars.
EACH = Decimal("0.0035")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    """A server that bills like OpenAI."""
    monkeypatch.setenv("RLM_OBS_HOSTS", '{"127.0.0.1": "openai"}')
    monkeypatch.setattr(_runtime, "_runtime", None)
    with fake_openai(usage={"prompt_tokens": 1000, "completion_tokens": 100}) as running:
        yield running


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=server.base_url, api_key="k", http_client=openai.DefaultHttpxClient(verify=False), max_retries=0
    ) as made:
        yield made


def chat(client: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], max_tokens=100)


def test_cost_is_what_the_calls_below_have_cost(client: openai.OpenAI) -> None:
    """`.cost()` is the sum over all invocations, nested ones too, to the digit; without `instrument()`."""

    @cost_tracked
    def inner() -> None:
        chat(client)

    @cost_tracked("outer work")
    def outer(n: int) -> None:
        chat(client)
        for _ in range(n):
            inner()

    assert outer.cost() == 0
    outer(2)
    inner()
    assert (outer.cost(), inner.cost()) == (3 * EACH, 3 * EACH)
    assert outer.tracker.name == "outer work"
    assert outer.tracker.get_report().by_operation == {
        "outer work": 3 * EACH,
        "test_cost_is_what_the_calls_below_have_cost.inner": 2 * EACH,
    }


def test_a_budget_holds_over_all_invocations(client: openai.OpenAI, server: FakeOpenAI) -> None:
    """What one invocation has spent, the next one has not; refused is refused before anything is sent."""

    @cost_tracked(operation="ask", budget_usd=2 * EACH)
    def ask() -> None:
        chat(client)

    ask()
    ask()
    with pytest.raises(BudgetExceeded):
        ask()
    assert len(server.requests) == 2
    assert ask.cost() == ask.tracker.spent == 2 * EACH
    chat(client)  # outside, nothing holds
    assert len(server.requests) == 3


def test_another_tracker_counts_too(client: openai.OpenAI) -> None:
    """`tracker=` adds a tracker to the function's own; `@tracker` is the short form."""
    day = CostTracker(name="day")

    @cost_tracked(tracker=day)
    def first() -> None:
        chat(client)

    @day
    def second() -> None:
        chat(client)

    first()
    second()
    assert (first.cost(), day.spent) == (EACH, 2 * EACH)
    assert second.cost() == EACH


def test_generators_and_coroutines_cost_what_their_own_code_calls(client: openai.OpenAI, server: FakeOpenAI) -> None:
    """Calls of the consumer between two steps are the consumer's, with generators of both kinds."""

    @cost_tracked
    def steps() -> Iterator[int]:
        for i in range(2):
            chat(client)
            yield i

    @cost_tracked
    async def async_steps() -> AsyncIterator[int]:
        await work()
        yield 1

    @cost_tracked
    async def work() -> None:
        await asyncio.sleep(0)
        chat(client)

    for _ in steps():
        chat(client)

    async def main() -> None:
        async for _ in async_steps():
            chat(client)

    asyncio.run(main())
    assert (steps.cost(), async_steps.cost(), work.cost()) == (2 * EACH, EACH, EACH)


def test_the_methods_of_a_class_share_a_budget(client: openai.OpenAI) -> None:
    """Each method has its own `.cost()`; the budget is one, and so is the tracker."""

    @cost_tracked("agent", budget_usd=1)
    class Agent:
        def plan(self) -> None:
            chat(client)

        @classmethod
        def act(cls) -> None:
            chat(client)
            chat(client)

    agent: Any = Agent()
    agent.plan()
    agent.act()
    assert (agent.plan.cost(), Agent.act.cost()) == (EACH, 2 * EACH)
    assert agent.plan.tracker is agent.act.tracker
    assert agent.plan.tracker.get_report().by_operation == {"agent.plan": EACH, "agent.act": 2 * EACH}


def test_a_call_is_a_child_of_the_traced_function(
    client: openai.OpenAI, tracer_to: Callable[[SpanExporter], Tracer]
) -> None:
    """The call's span hangs below the function's, in the same trace."""
    exporter = Kept()
    tracer = tracer_to(exporter)

    @traced("answer", tracer=tracer)
    def answer() -> None:
        chat(client)

    answer()
    assert parents(exporter.spans) == {"chat gpt-4o": "answer", "answer": None}


# -- a web framework ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_streaming_response_stays_in_its_requests_trace(kept: Kept, kind: str) -> None:
    """FastAPI consumes a generator after the endpoint has returned, in other threads: it is one trace all the same."""
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from fastapi.testclient import TestClient

    app = FastAPI()

    @traced("tokens")
    def tokens() -> Iterator[str]:
        for _ in range(3):
            load("x")
            yield "t "

    @traced("tokens")
    async def async_tokens() -> AsyncIterator[str]:
        for _ in range(3):
            await asyncio.sleep(0)
            load("x")
            yield "t "

    @app.get("/answer/{n}")
    @traced("endpoint")
    async def answer(n: int) -> StreamingResponse:
        return StreamingResponse(async_tokens() if kind == "async" else tokens())

    with TestClient(app) as browser:
        assert browser.get("/answer/1").text == "t t t "
        assert browser.get("/answer/x").status_code == 422  # the endpoint's signature is still read
    spans = kept.spans
    assert parents(spans) == {"endpoint": None, "tokens": "endpoint", "load": "tokens"}
    assert len({span.context.trace_id for span in spans}) == 1
    assert [span.name for span in spans].count("load") == 3
