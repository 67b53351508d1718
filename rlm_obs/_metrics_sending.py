"""Sends metrics by OTLP for a program that has no MeterProvider of its own: one that nobody else sees, where `metrics` asks for it."""

from __future__ import annotations

import functools
import os
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

from rlm_obs import _ending, _guard
from rlm_obs._exporters import _sending
from rlm_obs._exporters._hushed import hushed
from rlm_obs._exporters._presets import variable
from rlm_obs._exporters._session import new_session, without_password

if TYPE_CHECKING:
    from rlm_obs._settings import Settings

INSTANCE = "service.instance.id"
GRPC = "opentelemetry.exporter.otlp.proto.grpc"
LOCAL = "http://localhost:4318"


class SentMetrics:
    """The metrics of this process, sent by OTLP: every OTEL_METRIC_EXPORT_INTERVAL (60 s), at a flush, and at the end.

    All `OTEL_EXPORTER_OTLP_METRICS_…` are honoured. A process has a `service.instance.id` of its own, a forked one too:
    each counts from 0, and a receiver adds them up. Raises ConfigError where OpenTelemetry's exporter is not installed.
    """

    name = "metrics"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._new_exporter = _exporter_maker()
        self.closed = False
        self._start()
        _ending.register(self)

    def _start(self) -> None:
        settings, self._pushes = self._settings, _Pushes(self._new_exporter())
        said = {} if settings.service_name is None else {SERVICE_NAME: settings.service_name}
        named = {INSTANCE: str(uuid.uuid4()), **Resource.create(said).attributes}
        reader = PeriodicExportingMetricReader(self._pushes)
        self._made: MeterProvider | None = MeterProvider([reader], Resource(named), shutdown_on_exit=False)
        self._flusher: threading.Thread | None = None

    @property
    def provider(self) -> MeterProvider:
        """The provider to record on; a forked child has one of its own from its first call on."""
        if self._made is None:
            self._start()
        assert self._made is not None
        return self._made

    def stats(self) -> dict[str, int]:
        """Return how often the metrics were sent, and how often they were not taken."""
        return {"sent": self._pushes.sent, "failed": self._pushes.failed}

    def begin_flush(self) -> threading.Thread | None:
        """Have the metrics sent by a thread of its own, or by the one that is at it already."""
        if self._flusher is None or not self._flusher.is_alive():
            self._flusher = self._beside(self.provider.force_flush)
        return self._flusher

    def flush(self, timeout_s: float, kept: bool = True) -> bool:
        """Send the metrics as they are now; True if they were taken within `timeout_s`."""
        if self.closed:
            return self._pushes.well
        return self._joined(self.begin_flush(), timeout_s) and self._pushes.well

    def close(self, timeout_s: float) -> bool:
        """Send the metrics for the last time, within `timeout_s`, and stop."""
        if not self.closed:
            self.closed = True
            if self._made is not None:
                done = self._shut(self._made, timeout_s)
                self._pushes.well = done and self._pushes.well
        return self._pushes.well

    def _shut(self, provider: MeterProvider, timeout_s: float) -> bool:
        """Shut the provider down, which sends for the last time; False if that takes too long."""
        pushes, ending = self._pushes, self._beside(provider.shutdown)
        if ending is not None:
            return self._joined(ending, timeout_s)
        before = pushes.sent + pushes.failed  # the reader's own thread sends, and is waited for
        _guard.guarded("metrics", functools.partial(provider.shutdown, timeout_s * 1000))
        return pushes.sent + pushes.failed > before

    def lost(self) -> str | None:
        """Say what was not delivered: a sum that came late has lost nothing, the last one has."""
        return None if self._pushes.well else "the last metrics"

    def after_fork(self) -> None:
        """Start anew in a forked child: what was counted before is the parent's, which sends it."""
        self._made = None

    @staticmethod
    def _joined(thread: threading.Thread | None, timeout_s: float) -> bool:
        if thread is None:
            return False
        thread.join(timeout_s)
        return not thread.is_alive()

    @staticmethod
    def _beside(work: Callable[[], object]) -> threading.Thread | None:
        """Do it in a thread, since it may hang; None where no thread starts any more, at the end of the program."""
        thread = threading.Thread(target=_guard.guarded, args=("metrics", work), name="rlm_obs-metrics", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return None
        return thread


class _Pushes(MetricExporter):
    """Stands before OpenTelemetry's exporter and counts: no error gets out, and a forked child sends nothing by it."""

    def __init__(self, exporter: Any) -> None:
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)
        self._exporter, self._pid = exporter, os.getpid()
        self.sent = self.failed = 0
        self.well = True

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        if os.getpid() != self._pid:
            return MetricExportResult.SUCCESS
        try:
            with hushed():
                taken = self._exporter.export(metrics_data, timeout_millis=timeout_millis)
            self.well = taken is MetricExportResult.SUCCESS
            if not self.well:
                _guard.say_once("metrics not taken", "metrics sent by OTLP are not taken (logged once)")
        except OSError as error:  # older exporters let what the connection says out
            self.well = False
            _guard.say_once("metrics out of reach", "metrics cannot be sent by OTLP (%s)", type(error).__name__)
        self.sent, self.failed = self.sent + self.well, self.failed + (not self.well)
        return MetricExportResult.SUCCESS if self.well else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self.well

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        _guard.guarded("metrics", self._exporter.shutdown)


def _exporter_maker() -> Callable[[], Any]:
    """Return what makes OpenTelemetry's exporter, by the protocol that its variables name."""
    said = variable("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if said == "grpc":
        _sending.need(GRPC, "opentelemetry-exporter-otlp-proto-grpc", "otlp-grpc", "metrics='otlp' by gRPC")
        return _by_grpc
    _sending.need(_sending.HTTP, "opentelemetry-exporter-otlp-proto-http", "otlp", "metrics='otlp'")
    return _by_http


def _by_http() -> Any:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    said = variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    address = said or (variable("OTEL_EXPORTER_OTLP_ENDPOINT") or LOCAL).rstrip("/") + "/v1/metrics"
    return OTLPMetricExporter(session=new_session("metrics", without_password(address), _advice))


def _by_grpc() -> Any:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


def _advice(status: int) -> str:
    if status in (401, 403):
        return "it refuses the key; check OTEL_EXPORTER_OTLP_METRICS_HEADERS, OTEL_EXPORTER_OTLP_HEADERS"
    if status in (404, 405) or 300 <= status < 400:
        return "it takes no metrics there (redirects are not followed); set OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
    return "metrics are late"
