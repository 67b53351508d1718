"""What calls have cost so far, by model and operation: for estimates, and for a hold of what is to be expected."""

from __future__ import annotations

import os
import threading
from collections import deque
from decimal import Decimal
from math import isqrt

from rlm_obs._record import EXACT

#: How many of the last calls of one kind are kept, and how many kinds: about 3 MB at most.
LAST, MOST_KINDS = 128, 512
#: Costs are kept as whole numbers of 1e-12 dollars: exact sums, without rounding errors that add up.
UNITS, DIGITS = Decimal(10) ** 12, 12


class Costs:
    """The last 128 costs of one kind of call, in US dollars. Mean and deviation are at hand; the others sort."""

    __slots__ = ("_last", "_lock", "_squares", "_sum", "count")

    def __init__(self, lock: threading.Lock) -> None:
        self.count = 0
        self._last: deque[int] = deque(maxlen=LAST)
        self._sum = self._squares = 0
        self._lock = lock

    def _add(self, cost: int) -> None:
        last = self._last
        if len(last) == LAST:
            gone = last[0]
            self._sum -= gone
            self._squares -= gone * gone
        last.append(cost)
        self._sum += cost
        self._squares += cost * cost
        self.count += 1

    @property
    def mean(self) -> Decimal:
        """The mean of the costs."""
        with self._lock:
            return _dollars(-(-self._sum // len(self._last)))

    @property
    def deviation(self) -> Decimal:
        """Their standard deviation, of the whole and not of a sample of it; 0 for a single one."""
        with self._lock:
            number = len(self._last)
            spread = number * self._squares - self._sum * self._sum
        return _dollars(-(-isqrt(spread) // number))

    @property
    def median(self) -> Decimal:
        """The cost that half of the calls do not pass."""
        return self._at(50)

    @property
    def p95(self) -> Decimal:
        """The cost that 95 of 100 calls do not pass."""
        return self._at(95)

    @property
    def most(self) -> Decimal:
        """The dearest."""
        return self._at(100)

    def _at(self, percent: int) -> Decimal:
        with self._lock:
            ranked = sorted(self._last)
        return _dollars(ranked[max(0, -(-len(ranked) * percent // 100) - 1)])  # nearest rank: a cost that was


class Seen:
    """What calls have cost in this process. Bounded: of more than 512 kinds, the one seen first is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str | None, str], Costs] = {}
        self._new: deque[tuple[str | None, str, Decimal]] = deque()

    def add(self, model: str | None, operation: str, cost: Decimal) -> None:
        """Note what a call of `model` (the requested one) and `operation` ("chat") has cost, in US dollars."""
        self._new.append((model, operation, cost))  # and add up when somebody asks: most programs never do
        if len(self._new) >= LAST:
            self._count()

    def _count(self) -> None:
        """Add up what is new."""
        with self._lock:
            while self._new:
                model, operation, cost = self._new.popleft()
                costs = self._kinds.get((model, operation))
                if costs is None:
                    if len(self._kinds) >= MOST_KINDS:
                        del self._kinds[next(iter(self._kinds))]
                    costs = self._kinds[model, operation] = Costs(self._lock)
                costs._add(int(EXACT.multiply(cost, UNITS)))

    def of(self, model: str | None, operation: str) -> Costs | None:
        """Return the costs of such calls, which go on being counted, or None where there was none yet."""
        if self._new:
            self._count()
        return self._kinds.get((model, operation))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kinds.clear()
            self._new.clear()

    def after_fork(self) -> None:
        """Start anew in a forked child, with a lock that nobody holds: its calls are its own."""
        self._lock, self._kinds, self._new = threading.Lock(), {}, deque()


def _dollars(units: int) -> Decimal:
    return EXACT.normalize(EXACT.scaleb(Decimal(units), -DIGITS))


#: The one of this process: fed when a call has ended, read before the next.
seen = Seen()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=seen.after_fork)
