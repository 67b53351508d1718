"""Sends spans in OTLP to one address alone: no redirect, no other vendor's key, nothing twice, nothing too big at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlm_obs import _guard
from rlm_obs._exporters._hushed import hushed
from rlm_obs._exporters._session import TOO_BIG, TRY_AGAIN, Advice, is_awake, new_session, stored_nothing
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace import ReadableSpan

HTTP = "opentelemetry.exporter.otlp.proto.http"
#: What a session says of itself.
USUAL = ("accept", "accept-encoding", "connection")
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
        #: Whether an export waits and tries again where it may.
        self.patient = True

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
        return stored_nothing(status) or (self._idempotent and status >= 500)

    def _once(self, spans: Sequence[ReadableSpan]) -> bool:
        import requests

        assert self._exporter is not None
        try:
            with hushed():
                taken: object = self._exporter.export(spans)
            if taken is not SpanExportResult.SUCCESS:
                self._say_why()
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
            return None if stored_nothing(self._talk.status) or self._talk.status >= 500 else False
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
            with hushed():
                self._exporter.export([])
        except requests.RequestException:
            return int(self._session.status)
        return int(self._session.status)

    def awake(self) -> bool:
        """Send a request without spans; True where the receiver answers, and not that it is busy or refuses the key."""
        return is_awake(self.knock())

    def _say_why(self) -> None:
        """Say once what the exporter keeps to itself: nobody answers, or somebody who is busy. The rest is said already."""
        status, name, address = self._session.status, self.name, self.address
        if status == 0:
            _guard.say_once(f"{address} out of reach", "%s at %s is out of reach", name, address)
        elif status in TRY_AGAIN:
            _guard.say_once(f"{address} {status}", "%s at %s answers %d again and again", name, address, status)

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
        return new_session(self.name, self.address, self._advice, self._auth, self._allowed, self.patient)

    def close(self) -> None:
        """Give the connection back; never waits for the receiver."""
        self._closed = True
        if self._exporter is not None and self._pid == os.getpid():
            self._exporter.shutdown()


class SendingExporter(SpanExporter):
    """What the exporters that have a Sender tell of the last batch, to whoever counts and keeps what was not taken."""

    _sender: Sender
    _outcome: Outcome = (0, ())

    @property
    def retried(self) -> int:
        """How many requests were sent again."""
        return self._sender.retried

    def outcome(self) -> Outcome:
        """Return how many spans of the last export were taken, and which of the others may be sent again."""
        return self._outcome

    def try_once(self) -> None:
        """Try each batch once, and do not wait for a receiver that is busy: what fails is kept elsewhere."""
        self._sender.patient = False


def need(module: str, package: str, extra: str, who: str) -> None:
    """Raise ConfigError with the line to install, where OpenTelemetry's exporter is not there."""
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(f"{who} needs {package}: pip install 'rlm-obs[{extra}]'")
