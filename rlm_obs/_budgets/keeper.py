"""The one thread that talks to a store: asks for what calls wait for, reports what was spent, gives back what is idle.

So no call does I/O of its own, threads and asyncio wait in the same line, and a store that hangs holds up nobody for
longer than `store_timeout_s`.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rlm_obs import _exit, _guard
from rlm_obs._budgets.account import Account
from rlm_obs._budgets.desk import desk
from rlm_obs._budgets.lease import clock
from rlm_obs._budgets.store import Store

#: How often leases that nobody waits for are looked at.
LOOK_S = 0.25
#: With more accounts than this in use a store hears of each of them less often.
CROWD = 50
#: The longest that the end of the program waits for a store to take back what is left.
CLOSE_S = 2.0
#: The pause before a store that has failed to take it back is asked again.
AGAIN_S = 0.05


class Keeper:
    """Keeps the leases of one store. `open_store` gives a handle; it is called in the keeper's own thread."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._store: Store | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._active: dict[int, Account] = {}
        self._urgent: dict[int, Account] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._looked_at = 0.0
        self._offset: float | None = None  # the store's clock less ours
        self._leaving_until: float | None = None
        _keepers.add(self)
        _exit.at_end(close_all)

    def now(self) -> float:
        """Return the store's time (seconds since 1970), or this machine's until the store was asked."""
        return time.time() if self._offset is None else clock() + self._offset

    def wake(self, account: Account, *, urgent: bool) -> None:
        """Have an account looked at; under the desk's lock."""
        self._active[id(account)] = account
        if urgent:
            self._urgent[id(account)] = account
        self._start()
        self._wake.set()

    def do(self, job: Callable[[Store], Any]) -> Future[Any]:
        """Have the keeper's thread do something with the store; the outcome is in the future."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(job(self._opened()))
            except Exception as error:
                future.set_exception(error)

        self._jobs.append(run)
        self._start()
        self._wake.set()
        return future

    def close(self, timeout_s: float) -> None:
        """Report what was spent, give back what is left and let go of the store, within `timeout_s`; a later call opens it
        again."""
        ends, thread = time.monotonic() + timeout_s, self._thread
        if thread is None or not thread.is_alive():  # no thread starts any more at the very end of the program
            if self._active:
                _guard.guarded("budget store", self._give_all_back, ends)
            return
        self._leaving_until = ends
        self._wake.set()
        thread.join(timeout_s)
        if self._leaving_until is not None:
            _guard.failures["budget store not given back"] += 1
            _guard.say_once(
                "budget store not given back",
                "what this process has left of a shared budget was not given back within %.1f s, as its store does not "
                "answer: lost_lease says what becomes of it once its lease is over (counted in rlm_obs.stats())",
                timeout_s,
            )

    def after_fork(self) -> None:
        """In a forked child: no thread, no connection, and no lease of the parent's."""
        self.__init__(self._open_store)  # type: ignore[misc]

    # -- in its thread -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="rlm_obs-store", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # at the end of the program no thread starts any more
                    return
                self._thread = thread

    def _run(self) -> None:
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            while self._jobs:
                self._jobs.popleft()()
            for account in self._due():
                self._exchange(account)
            if self._leaving_until is not None:
                _guard.guarded("budget store", self._give_all_back, self._leaving_until)
                with self._lock:
                    self._leaving_until = None
                    if not self._jobs and not self._urgent:
                        self._thread = None
                        return

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def _pause(self) -> float | None:
        """Return for how long there is nothing to do; None: until somebody wakes it."""
        with desk.lock:
            pauses = [LOOK_S] if self._active else []
            for account in self._urgent.values():
                due = None if account.lease is None else account.lease.due_in(account.held)
                pauses.append(LOOK_S if due is None else due)
        return min(pauses, default=None)

    def _due(self) -> list[Account]:
        """Return the accounts that the store should hear of now; the quiet ones are looked at now and then only."""
        with desk.lock:
            now = clock()
            looking = self._urgent
            if now - self._looked_at >= LOOK_S:
                self._looked_at, looking = now, self._active
            due, pace = [], max(1.0, len(self._active) / CROWD)
            for key, account in list(looking.items()):
                wait = None if account.lease is None else account.lease.due_in(account.held, pace)
                if wait is None:
                    self._active.pop(key, None)
                    self._urgent.pop(key, None)
                elif wait <= 0:
                    due.append(account)
            return due

    def _exchange(self, account: Account, *, closing: bool = False) -> bool:
        """Tell the store of one account, and those in line what it has said; False if the store could not be asked."""
        lease = account.lease
        assert lease is not None
        with desk.lock:
            message = lease.message(account.held, closing=closing)
        sent_at, wall_sent_at = clock(), time.time()
        try:
            store = self._opened()
            lease.terms.declare(store)
            reply = store.exchange(lease.account, message)
        except Exception as error:
            with desk.lock:
                lease.failed_with(error)
                desk.serve()
            lease.terms.say_down(error)
            return False
        self._offset = reply.state.now - clock()
        with desk.lock:
            lease.replied(message, reply, sent_at, wall_sent_at)
            if not lease.asked:
                self._urgent.pop(id(account), None)
            desk.serve()
        return True

    def _give_all_back(self, ends: float) -> None:
        for account in list(self._active.values()):
            while not self._exchange(account, closing=True) and time.monotonic() + AGAIN_S < ends:
                time.sleep(AGAIN_S)
        store, self._store = self._store, None
        if store is not None:
            store.close()


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


def close_all() -> None:
    """At the end of the program: give back what every lease has left, within CLOSE_S."""
    ends = time.monotonic() + CLOSE_S
    for keeper in list(_keepers):
        keeper.close(max(0.1, ends - time.monotonic()))


def _after_fork() -> None:
    for keeper in list(_keepers):
        keeper.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
