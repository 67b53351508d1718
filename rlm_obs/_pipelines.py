"""The pipelines of this process: built by name or from an object, flushed at once where that is asked for, counted together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from rlm_obs import _ending, _guard
from rlm_obs._delivery import Pipeline, SampledOut, ended
from rlm_obs._exporters.base import is_root, is_score
from rlm_obs._plugins import Plugins
from rlm_obs._settings import Settings, near
from rlm_obs._spool import Spool
from rlm_obs.errors import ConfigError

#: How the threads that export are named.
OUR_THREADS = ("rlm_obs-flush", "OtelBatch")


class AtOnce(Pipeline):
    """The last pipeline of a tracer where `export` is "sync": it ends a topmost span when all of the process is flushed."""

    def take(self, span: ReadableSpan) -> None:
        super().take(span)
        if not threading.current_thread().name.startswith(OUR_THREADS):  # an exporter that makes spans of its own
            _guard.guarded("export at once", self._flush_all, span)

    @staticmethod
    def _flush_all(span: ReadableSpan) -> None:
        if is_root(span) or is_score(span):
            _ending.flush_all(_ending.every(), _ending.exit_timeout_s(), kept=False)


def build_pipelines(
    wanted: Iterable[str | SpanExporter], plugins: Plugins, settings: Settings, sampled_out: SampledOut
) -> list[Pipeline]:
    """Return a running pipeline for each exporter, given by name or as an object.

    Raises ConfigError for an unknown name (with the near ones), and for an object that cannot export.
    """
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise ConfigError(f"exporters={wanted!r}: give a list, such as exporters=['console']")
    offered = plugins.collect("register_exporters")
    built: list[tuple[str, SpanExporter]] = []
    for one in wanted:
        if not isinstance(one, str):
            if not callable(getattr(one, "export", None)) or isinstance(one, type):
                raise ConfigError(
                    f"exporters: {one!r} is no exporter: give a name, or an OpenTelemetry SpanExporter object"
                )
            built.append((type(one).__name__, one))
        elif one in offered:
            built.append((one, offered[one](settings)))
        else:
            raise ConfigError(f"exporters: there is no exporter {one!r}{near(one, offered)}")
    kinds = [Pipeline] * len(built)
    if settings.export == "sync" and built:
        kinds[-1] = AtOnce
    return [
        kind(name, exporter, sampled_out, _spool_of(name, exporter, settings))
        for kind, (name, exporter) in zip(kinds, built, strict=True)
    ]


def _spool_of(name: str, exporter: SpanExporter, settings: Settings) -> Spool | None:
    """Return where an exporter's spans are kept, if it says where they go (OpenTelemetry's own do in `_endpoint`)."""
    goes_to = getattr(exporter, "destination", None) or getattr(exporter, "_endpoint", None)
    if settings.spool is None or not isinstance(goes_to, str):
        return None
    return Spool(settings.spool, name, goes_to, settings.spool_mb * 1_000_000, settings.spool_hours * 3600)


def totals() -> dict[str, Counter[str]]:
    """Return the counts of each exporter's name since the process began, of pipelines that are closed too."""
    found: dict[str, Counter[str]] = {}
    for (name, state), count in list(ended.items()):
        found.setdefault(name, Counter())[state] += count
    for pipeline in pipelines():
        counts = found.setdefault(pipeline.name, Counter())
        counts.update(pipeline.all_counts())
    return found


def pipelines() -> list[Pipeline]:
    """Return the pipelines of this process that are not closed."""
    return [one for one in _ending.every() if isinstance(one, Pipeline)]
