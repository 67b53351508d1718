"""The store in an SQLite file keeps the contract, and says clearly what is wrong with a file."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

import rlm_obs
from rlm_obs._budgets.memory import MemoryStore
from rlm_obs._budgets.sqlite import SqliteStore
from rlm_obs.stores import AccountId, Message, Reply, Store, StoreLost
from rlm_obs.testing import StoreContract
from rlm_obs.testing._store_owner import Owner

USD = AccountId("b")


class TestSqlite(StoreContract):
    """SQLite, with a clock that is moved; each handle has a connection of its own."""

    examples = 30

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path, self.now = tmp_path / "budgets.db", 1_000.0

    def make_store(self) -> Store:
        return SqliteStore(str(self.path), clock=lambda: self.now, timeout_s=30.0)

    def advance(self, seconds: float) -> None:
        self.now += seconds


def spend(store: Store, name: str = "x", number: int = 1, **said: object) -> Reply:
    amounts = {what: Decimal(str(amount)) for what, amount in said.items()}
    return store.exchange(USD, Message(lease=name, number=number, limit=Decimal(10), **amounts))  # type: ignore[arg-type]


def spent(store: Store) -> Decimal | None:
    state = store.read(USD)
    return None if state is None else state.spent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budgets.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """A store in which a process has spent 1 and has 2 left."""
    made = SqliteStore(str(path), timeout_s=0.2)
    spend(made, spent=1, wants=2)
    yield made
    made.close()


# -- files that cannot be used -------------------------------------------------------------------------------------------


def test_a_locked_file(store: SqliteStore, path: Path) -> None:
    """A file that somebody keeps locked is a StoreError after `timeout_s`; it is used again as soon as it is free."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(rlm_obs.StoreError, match="another process has kept it locked"):
        spend(store, number=2, granted=3, spent=2)
    other.execute("ROLLBACK")
    other.close()
    assert spent(store) == 1
    assert spend(store, number=3, granted=3, spent=2).state.spent == 2


def test_a_thread_that_does_not_let_go(store: SqliteStore) -> None:
    """A thread that keeps the store does not keep the others waiting for longer than `timeout_s`."""
    busy = pytest.raises(rlm_obs.StoreError, match="another thread has kept it busy")
    with store._file.writing(), ThreadPoolExecutor(1) as pool, busy:
        pool.submit(spent, store).result()
    assert spent(store) == 1


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is not there is a StoreError that says so; once it is made, the store works."""
    store = SqliteStore(str(tmp_path / "later" / "budgets.db"))
    with pytest.raises(rlm_obs.StoreError, match="its folder has to be there"):
        spend(store, spent=1)
    (tmp_path / "later").mkdir()
    assert spend(store, spent=1).state.spent == 1
    store.close()


@pytest.mark.parametrize("damage", ["header", "middle", "short"])
def test_a_damaged_file(store: SqliteStore, path: Path, damage: str) -> None:
    """A damaged file is a StoreError that says what to do, for those that open it and those that had it open."""
    store.close()
    whole = path.read_bytes()
    broken = {
        "header": b"\xff" * 100 + whole[100:],
        "middle": whole[:100] + b"\xff" * (len(whole) - 100),
        "short": whole[:5000],
    }
    path.write_bytes(broken[damage])
    for one in (store, SqliteStore(str(path))):
        with pytest.raises(rlm_obs.StoreError, match="damaged"):
            spend(one, number=2, granted=3, spent=2)
        with pytest.raises(rlm_obs.StoreError, match="damaged"):
            one.read(USD)
        one.close()
    assert path.read_bytes() == broken[damage]
    path.write_bytes(whole)
    assert spent(store) == 1


@pytest.mark.parametrize("said", ["{", "[]", '{"said": "1"}', '{"said": "much"}', "null"])
def test_a_damaged_row(store: SqliteStore, path: Path, said: str) -> None:
    """A row that cannot be read is a StoreError and stays as it is: it is never taken for an account with nothing spent."""
    with sqlite3.connect(path) as other:
        other.execute("UPDATE accounts SET said = ?", (said,))
    other.close()
    for ask in (lambda: spend(store, number=2), lambda: store.read(USD), lambda: store.once(USD, "mark")):
        with pytest.raises(rlm_obs.StoreError, match="a row of it is damaged"):
            ask()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT said FROM accounts").fetchall() == [(said,)]
    other.close()


def test_another_version(store: SqliteStore, path: Path) -> None:
    """A file of another version of rlm_obs is a StoreError that names both, and it is left alone."""
    store.close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(rlm_obs.StoreError, match="it is of version 99, and this rlm_obs reads version 1"):
        spend(store, number=2)


@pytest.mark.parametrize("version", [0, 1])
def test_another_programs_file(path: Path, version: int) -> None:
    """A database of another program is a StoreError, and it is left alone."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute(f"PRAGMA user_version = {version}")
    other.close()
    before = path.read_bytes()
    store = SqliteStore(str(path))
    with pytest.raises(rlm_obs.StoreError, match="belongs to another program"):
        spend(store, spent=1)
    assert path.read_bytes() == before


