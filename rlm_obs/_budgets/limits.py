"""The limits of one budget as a store keeps them: what the program declared, and what somebody has set since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rlm_obs._budgets.store import AccountId, Change, LimitConflict, OnChange

Keyed = tuple[str, str]  # (unit, key); the key "" is the default of all keys


@dataclass(slots=True)
class Limits:
    """`declared` is what the program said last, `set` what holds: the two differ once somebody has changed a limit."""

    budget: str
    declared: dict[Keyed, Decimal] = field(default_factory=dict)
    set: dict[Keyed, Decimal] = field(default_factory=dict)

    def declare(self, limits: Mapping[Keyed, Decimal], on_change: OnChange, who: str, at: float) -> list[Change]:
        """Do what `Store.declare` says; returns the lines for the audit log."""
        others = {k: v for k, v in limits.items() if self.declared.get(k) not in (None, v)}
        if others and on_change == "refuse":
            (unit, key), limit = next(iter(others.items()))
            raise LimitConflict(self.budget, unit, key, self.declared[unit, key], limit)
        changes = []
        for (unit, key), limit in limits.items():
            before = self.declared.get((unit, key))
            if before == limit or (before is not None and on_change == "keep"):
                continue
            what: Any = "created" if before is None else "declared"
            held = self.set.get((unit, key))
            changes.append(
                Change(at=at, who=who, what=what, budget=self.budget, unit=unit, key=key, before=held, after=limit)
            )
            self.declared[unit, key] = self.set[unit, key] = limit
        return changes

    def change(self, account: AccountId, limit: Decimal, who: str, at: float) -> Change:
        """Set the limit of a key from now on, whatever the program has declared."""
        unit, key = account.unit, account.key
        before = self.set.get((unit, key))
        self.set[unit, key] = limit
        return Change(at=at, who=who, what="set", budget=self.budget, unit=unit, key=key, before=before, after=limit)

    def of(self, account: AccountId, own: Decimal | None, otherwise: Decimal | None) -> Decimal | None:
        """Return the limit that holds for an account: its key's, else the program's `own` for it, else the default."""
        found = self.set.get((account.unit, account.key))
        if found is None:
            found = own
        if found is None:
            found = self.set.get((account.unit, ""))
        return otherwise if found is None else found

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            name: [[unit, key, str(limit)] for (unit, key), limit in table.items()]
            for name, table in (("declared", self.declared), ("set", self.set))
        }

    @classmethod
    def from_dict(cls, budget: str, said: dict[str, Any]) -> Limits:
        """Return what `to_dict` has written."""
        declared, held = (
            {(unit, key): Decimal(limit) for unit, key, limit in said[name]} for name in ("declared", "set")
        )
        return cls(budget, declared, held)
