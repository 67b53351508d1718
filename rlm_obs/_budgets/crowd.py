"""What calls in flight are expected to cost together, by what such calls have cost: `enforcement="expected"` holds that.

Costs are counted in the order in which calls began. In the order of their ends the short ones come first, and a crowd
would be let out before the first long one has told what it costs.
"""

from __future__ import annotations

import heapq
import math
import os
import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal

from rlm_obs._budgets.seen import DIGITS, MOST_KINDS, UNITS
from rlm_obs._record import EXACT

NONE = Decimal(0)
GRAIN = Decimal("1e-12")
#: The square of a cost is a whole number of these.
SQUARED = 10**24
#: From so many calls of their kind on, calls are held by what such calls have cost.
ENOUGH = 20
#: Mean and variance are those of so many; so many are remembered for how dear a call has ever been.
LAST, LONG = 128, 1000
#: At most so many that have ended are kept while one that began before them is still running.
MOST_LATER = 1024
#: How many standard deviations are held above the means, for all calls in flight together.
MARGIN = 4.0
#: How improbable it is to be that more calls than those held in full are dearer than any before.
RISK = 0.001


class Kind:
    """What calls of one kind (a model and an operation) cost, in US dollars. Everything is asked under the desk's lock."""

    def __init__(self) -> None:
        self._costs: deque[int] = deque()  # whole numbers, whose sums are exact
        self._begun: dict[int, int | None] = {}  # not counted yet: its cost, or None while it runs
        self._number = self._count = self._sum = self._squares = 0

    @property
    def known(self) -> bool:
        """Tell whether enough such calls were counted."""
        return self._count >= ENOUGH

    def begin(self) -> int:
        """Let a call begin; returns its number."""
        self._number += 1
        self._begun[self._number] = None
        return self._number

    def end(self, number: int, cost: Decimal | None) -> None:
        """Let a call end that has cost so much; None where that says nothing of other calls."""
        if number not in self._begun:
            return
        if cost is None or len(self._begun) > MOST_LATER:
            del self._begun[number]
        else:
            self._begun[number] = int(EXACT.multiply(cost, UNITS))
        while self._begun:
            first = next(iter(self._begun))
            found = self._begun[first]
            if found is None:
                return
            del self._begun[first]
            self._add(found)

    def _add(self, cost: int) -> None:
        self._costs.append(cost)
        gone = self._costs.popleft() if len(self._costs) > LAST else 0
        self._sum += cost - gone
        self._squares += cost * cost - gone * gone
        self._count = min(self._count + 1, LONG)

    @property
    def mean(self) -> Decimal:
        """The mean of the costs that were counted last, rounded up."""
        return EXACT.scaleb(Decimal(-(-self._sum // len(self._costs))), -DIGITS)

    @property
    def variance(self) -> float:
        """Their variance."""
        number = len(self._costs)
        return (number * self._squares - self._sum * self._sum) / (number * number * SQUARED)

    def outliers(self, more: int = 0) -> int:
        """Return how many of the calls not counted yet, and of `more`, may be dearer than all that were counted; at least 1.

        Source: of q calls, k or more are dearer than each of m others of their kind with the probability
        C(q, k) / C(q + m, k), at most (q / (q + m)) ** k, however costs are distributed (Gumbel and von Schelling 1950).
        """
        others = len(self._begun) + more
        if not others or not self._count:
            return max(1, others)
        return max(1, math.ceil(math.log(RISK) / math.log(others / (others + self._count))))


@dataclass(slots=True)
class One:
    """A call in the crowd: the `mean` of its kind and the variance around it, and what it may cost beyond (`extra`)."""

    kind: Kind | None
    mean: Decimal
    variance: float
    extra: Decimal

    @classmethod
    def of(cls, kind: Kind | None, most: Decimal) -> One:
        """Return a call that costs `most` at most: all of it is expected while its kind is not known."""
        if kind is None or not kind.known:
            return cls(kind, most, 0.0, NONE)
        mean = min(kind.mean, most)
        return cls(kind, mean, kind.variance, EXACT.subtract(most, mean))


@dataclass(slots=True)
class Crowd:
    """The calls in flight of one account: held are their means, a margin for all, and the dearest in full; never more
    than the most that each can cost.

    Source: costs that are independent of each other have variances that add up.
    """

    means: Decimal = NONE
    beyond: Decimal = NONE
    variance: float = 0.0
    calls: dict[int, One] = field(default_factory=dict)
    extras: dict[int, Decimal] = field(default_factory=dict)
    kinds: dict[Kind, int] = field(default_factory=dict)

    def add(self, key: int, one: One) -> None:
        """Let a call in."""
        self.calls[key] = one
        self.means, self.beyond = EXACT.add(self.means, one.mean), EXACT.add(self.beyond, one.extra)
        self.variance += one.variance
        if one.extra:
            self.extras[key] = one.extra
        if one.kind is not None and one.extra:
            self.kinds[one.kind] = self.kinds.get(one.kind, 0) + 1

    def remove(self, key: int, mean: Decimal) -> None:
        """Let a call go; `mean` is what was held for it by itself, with what was added while it ran."""
        one = self.calls.pop(key)
        self.extras.pop(key, None)
        self.means, self.beyond = EXACT.subtract(self.means, mean), EXACT.subtract(self.beyond, one.extra)
        self.variance -= one.variance
        if one.kind is not None and one.extra:
            self.kinds[one.kind] -= 1
            if not self.kinds[one.kind]:
                del self.kinds[one.kind]

    def total(self, one: One | None = None) -> Decimal:
        """Return what is to be held, with one call more if it is given."""
        means, beyond, variance = self.means, self.beyond, self.variance
        extras: Collection[Decimal] = self.extras.values()
        full = sum([kind.outliers() for kind in self.kinds])
        if one is not None:
            means, beyond = EXACT.add(means, one.mean), EXACT.add(beyond, one.extra)
            variance += one.variance
            if one.extra:
                extras = [*extras, one.extra]
            if one.kind is not None and (one.extra or one.kind in self.kinds):
                full += one.kind.outliers(1) - (one.kind.outliers() if one.kind in self.kinds else 0)
        if not beyond:
            return means
        margin = Decimal(MARGIN * math.sqrt(max(0.0, variance))).quantize(GRAIN, ROUND_CEILING, EXACT)
        if full >= len(extras):
            return EXACT.add(means, beyond)
        for extra in heapq.nlargest(full, extras):
            margin = EXACT.add(margin, extra)
        return EXACT.add(means, min(margin, beyond))


class Kinds:
    """What kinds of calls there were under budgets that hold what is expected; of more than 512 the first is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str | None, str], Kind] = {}

    def of(self, model: str | None, operation: str) -> Kind:
        """Return the kind of calls of `model` (the requested one) and `operation` ("chat")."""
        key = (model, operation)
        found = self._kinds.get(key)
        if found is None:
            with self._lock:
                if len(self._kinds) >= MOST_KINDS and key not in self._kinds:
                    del self._kinds[next(iter(self._kinds))]
                found = self._kinds.setdefault(key, Kind())
        return found

    def clear(self) -> None:
        """Forget all; in a forked child, whose calls are its own."""
        self._lock, self._kinds = threading.Lock(), {}


kinds = Kinds()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=kinds.clear)
