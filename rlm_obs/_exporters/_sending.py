"""Sends spans in OTLP to one address alone: no redirect, no other vendor's key, nothing twice, nothing too big at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from ssl import SSLCertVerificationError
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _guard
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace import ReadableSpan

HTTP = "opentelemetry.exporter.otlp.proto.http"
#: Answers after which a batch may be sent again; after any other it may have been stored, and would count twice.
TRY_AGAIN = (429, 502, 503, 504)
TOO_BIG = 413
#: Answers with which nothing was stored, and that are others once somebody has put the receiver or the key right.
NOT_STORED = (*TRY_AGAIN, 401, 403)
MOST_READ = 4096
#: What a session says of itself.
USUAL = ("accept", "accept-encoding", "connection")
Advice = Callable[[int], str]
#: How many spans were taken, and which may be sent again.
Outcome = tuple[int, Sequence["ReadableSpan"]]


class Sender:
    """Stands for the connection to one receiver: made at the first use, anew in a forked child, never shared with it."""

    def __init__(
        self,
        name: str,
        address: str,
        new_exporter: Callable[[requests.Session], SpanExporter],
        advice: Advice,
        auth: tuple[str, str] | None = None,
        allowed: Collection[str] | None = None,
        idempotent: bool = False,
    ) -> None:
        self.name, self.address, self._idempotent = name, address, idempotent
        self._taken = 0
        self._again: list[ReadableSpan] = []
        self._retried = 0
        self._new_exporter, self._advice, self._auth, self._allowed = new_exporter, advice, auth, allowed
        self._exporter: SpanExporter | None = None
        self._session: Any = None  # for spans: the exporter may set headers on it that fit nothing else
        self._talk: Any = None
        self._pid = 0
        self._closed = False

    @property
    def retried(self) -> int:
        """How many requests of this process were sent again."""
        return self._retried if self._pid == os.getpid() else 0

    def send(self, spans: Sequence[ReadableSpan]) -> bool:
        """Send spans in one request, in halves where that is too big; True if all were taken."""
        self._taken, self._again = 0, []
        return not spans or self._sent(spans)

    def outcome(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """Return how many spans the last `send` got through, and which of `spans`, whose copies they were, may come again.

        Those are spans that were certainly not stored, or whose receiver counts a second one as the same.
        """
        again = {span.context.span_id for span in self._again}
        return self._taken, [span for span in spans if span.context.span_id in again]

    def _sent(self, spans: Sequence[ReadableSpan]) -> bool:
        self._connect()
        before = self._session.asked
        taken = self._once(spans)
        asked = self._session.asked - before
        self._retried += max(0, asked - 1)
        if taken:
            self._taken += max(0, len(spans) - self._session.rejected)
            return bool(self._session.rejected == 0)
        too_big = self._session.status == TOO_BIG if asked else not self._closed  # or it could not be written at all
        if too_big and len(spans) > 1:
            middle = len(spans) // 2
            return all([self._sent(half) for half in (spans[:middle], spans[middle:])])
        if too_big:
            _guard.say_once(f"{self.address} too big", "%s: one span alone is too big for %s", self.name, self.address)
        elif not asked or self._may_come_again():
            self._again.extend(spans)
        return False

    def _may_come_again(self) -> bool:
        status = self._session.status
        if status == 0:
            return self._idempotent or not self._session.begun
        return status in NOT_STORED or (self._idempotent and status >= 500)

    def _once(self, spans: Sequence[ReadableSpan]) -> bool:
        import requests

        assert self._exporter is not None
        try:
            taken: object = self._exporter.export(spans)
            return taken is SpanExportResult.SUCCESS
        except requests.HTTPError:  # older OTLP exporters let these out
            return False
        except requests.RequestException as error:
            self._out_of_reach(error)
            return False

    def post(self, url: str, body: Mapping[str, Any], timeout_s: float) -> bool | None:
        """Post JSON whose id makes a second one the same, once; True if it was taken, None if it may be posted again."""
        import requests

        self._connect()
        try:
            self._talk.post(url, json=body, timeout=timeout_s)
        except requests.HTTPError:
            return None if self._talk.status in NOT_STORED or self._talk.status >= 500 else False
        except requests.exceptions.InvalidJSONError:
            return False
        except requests.RequestException as error:
            self._out_of_reach(error)
            return None
        return True if 200 <= self._talk.status < 300 else None

    def get_json(self, url: str, timeout_s: float) -> tuple[int, Any]:
        """Return the status (0: out of reach) and the JSON that an address answers; None for an answer that is no JSON."""
        import requests

        self._connect()
        try:
            return 200, self._talk.get(url, timeout=timeout_s).json()
        except (requests.JSONDecodeError, requests.HTTPError):
            return self._talk.status, None
        except requests.RequestException:
            return 0, None

    def knock(self) -> int:
        """Send a request without spans; returns the status, 0 where the receiver is out of reach."""
        import requests

        self._connect()
        assert self._exporter is not None
        try:
            self._exporter.export([])
        except requests.RequestException:
            return int(self._session.status)
        return int(self._session.status)

    def _out_of_reach(self, error: Exception) -> None:
        kind = type(error).__name__
        _guard.say_once(f"{self.address} out of reach", "%s at %s is out of reach (%s)", self.name, self.address, kind)

    def _connect(self) -> None:
        if self._exporter is None or self._pid != os.getpid():
            self._session, self._talk = self._new_session(), self._new_session()
            self._exporter, self._pid, self._retried = self._new_exporter(self._session), os.getpid(), 0
            if self._allowed is not None:  # older OTLP exporters put OTEL_EXPORTER_OTLP_HEADERS there
                for header in [one for one in self._session.headers if one.lower() not in (*self._allowed, *USUAL)]:
                    del self._session.headers[header]

    def _new_session(self) -> Any:
        return new_session(self.name, self.address, self._advice, self._auth, self._allowed)

    def close(self) -> None:
        """Give the connection back; never waits for the receiver."""
        self._closed = True
        if self._exporter is not None and self._pid == os.getpid():
            self._exporter.shutdown()


def _nothing(request: Any) -> Any:
    return request


def without_password(url: str) -> str:
    """Return an address for people to read."""
    parts = urlsplit(url)
    shown = parts.hostname or ""
    return parts._replace(netloc=f"{shown}:{parts.port}" if parts.port else shown, query="").geturl()


def new_session(
    name: str,
    address: str,
    advice: Advice,
    auth: tuple[str, str] | None = None,
    allowed: Collection[str] | None = None,
) -> requests.Session:
    """Return a session that talks to one address alone; the log says what it answers, and what to do, once."""
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError

    class OnceOnly(requests.Session):
        """Sends to this address alone, what is meant for it alone, and not again what may have arrived."""

        status = rejected = asked = 0
        begun = False  # whether the last request may have reached the receiver

        def request(self, method: str, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
            self.status = self.rejected = 0
            self.asked, self.begun = self.asked + 1, True
            headers = options.get("headers") or {}
            if allowed is not None:  # OTEL_EXPORTER_OTLP_HEADERS may hold another vendor's key
                headers = {k: v for k, v in headers.items() if k.lower() in allowed}
            ends = time.monotonic() + float(options.get("timeout") or 0)
            options |= {"allow_redirects": False, "stream": True, "headers": headers}
            if self.verify is not True:  # a certificate that was named: else REQUESTS_CA_BUNDLE would win over it
                options["verify"] = self.verify
            try:
                answer = super().request(method, url, *args, **options)
            except requests.ConnectionError as error:
                reason = getattr(next(iter(error.args), None), "reason", None)
                unsure = isinstance(reason, SSLError) and not isinstance(reason.args[0], SSLCertVerificationError)
                if isinstance(reason, NewConnectionError | ConnectTimeoutError | ProxyError | SSLError) and not unsure:
                    self.begun = False
                if isinstance(reason, NewConnectionError | ConnectTimeoutError):
                    raise  # nothing was sent
                raise requests.RequestException(type(reason or error).__name__) from None
            except requests.Timeout as error:
                raise requests.RequestException(type(error).__name__) from None
            self.status = status = answer.status_code
            body = _read(answer, ends)
            if 200 <= status < 300:
                self.rejected = _rejected(name, answer, body)
                return answer
            if status in TRY_AGAIN:
                return answer
            if status != TOO_BIG:
                _guard.say_once(f"{address} {status}", "%s at %s answers %d: %s", name, address, status, advice(status))
            raise requests.HTTPError(f"{status} {answer.reason}")

    session = OnceOnly()
    session.auth = auth or _nothing  # and so no .netrc
    return session


def _read(answer: requests.Response, ends: float) -> bytes:
    """Read a small answer, for as long as it may take; one that drips is left where it is."""
    import requests

    body = b""
    try:
        for piece in answer.iter_content(1):
            body += piece
            if len(body) >= MOST_READ or time.monotonic() > ends:
                break
    except requests.RequestException:
        pass  # it was told what became of the spans; what else it had to say is lost
    answer.close()
    answer._content, answer._content_consumed = body, True
    return body


def _rejected(name: str, answer: requests.Response, body: bytes) -> int:
    """Return how many spans an answer of 200 says were not taken. Source: OTLP specification, "Partial Success"."""
    if not body or "protobuf" not in answer.headers.get("content-type", ""):
        return 0
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:
        return 0
    if partial.rejected_spans:
        _guard.say_once(f"{name} rejected", "%s rejects %d of a batch", name, partial.rejected_spans)
    return int(partial.rejected_spans)


def need(module: str, package: str, extra: str, who: str) -> None:
    """Raise ConfigError with the line to install, where OpenTelemetry's exporter is not there."""
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(f"{who} needs {package}: pip install 'rlm-obs[{extra}]'")
