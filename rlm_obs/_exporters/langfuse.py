"""Sends traces to Langfuse by OpenTelemetry's OTLP exporter, once and with our figures; its own SDK is not needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import EllipsisType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _guard
from rlm_obs._exporters._observation import observation, trace_names
from rlm_obs._hookspecs import hookimpl
from rlm_obs._settings import read_settings
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._settings import Settings

ENDPOINT = "/api/public/otel/v1/traces"
TIMEOUT_S = 5.0
#: Answers after which a batch may be sent again; after any other it may have been stored, and would count twice.
TRY_AGAIN = (429, 502, 503, 504)
HEADERS = ("content-type", "content-encoding", "user-agent", "x-langfuse-ingestion-version")
PACKAGE = "opentelemetry-exporter-otlp-proto-http"
SET_KEYS = "set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or give public_key= and secret_key="
Text = str | EllipsisType | None


class LangfuseExporter(SpanExporter):
    """Send each span to Langfuse with exact tokens and cost; prompts only if content is captured, error messages never.

    What is not given is read from LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and LANGFUSE_HOST (or LANGFUSE_BASE_URL),
    or from `RLM_OBS_LANGFUSE_…`; an argument wins. With `...` for an argument, missing keys are one warning in the
    log, and nothing is sent; without it they are a ConfigError, as are a host that is no http(s) address and a missing
    opentelemetry-exporter-otlp-proto-http. An export takes about 5 s at most; no redirect is followed.
    """

    #: How soon after its end a span is exported, in seconds; None: OTEL_BSP_SCHEDULE_DELAY, or its default (5 s).
    delay_s: float | None = None

    def __init__(self, public_key: Text = None, secret_key: Text = None, host: Text = None) -> None:
        lenient = ... in (public_key, secret_key, host)
        if not all(isinstance(given, str) for given in (public_key, secret_key, host)):
            settings = read_settings()
            public_key = settings.langfuse_public_key if public_key in (None, ...) else public_key
            secret_key = _revealed(settings) if secret_key in (None, ...) else secret_key
            host = settings.langfuse_host if host in (None, ...) else host
        self.host = _host(host)
        self._public, self._secret = _key("public_key", public_key), _key("secret_key", secret_key)
        self._closed = False
        self._sender: SpanExporter | None = None
        self._pid = os.getpid()
        if self._public.startswith("sk-") or self._secret.startswith("pk-"):
            raise ConfigError(
                "LangfuseExporter: swap the keys: public_key begins with 'pk-lf-', secret_key with 'sk-lf-'"
            )
        self._enabled = bool(self._public and self._secret)
        if not self._enabled and not lenient:
            raise ConfigError(f"LangfuseExporter: a key is missing: {SET_KEYS}")
        if not self._enabled:
            _guard.say_once("langfuse keys", "LangfuseExporter sends nothing: a key is missing: %s", SET_KEYS)
        elif not _installed():
            raise ConfigError(f"LangfuseExporter needs {PACKAGE}: pip install 'rlm-obs[langfuse]'")

    def __repr__(self) -> str:
        return f"LangfuseExporter(host={self.host!r}, public_key={self._public[:9]!r})"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send copies of the spans in one request; FAILURE where not all were taken, and the log says why, once."""
        if self._closed or not self._enabled:
            return SpanExportResult.FAILURE
        names = trace_names(spans)
        copies = [_guard.guarded("LangfuseExporter", observation, s, names.get(s.context.trace_id)) for s in spans]
        whole = [copy for copy in copies if copy is not None]
        sent = self._send(whole)
        return sent if len(whole) == len(spans) else SpanExportResult.FAILURE

    def _send(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        import requests

        if self._sender is None or self._pid != os.getpid():  # a connection is not shared with a forked child
            self._sender, self._pid = self._new_sender(), os.getpid()
        try:
            return self._sender.export(spans)
        except requests.HTTPError:  # older OTLP exporters let these out
            return SpanExportResult.FAILURE
        except requests.RequestException as error:
            _guard.say_once("langfuse request", "Langfuse at %s is out of reach (%s)", self.host, type(error).__name__)
            return SpanExportResult.FAILURE

    def _new_sender(self) -> SpanExporter:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(
            endpoint=self.host + ENDPOINT,
            headers={"x-langfuse-ingestion-version": "4"},
            timeout=TIMEOUT_S,
            compression=Compression.Gzip,
            session=_session(self.host, self._public, self._secret),
        )

    def shutdown(self) -> None:
        """Send nothing more; never waits for the server."""
        if not self._closed:
            self._closed = True
            if self._sender is not None and self._pid == os.getpid():
                self._sender.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Answer True: what was exported has been sent."""
        return True


def _session(host: str, public_key: str, secret_key: str) -> requests.Session:
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    class OnceOnly(requests.Session):
        """Sends to this host alone, what is meant for it alone, and not again what may have arrived."""

        def request(self, method: str, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
            given = options.get("headers") or {}  # OTEL_EXPORTER_OTLP_HEADERS may hold another vendor's key
            options |= {"allow_redirects": False, "headers": {k: v for k, v in given.items() if k.lower() in HEADERS}}
            try:
                answer = super().request(method, url, *args, **options)
            except requests.ConnectionError as error:
                reason = getattr(next(iter(error.args), None), "reason", None)
                if isinstance(reason, NewConnectionError | ConnectTimeoutError):
                    raise  # nothing was sent
                raise requests.RequestException(type(error).__name__) from None
            except requests.Timeout as error:
                raise requests.RequestException(type(error).__name__) from None
            status = answer.status_code
            if 200 <= status < 300 or status in TRY_AGAIN:
                return answer
            advice = _advice(status, public_key)
            _guard.say_once(f"langfuse {host} {status}", "Langfuse at %s answers %d: %s", host, status, advice)
            raise requests.HTTPError(f"{status} {answer.reason}")

    session = OnceOnly()
    session.auth = (public_key, secret_key)  # and so no .netrc
    return session


def _advice(status: int, public_key: str) -> str:
    if status in (401, 403):
        return f"it refuses the key {public_key[:9]}…; check LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY, LANGFUSE_HOST"
    if status == 404 or 300 <= status < 400:
        return "no Langfuse is there (redirects are not followed); set LANGFUSE_HOST to its own address"
    return "spans are lost"


def _host(host: Any) -> str:
    said = host.strip().rstrip("/") if isinstance(host, str) else ""
    try:
        parts = urlsplit(said.removesuffix(ENDPOINT).removesuffix("/api/public/otel"))
        odd = parts.username or parts.query or parts.fragment or parts.port == 0  # a port that is no number raises
        sound = parts.scheme in ("http", "https") and parts.hostname and not odd
    except ValueError:
        sound = False
    if not sound:
        shown = repr(said) if "@" not in said else "(not shown: it holds a password)"
        raise ConfigError(f"LangfuseExporter: host={shown} is no address: write it as https://cloud.langfuse.com")
    return parts.geturl().rstrip("/")


def _key(name: str, key: Any) -> str:
    if key is None:
        return ""
    if not isinstance(key, str) or not key.strip().isascii() or not key.strip().isprintable():
        raise ConfigError(f"LangfuseExporter: {name} is no key: give it as your Langfuse project's settings show it")
    return key.strip()


def _installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def _of_settings(settings: Settings) -> LangfuseExporter:
    return LangfuseExporter(settings.langfuse_public_key, _revealed(settings), settings.langfuse_host)


def _revealed(settings: Settings) -> str | None:
    return None if settings.langfuse_secret_key is None else settings.langfuse_secret_key.get_secret_value()


@hookimpl
def register_exporters() -> Mapping[str, Callable[[Settings], SpanExporter]]:
    """Offer Langfuse, with the keys of the settings."""
    return {"langfuse": _of_settings}
