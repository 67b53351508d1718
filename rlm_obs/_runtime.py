"""Instrumentation: settings, plugins, tracer and the process's own cost tracker, tied together; the one global."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from rlm_obs import _ending, _guard, _lost, _pipelines, _scope
from rlm_obs._budgets import counting, keeper
from rlm_obs._call import Call, Charge, Most, Needing, Total
from rlm_obs._frozen import quick_to_make
from rlm_obs._plugins import Plugins, gates, loaded
from rlm_obs._pricing import Chain
from rlm_obs._record import Request
from rlm_obs._settings import Settings, read_settings
from rlm_obs._tracer import DEFAULT_EXPORTERS, Tracer
from rlm_obs._tracker import CostReport, CostTracker
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from decimal import Decimal

    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TracerProvider


@dataclass(frozen=True, slots=True)
class Runtime:
    """What every call needs of the process: its settings, its plugins, its prices."""

    settings: Settings
    plugins: Plugins
    prices: Chain
    #: What each call asks of `prices` and of `settings`, at hand: a settings object takes its time to find a field.
    price: Charge = field(init=False, repr=False)
    total: Total = field(init=False, repr=False)
    most: Most = field(init=False, repr=False)
    captures: bool = field(init=False, repr=False)
    keeps_limits: bool = field(init=False, repr=False)
    tells_provider: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        at_hand = {
            "price": self.prices.charge,
            "total": self.prices.total,
            "most": self.prices.most_usd,
            "captures": self.settings.capture_content,
            "keeps_limits": self.settings.rate_limits,
            "tells_provider": self.settings.propagate == "provider",
        }
        for name, value in at_hand.items():
            object.__setattr__(self, name, value)


@quick_to_make
@dataclass(frozen=True, slots=True)
class InForce:
    """What holds for one call: where it is traced, which budgets it falls under, and what it is part of."""

    runtime: Runtime
    tracer: Tracer | None
    trackers: tuple[CostTracker, ...]
    operations: tuple[str, ...]
    attributes: Mapping[str, Any]

    def call(self, request: Request, needs: Needing, content: Mapping[str, Any] | None = None) -> Call:
        """Return the call that is about to be made."""
        runtime = self.runtime
        return Call(
            request,
            needs,
            self.tracer,
            self.trackers,
            self.operations,
            runtime.plugins,
            runtime.price,
            runtime.most,
            content,
            runtime.total,
        )


_runtime: Runtime | None = None
_active: Instrumentation | None = None
_last: Instrumentation | None = None  # its report can be read after `uninstrument()` too
_plainly: InForce | None = None  # what holds outside of any block of ours, made once by `instrument()`
_lock = threading.RLock()


def runtime(settings: Settings | None = None) -> Runtime:
    """Return the process's runtime, made at the first use; anew where `settings` are given."""
    global _runtime
    if _runtime is None or settings is not None:
        with _lock:
            chosen = settings or read_settings()
            plugins = loaded(chosen)
            plugins.configured(chosen)
            counting.use(chosen.count_tokens)
            _runtime = Runtime(chosen, plugins, Chain(plugins))
    return _runtime


def in_force() -> InForce | None:
    """Return what holds for a call made here, or None: nothing of ours does, and the call passes straight through."""
    if _plainly is not None and _scope.KEY not in _scope.get_current():
        return _plainly
    scope, default = _scope.current(), _scope.default
    tracer = scope.tracer or default.tracer
    trackers = scope.trackers
    if default.trackers:
        trackers = default.trackers + tuple(t for t in trackers if t not in default.trackers)
    if tracer is None and not trackers:
        return None
    return InForce(_runtime or runtime(), tracer, trackers, scope.operations, scope.attributes)


