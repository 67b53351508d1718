"""The budget store on Redis or Valkey: each verb is one call of one Lua script, which runs as one atomic step on the server."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from decimal import ROUND_FLOOR, Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import quote, unquote

import redis

from rlm_obs import StoreError
from rlm_obs.stores import (
    EXACT,
    FORGET_S,
    GRAIN,
    KEEP_ENDED_S,
    SLICES,
    WANTED_S,
    AccountId,
    Change,
    LimitConflict,
    Message,
    OnChange,
    Reply,
    State,
    StoreLost,
    up,
)
from rlm_obs_redis.server import Client, Server

#: Amounts are two whole numbers below 2^53 in Lua; this is as far as they are tried.
MOST = Decimal(10**15)


def moment(text: str) -> float | None:
    """Read a time, which may be unknown."""
    return float(text) if text else None


#: What the script says of an account, in its order, and how each is read.
STATE: Mapping[str, Callable[[str], Any]] = {
    "limit": Decimal,
    "spent": Decimal,
    "leased": Decimal,
    "leases": int,
    "now": float,
    "wanted": "1".__eq__,
    "opens_at": moment,
    "ends_at": moment,
}
KNOWN = {field.name for field in fields(State)}


@cache
def script() -> tuple[str, str]:
    """Return the Lua script and its SHA-1, by which servers know it."""
    facts = f"local WANTED_S, FORGET_S, SLICES, KEEP_ENDED_S = {WANTED_S}, {FORGET_S}, {SLICES}, {KEEP_ENDED_S}\n"
    parts = [files(__package__).joinpath(f"{name}.lua").read_text("utf-8") for name in ("amounts", "ledger", "verbs")]
    text = facts + "\n".join(parts)
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisStore:
    """Keep budgets on a Redis or Valkey server; safe against lost, late and repeated messages, and against a fork.

    Raises StoreError where the server cannot be reached or cannot write, within the URL's timeouts (the next call connects
    anew), StoreLost for an account that was evicted, ConfigError for a server that may evict.
    """

    def __init__(self, url: str) -> None:
        self.server = Server.parse(url)
        self._open: tuple[int, Client] | None = None

    def __repr__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.server.hosts)
        return f"RedisStore({self.server.scheme}://{hosts}, prefix={self.server.prefix!r})"

    def declare(self, budget: str, limits: Mapping[tuple[str, str], Decimal], on_change: OnChange, who: str) -> None:
        given = [part for (unit, key), limit in limits.items() for part in (joined(unit, key), plain(limit))]
        said = self._run(budget, "declare", on_change, who, *given)
        if said[0] == "conflict":
            unit, key = apart(said[1])
            raise LimitConflict(budget, unit, key, Decimal(said[2]), Decimal(said[3]))

    def exchange(self, account: AccountId, message: Message) -> Reply:
        said = self._account(
            account,
            "exchange",
            message.lease,
            message.number,
            plain(message.limit),
            int(message.own),
            plain(message.granted),
            plain(up(message.spent, account.unit)),
            plain(message.returns),
            plain(message.wants),
            plain(up(message.least, account.unit)),
            repr(message.ttl_s),
            int(message.lost_lease == "free"),
            "" if message.rolling_s is None else repr(message.rolling_s),
            "" if message.ends_at is None else repr(message.ends_at),
        )
        if said[1]:
            ended = said[1].split(" ")
            self._run(account.budget, "expire", *ended, accounts=ended)
        return Reply(Decimal(said[2]), state(said[3:]))

    def read(self, account: AccountId) -> State | None:
        said = self._account(account, "read")
        return None if said[0] == "unknown" else state(said[1:])

    def accounts(self, budget: str | None = None) -> Sequence[AccountId]:
        budgets = self._budgets() if budget is None else [budget]
        return sorted(AccountId(b, *apart(name)) for b in budgets for name in self._run(b, "accounts")[1])

    def change(self, account: AccountId, what: Literal["set", "top-up", "reset"], amount: Decimal, who: str) -> State:
        said = self._account(account, "change", what, plain(amount), who)
        if said[0] == "undeclared":
            raise KeyError(account.budget)
        if said[0] == "unlimited":
            raise ValueError(f"budget {account.budget!r} has no limit in {account.unit}")
        return state(said[1:])

    def history(self, budget: str) -> Sequence[Change]:
        return [change(budget, json.loads(line)) for line in self._run(budget, "history")[1]]

    def once(self, account: AccountId, mark: str) -> bool:
        return bool(self._account(account, "once", mark)[1])

    def close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None and opened[0] == os.getpid():
            opened[1].close()

    def _account(self, account: AccountId, verb: str, *args: str | int) -> list[Any]:
        name = joined(account.unit, account.key, account.window)
        said = self._run(account.budget, verb, name, *args, accounts=[name])
        if said[0] == "lost":
            raise StoreLost(
                f"the store no longer knows what was spent of {account}: its data was evicted, flushed or deleted. "
                "Reset this account to start again at nothing spent"
            )
        return said

    def _run(self, budget: str, verb: str, *args: str | int, accounts: Iterable[str] = ("",)) -> list[Any]:
        text, sha = script()
        keys = [
            self._key(budget, part) for part in ("limits", "history", "accounts", *(f"account:{a}" for a in accounts))
        ]
        try:
            return self._ask("EVALSHA", sha, len(keys), *keys, verb, *args)
        except redis.exceptions.NoScriptError:  # a new server, or one that was started again
            return self._ask("EVAL", text, len(keys), *keys, verb, *args)

    def _ask(self, *command: str | int) -> list[Any]:
        try:
            ask: Any = self._connected().execute_command
            said: list[Any] = ask(*command)
        except redis.exceptions.NoScriptError:
            raise
        except redis.RedisError as error:
            raise StoreError(f"{self!r}: {type(error).__name__}: {error}") from error
        return said

    def _connected(self) -> Client:
        """Return the client of this very process: a forked child must not talk through its parent's connection."""
        opened = self._open
        if opened is None or opened[0] != os.getpid():
            opened = self._open = os.getpid(), self.server.connect()
        return opened[1]

    def _key(self, budget: str, part: str) -> str:
        return (
            f"{self.server.prefix}:{{budget:{quote(budget, safe='')}}}:{part}"  # the braces: one slot for each budget
        )

    def _budgets(self) -> list[str]:
        """Return the names of all budgets, by looking at every key of the server."""
        before, after = f"{self.server.prefix}:{{budget:", "}:accounts"
        pattern = re.sub(r"([\[\]?\\*^-])", r"\\\1", before) + "*" + after
        try:
            found = set(self._connected().scan_iter(match=pattern, count=1000))
        except redis.RedisError as error:
            raise StoreError(f"{self!r}: {type(error).__name__}: {error}") from error
        return sorted(unquote(key[len(before) : -len(after)]) for key in found)


