"""Sends spans to any receiver of OTLP, and to those that have a name: each is an address, a few headers and a spelling."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _attributes, _guard
from rlm_obs._exporters import _sending, _spelling
from rlm_obs._exporters._copying import copied
from rlm_obs._exporters._presets import PRESETS, variable
from rlm_obs._exporters._session import without_password
from rlm_obs._exporters.base import error_type
from rlm_obs._hookspecs import hookimpl
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._settings import Settings

GRPC = "opentelemetry.exporter.otlp.proto.grpc"
OWN_HEADERS = ("content-type", "content-encoding", "user-agent")
LOCAL = "http://localhost:4318"


class OtlpExporter(_sending.SendingExporter):
    """Send copies of spans to one receiver: by HTTP with protobuf, or by gRPC where OTEL_EXPORTER_OTLP_PROTOCOL says so."""

    #: How soon after its end a span is exported, in seconds; None: OTEL_BSP_SCHEDULE_DELAY, or its default (5 s).
    delay_s: float | None = None

    def __init__(self, name: str) -> None:
        self.name, preset = name, PRESETS.get(name)
        self._spelling = _spelling.plainly if preset is None else preset.spelling
        self._closed = False
        self._channels: dict[int, Any] = {}  # by process: a channel is not shared with a forked child
        self._grpc = preset is None and _protocol() == "grpc"
        self._preset = preset
        if preset is not None and preset.key is not None and not variable(preset.key):
            raise ConfigError(f"exporter {name!r}: a key is missing: set {preset.key}")
        url = _otlp_address() if preset is None else preset.url()
        self.address = without_password(url)
        if self._grpc:
            _sending.need(
                GRPC, "opentelemetry-exporter-otlp-proto-grpc", "otlp-grpc", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
            )
        else:
            _sending.need(_sending.HTTP, "opentelemetry-exporter-otlp-proto-http", "otlp", f"exporter {name!r}")
        headers = {} if preset is None else preset.said_headers()
        told = {} if preset is None else preset.told(headers)
        #: Where spans go, without a key: the address, and the project that a header names.
        self.destination = " ".join([self.address, *(f"{name}={value}" for name, value in sorted(told.items()))])
        #: Whether the receiver counts a span once that comes twice.
        self.idempotent = preset is not None and preset.idempotent
        self._sender = _sending.Sender(
            name,
            self.address,
            functools.partial(_new_exporter, None if preset is None else url, headers),
            functools.partial(_advice, name=name),
            allowed=None if preset is None else {*OWN_HEADERS, *map(str.lower, headers)},
            idempotent=self.idempotent,
        )

    def awake(self) -> bool:
        """Ask the receiver for an answer to a request without spans; by gRPC nobody is asked."""
        return self._grpc or self._sender.awake()

    def __repr__(self) -> str:
        return f"OtlpExporter({self.name!r}, {self.address!r})"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send copies of the spans in one request; FAILURE where not all were taken, and the log says why, once."""
        if self._closed:
            self._outcome = (0, spans)
            return SpanExportResult.FAILURE
        copies = [_guard.guarded(f"exporter {self.name}", self._copy, span) for span in spans]
        whole = [copy for copy in copies if copy is not None]
        if self._grpc:
            taken = self._sent_by_grpc(whole)
            self._outcome = (len(spans), ()) if taken else (0, spans)  # it may send twice what it has sent by itself
        else:
            taken = self._sender.send(whole)
            self._outcome = self._sender.outcome(spans)
        return SpanExportResult.SUCCESS if taken and len(whole) == len(spans) else SpanExportResult.FAILURE

    def _sent_by_grpc(self, spans: Sequence[ReadableSpan]) -> bool:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        if os.getpid() not in self._channels:
            self._channels[os.getpid()] = OTLPSpanExporter()
        taken: object = self._channels[os.getpid()].export(spans)
        return taken is SpanExportResult.SUCCESS

    def _copy(self, span: ReadableSpan) -> ReadableSpan:
        said = dict(span.attributes or {})
        return copied(span, said | dict(self._spelling(span, _attributes.record_of(span))), error_type(span))

    def check(self) -> str:
        """Send a request without spans; returns where to. Raises ConfigError that says what to do where it is not taken."""
        grpc = self._grpc
        status = (200 if self._sent_by_grpc([]) else 0) if grpc else self._sender.knock()
        if not 200 <= status < 300:
            what = _advice(status, name=self.name) if status else "look at the network, a proxy, the host's name"
            raise ConfigError(f"{self.address} {f'answers {status}' if status else 'does not answer'}: {what}")
        return f"{self.address} takes traces"

    def shutdown(self) -> None:
        """Send nothing more; never waits for the receiver."""
        if not self._closed:
            self._closed = True
            self._sender.close()
            if os.getpid() in self._channels:
                self._channels[os.getpid()].shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Answer True: what was exported has been sent."""
        return True


def _new_exporter(url: str | None, headers: Mapping[str, str], session: requests.Session) -> SpanExporter:
    """Make OpenTelemetry's exporter: with an address of ours, or with all that OTEL_EXPORTER_OTLP_… say."""
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if url is None:
        return OTLPSpanExporter(session=session)
    return OTLPSpanExporter(endpoint=url, headers=dict(headers), compression=Compression.Gzip, session=session)


def _protocol() -> str:
    said = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if said not in ("http/protobuf", "grpc"):
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL={said!r}: give http/protobuf or grpc")
    return said


def _otlp_address() -> str:
    """Return where OpenTelemetry's exporter will send to, for people to read. Source: its specification, "OTLP exporter"."""
    traces = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return traces or (variable("OTEL_EXPORTER_OTLP_ENDPOINT") or LOCAL).rstrip("/") + "/v1/traces"


def _advice(status: int, *, name: str) -> str:
    preset = PRESETS.get(name)
    if status in (401, 403):
        keys = [variable for variable, *_ in preset.headers.values()] if preset else ["OTEL_EXPORTER_OTLP_HEADERS"]
        return f"it refuses the key; check {', '.join(keys)}"
    if status in (404, 405) or 300 <= status < 400:
        where = preset.address[0] if preset else "OTEL_EXPORTER_OTLP_ENDPOINT"
        return f"it takes no traces there (redirects are not followed); set {where} to its own address"
    return "spans are lost"


@hookimpl
def register_exporters() -> Mapping[str, Callable[[Settings], SpanExporter]]:
    """Offer OTLP, and the receivers that have a name."""
    return {name: functools.partial(_made, name) for name in ("otlp", *PRESETS)}


def _made(name: str, settings: Settings) -> SpanExporter:
    return OtlpExporter(name)