FULL = """
import json, resource, sys
from rlm_obs import StoreError
from rlm_obs._budgets.sqlite import SqliteStore
from rlm_obs.stores import AccountId
store, made = SqliteStore(sys.argv[1]), 0
store.once(AccountId("b"), "opened")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    for made in range(10_000):
        store.once(AccountId("b", key=str(made)), "x" * 1000)
except StoreError as error:
    said = str(error)
listed = len(store.accounts())
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(json.dumps([said, made, listed, store.once(AccountId("b", key=str(made)), "x" * 1000), len(store.accounts())]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system cannot limit the size of a file")
def test_a_full_disk(path: Path) -> None:
    """Where nothing more can be written it is a StoreError; all that was answered is there, and with room it goes on."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    said, made, listed, first, after = json.loads(done.stdout)
    assert re.search("the disk is full|the disk fails", said)
    assert (listed, first, after) == (made + 1, True, made + 2)


READ_ONLY = """
import os, sys
import rlm_obs
from rlm_obs import StoreError
from rlm_obs._budgets.sqlite import SqliteStore
from rlm_obs.stores import AccountId
store = SqliteStore(sys.argv[1])
store.read(AccountId("b"))  # whatever is imported late may be out of reach afterwards
store.close()
if os.getuid() == 0:
    os.seteuid(65534)
try:
    store.once(AccountId("b"), "mark")
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such rights there")
@pytest.mark.parametrize("rights", [(0o555, 0o444), (0o555, 0o644), (0o755, 0o444)])
def test_a_read_only_file(rights: tuple[int, int]) -> None:
    """A file or a folder that may not be written is a StoreError that says so."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "budgets.db")
        store = SqliteStore(str(path))
        spend(store, spent=1)
        store.close()
        path.chmod(rights[1])
        Path(folder).chmod(rights[0])
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(path)], capture_output=True, text=True, timeout=60, check=True
        )
        Path(folder).chmod(0o755)
        assert re.search("read-only|cannot be opened", done.stdout)
        assert spent(store) == 1
        store.close()


# -- files that change under us ------------------------------------------------------------------------------------------


def test_another_file_in_its_place(store: SqliteStore, path: Path) -> None:
    """Where another file takes its place, a lease of the old one is StoreLost; nothing is written to the old one."""
    for end in ("", "-wal", "-shm"):
        (path.parent / f"budgets.db{end}").replace(path.parent / f"moved.db{end}")
    other = SqliteStore(str(path))
    other.once(USD, "mark")
    with pytest.raises(StoreLost):
        spend(store, number=2, granted=3, spent=2)
    assert spend(store, "y", spent=4).state.spent == 4
    assert spent(other) == 4
    moved = SqliteStore(str(path.parent / "moved.db"))
    assert spent(moved) == 1
    other.close()
    moved.close()


