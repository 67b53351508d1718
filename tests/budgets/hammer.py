"""Processes that use one SQLite store in the worst ways; each program prints what it knows to be true, as JSON.

python hammer.py many|killed|forked|held|held-open PATH [SEED]
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import threading
import time
from decimal import Decimal

from rlm_obs._budgets.sqlite import SqliteStore
from rlm_obs.stores import AccountId, Store
from rlm_obs.testing._store_owner import Owner

USD = AccountId("hammer")
LIMIT = Decimal(5)


def work(owner: Owner, turns: int) -> None:
    """Take, spend and return, as a process does. Raises AssertionError where more is out than the limit."""
    for turn in range(turns):
        state = owner.asks("0.07", least="0.01")
        assert state.free >= 0, state
        owner.spent += min(owner.left, Decimal("0.03"))
        assert owner.returns(owner.left if turn % 3 == 2 else 0).free >= 0


def many(store: Store) -> None:
    """Have 16 threads use one handle; prints what they have spent and have left."""
    owners = [Owner(store, USD, LIMIT) for _ in range(16)]
    threads = [threading.Thread(target=work, args=(owner, 6)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"spent": str(sum(o.spent for o in owners)), "left": str(sum(o.left for o in owners))}))


def killed(path: str, seed: int) -> None:
    """Start processes that tell each answer that they got, kill them at random moments, and print their last answers."""
    chance = random.Random(seed)
    last: dict[str, dict[str, str]] = {}
    for _ in range(25):
        children = [_telling(path) for _ in range(2)]
        if chance.random() < 0.8:  # else perhaps while they open the file
            select.select([pipe for _, pipe in children], [], [], 10)
        time.sleep(chance.uniform(0.0, 0.03))
        for pid, _ in children:
            os.kill(pid, signal.SIGKILL)
        for pid, pipe in children:
            os.waitpid(pid, 0)
            with os.fdopen(pipe) as told:
                for line in told.read().splitlines():
                    last |= json.loads(line)
    print(json.dumps(last))


def _telling(path: str) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    owner = Owner(SqliteStore(path, timeout_s=30.0), USD, LIMIT)
    while True:
        asked = owner.message(wants="0.003", returns=owner.left / 4)
        reply = owner.exchange(asked)
        said = {"number": asked.number, "granted": str(reply.granted), "spent": str(asked.spent)}
        os.write(writing, json.dumps({owner.name: said}).encode() + b"\n")
        owner.spent += owner.left / 2


def forked(path: str) -> None:
    """Fork while threads use the store, and go on in parent and children; prints what all have spent and have left."""
    store, stopped = SqliteStore(path, timeout_s=30.0), threading.Event()
    busy = [Owner(store, USD, LIMIT) for _ in range(3)]

    def keep_busy(owner: Owner) -> None:
        while not stopped.is_set():
            work(owner, 1)

    threads = [threading.Thread(target=keep_busy, args=(owner,)) for owner in busy]
    for thread in threads:
        thread.start()
    pipes = []
    for _ in range(8):
        time.sleep(0.01)
        reading, writing = os.pipe()
        if not os.fork():
            owner = Owner(store, USD, LIMIT)
            work(owner, 5)
            os.write(writing, json.dumps([str(owner.spent), str(owner.left)]).encode())
            os._exit(0)
        os.close(writing)
        pipes.append(reading)
    told = []
    for pipe in pipes:
        with os.fdopen(pipe) as said:
            told.append(json.load(said))
    stopped.set()
    for thread in threads:
        thread.join()
    told += [[str(owner.spent), str(owner.left)] for owner in busy]
    print(
        json.dumps(
            {"spent": str(sum(Decimal(s) for s, _ in told)), "left": str(sum(Decimal(left) for _, left in told))}
        )
    )


def held(path: str, *, is_open: bool) -> None:
    """Fork while another thread does not let go of the store; prints what parent and child get of it."""
    store = SqliteStore(path, timeout_s=0.05)
    if is_open:
        store.once(USD, "opened")
    holding, over = threading.Event(), threading.Event()

    def hold() -> None:
        with store._file._alone():
            holding.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    reading, writing = os.pipe()
    if not os.fork():
        try:
            said = str(store.once(USD, "child"))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        child = told.read()
    over.set()
    thread.join()
    print(json.dumps({"child": child, "parent": store.once(USD, "parent")}))


if __name__ == "__main__":
    how, where = sys.argv[1:3]
    if how == "many":
        many(SqliteStore(where, timeout_s=60.0))
    elif how == "killed":
        killed(where, int(sys.argv[3]))
    elif how == "forked":
        forked(where)
    else:
        held(where, is_open=how == "held-open")
