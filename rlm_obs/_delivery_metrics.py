"""Delivery as metrics: what became of the spans of each exporter, read from its counts when somebody collects.

Source: OpenTelemetry's semantic conventions for the SDK's own metrics (names, units, attributes); `rlm_obs.…` where they have no word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from rlm_obs import _pipelines

COMPONENT, COMPONENT_TYPE, ERROR_TYPE = "otel.component.name", "otel.component.type", "error.type"
PROCESSOR = "batching_span_processor"
#: What the conventions call our reasons for a loss before the exporter.
UNPROCESSED = {"queue full": "queue_full", "shut down": "already_shutdown"}
HANDED_OVER = ("sending", "sent", "failed", "spooled")
Found = tuple[int, Mapping[str, str]]


def observe(meter: Meter) -> None:
    """Have the delivery of this process observed by whoever collects from `meter`."""

    def counter(name: str, unit: str, says: str, found: Callable[[str, Counter[str]], Iterator[Found]]) -> None:
        meter.create_observable_counter(name, [_reading(found)], unit, says)

    def level(name: str, says: str, found: Callable[[str, Counter[str]], Iterator[Found]]) -> None:
        meter.create_observable_up_down_counter(name, [_reading(found)], "{span}", says)

    counter("otel.sdk.exporter.span.exported", "{span}", "Spans whose export has ended, well or not.", _exported)
    level("otel.sdk.exporter.span.inflight", "Spans that the exporter has and has not answered for.", _in_flight)
    counter(
        "otel.sdk.processor.span.processed", "{span}", "Spans that have left the queue, or found no room.", _processed
    )
    level("otel.sdk.processor.span.queue.size", "Spans in the queue.", _queued)
    level("otel.sdk.processor.span.queue.capacity", "The most spans that the queue holds.", _capacity)
    counter(
        "rlm_obs.delivery.sampled_out",
        "{span}",
        "Spans that were not made, since their traces are not kept.",
        _sampled_out,
    )
    counter("rlm_obs.delivery.spooled", "{span}", "Spans that were put on the disk.", _spooled)
    level("rlm_obs.delivery.spool.size", "Spans that wait on the disk, of all processes.", _on_disk)
    counter("rlm_obs.delivery.retries", "{request}", "Requests that were sent again.", _retried)


def _reading(
    found: Callable[[str, Counter[str]], Iterator[Found]],
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def read(options: CallbackOptions) -> Iterator[Observation]:
        for name, counts in _pipelines.totals().items():
            for value, labels in found(name, counts):
                yield Observation(value, labels)

    return read


def _exporter(name: str) -> dict[str, str]:
    return {COMPONENT: f"rlm_obs/{name}", COMPONENT_TYPE: name}


def _processor(name: str) -> dict[str, str]:
    return {COMPONENT: f"rlm_obs/{name}", COMPONENT_TYPE: PROCESSOR}


def _exported(name: str, counts: Counter[str]) -> Iterator[Found]:
    yield counts["sent"], _exporter(name)
    for why in ("failed", "spooled"):
        if counts[why]:
            yield counts[why], {**_exporter(name), ERROR_TYPE: why}


def _in_flight(name: str, counts: Counter[str]) -> Iterator[Found]:
    yield counts["sending"], _exporter(name)


def _processed(name: str, counts: Counter[str]) -> Iterator[Found]:
    yield sum(counts[state] for state in HANDED_OVER), _processor(name)
    for why, error in UNPROCESSED.items():
        if counts[why]:
            yield counts[why], {**_processor(name), ERROR_TYPE: error}


def _queued(name: str, counts: Counter[str]) -> Iterator[Found]:
    yield counts["waiting"], _processor(name)


def _capacity(name: str, counts: Counter[str]) -> Iterator[Found]:
    yield counts["room"], _processor(name)


def _sampled_out(name: str, counts: Counter[str]) -> Iterator[Found]:
    yield counts["sampled out"], _exporter(name)


def _spooled(name: str, counts: Counter[str]) -> Iterator[Found]:
    yield counts["spooled"], _exporter(name)


def _on_disk(name: str, counts: Counter[str]) -> Iterator[Found]:
    if "on disk" in counts:
        yield counts["on disk"], _exporter(name)


def _retried(name: str, counts: Counter[str]) -> Iterator[Found]:
    yield counts["retried"], _exporter(name)
