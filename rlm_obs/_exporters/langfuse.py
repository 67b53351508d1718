"""Sends traces and scores to Langfuse, once and with our figures; its own SDK is not needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _guard
from rlm_obs._exporters import _sending
from rlm_obs._exporters._observation import environment_of, observation, score_body, trace_names
from rlm_obs._exporters._session import is_awake
from rlm_obs._exporters.base import is_score
from rlm_obs._hookspecs import hookimpl
from rlm_obs._settings import read_settings
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._settings import Settings

ENDPOINT = "/api/public/otel/v1/traces"
PROJECTS = "/api/public/projects"
SCORES = "/api/public/scores"
TIMEOUT_S = 5.0
HEADERS = ("content-type", "content-encoding", "user-agent", "x-langfuse-ingestion-version")
PACKAGE = "opentelemetry-exporter-otlp-proto-http"
SET_KEYS = "set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or give public_key= and secret_key="
Text = str | EllipsisType | None


class LangfuseExporter(_sending.SendingExporter):
    """Send each span to Langfuse with exact tokens and cost; prompts only if content is captured, error messages never.

    What is not given is read from LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and LANGFUSE_HOST (or LANGFUSE_BASE_URL),
    or from `RLM_OBS_LANGFUSE_…`; an argument wins. With `...` for an argument, missing keys are one warning in the
    log, and nothing is sent; without it they are a ConfigError, as are a host that is no http(s) address and a missing
    opentelemetry-exporter-otlp-proto-http. An export takes about 5 s at most; no redirect is followed.

    `environment` (LANGFUSE_TRACING_ENVIRONMENT, else `deployment.environment.name` of the resource): lower case, digits,
    `-` and `_`, at most 40, not beginning with "langfuse". `release` (LANGFUSE_RELEASE, else `service.version`).
    """

    #: How soon after its end a span is exported, in seconds; None: OTEL_BSP_SCHEDULE_DELAY, or its default (5 s).
    delay_s: float | None = None

    def __init__(
        self,
        public_key: Text = None,
        secret_key: Text = None,
        host: Text = None,
        *,
        environment: str | None = None,
        release: str | None = None,
    ) -> None:
        lenient = ... in (public_key, secret_key, host)
        settings = read_settings()
        public_key = settings.langfuse_public_key if public_key in (None, ...) else public_key
        secret_key = _revealed(settings) if secret_key in (None, ...) else secret_key
        self.host = _host(settings.langfuse_host if host in (None, ...) else host)
        self.release = settings.langfuse_release if release is None else release
        self.environment = settings.langfuse_environment if environment is None else environment
        if self.environment is not None and environment_of(self.environment) != self.environment:
            raise ConfigError(
                f"LangfuseExporter: environment={self.environment!r}: lower case, digits, - and _, 40 at most, not langfuse…"
            )
        self._public, self._secret = _key("public_key", public_key), _key("secret_key", secret_key)
        self._closed = False
        if self._public.startswith("sk-") or self._secret.startswith("pk-"):
            raise ConfigError(
                "LangfuseExporter: swap the keys: public_key begins with 'pk-lf-', secret_key with 'sk-lf-'"
            )
        self._enabled = bool(self._public and self._secret)
        if not self._enabled and not lenient:
            raise ConfigError(f"LangfuseExporter: a key is missing: {SET_KEYS}")
        if not self._enabled:
            _guard.say_once("langfuse keys", "LangfuseExporter sends nothing: a key is missing: %s", SET_KEYS)
        else:
            _sending.need(_sending.HTTP, PACKAGE, "langfuse", "LangfuseExporter")
        self._sender = _sending.Sender(
            "Langfuse",
            self.host,
            self._new_exporter,
            functools.partial(_advice, public_key=self._public),
            auth=(self._public, self._secret),
            allowed=HEADERS,
        )

    def __repr__(self) -> str:
        return f"LangfuseExporter(host={self.host!r}, public_key={self._public[:9]!r})"

    @property
    def destination(self) -> str:
        """Where spans go: the host, and the public key, which tells the project."""
        return f"{self.host} {self._public}"

    def awake(self) -> bool:
        """Ask Langfuse for an answer that stores nothing."""
        return is_awake(self._sender.get_json(self.host + PROJECTS, TIMEOUT_S)[0])

    def trace_url(self, trace_id: str) -> str | None:
        """Return where a person sees a trace (Langfuse leads on to the project that has it); None where nothing is sent."""
        return f"{self.host}/trace/{trace_id}" if self._enabled else None

    def check(self) -> str:
        """Ask Langfuse which project the keys are of, by one request; returns its name and address, no key.

        Raises ConfigError that says what to do, where the keys are refused or Langfuse is out of reach.
        """
        if not self._enabled:
            raise ConfigError(f"a key is missing: {SET_KEYS}")
        status, said = self._sender.get_json(self.host + PROJECTS, TIMEOUT_S)
        if status != 200 or not isinstance(said, Mapping) or not said.get("data"):
            what = (
                _advice(status, public_key=self._public) if status else "look at the network, a proxy, the host's name"
            )
            raise ConfigError(f"{self.host} {f'answers {status}' if status else 'does not answer'}: {what}")
        project = said["data"][0]
        return f"project {project.get('name')!r}: {self.host}/project/{project.get('id')}"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send copies of the spans in one request, and each score; FAILURE where not all were taken: the log says why, once."""
        if self._closed or not self._enabled:
            self._outcome = (0, spans if self._enabled else ())
            return SpanExportResult.FAILURE
        scores = [span for span in spans if is_score(span)]
        traced = [span for span in spans if not is_score(span)]
        names = trace_names(traced)
        copies = [_guard.guarded("LangfuseExporter", self._copy, s, names.get(s.context.trace_id)) for s in traced]
        whole = [copy for copy in copies if copy is not None]
        taken = [self._sender.send(whole), len(whole) == len(traced), *map(self._send_score, scores)]
        sent, again = self._sender.outcome(traced)
        left = [score for score, done in zip(scores, taken[2:], strict=True) if done is None]
        self._outcome = (sent + taken[2:].count(True), [*again, *left])
        return SpanExportResult.SUCCESS if all(taken) else SpanExportResult.FAILURE

    def _copy(self, span: ReadableSpan, trace_name: str | None) -> ReadableSpan:
        return observation(span, trace_name, environment=self.environment, release=self.release)

    def _send_score(self, span: ReadableSpan) -> bool | None:
        body = score_body(span, self.environment)
        return self._sender.post(self.host + SCORES, body, TIMEOUT_S)  # its id makes a second one the same score

    def _new_exporter(self, session: requests.Session) -> SpanExporter:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(
            endpoint=self.host + ENDPOINT,
            headers={"x-langfuse-ingestion-version": "4"},
            timeout=TIMEOUT_S,
            compression=Compression.Gzip,
            session=session,
        )

    def shutdown(self) -> None:
        """Send nothing more; never waits for the server."""
        if not self._closed:
            self._closed = True
            self._sender.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Answer True: what was exported has been sent."""
        return True


def _advice(status: int, *, public_key: str) -> str:
    if status in (401, 403):
        return f"it refuses the key {public_key[:9]}…; check LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY, LANGFUSE_HOST"
    if status == 404 or 300 <= status < 400:
        return "no Langfuse is there (redirects are not followed); set LANGFUSE_HOST to its own address"
    return "that is no answer of Langfuse's" if 200 <= status < 300 else "spans are lost"


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


def _of_settings(settings: Settings) -> LangfuseExporter:
    return LangfuseExporter(
        settings.langfuse_public_key,
        _revealed(settings),
        settings.langfuse_host,
        environment=settings.langfuse_environment,
        release=settings.langfuse_release,
    )


def _revealed(settings: Settings) -> str | None:
    return None if settings.langfuse_secret_key is None else settings.langfuse_secret_key.get_secret_value()


@hookimpl
def register_exporters() -> Mapping[str, Callable[[Settings], SpanExporter]]:
    """Offer Langfuse, with the keys of the settings."""
    return {"langfuse": _of_settings}