def test_a_deleted_file(store: SqliteStore, path: Path) -> None:
    """A file that was deleted is StoreLost for the leases of it, not a budget with nothing spent."""
    for one in path.parent.iterdir():
        one.unlink()
    with pytest.raises(StoreLost):
        spend(store, number=2, granted=3, spent=2)
    assert spent(store) is None


def test_an_older_copy(store: SqliteStore, path: Path) -> None:
    """An older copy that was put back is put right by the totals of those that have gone on since."""
    store.close()
    old = path.read_bytes()
    for number in (2, 3, 4):
        spend(store, number=number, granted=3, spent=number - 1)
    store.close()
    copy = path.parent / "copy.db"
    copy.write_bytes(old)
    copy.replace(path)
    assert spent(store) == 1
    state = spend(store, number=5, granted=5, spent=4).state
    assert (state.spent, state.leased) == (4, 1)


def test_a_file_that_changes_between(store: SqliteStore, path: Path) -> None:
    """A file that is taken away while it is written to is StoreLost: nobody would find there what was answered."""
    with pytest.raises(StoreLost, match="another file has taken its place"), store._file.writing():
        path.replace(path.parent / "moved.db")


# -- time ----------------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps(path: Path) -> None:
    """However the clock jumps, time goes on for every handle, and never more is out than the limit."""
    chance, clock = random.Random(7), [1e9]
    stores = [SqliteStore(str(path), clock=lambda: clock[0]) for _ in range(3)]
    owners = [Owner(stores[n % 3], USD, Decimal(10), {"ttl_s": 60.0}) for n in range(6)]
    latest = 0.0
    for _ in range(150):
        clock[0] += chance.choice([0.1, 30.0, 3600.0, -0.1, -30.0, -1e6])
        owner = chance.choice(owners)
        owner.spent += owner.left / 2
        state = owner.asks(chance.uniform(0, 2), least=0)
        assert state.now >= latest
        assert state.free >= 0
        latest = state.now
    reopened = SqliteStore(str(path), clock=lambda: 5.0)
    state = reopened.read(USD)
    assert state is not None
    assert state.now >= latest
    for one in (*stores, reopened):
        one.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_accounts_of_long_ago(path: Path, kind: str) -> None:
    """An account whose window ended over a month ago is forgotten; the audit log and all other accounts stay."""
    now = [1e9]

    def clock() -> float:
        return now[0]

    store: Store = MemoryStore(clock) if kind == "memory" else SqliteStore(str(path), clock)
    store.declare("b", {("usd", ""): Decimal(10)}, "refuse", "program")
    day = 86_400.0
    ends = {"old": now[0] + day, "later": now[0] + 20 * day, "total": None}
    for window, ends_at in ends.items():
        Owner(store, AccountId("b", window=window), options={"ends_at": ends_at}).asks(1)
    store.change(AccountId("b", window="old"), "top-up", Decimal(1), "operator")
    now[0] += 33 * day
    Owner(store, AccountId("b", window="new")).asks(1)
    assert [account.window for account in store.accounts()] == ["later", "new", "total"]
    assert [change.what for change in store.history("b")] == ["created", "top-up"]
    store.close()


def test_many_leases(path: Path) -> None:
    """Leases that nobody has heard of for hours are not kept one by one, so that an account does not grow for ever."""
    now = [1e9]
    store = SqliteStore(str(path), clock=lambda: now[0])
    for _ in range(50):
        Owner(store, USD, Decimal(100)).asks(1)
        now[0] += 1000.0
    with sqlite3.connect(path) as file:
        (said,) = file.execute("SELECT said FROM accounts").fetchone()
    file.close()
    assert len(json.loads(said)["leases"]) < 10
    state = store.read(USD)
    assert state is not None
    assert state.spent + state.leased == 50
    store.close()
