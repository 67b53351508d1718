"""Prometheus metrics of every call that rlm_obs sees, by the hook `call_finished`; no label holds what a user sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, Metric

import rlm_obs

LABELS = ("operation", "provider", "model")
SECONDS = [0.01 * 2**n for n in range(14)]
#: So many models have a label of their own, and so many sets of labels are told apart.
MOST_MODELS, MOST_SERIES = 100, 1000
OTHER = "other"


class CallMetrics:
    """Counts each finished call; also a collector, of what became of the spans and of what has failed."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._models: set[str] = set()
        self._series: set[tuple[str, str, str]] = set()
        self._lock = threading.Lock()

        def counter(name: str, says: str, *more: str) -> Counter:
            return Counter(f"rlm_obs_{name}", says, (*LABELS, *more), registry=registry)

        def histogram(name: str, says: str) -> Histogram:
            return Histogram(f"rlm_obs_{name}_seconds", says, LABELS, registry=registry, buckets=SECONDS)

        self._calls = counter("calls", "Calls, by how they ended: ok, error, refused, aborted.", "status")
        self._cost = counter("cost_usd", "What the calls have cost, in US dollars.")
        self._unpriced = counter("unpriced_calls", "Calls whose cost nobody knows: it is in no sum.")
        self._tokens = counter("tokens", "Tokens, cached and reasoning ones too.", "type")
        self._duration = histogram("call_duration", "How long the calls took.")
        self._first_chunk = histogram("time_to_first_chunk", "How long streams took to their first chunk.")
        registry.register(self)

    @rlm_obs.hookimpl
    def call_finished(self, record: rlm_obs.Record) -> None:
        """Count one call."""
        labels = self._labels(record)
        self._calls.labels(*labels, record.status).inc()
        if record.status == "refused":
            return  # it was never sent
        self._duration.labels(*labels).observe(record.duration_s)
        if record.time_to_first_chunk_s is not None:
            self._first_chunk.labels(*labels).observe(record.time_to_first_chunk_s)
        if record.cost_usd is None:
            self._unpriced.labels(*labels).inc()
        else:
            self._cost.labels(*labels).inc(float(record.cost_usd))
        usage = record.usage or rlm_obs.Usage()
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if count is not None:
                self._tokens.labels(*labels, kind).inc(count)

    def _labels(self, record: rlm_obs.Record) -> tuple[str, str, str]:
        """Return the labels: a model has its name once a call of it was priced, anything beyond the caps is "other"."""
        with self._lock:
            model = record.model or record.requested_model or OTHER
            if model not in self._models:
                priced = record.usage is not None and record.cost is not None
                if priced and len(self._models) < MOST_MODELS:
                    self._models.add(model)
                else:
                    model = OTHER
            labels = (record.operation, record.provider, model)
            if labels not in self._series:
                if len(self._series) >= MOST_SERIES:
                    return record.operation, OTHER, OTHER
                self._series.add(labels)
            return labels

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand: what is collected depends on the exporters in use."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Give what became of the spans, and how often which part of rlm_obs has failed."""
        said: dict[str, Any] = rlm_obs.stats()
        spans = CounterMetricFamily("rlm_obs_spans", "Spans, by what became of them.", labels=("exporter", "outcome"))
        totals: dict[tuple[str, str], int] = {}
        for exporter in said["exporters"]:
            for outcome, count in (
                {what: exporter[what] for what in ("sent", "spooled")} | exporter["dropped"]
            ).items():
                key = (exporter["exporter"], outcome)
                totals[key] = totals.get(key, 0) + count
        for (name, outcome), count in totals.items():
            spans.add_metric((name, outcome), count)
        failures = CounterMetricFamily("rlm_obs_failures", "Failures of rlm_obs itself.", labels=("kind",))
        for kind, count in said["failures"].items():
            failures.add_metric((kind,), count)
        yield spans
        yield failures


plugin = CallMetrics()
