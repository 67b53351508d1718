"""Guards against runaways: the same request again and again, too many calls, money that goes far faster than it did."""

from __future__ import annotations

import threading
import time
from collections import deque
from decimal import Decimal

from rlm_obs._record import EXACT
from rlm_obs.errors import ConfigError, Runaway, money

MINUTE_S = 60.0
#: The usual spending of a minute is learnt from so many minutes at least, and from so many at most.
LEAST_MINUTES, MOST_MINUTES = 5, 60


class Guards:
    """The guards of one tracker; any of them may be None. Under one lock, without I/O."""

    def __init__(
        self, name: str, max_repeats: int | None, max_calls_per_minute: int | None, max_spend_rate: float | None
    ) -> None:
        for argument, given in (("max_repeats", max_repeats), ("max_calls_per_minute", max_calls_per_minute)):
            if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
                raise ConfigError(f"{argument}={given!r}: give a whole number, 1 or more")
        rate = max_spend_rate
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 1):
            raise ConfigError(f"max_spend_rate={rate!r}: give how many times the usual, above 1")
        self.max_repeats, self.max_calls, self.max_rate = max_repeats, max_calls_per_minute, rate
        #: Whether there is any.
        self.on = not (max_repeats is None and max_calls_per_minute is None and rate is None)
        self._name = name
        self._lock = threading.Lock()
        self._last: int | None = None
        self._repeats = 0
        self._calls: deque[float] = deque()
        self._minute, self._spent = 0, Decimal(0)
        self._minutes: deque[Decimal] = deque(maxlen=MOST_MINUTES)

    def admit(self, fingerprint: int | None) -> None:
        """Let a call pass, or raise Runaway. `fingerprint` tells requests apart; None is like no other."""
        with self._lock:
            now = time.monotonic()
            self._check_repeats(fingerprint)
            self._check_calls(now)
            self._check_rate(now)

    def spend(self, amount: Decimal) -> None:
        """Learn what a call has cost."""
        if self.max_rate is not None:
            with self._lock:
                self._turn(time.monotonic())
                self._spent = EXACT.add(self._spent, amount)

    def _check_repeats(self, fingerprint: int | None) -> None:
        if self.max_repeats is None:
            return
        self._repeats = self._repeats + 1 if fingerprint is not None and fingerprint == self._last else 1
        self._last = fingerprint
        if self._repeats > self.max_repeats:
            raise Runaway(self._name, "max_repeats", f"the same request was made {self._repeats} times in a row")

    def _check_calls(self, now: float) -> None:
        if self.max_calls is None:
            return
        while self._calls and self._calls[0] <= now - MINUTE_S:
            self._calls.popleft()
        if len(self._calls) >= self.max_calls:
            raise Runaway(self._name, "max_calls_per_minute", f"{len(self._calls)} calls were made within a minute")
        self._calls.append(now)

    def _check_rate(self, now: float) -> None:
        if self.max_rate is None:
            return
        self._turn(now)
        if len(self._minutes) < LEAST_MINUTES:
            return
        usual = sorted(self._minutes)[len(self._minutes) // 2]
        if usual and self._spent > usual * Decimal(str(self.max_rate)):
            why = f"{money(self._spent)} was spent within a minute, the usual is {money(usual)}"
            raise Runaway(self._name, "max_spend_rate", why)

    def _turn(self, now: float) -> None:
        """Close the minute that is over; minutes in which nothing was spent say nothing of the usual."""
        minute = int(now // MINUTE_S)
        if minute != self._minute:
            if self._spent:
                self._minutes.append(self._spent)
            self._minute, self._spent = minute, Decimal(0)
