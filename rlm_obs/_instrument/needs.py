"""What a request to OpenAI needs: its bound, its time-out and its fingerprint, each found when somebody asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rlm_obs._budgets.bound import Bound
from rlm_obs._instrument.bounds import bound_of
from rlm_obs._instrument.endpoints import Asks
from rlm_obs._instrument.options import timeout_s
from rlm_obs._record import Request


class Unbounded:
    """What a call needs, found when somebody asks for it: of most calls that is their bound alone."""

    __slots__ = ("_asks", "_body", "_client", "_options", "awaits")
    bound: Callable[[Request], Bound] | None = None

    def __init__(self, client: Any, options: Any, body: Mapping[str, Any], asks: Asks, awaits: bool) -> None:
        self._client, self._options, self._body, self._asks, self.awaits = client, options, body, asks, awaits

    def timeout_s(self) -> float:
        """Return how long the client would wait for an answer."""
        return timeout_s(self._client, self._options)

    def fingerprint(self) -> int | None:
        """Return what tells the request apart from others: a hash of all that it sends."""
        return hash((self._asks.path, json.dumps(self._body, sort_keys=True, default=str)))


class Bounded(Unbounded):
    """The same, of a call that has a bound."""

    __slots__ = ()

    def bound(self, request: Request) -> Bound:
        """Return the most that the request can use."""
        return bound_of(self._body, self._asks.endpoint, request)