class Instrumentation:
    """What `instrument()` has switched on, and the way to switch it off again; also a context manager."""

    def __init__(self, tracer: Tracer | None, tracker: CostTracker, settings: Settings) -> None:
        self.tracer, self.tracker, self.settings = tracer, tracker, settings
        self._old_sigterm: Any = None

    def report(self) -> CostReport:
        """Return what the process has spent since `instrument()`."""
        return self.tracker.get_report()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Deliver what is queued; True if, within `timeout_s`, every exporter has accepted everything."""
        return flush(timeout_s)

    def uninstrument(self) -> None:
        """Restore the client exactly, deliver what is queued, and stop; again, it does nothing."""
        global _active, _plainly
        with _lock:
            if _active is not self:
                return
            _active = _plainly = None
            _scope.set_default(_scope.EMPTY)
            gates.drop()
        _lost.lost.end_all()
        if self.tracer is not None:
            self.tracer.shutdown(self.settings.exit_timeout_s)
        self._restore_sigterm()

    def watch_sigterm(self) -> None:
        """Flush on SIGTERM, then do what was installed before (or die of the signal, as without us)."""
        self._old_sigterm = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        # A handler runs inside the main thread, which may hold any lock of ours: the work is done in another one.
        dies = self._old_sigterm is None or self._old_sigterm is signal.SIG_DFL
        flushing = threading.Thread(
            target=_finish, args=(self.settings.exit_timeout_s, dies), name="rlm_obs-sigterm", daemon=True
        )
        flushing.start()
        flushing.join(self.settings.exit_timeout_s)
        if callable(self._old_sigterm):
            self._old_sigterm(number, frame)
        elif self._old_sigterm is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _restore_sigterm(self) -> None:
        here = threading.current_thread() is threading.main_thread()  # elsewhere it stays, and hands on what it gets
        if here and self._old_sigterm is not None and signal.getsignal(signal.SIGTERM) == self._on_sigterm:
            signal.signal(signal.SIGTERM, self._old_sigterm)

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstrument()

    def __repr__(self) -> str:
        return f"<Instrumentation {self.tracer!r}, {self.tracker!r}>"


def instrument(
    exporters: Sequence[str | SpanExporter] | None = None,
    budget_usd: Decimal | float | str | None = None,
    service_name: str | None = None,
    sample_rate: float | None = None,
    capture_content: bool | None = None,
    tracer_provider: TracerProvider | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
) -> Instrumentation:
    """Trace and price every call of the OpenAI client in this process, and stop it at `budget_usd`; nothing is sent anywhere
    but to the exporters that are named.

    `exporters`: names ("console", "file", "langfuse", a plugin's) or OpenTelemetry SpanExporter objects; unset, the setting
    `exporters`, else the program's own OpenTelemetry provider if it has one, else the console tree. `budget_usd`: US dollars
    for all calls of the process. `sample_rate`: the share of traces kept, 0 to 1 (costs and budgets count every call).
    `capture_content`: record prompts and answers (off). `tracer_provider`: make spans there. `settings`: any other setting.
    Arguments win over the environment and pyproject.toml. Called again, it replaces what stood before, flushed and shut down.

    Raises ConfigError for a bad value or an unknown name. Calls later raise BudgetExceeded before they would overspend.
    """
    global _active, _last, _plainly
    chosen = read_settings(
        settings,
        budget_usd=budget_usd,
        service_name=service_name,
        sample_rate=sample_rate,
        capture_content=capture_content,
    )
    if chosen.flush_on_sigterm and threading.current_thread() is not threading.main_thread():
        raise ConfigError("flush_on_sigterm: only the main thread can set a signal handler: call instrument() there")
    with _lock:
        made_runtime = runtime(chosen)
        tracker = _program_budget(chosen)
        tracer = _tracer(exporters, tracer_provider, chosen)  # what is wrong is said before anything is replaced
        if _active is not None:
            _active.uninstrument()
        gates.keep()
        made = Instrumentation(tracer, tracker, chosen)
        _ending.bound_exit(chosen.exit_timeout_s)
        if chosen.flush_on_sigterm:
            made.watch_sigterm()
        _scope.set_default(replace(_scope.EMPTY, tracer=tracer, trackers=(tracker,)))
        _plainly = InForce(made_runtime, tracer, (tracker,), (), {})
        _active = _last = made
        return made


def _program_budget(chosen: Settings) -> CostTracker:
    """Return the budget of all calls: this process's own, or the one that the processes of a service share in a store."""
    store = chosen.budget_store if chosen.budget_usd is not None else None
    return CostTracker(
        chosen.budget_usd,
        alert_threshold=chosen.alert_threshold,
        name="program" if store is None or not chosen.service_name else chosen.service_name,
        window=chosen.budget_window,
        time_zone=chosen.budget_time_zone,
        unknown_price=chosen.unknown_price,
        store=None if store is None else store.get_secret_value(),
    )


def _tracer(
    exporters: Sequence[str | SpanExporter] | None, tracer_provider: TracerProvider | None, chosen: Settings
) -> Tracer:
    wanted: Sequence[str | SpanExporter] | None = exporters if exporters is not None else chosen.exporters
    if wanted is None and tracer_provider is None:
        tracer_provider = _global_provider()
        wanted = DEFAULT_EXPORTERS if tracer_provider is None else ()
    return Tracer(exporters=wanted or (), tracer_provider=tracer_provider, settings=chosen)


def _global_provider() -> TracerProvider | None:
    """Return the OpenTelemetry provider that the program has installed, or None."""
    from opentelemetry import trace

    provider = trace._TRACER_PROVIDER  # get_tracer_provider() would install one
    return None if provider is None or isinstance(provider, trace.NoOpTracerProvider) else provider


def uninstrument() -> None:
    """Undo `instrument()`: the client's classes are what they were, what is queued is delivered. Again, it does nothing."""
    if _active is not None:
        _active.uninstrument()
    else:
        gates.drop()


def flush(timeout_s: float = 5.0) -> bool:
    """Deliver what is queued, or kept on disk, of every tracer; True if, within `timeout_s`, all exporters have accepted all of it."""
    _lost.lost.end_all()
    return _ending.flush_all(_ending.every(), timeout_s)


def _finish(timeout_s: float, dies: bool) -> None:
    """Deliver what is queued, and give back what shared budgets have lent: the program may be about to die, or `dies`."""
    if dies:
        _lost.end_open()
    flush(timeout_s)
    keeper.close_all()


def report() -> CostReport:
    """Return what the process has spent since the last `instrument()`; all zero if it was never called."""
    return CostTracker(name="program").get_report() if _last is None else _last.report()


def stats() -> dict[str, Any]:
    """Return what became of the spans, for each exporter, and how often which part of ours has failed; JSON-ready."""
    spans = _pipelines.pipelines()
    said: dict[str, Any] = {"exporters": [one.stats() for one in spans], "failures": dict(_guard.failures)}
    return said | {one.name: one.stats() for one in _ending.every() if one not in spans}


def register_plugin(plugin: object, name: str | None = None) -> None:
    """Add a plugin that is an object of this program (a module, an instance with `@hookimpl` methods), as if installed."""
    loaded().register(plugin, name)


def unregister_plugin(plugin: object) -> None:
    """Take a plugin out that `register_plugin` has added."""
    loaded().unregister(plugin)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
