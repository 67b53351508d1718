"""What was spent in the last hours or days, kept in steps: an amount counts until its whole step is older than that."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from rlm_obs._record import EXACT

#: A rolling window lets go of what was spent in steps of this share of it.
STEPS = 60


@dataclass(slots=True)
class Rolling:
    """Amounts by the moment (seconds since 1970) from which they no longer count, oldest first. Never lets go too early."""

    seconds: float
    steps: list[tuple[float, Decimal]] = field(default_factory=list)

    def add(self, amount: Decimal, now: float) -> None:
        """Count an amount that is spent `now`."""
        step = self.seconds / STEPS
        until = (now // step + 1) * step + self.seconds
        if self.steps and self.steps[-1][0] >= until:
            until, before = self.steps.pop()
            amount = EXACT.add(amount, before)
        self.steps.append((until, amount))

    def let_go(self, now: float) -> Decimal:
        """Forget what no longer counts, and return how much that is."""
        gone = Decimal(0)
        while self.steps and self.steps[0][0] <= now:
            gone = EXACT.add(gone, self.steps.pop(0)[1])
        return gone

    def opens_at(self) -> float | None:
        """Return when it next lets go of something, None while nothing counts."""
        return self.steps[0][0] if self.steps else None
