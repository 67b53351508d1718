"""A call that waits for money held by others: one wait for threads, one for asyncio, and one outcome."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rlm_obs._budgets.account import Account, Hold, Need, Owner
from rlm_obs.errors import CallRefused

if TYPE_CHECKING:
    from rlm_obs._budgets.desk import Desk


class Waiting:
    """A call in line; ends granted, refused, timed out or cancelled, once. `brief`: it waits for a store's answer only."""

    __slots__ = (
        "_desk",
        "_done",
        "_wake",
        "accounts",
        "began",
        "brief",
        "gone",
        "hold",
        "label",
        "need",
        "owner",
        "refusal",
        "renew",
        "told",
    )

    def __init__(
        self,
        desk: Desk,
        need: Need,
        accounts: tuple[Account, ...],
        owner: Owner,
        label: str,
        *,
        brief: bool = False,
        renew: Callable[[], tuple[Account, ...]] | None = None,
    ) -> None:
        self._desk, self.need, self.accounts, self.owner, self.label = desk, need, accounts, owner, label
        self.brief, self.renew = brief, renew
        self.hold: Hold | None = None
        self.refusal: CallRefused | None = None
        self.gone = self.told = False
        self._done = threading.Event()
        self._wake: Callable[[], object] = self._done.set
        self.began = time.monotonic()

    def resolve(self, hold: Hold | None, refusal: CallRefused | None) -> None:
        """Tell the waiting call its outcome, under the desk's lock. Raises RuntimeError if its event loop is gone."""
        self.hold, self.refusal = hold, refusal
        self._wake()

    def wait(self, timeout_s: float) -> Hold:
        """Block this thread until there is room. Raises CallRefused (and kin) where there will be none, or after a while."""
        ends = time.monotonic() + timeout_s
        try:
            while not self._done.wait(self._desk.pause(self, ends)) and time.monotonic() < ends:
                self._desk.look_after(self)
        except BaseException:
            self._desk.give_up(self)
            raise
        return self._desk.take(self, timeout_s)

    async def wait_async(self, timeout_s: float) -> Hold:
        """Await until there is room, as `wait` does; a cancelled task leaves the line and holds nothing."""
        ends = time.monotonic() + timeout_s
        try:
            loop = asyncio.get_running_loop()
            woken = asyncio.Event()
            with self._desk.lock:
                self._wake = lambda: loop.call_soon_threadsafe(woken.set)
                if self.hold is not None or self.refusal is not None:
                    woken.set()
            while not await _set_within(woken, self._desk.pause(self, ends)) and time.monotonic() < ends:
                self._desk.look_after(self)
        except BaseException:
            self._desk.give_up(self)
            raise
        return self._desk.take(self, timeout_s)


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
