"""A process as a store sees it, for the contract of stores: one lease, and the totals that its messages carry."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rlm_obs.stores import AccountId, Message, Reply, State, Store

NONE = Decimal(0)


@dataclass
class Owner:
    """One process: what it knows of its lease of one account. `options` go into each message (`ttl_s`, `lost_lease`, …)."""

    store: Store
    account: AccountId
    limit: Decimal = Decimal(10)
    options: dict[str, Any] = field(default_factory=dict)
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    number: int = 0
    granted: Decimal = NONE
    spent: Decimal = NONE

    @property
    def left(self) -> Decimal:
        """What it may still spend, as far as it knows."""
        return self.granted - self.spent

    def message(self, wants: object = 0, least: object = 0, returns: object = 0, **options: Any) -> Message:
        """Return its next message; what it returns is gone from here on, whether the message arrives or not."""
        self.number += 1
        given = Decimal(str(returns))
        message = Message(
            lease=self.name,
            number=self.number,
            granted=self.granted,
            spent=self.spent,
            returns=given,
            wants=Decimal(str(wants)),
            least=Decimal(str(least)),
            **{"limit": self.limit, **self.options, **options},
        )
        self.granted -= given
        return message

    def exchange(self, message: Message) -> Reply:
        """Send a message, and take in the answer."""
        reply = self.store.exchange(self.account, message)
        self.granted = reply.granted
        return reply

    def asks(self, wants: object = 0, least: object = 0, **options: Any) -> State:
        """Ask for `wants`; returns the state of the account."""
        return self.exchange(self.message(wants, least, **options)).state

    def spends(self, amount: object) -> State:
        """Spend some of what it has, and tell."""
        self.spent += Decimal(str(amount))
        return self.asks()

    def returns(self, amount: object) -> State:
        """Give some of what it has back."""
        return self.exchange(self.message(returns=amount)).state
