"""Metrics of each finished call, on the program's own MeterProvider or by OTLP on one of ours; a plugin like any stranger's.

Source: OpenTelemetry's semantic conventions for generative AI, "client metrics" (names, units, buckets, attributes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.metrics import _internal as global_metrics

from rlm_obs import _attributes as names
from rlm_obs import _ending, _guard
from rlm_obs._hookspecs import asleep_while, hookimpl
from rlm_obs._record import Record
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from rlm_obs._metrics_sending import SentMetrics
    from rlm_obs._settings import Settings

SECONDS = [0.01 * 2**n for n in range(14)]  # to 81.92
TOKENS = [4**n for n in range(14)]  # to 67,108,864
#: Labels must not grow with what users send: so many models have a name, so many sets of labels are told apart.
MOST_MODELS, MOST_SERIES = 100, 1000
OTHER = "other"


class Labels:
    """The attributes of a call's metrics: no text of the user's. A model without a price, or beyond the cap, is "other"."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        self._series: dict[tuple[Any, ...], dict[str, Any]] = {}

    def of(self, record: Record) -> Mapping[str, Any]:
        """Return the labels of a call."""
        priced = record.usage is not None and record.cost is not None
        asked, answered = self._model(record.requested_model, priced), self._model(record.model, priced)
        at = record.attributes
        key = (
            record.operation,
            record.provider,
            asked,
            answered,
            record.error,
            at.get(names.ADDRESS),
            at.get(names.PORT),
        )
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= MOST_SERIES:
                return {names.OPERATION: record.operation, names.PROVIDER: OTHER, names.REQUEST_MODEL: OTHER}
            found = self._series[key] = {name: one for name, one in zip(KEYS, key, strict=True) if one is not None}
        return found

    def _model(self, name: str | None, priced: bool) -> str | None:
        if name is None or name in self._models:
            return name
        if not priced or len(self._models) >= MOST_MODELS:
            return OTHER
        self._models.add(name)
        return name


KEYS = (
    names.OPERATION,
    names.PROVIDER,
    names.REQUEST_MODEL,
    names.RESPONSE_MODEL,
    names.ERROR_TYPE,
    names.ADDRESS,
    names.PORT,
)


class Instruments:
    """The five instruments of one MeterProvider."""

    def __init__(self, provider: metrics.MeterProvider) -> None:
        self.provider, self._labels = provider, Labels()
        meter = provider.get_meter("rlm_obs")

        def seconds(name: str, says: str) -> metrics.Histogram:
            return meter.create_histogram(name, "s", says, explicit_bucket_boundaries_advisory=SECONDS)

        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._duration = seconds("gen_ai.client.operation.duration", "GenAI operation duration.")
        self._first_chunk = seconds("gen_ai.client.operation.time_to_first_chunk", "Time to the first chunk.")
        self._each_chunk = seconds("gen_ai.client.operation.time_per_output_chunk", "Time per chunk after the first.")
        from rlm_obs import _delivery_metrics

        _delivery_metrics.observe(meter)
        self._cost = meter.create_counter("rlm_obs.cost", "USD", "What the calls have cost, in US dollars.")

    def take(self, record: Record) -> None:
        """Record one call that was sent."""
        labels = self._labels.of(record)
        self._duration.record(record.duration_s, labels)
        usage = record.usage
        if usage is not None:
            for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                if count is not None:
                    self._tokens.record(count, {**labels, names.TOKEN_TYPE: kind})
        first, chunks = record.time_to_first_chunk_s, record.attributes.get(names.CHUNKS)
        if record.streamed and first is not None:
            self._first_chunk.record(first, labels)
            if chunks is not None and chunks > 1:  # the mean of the call, once, not each chunk by itself
                self._each_chunk.record((record.duration_s - first) / (chunks - 1), labels)
        if record.cost_usd:
            self._cost.add(float(record.cost_usd), labels)


class Sending:
    """An instrumentor that sends metrics by OTLP while the process is instrumented, where the setting `metrics` asks for it."""

    settings: Settings | None = None
    sent: SentMetrics | None = None

    def instrument(self) -> None:
        """Start, unless the program has a MeterProvider: that one gets the metrics then."""
        if self.sent is None and self.settings is not None and self.settings.metrics == "otlp" and _provider() is None:
            from rlm_obs._metrics_sending import SentMetrics

            try:
                self.sent = SentMetrics(self.settings)
            except ConfigError as error:
                _guard.say_once("metrics by otlp", "metrics are not sent: %s", error)

    def uninstrument(self) -> None:
        """Send what is counted, within the bound of the exit, and stop."""
        if self.sent is not None:
            sent, self.sent = self.sent, None
            _ending.close_all([sent], _ending.exit_timeout_s())


sending = Sending()
_instruments: Instruments | None = None


def _provider() -> metrics.MeterProvider | None:
    """Return where metrics go: to the program's own provider, else to the one that sends; None where nobody measures."""
    own = global_metrics._METER_PROVIDER  # `get_meter_provider` would install one, or give a stand-in
    return sending.sent.provider if own is None and sending.sent is not None else own


def _nobody_measures() -> bool:
    return global_metrics._METER_PROVIDER is None and sending.sent is None


@hookimpl
def configured(settings: Settings) -> None:
    """Learn whether metrics are to be sent."""
    sending.settings = settings


@hookimpl
def register_instrumentors() -> Mapping[str, Callable[[], Sending]]:
    """Offer what sends metrics while the process is instrumented."""
    return {"metrics": lambda: sending}


@hookimpl
@asleep_while(_nobody_measures)
def call_finished(record: Record) -> None:
    """Record the call where there is a MeterProvider for it; a refused one was no call."""
    global _instruments
    provider = _provider()
    if provider is None or record.status == "refused":
        return
    if _instruments is None or _instruments.provider is not provider:
        _instruments = Instruments(provider)
    _instruments.take(record)
