"""Traces and budgets in threads and pools: each task runs in the context it was submitted from, and in no other."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any

import openai
import pytest
import wrapt
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.sdk.trace import TracerProvider

import rlm_obs
from rlm_obs import BudgetExceeded, CostTracker, Tracer, _guard, _scope
from rlm_obs._instrument import threads
from rlm_obs._instrument.threads import Threads
from rlm_obs.testing import FakeOpenAI

ORIGINALS = (vars(threading.Thread)["start"], vars(ThreadPoolExecutor)["submit"])


def patched() -> tuple[Any, Any]:
    return vars(threading.Thread)["start"], vars(ThreadPoolExecutor)["submit"]


def restored() -> bool:
    """Tell whether both methods are the very objects that they were."""
    return all(now is before for now, before in zip(patched(), ORIGINALS, strict=True))


@pytest.fixture(autouse=True)
def carrying(caplog: pytest.LogCaptureFixture) -> Iterator[Threads]:
    """Only threads are instrumented, and all is put back; OpenTelemetry never complains."""
    assert restored()
    made = Threads()
    made.instrument()
    yield made
    made.uninstrument()
    assert restored()
    assert [r for r in caplog.get_records("call") if r.name.startswith("opentelemetry")] == []


Span = Callable[[str], AbstractContextManager[object]]


@pytest.fixture
def span() -> Span:
    """Opens a span of a provider that is not ours: nothing of ours is switched on by it."""
    return TracerProvider(shutdown_on_exit=False).get_tracer("theirs").start_as_current_span


def here() -> str | None:
    """Return the name of the current span."""
    return getattr(trace.get_current_span(), "name", None)


def in_thread(thread_type: Callable[..., threading.Thread] = threading.Thread, **options: Any) -> Any:
    """Start a thread and return what `here` says there."""
    seen: list[Any] = []
    thread = thread_type(target=lambda: seen.append(here()), **options)
    thread.start()
    thread.join()
    return seen[0]


def test_a_thread_runs_in_the_span_that_started_it(span: Span) -> None:
    """And one started outside of any span runs in none."""
    with span("a"):
        assert in_thread() == "a"
        assert here() == "a"
    assert in_thread() is None


def test_a_first_span_of_ours_is_enough(carrying: Threads) -> None:
    """Threads are carried from the first block of ours on, whoever has called `instrument()` or not."""
    carrying.uninstrument()
    with Tracer("t", exporters=[]).span("a"):
        assert in_thread() == "a"


def test_subclasses_that_write_their_own_run(span: Span) -> None:
    """`run` of a subclass, of a timer, or set on the object: each is carried, and `run` is then what it was."""
    seen: list[Any] = []

    class Own(threading.Thread):
        def run(self) -> None:
            seen.append((here(), "run" in vars(self)))

    assigned = threading.Thread()
    own_run = assigned.run = lambda: seen.append(here())  # type: ignore[method-assign]
    with span("a"):
        for thread in (Own(), threading.Timer(0, lambda: seen.append(here())), assigned):
            thread.start()
            thread.join()
            assert vars(thread).get("run") is (own_run if thread is assigned else None)
    assert seen == [("a", False), "a", "a"]


def test_nothing_is_kept_alive_by_a_thread_that_has_run(span: Span) -> None:
    """What the context holds is free once the thread has run, while the thread object lives on."""

    class Held:
        pass

    held = Held()
    alive = weakref.ref(held)
    token = otel.attach(otel.set_value("held", held))
    with span("a"):
        thread = threading.Thread(target=here)
        thread.start()
        thread.join()
    otel.detach(token)
    del held, token
    gc.collect()
    assert alive() is None
    assert vars(thread).get("run") is None


def test_a_pools_worker_has_no_context_of_its_own(span: Span) -> None:
    """Each task brings its own context: on a worker that was born inside a span, a task from outside runs in none."""
    with ThreadPoolExecutor(1) as pool:
        with span("a"):
            assert pool.submit(here).result() == "a"
        assert pool.submit(here).result() is None
        with span("b"):
            assert list(pool.map(lambda _: here(), range(2))) == ["b", "b"]
            assert here() == "b"
        assert pool.submit(otel.get_current).result() == {}


def test_a_pools_results_and_errors_are_its_own(span: Span) -> None:
    """Arguments, results and exceptions pass as they are; a wrong call of `submit` is the same TypeError."""
    error = ValueError("mine")

    def fails() -> None:
        raise error

    with span("a"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda *a, **k: (a, k), 1, function=2, context=3).result() == (
            (1,),
            {"function": 2, "context": 3},
        )
        assert pool.submit(fails).exception() is error
        with pytest.raises(TypeError):
            pool.submit()  # type: ignore[call-arg]


def test_event_loops(span: Span) -> None:
    """`run_in_executor` carries; `asyncio.to_thread`, which copies the context by itself, goes on doing so."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with span("a"):
            assert await loop.run_in_executor(None, here) == "a"
            assert await asyncio.to_thread(here) == "a"
        assert await loop.run_in_executor(None, here) is None

    asyncio.run(main())


def test_threads_that_deliver_spans_belong_to_nobody(span: Span) -> None:
    """A thread of an exporter, ours or OpenTelemetry's, does not inherit the span in which it happened to start."""
    with span("a"):
        assert in_thread(name="OtelBatchSpanRecordProcessor") is None
        assert in_thread(name="rlm_obs-flush") is None


def test_a_context_without_a_span_or_anything_of_ours_is_left_alone() -> None:
    """Baggage alone does not put us into anybody's threads."""
    token = otel.attach(baggage.set_baggage("user", "x"))
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(baggage.get_baggage, "user").result() is None
            assert pool.submit(here).result() is None
    finally:
        otel.detach(token)


