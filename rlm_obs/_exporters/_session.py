"""One session with one address: no redirect, no other vendor's key, nothing twice, and what an answer means for the spans."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from ssl import SSLCertVerificationError
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlm_obs import _guard

if TYPE_CHECKING:
    import requests

#: Answers after which a batch may be sent again; after any other it may have been stored, and would count twice.
TRY_AGAIN = (429, 502, 503, 504)
TOO_BIG = 413
#: Answers that speak of these very spans: they will never be taken.
REFUSED = (400, 409, TOO_BIG, 415, 422)
MOST_READ = 4096
Advice = Callable[[int], str]


def stored_nothing(status: int) -> bool:
    """Tell by an answer whether nothing was stored, and the answer is another once the receiver or the key is put right."""
    return status in TRY_AGAIN or (300 <= status < 500 and status not in REFUSED)


def is_awake(status: int) -> bool:
    """Tell by the answer to a request without spans, which some refuse, whether a receiver would take spans now."""
    return 200 <= status < 300 or status in REFUSED


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
    patient: bool = True,
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
                if isinstance(reason, NewConnectionError | ConnectTimeoutError) and patient:
                    raise  # nothing was sent
                raise requests.RequestException(type(reason or error).__name__) from None
            except requests.Timeout as error:
                raise requests.RequestException(type(error).__name__) from None
            self.status = status = answer.status_code
            body = _read(answer, ends)
            if 200 <= status < 300:
                self.rejected = _rejected(name, answer, body)
                return answer
            if status in TRY_AGAIN and patient:
                return answer
            if status not in (*TRY_AGAIN, TOO_BIG):
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
