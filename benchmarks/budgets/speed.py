"""What the engine itself takes: hold and settle alone, with many keys, under a lease, in a crowd; and a store's exchange."""

from __future__ import annotations

import gc
import statistics
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from rlm_obs._budgets.account import Account, Need
from rlm_obs._budgets.desk import Desk, Hold, desk
from rlm_obs._budgets.line import Waiting
from rlm_obs._budgets.memory import MemoryStore
from rlm_obs._budgets.sqlite import SqliteStore
from rlm_obs._budgets.store import AccountId, Message, Reply
from rlm_obs._tracker import CostTracker
from rlm_obs.testing._store_owner import Owner

COST = Decimal("0.0001")
NEED = Need(COST, 10 * COST, 1000)
KEYS = 100_000


class Counting(MemoryStore):
    """The store in memory, which counts how often it is asked."""

    exchanges = 0

    def exchange(self, account: AccountId, message: Message) -> Reply:
        self.exchanges += 1
        return super().exchange(account, message)


def best(function: Callable[[], object], rounds: int = 40, number: int = 250) -> float:
    """Return the CPU microseconds of a call: the best of many short rounds."""
    found = []
    for _ in range(rounds):
        began = time.thread_time()
        for _ in range(number):
            function()
        found.append((time.thread_time() - began) / number)
    return min(found) * 1e6


def hold_and_settle(at: Desk, accounts: Callable[[], tuple[Account, ...]]) -> None:
    """Do what a call does to its budget."""
    held = at.ask(NEED, accounts(), "benchmark", may_wait=True)
    if isinstance(held, Waiting):
        held = held.wait(60)
    at.settle(held, COST)


def alone() -> tuple[float, float]:
    """Return what hold and settle take in memory: held in full, and held as expected with 63 others in flight."""
    account, own = Account("b", Decimal(10**6)), Desk()
    plain = best(lambda: hold_and_settle(own, lambda: (account,)))
    crowded, others = Account("b", Decimal(10**6), "expected"), Desk()
    from rlm_obs._budgets.crowd import Kind

    need = Need(COST, 10 * COST, 1000, kind=Kind())

    def one() -> None:
        held = others.ask(need, (crowded,), "benchmark", may_wait=True)
        assert isinstance(held, Hold)
        others.settle(held, COST)

    for _ in range(50):
        one()
    for _ in range(63):
        others.ask(need, (crowded,), "benchmark", may_wait=True)
    return plain, best(one)


def keyed() -> tuple[float, float]:
    """Return what hold and settle take among KEYS keys, and the bytes that a key takes."""
    tracker = CostTracker("1", per="user.id", name="keys")
    gc.collect()
    tracemalloc.start()
    for number in range(KEYS):
        tracker._book.accounts(f"user-{number}")
    size = tracemalloc.get_traced_memory()[0] / KEYS
    tracemalloc.stop()
    turns = iter(range(10**9))
    took = best(lambda: hold_and_settle(desk, lambda: tracker._book.accounts(f"user-{next(turns) * 7919 % KEYS}")))
    return took, size


def leased() -> tuple[float, int]:
    """Return what hold and settle take under a lease, and the exchanges with the store that 10,000 small calls took."""
    store = Counting()
    tracker = CostTracker("100", name="leased", store=store)
    accounts = tracker._book.accounts()
    for _ in range(10_000):
        hold_and_settle(desk, lambda: accounts)
    took = best(lambda: hold_and_settle(desk, lambda: accounts))
    return took, store.exchanges


def crowded(threads: int = 64, calls: int = 60, takes_s: float = 0.005) -> tuple[float, float, float]:
    """Let threads wait for four places; returns CPU microseconds a call, seconds, and the seconds that would be the least."""
    own, account = Desk(), Account("b", 4 * NEED.most, clamp=False)

    def work() -> None:
        for _ in range(calls):
            held = own.ask(NEED, (account,), "benchmark", may_wait=True)
            if isinstance(held, Waiting):
                held = held.wait(60)
            time.sleep(takes_s)
            own.settle(held, Decimal(0))

    running = [threading.Thread(target=work) for _ in range(threads)]
    cpu, began = time.process_time(), time.monotonic()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    total = threads * calls
    return (time.process_time() - cpu) / total * 1e6, time.monotonic() - began, total / 4 * takes_s


def idle(threads: int = 64, seconds: float = 2.0) -> float:
    """Return the CPU milliseconds that waiting threads take in a second: a busy loop would take 1,000."""
    own, account = Desk(), Account("b", NEED.most, clamp=False)
    blocker = own.ask(NEED, (account,), "benchmark", may_wait=True)
    assert isinstance(blocker, Hold)

    def work() -> None:
        held = own.ask(NEED, (account,), "benchmark", may_wait=True)
        own.settle(held.wait(60) if isinstance(held, Waiting) else held, Decimal(0))

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    time.sleep(0.2)
    cpu = time.process_time()
    time.sleep(seconds)
    took = (time.process_time() - cpu) / seconds * 1e3
    own.settle(blocker, Decimal(0))
    for thread in running:
        thread.join()
    return took


def exchange() -> tuple[float, float]:
    """Return the milliseconds of an exchange with an SQLite file: the median, and the 95th of 100."""
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(str(Path(folder) / "budgets.db"))
        owner, times = Owner(store, AccountId("b"), Decimal(1000)), []
        for _ in range(300):
            began = time.perf_counter()
            owner.asks("0.01")
            times.append((time.perf_counter() - began) * 1e3)
        store.close()
    return statistics.median(times), sorted(times)[int(len(times) * 0.95)]


def show() -> None:
    """Print all."""
    plain, expected = alone()
    many, size = keyed()
    lease, exchanges = leased()
    cpu, seconds, least = crowded()
    middle, late = exchange()
    print("\n| part | |")
    print(f"| hold and settle, in memory | {plain:.1f} µs |")
    print(f"| the same, `expected`, 64 in flight | {expected:.1f} µs |")
    print(f"| the same, {KEYS:,} keys | {many:.1f} µs; {size:,.0f} bytes a key |")
    print(f"| the same, under a lease | {lease:.1f} µs |")
    print(f"| round trips for 10,000 small calls under a lease | {exchanges} |")
    print(f"| 64 threads, room for 4: CPU a call | {cpu:.0f} µs |")
    print(f"| the same: time, beside the least that is possible | {seconds:.2f} s of {least:.2f} s |")
    print(f"| 64 threads that wait: CPU in a second | {idle():.1f} ms |")
    print(f"| an exchange with an SQLite file, median (95 %) | {middle:.1f} ms ({late:.1f} ms) |")
