"""Eight processes that spend one budget by raw exchanges, one of them killed each second: `spenders.py URL FOLDER LIMIT`.

Each writes a byte for each call that it has paid for, so the folder knows what was truly spent. Prints how many were killed.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path

from rlm_obs_redis.store import RedisStore

from rlm_obs.stores import AccountId, Message

DAY = AccountId("day")
COST = Decimal("0.01")
LEASE = Decimal("0.5")
TTL_S = 2.0
PROCESSES = 8
NUMBERS = itertools.count()


def spend(store: RedisStore, lease: str, limit: Decimal, paid: int) -> None:
    """Spend leases until nothing has been granted for a while, then give back what is left."""
    granted = spent = Decimal(0)
    denied, number = 0, 0
    while denied < 5:
        number += 1
        message = Message(
            lease=lease, number=number, limit=limit, granted=granted, spent=spent, wants=LEASE, least=COST, ttl_s=TTL_S
        )
        granted = store.exchange(DAY, message).granted
        denied = 0 if granted - spent >= COST else denied + 1
        if denied:
            time.sleep(0.1)
        while granted - spent >= COST:
            os.write(paid, b"$")
            spent += COST
            time.sleep(0.002)
    left = granted - spent
    store.exchange(
        DAY, Message(lease=lease, number=number + 1, limit=limit, granted=granted, spent=spent, returns=left)
    )


def start(store: RedisStore, folder: Path, limit: Decimal) -> int:
    """Fork one of them."""
    name = f"lease-{next(NUMBERS)}"
    child = os.fork()
    if not child:
        failed = 1
        try:
            spend(store, name, limit, os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND))
            failed = 0
        finally:
            os._exit(failed)
    return child


def main(url: str, folder: Path, limit: Decimal) -> None:
    """Keep eight of them, until the money is spent."""
    store, killed, dice = RedisStore(url), 0, random.Random(4)
    store.read(DAY)  # what is connected before the fork must not be used after it
    living = {start(store, folder, limit) for _ in range(PROCESSES)}
    kills_at = time.monotonic() + 1
    while living:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            living.discard(child)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status):
                raise SystemExit("a process has failed")
        elif time.monotonic() > kills_at:
            kills_at += 1
            victim = dice.choice(sorted(living))
            os.kill(victim, signal.SIGKILL)
            killed += 1
            living.add(start(store, folder, limit))
        else:
            time.sleep(0.02)
    print(killed)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Decimal(sys.argv[3]))
