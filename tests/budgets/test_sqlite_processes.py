"""Processes on one SQLite store: together they never pass the limit, and none of them can hurt it by how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rlm_obs._budgets.ledger import Ledger
from rlm_obs._budgets.sqlite import SqliteStore
from rlm_obs.stores import AccountId, State
from rlm_obs.testing._store_owner import Owner

HAMMER = Path(__file__).with_name("hammer.py")
USD, LIMIT = AccountId("hammer"), Decimal(5)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(HAMMER.parents[2])}
    return subprocess.Popen(
        [sys.executable, str(HAMMER), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> Any:
    """Return what a program printed at its end."""
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(printed)


def state_of(path: Path) -> State:
    store = SqliteStore(str(path))
    state = store.read(USD)
    store.close()
    assert state is not None
    return state


def test_processes_of_threads(tmp_path: Path) -> None:
    """8 processes of 16 threads each, all at once on a file that none has made yet: never more is out than the limit,
    the store knows what is spent and leased to the last digit, and gives out all that is left.
    """
    path = tmp_path / "budgets.db"
    told = [said(process) for process in [start("many", str(path)) for _ in range(8)]]
    state = state_of(path)
    assert state.spent == sum(Decimal(one["spent"]) for one in told)
    assert state.leased == sum(Decimal(one["left"]) for one in told)
    assert state.limit == LIMIT
    assert 0 <= state.free < LIMIT / 2  # what the last ones gave back
    store = SqliteStore(str(path))
    assert Owner(store, USD, LIMIT).asks(state.free, least=state.free).free == 0
    store.close()


@forks
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_kill_9(tmp_path: Path, seed: int) -> None:
    """Processes are killed at 50 random moments: what was answered is in the file, and limit = spent + leased + free."""
    path = tmp_path / "budgets.db"
    last = said(start("killed", str(path), str(seed)))
    store = SqliteStore(str(path))
    with store._file.reading() as file:
        assert file is not None
        ledger = store._ledger(file, USD)
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    assert isinstance(ledger, Ledger)
    assert len(last) > 10
    for name, answered in last.items():
        lease = ledger.leases[name]
        assert lease.number in (answered["number"], answered["number"] + 1)  # one more was taken in, and not answered
        if lease.number == answered["number"]:
            assert lease.granted == Decimal(answered["granted"])
        assert lease.spent >= Decimal(answered["spent"])
    assert ledger.spent == sum(lease.spent for lease in ledger.leases.values())
    state = state_of(path)
    assert state.spent + state.leased == sum(lease.granted for lease in ledger.leases.values())
    assert state.free >= 0


@forks
def test_fork(tmp_path: Path) -> None:
    """A process forks while its threads use the store: it and its children go on, and nothing is lost or made."""
    path = tmp_path / "budgets.db"
    told = said(start("forked", str(path)))
    state = state_of(path)
    assert (state.spent, state.leased) == (Decimal(told["spent"]), Decimal(told["left"]))
    assert state.free >= 0


@forks
@pytest.mark.parametrize("how", ["held", "held-open"])
def test_fork_in_the_middle(tmp_path: Path, how: str) -> None:
    """Where a thread does not let go of the store for a fork, the child gets a clear error, the parent its store."""
    told = said(start(how, str(tmp_path / "budgets.db")))
    assert told["child"].startswith("StoreError")
    assert "the process was forked while it was in use" in told["child"]
    assert told["parent"] is True