def plain(amount: Decimal) -> str:
    """Write an amount as the script reads it. Raises ValueError for one that it could not keep exactly."""
    if amount.is_nan() or abs(amount) > MOST:
        raise ValueError(f"{amount} is more than a budget on Redis can keep: {MOST:f} at most")
    text = f"{amount.quantize(GRAIN, ROUND_FLOOR, EXACT):f}"
    return text.rstrip("0").rstrip(".")


def joined(*names: str) -> str:
    """Join names into one that has no blank, colon or brace but those between them."""
    return ":".join(quote(name, safe="@+") for name in names)


def apart(name: str) -> list[str]:
    """Undo `joined`."""
    return [unquote(part) for part in name.split(":")]


def state(said: Sequence[str]) -> State:
    """Read what the script says of an account."""
    facts = {name: read(text) for (name, read), text in zip(STATE.items(), said, strict=True) if name in KNOWN}
    return State(**facts)


def change(budget: str, line: Mapping[str, Any]) -> Change:
    """Read a line of the audit log."""
    unit, key, window = apart(line["account"])
    before, after = (Decimal(line[side]) if side in line else None for side in ("before", "after"))
    return Change(
        at=float(line["at"]),
        who=line["who"],
        what=line["what"],
        budget=budget,
        unit=unit,
        key=key,
        window=window,
        before=before,
        after=after,
    )