def test_a_thread_that_cannot_start_is_left_as_it_was(span: Span) -> None:
    """A second `start` is the same RuntimeError, and the object has nothing of ours on it."""
    thread = threading.Thread(target=here)

    class Unstartable(threading.Thread):
        def start(self) -> None:
            self._started = None  # type: ignore[assignment]  # breaks the real start
            super().start()

    with span("a"):
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="only be started once"):
            thread.start()
        assert "run" not in vars(thread)
        broken = Unstartable(target=here)
        with pytest.raises(AttributeError):
            broken.start()
        assert "run" not in vars(broken)


@pytest.mark.swallows
def test_a_failure_of_ours_never_prevents_a_thread(span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the context cannot be read, threads and tasks run as they did without us, and the failure is counted."""

    class Broken:
        def __bool__(self) -> bool:
            raise RuntimeError("no context today")

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as breaking:
        breaking.setattr(otel, "get_current", Broken)
        assert pool.submit(lambda: 7).result() == 7
        done = threading.Event()
        threading.Thread(target=done.set).start()
        assert done.wait(5)
    assert _guard.failures["threads"] >= 2


def test_switching_on_and_off_again(carrying: Threads, span: Span) -> None:
    """Both methods may be called again without harm; afterwards the classes have the very objects that they had."""
    once = patched()
    carrying.instrument()
    Threads().instrument()
    assert all(now is then for now, then in zip(patched(), once, strict=True))
    carrying.uninstrument()
    assert restored()
    carrying.uninstrument()
    with span("a"):
        assert in_thread() is None
    carrying.instrument()
    with span("a"):
        assert in_thread() == "a"


def test_somebody_elses_patch_over_ours_stays(carrying: Threads, span: Span) -> None:
    """A wrapper that another library has put over ours still works, and ours is gone from under it."""
    calls = []

    def theirs(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        calls.append(instance)
        return wrapped(*args, **kwargs)

    over = wrapt.FunctionWrapper(vars(threading.Thread)["start"], theirs)
    threading.Thread.start = over  # type: ignore[method-assign]
    try:
        with span("a"):
            assert in_thread() == "a"
            carrying.uninstrument()
            assert vars(threading.Thread)["start"] is over
            assert over.__wrapped__ is ORIGINALS[0]
            assert in_thread() is None
    finally:
        threading.Thread.start = ORIGINALS[0]  # type: ignore[method-assign]
    assert len(calls) == 2


def test_another_instrumentation_doing_the_same(span: Span) -> None:
    """Above or below one that carries the context too, a task runs in the context it was submitted from."""

    def carries(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        context = otel.get_current()

        def run(*a: Any, **k: Any) -> Any:
            token = otel.attach(context)
            try:
                return args[0](*a, **k)
            finally:
                otel.detach(token)

        return wrapped(run, *args[1:], **kwargs)

    def check() -> None:
        with ThreadPoolExecutor(1) as pool:
            with span("a"):
                assert pool.submit(here).result() == "a"
            assert pool.submit(here).result() is None

    ours = patched()[1]
    ThreadPoolExecutor.submit = wrapt.FunctionWrapper(ours, carries)  # type: ignore[method-assign]
    check()
    ThreadPoolExecutor.submit = ours
    Threads().uninstrument()
    below = wrapt.FunctionWrapper(ORIGINALS[1], carries)
    ThreadPoolExecutor.submit = below  # type: ignore[method-assign]
    Threads().instrument()
    check()
    Threads().uninstrument()
    assert vars(ThreadPoolExecutor)["submit"] is below
    ThreadPoolExecutor.submit = ORIGINALS[1]  # type: ignore[method-assign]


def test_the_setting_switches_it_off(carrying: Threads, span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    """`threads=False` in the settings: nothing is patched, and what is patched already does nothing."""
    monkeypatch.setattr(threads, "_wanted", True)
    threads.configured(rlm_obs.Settings(threads=False))
    with span("a"):
        assert in_thread() is None
    carrying.uninstrument()
    carrying.instrument()
    assert restored()
    threads.configured(rlm_obs.Settings())
    carrying.instrument()
    assert not restored()


def test_it_comes_with_instrument(carrying: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """`instrument()` carries into threads unless RLM_OBS_THREADS says no; `uninstrument()` puts all back."""
    carrying.uninstrument()
    monkeypatch.setattr(threads, "_wanted", True)
    with rlm_obs.instrument(exporters=[]):
        assert not restored()
    assert restored()
    monkeypatch.setenv("RLM_OBS_THREADS", "false")
    with rlm_obs.instrument(exporters=[]):
        assert restored()


def test_a_budget_holds_in_threads(as_openai: Any, server: FakeOpenAI) -> None:
    """Calls in pools and threads fall under the tracker of the block that started them, and are refused by it."""
    client = openai.OpenAI(
        base_url=server.base_url, api_key="k", http_client=openai.DefaultHttpxClient(verify=False), max_retries=0
    )
    outcomes: list[Any] = []

    def ask() -> None:
        try:
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], max_tokens=100)
            outcomes.append("sent")
        except BudgetExceeded:
            outcomes.append("refused")

    each = Decimal("0.0035")
    with client, ThreadPoolExecutor(1) as pool, CostTracker(2 * each) as tracker:
        for _ in range(2):
            pool.submit(ask).result()
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        pool.submit(ask).result()
    assert outcomes == ["sent", "sent", "refused", "refused"]
    assert tracker.spent == 2 * each
    assert _scope.current().trackers == ()
