"""Tracer: names spans and delivers them to exporters of its own, on an OpenTelemetry provider of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode

from rlm_obs import _ending, _lost, _pipelines, _scope
from rlm_obs._attributes import ABOVE, ERROR_TYPE, INHERITED, ROOT, TRACE_NAME, asked_by
from rlm_obs._callspan import SAMPLED, CallSpan, Maker
from rlm_obs._delivery import SampledOut
from rlm_obs._plugins import gates, loaded
from rlm_obs._record import Request
from rlm_obs._settings import Settings, read_settings
from rlm_obs.errors import ConfigError

DEFAULT_EXPORTERS = ("console",)


class Tracer:
    """Make spans for your own code, and for every call of a language model inside them.

    `exporter` (or several `exporters`) are names ("console", "file", "langfuse", a plugin's) or OpenTelemetry
    SpanExporter objects; without any, the setting `exporters`, else the console. `sample_rate` is the share of traces
    that is kept, 0 to 1 (unset: `OTEL_TRACES_SAMPLER`, else all). Each tracer delivers to its own exporters only,
    beside any other tracer and beside `instrument()`. Raises ConfigError for a bad argument or an unknown name.
    """

    def __init__(
        self,
        service_name: str | None = None,
        exporter: str | SpanExporter | None = None,
        exporters: Sequence[str | SpanExporter] | None = None,
        sample_rate: float | None = None,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        settings: Settings | Mapping[str, Any] | None = None,
    ) -> None:
        if exporter is not None and exporters is not None:
            raise ConfigError("give exporter= or exporters=, not both")
        chosen = read_settings(settings, service_name=service_name, sample_rate=sample_rate)
        wanted: Sequence[str | SpanExporter] | None = exporters if exporter is None else (exporter,)
        if wanted is None:
            wanted = chosen.exporters
        if wanted is None:
            wanted = DEFAULT_EXPORTERS if tracer_provider is None else ()
        self.service_name = chosen.service_name
        own = self._new_provider(chosen) if tracer_provider is None else None
        provider = tracer_provider if own is None else own
        if wanted and not isinstance(provider, TracerProvider):
            raise ConfigError("tracer_provider takes no exporters: give exporters=[], or an OpenTelemetry SDK provider")
        self._sampled_out = SampledOut()
        self._pipelines = _pipelines.build_pipelines(wanted, loaded(), chosen, self._sampled_out)
        for pipeline in self._pipelines:
            provider.add_span_processor(pipeline)  # type: ignore[union-attr]  # checked above
        _show_links([pipeline.exporter for pipeline in self._pipelines])
        self._resource = getattr(provider, "resource", None)
        self._tracer = trace.get_tracer("rlm_obs", tracer_provider=provider)
        self._own = own if _plain(self._tracer) else None
        self._maker = None if self._own is None else Maker(self._own, self._pipelines)

    @staticmethod
    def _new_provider(chosen: Settings) -> TracerProvider:
        sampler: Sampler | None = None
        if chosen.sample_rate is not None:
            sampler = ParentBased(TraceIdRatioBased(chosen.sample_rate))
        named = {} if chosen.service_name is None else {SERVICE_NAME: chosen.service_name}
        return TracerProvider(sampler=sampler, resource=Resource.create(named), shutdown_on_exit=False)

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Any] | None = None) -> Iterator[Span]:
        """Open a span for a block, a child of the one around it; yields the OpenTelemetry span (`set_attribute`, …).

        An exception is noted by its type (never its message, which may hold prompts or keys) and raised on.
        """
        gates.hold()
        span = self.start(name, attributes)
        token = _scope.attach(self.context_of(span))
        try:
            yield span
        except BaseException as error:
            note_error(span, error)
            raise
        finally:
            _scope.detach(token)
            span.end()
            gates.release()

    def start_call(self, request: Request, held: Mapping[str, object]) -> tuple[Span, otel.Context]:
        """Start the span of a call (kind CLIENT), as `start` does.

        Returns it with the context in which it is current, and `held` is too.
        """
        name, attributes = asked_by(request)
        if self._maker is None:
            started = self.start(name, attributes, kind=SpanKind.CLIENT)
            return started, otel.Context({**self.context_of(started), **held})
        context = _scope.get_current()
        scope: _scope.Scope = context.get(_scope.KEY, _scope.EMPTY)  # type: ignore[assignment]  # `_scope.of`, a call less
        around: Span = context.get(_scope.SPAN_KEY, trace.INVALID_SPAN)  # type: ignore[assignment]  # `_scope.span_of`
        parent, topmost = None, False
        if around is not trace.INVALID_SPAN:
            above = around.get_span_context()
            parent, topmost = above if above.is_valid else None, self._is_topmost(scope, around)
        if topmost:
            attributes.update(_of_topmost(around))
        elif scope.trace_name is not None:
            attributes[TRACE_NAME] = scope.trace_name
        if scope.attributes:
            for key, value in scope.attributes.items():
                attributes.setdefault(key, value)
        made = self._maker.start(name, attributes, parent)
        if made.__class__ is trace.NonRecordingSpan:
            self._sampled_out.add()
            return made, otel.Context({**self.context_of(made), **held})
        return made, otel.Context({**context, **held, _scope.SPAN_KEY: made})

    def start(
        self, name: str, attributes: Mapping[str, Any] | None = None, *, kind: SpanKind = SpanKind.INTERNAL
    ) -> Span:
        """Start a span as a child of the current one without making it current: the caller ends it.

        The topmost span of this tracer below another's is marked `rlm_obs.root`, for the exporters that draw trees.
        """
        context = _scope.get_current()
        scope, around = _scope.of(context), _scope.span_of(context)
        first = {**scope.attributes, **attributes} if attributes else dict(scope.attributes)
        if around is not trace.INVALID_SPAN and self._is_topmost(scope, around):
            first = {**_of_topmost(around), **first}
        elif scope.trace_name is not None:
            first[TRACE_NAME] = scope.trace_name
        made = self._tracer.start_span(name, context, kind, first)
        if made.__class__ is trace.NonRecordingSpan:
            self._sampled_out.add()
        return made

    def _is_topmost(self, scope: _scope.Scope, around: Span) -> bool:
        """Tell whether no span of this tracer is open around a new one."""
        if scope.tracer is self and not scope.top:
            return False
        return not (isinstance(around, CallSpan) and around._resource is self._resource)

    def context_of(self, span: Span) -> otel.Context:
        """Return the context in which the code below `span` runs: the span is current, and calls go to this tracer."""
        context = _scope.get_current()
        if type(span) is CallSpan:
            return _scope.with_span(span, context)
        held = _scope.of(context)
        if held.tracer is self and not held.top:
            return _scope.with_span(span, context)
        attributes = held.attributes
        if _scope.span_of(context) is not trace.INVALID_SPAN and ABOVE in (getattr(span, "attributes", None) or {}):
            attributes = {**attributes, **_inherited(span)}
        below = _scope.Scope(self, held.trackers, held.operations, attributes, _names_trace(span), False)
        return otel.Context({**context, _scope.KEY: below, _scope.SPAN_KEY: span})

    def score(self, name: str, attributes: Mapping[str, Any], trace_id: int, parent: SpanContext | None) -> None:
        """Deliver a score as a span of no duration, of any trace: each exporter makes of it what it can."""
        kind = SpanKind.INTERNAL
        if self._own is None:
            above = parent or SpanContext(trace_id, RandomIdGenerator().generate_span_id(), True, SAMPLED)
            within = trace.set_span_in_context(trace.NonRecordingSpan(above))
            self._tracer.start_span(name, within, kind, dict(attributes)).end()
            return
        flags = SAMPLED if parent is None else parent.trace_flags
        own = SpanContext(trace_id, self._own.id_generator.generate_span_id(), False, flags)
        exporting = self._pipelines if flags.sampled else ()
        CallSpan.of(own, name, parent, kind, dict(attributes), exporting, self._own.resource).end()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Deliver what is queued; True if, within `timeout_s`, every exporter has accepted everything."""
        _lost.lost.end_all()
        return _ending.flush_all(self._pipelines, timeout_s)

    def shutdown(self, timeout_s: float = 5.0) -> bool:
        """Deliver what is queued within `timeout_s` and stop; spans after that are counted as dropped."""
        _lost.lost.end_all()
        return _ending.close_all(self._pipelines, timeout_s)

    def stats(self) -> list[dict[str, Any]]:
        """Return, for each exporter, how many spans were made, sampled out, queued, sent and dropped (by reason)."""
        return [pipeline.stats() for pipeline in self._pipelines]

    def __repr__(self) -> str:
        return f"Tracer({self.service_name!r}, exporters={[p.name for p in self._pipelines]})"


def _show_links(exporters: Sequence[SpanExporter]) -> None:
    """Tell the exporters that have room for it (`links`) where a person sees a trace, by those that know (`trace_url`)."""
    known = [url for exporter in exporters if callable(url := getattr(exporter, "trace_url", None))]
    for exporter in exporters:
        if hasattr(exporter, "links"):
            exporter.links = known


def _of_topmost(around: Span) -> dict[str, Any]:
    """Return what the topmost span of a tracer says of itself: whose span is above it, and for whom that one is."""
    said: dict[str, Any] = {ROOT: True}
    scope = getattr(around, "instrumentation_scope", None)
    if scope is not None:
        said[ABOVE] = scope.name
        said |= _inherited(around)
    return said


def _inherited(span: Span) -> dict[str, Any]:
    """Return what a span says of the whole trace."""
    said = getattr(span, "attributes", None) or {}
    return {name: value for name, value in said.items() if name.startswith(INHERITED)}


def _names_trace(span: Span) -> str | None:
    """Return the name of a topmost span, unless the trace was begun by others, who have named it."""
    parent = getattr(span, "parent", None)
    return getattr(span, "name", None) if parent is None else None


def _plain(tracer: trace.Tracer) -> bool:
    """Tell whether a tracer of the SDK records as it is: not switched off, and with no limit on lengths to apply."""
    return isinstance(tracer, SdkTracer) and SpanLimits().max_span_attribute_length is None


def create_tracer(service_name: str | None = None, **options: Any) -> Tracer:
    """Return a `Tracer`; the same arguments."""
    return Tracer(service_name, **options)


def note_error(span: Span, error: BaseException) -> None:
    """Mark a span as failed, by the exception's type alone: a message may hold a prompt or a key."""
    if isinstance(error, GeneratorExit):
        return
    kind = type(error).__qualname__
    span.set_attribute(ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, kind))
