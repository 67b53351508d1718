"""One SQLite file for all that a budget store keeps: opened late, one thread at a time, closed around each fork."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlm_obs._budgets.store import StoreLost
from rlm_obs.errors import StoreError

#: How long another thread is waited for, and then another process: together less than a call waits for the store.
TIMEOUT_S = 0.8
VERSION = 1
APPLICATION = 0x726C6D62  # "rlmb", so that no other program's file is taken for ours
SCHEMA = (
    "CREATE TABLE clock (latest REAL NOT NULL)",
    "INSERT INTO clock VALUES (0)",
    "CREATE TABLE limits (budget TEXT PRIMARY KEY, said TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE accounts (budget TEXT, unit TEXT, "key" TEXT, "window" TEXT, ends_at REAL, said TEXT NOT NULL,
    PRIMARY KEY (budget, unit, "key", "window")) WITHOUT ROWID""",
    "CREATE INDEX ended ON accounts (ends_at) WHERE ends_at IS NOT NULL",
    "CREATE TABLE changes (id INTEGER PRIMARY KEY, budget TEXT NOT NULL, said TEXT NOT NULL)",
    "CREATE INDEX changed ON changes (budget)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
#: What went wrong, in words, by the beginning of SQLite's name for it.
WORDS = {
    "SQLITE_BUSY": "another process has kept it locked for too long",
    "SQLITE_CANTOPEN": "it cannot be opened: its folder has to be there, and to be writable",
    "SQLITE_CORRUPT": "it is damaged; once it is moved away, a new one begins, with nothing spent",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk fails to read or write it",
    "SQLITE_NOTADB": "it is damaged, or no SQLite file; once it is moved away, a new one begins, with nothing spent",
    "SQLITE_READONLY": "it is read-only; its folder has to be writable too",
}


class SqliteFile:
    """The file at `path`. Every error of SQLite's becomes a StoreError; then nothing of the transaction was kept."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self._connection: sqlite3.Connection | None = None
        self.path, self.timeout_s = os.path.abspath(path), timeout_s
        self._lock = threading.Lock()
        self._identity: tuple[int, int] | None = None
        self._pid = 0
        self._broken_by_fork = False
        _files.add(self)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give a connection that sees one moment of the file; None where there is no file yet."""
        with self._alone():
            connection = self._open(create=False)
            if connection is None:
                yield None
            else:
                with _transaction(connection, "BEGIN"):
                    yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give a connection in a transaction: all of it is kept when the block ends, nothing if it raises.

        Raises StoreLost if another file has taken its place meanwhile.
        """
        with self._alone():
            connection = self._open(create=True)
            assert connection is not None
            with _transaction(connection, "BEGIN IMMEDIATE"):
                yield connection
            if self._was_moved():
                raise StoreLost(f"budget store {self.path}: another file has taken its place")

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._alone():
            self._drop()

    def __del__(self) -> None:
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=self.timeout_s):
            raise StoreError(f"budget store {self.path}: another thread has kept it busy for {self.timeout_s:g} s")
        try:
            yield
        except sqlite3.Error as error:
            self._drop()
            raise StoreError(f"budget store {self.path}: {words(error)}") from error
        finally:
            self._lock.release()

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        if self._connection is not None and self._pid != os.getpid():
            self._broken_by_fork = True
        if self._broken_by_fork:  # SQLite's own locks were copied and hold nothing: using the file could damage it
            raise StoreError(
                f"budget store {self.path}: the process was forked while it was in use; fork earlier, or spawn"
            )
        if self._connection is not None and not self._was_moved():
            return self._connection
        self._drop()
        if not create and not os.path.exists(self.path):
            return None
        connection = sqlite3.connect(
            f"{Path(self.path).as_uri()}?mode={'rwc' if create else 'rw'}",
            uri=True,
            timeout=self.timeout_s,
            isolation_level=None,
            check_same_thread=False,  # `_lock` lets in one thread at a time
        )
        try:
            self._prepare(connection)
            self._connection, self._identity, self._pid = connection, _identity(self.path), os.getpid()
        finally:
            if self._connection is not connection:
                connection.close()
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")  # what was answered survives the machine's crash too
        if not _number(connection, "user_version"):
            with _transaction(connection, "BEGIN IMMEDIATE"):
                if not _number(connection, "user_version"):  # nobody was quicker
                    if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                        raise StoreError(f"budget store {self.path}: it belongs to another program; name another file")
                    for statement in SCHEMA:
                        connection.execute(statement)
        version = _number(connection, "user_version")
        if _number(connection, "application_id") != APPLICATION:
            raise StoreError(f"budget store {self.path}: it belongs to another program; name another file")
        if version != VERSION:
            raise StoreError(
                f"budget store {self.path}: it is of version {version}, and this rlm_obs reads version {VERSION}; "
                "use the version of rlm_obs that has written it, or name another file"
            )
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                return  # busy, or a file system that cannot: without it all is as safe, only slower

    def _was_moved(self) -> bool:
        return _identity(self.path) != self._identity

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- forks -------------------------------------------------------------------------------------------------------

    def before_fork(self) -> bool:
        """Close the connection, since SQLite's must not be open across a fork; False if another thread does not let go."""
        if not self._lock.acquire(timeout=2 * self.timeout_s):
            return False
        self._drop()
        return True

    def after_fork(self, *, in_child: bool, was_closed: bool) -> None:
        """Let the threads in again."""
        if in_child:
            self._lock = threading.Lock()
            self._broken_by_fork |= not was_closed
        elif was_closed:
            self._lock.release()


def words(error: sqlite3.Error) -> str:
    """Say what went wrong in a sentence that tells what to do."""
    name = getattr(error, "sqlite_errorname", "")
    return next((said for start, said in WORDS.items() if name.startswith(start)), f"{type(error).__name__}: {error}")


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _identity(path: str) -> tuple[int, int] | None:
    """Return which file a path names, None for none. It is never opened for this: closing would let go of SQLite's locks."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()
_forking: dict[int, list[tuple[SqliteFile, bool]]] = {}


def _before_fork() -> None:
    _forking[threading.get_ident()] = [(file, file.before_fork()) for file in list(_files)]


def _after_fork(*, in_child: bool) -> None:
    for file, was_closed in _forking.pop(threading.get_ident(), ()):
        file.after_fork(in_child=in_child, was_closed=was_closed)
    if in_child:
        _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )
