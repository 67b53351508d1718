"""What may go wrong between a process and its server is an error within the timeout, never a budget that does not hold."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal

import pytest
from rlm_obs_redis.store import RedisStore
from servers import Server, until

import rlm_obs
from rlm_obs.stores import AccountId, Message, StoreLost

DAY = AccountId("day", window="day:2026-10-17")
TEN = Message(lease="one", number=1, limit=Decimal(10), wants=Decimal(4), least=Decimal(1))
SOON_S = 8.0  # far above the timeouts, for a machine that is busy; far below a hang
Serve = Callable[..., Server]


def second(reply_granted: Decimal = Decimal(4), **more: object) -> Message:
    """What the process of TEN says next: half of its four dollars are spent."""
    return replace(TEN, number=2, granted=reply_granted, spent=Decimal(2), wants=Decimal(0), **more)  # type: ignore[arg-type]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_server_that_evicts_any_key_is_refused(serve: Serve, policy: str) -> None:
    """With a memory limit and an allkeys policy it could forget budgets: nothing is written, and the error says what to set."""
    server = serve("--maxmemory", "100mb", "--maxmemory-policy", policy)
    store = RedisStore(server.url)
    for _ in range(2):
        with pytest.raises(rlm_obs.ConfigError, match=f"{policy}.*Set maxmemory-policy to noeviction"):
            store.exchange(DAY, TEN)
    assert server.ask("DBSIZE") == 0
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert store.exchange(DAY, TEN).granted == 4


@pytest.mark.parametrize(
    "options", [["--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"], ["--maxmemory-policy", "allkeys-lru"]]
)
def test_other_servers_are_taken(serve: Serve, options: list[str]) -> None:
    """A volatile policy never evicts what has no time to live; without a memory limit nothing is evicted."""
    store = RedisStore(serve(*options).url)
    store.exchange(DAY, replace(TEN, ends_at=time.time() + 1000))
    assert store._connected().ttl(store._key("day", "account:usd::day%3A2026-10-17")) == -1


def test_no_right_to_ask(serve: Serve) -> None:
    """A user who may not ask for INFO uses the store all the same."""
    server = serve()
    server.ask("ACL", "SETUSER", "app", "on", ">pass", "~rlm-obs:*", "+@all", "-info")
    store = RedisStore(server.url.replace("://", "://app:pass@"))
    assert store.exchange(DAY, TEN).granted == 4


def test_a_full_server(serve: Serve) -> None:
    """A server with no memory left that evicts nothing refuses to write, and so the exchange raises."""
    server = serve("--maxmemory", "1kb", "--maxmemory-policy", "noeviction")
    with pytest.raises(rlm_obs.StoreError, match="used memory > 'maxmemory'"):
        RedisStore(server.url).exchange(DAY, TEN)


@pytest.mark.parametrize("lost", ["account", "all"])
def test_lost_while_in_use(serve: Serve, lost: str) -> None:
    """A lease in use whose account was evicted, or whose server was flushed, is told so."""
    server = serve()
    store = RedisStore(server.url)
    store.exchange(DAY, TEN)
    server.ask("FLUSHALL") if lost == "all" else server.ask("DEL", store._key("day", "account:usd::day%3A2026-10-17"))
    with pytest.raises(StoreLost, match="Reset this account"):
        store.exchange(DAY, second())


def test_lost_and_new(store: RedisStore) -> None:
    """An evicted account is not taken for a new one by a process that comes later; a reset starts it again."""
    store.declare("day", {("usd", ""): Decimal(10)}, "refuse", "me")
    store.exchange(DAY, TEN)
    store._connected().delete(store._key("day", "account:usd::day%3A2026-10-17"))
    for ask in (
        lambda: store.exchange(DAY, replace(TEN, lease="new")),
        lambda: store.read(DAY),
        lambda: store.once(DAY, "0.8"),
        lambda: store.change(DAY, "top-up", Decimal(1), "me"),
    ):
        with pytest.raises(StoreLost):
            ask()
    assert store.change(DAY, "reset", Decimal(0), "me").free == 10
    assert store.exchange(DAY, replace(TEN, lease="new")).granted == 4


def test_ended_windows_expire(store: RedisStore) -> None:
    """The account of a window that has ended lives for a month more, and is listed as long; the others have no time to live."""
    client, now = store._connected(), time.time()
    ended, open_, total = (AccountId("b", window=w) for w in ("ended", "open", ""))
    store.exchange(ended, replace(TEN, ends_at=now - 5))
    store.exchange(open_, replace(TEN, ends_at=now + 500))
    store.exchange(total, TEN)
    ttl = {w: client.ttl(store._key("b", f"account:usd::{w}")) for w in ("ended", "open", "")}
    assert (
        ttl["open"] == ttl[""] == client.ttl(store._key("b", "limits")) == client.ttl(store._key("b", "accounts")) == -1
    )
    assert 31 * 86400 - 60 < ttl["ended"] < 31 * 86400
    assert store.accounts("b") == [total, ended, open_]
    client.hset(store._key("b", "limits"), "clock", repr(now + 31 * 86400 - 4))
    assert store.accounts("b") == [total, open_]


def test_the_clock_never_goes_back(store: RedisStore) -> None:
    """After a server with a fast clock, a slower one goes on where that stopped."""
    fast = time.time() + 1000
    assert store.exchange(DAY, TEN).state.now < fast
    store._connected().hset(store._key("day", "limits"), "clock", repr(fast))
    assert store.exchange(DAY, second()).state.now == fast


def test_a_server_that_is_down(serve: Serve) -> None:
    """It raises at once, and after the server is back the next call connects by itself."""
    server = serve()
    store = RedisStore(server.url)
    store.exchange(DAY, TEN)
    server.stop()
    for _ in range(2):
        with within(SOON_S), pytest.raises(rlm_obs.StoreError, match="ConnectionError"):
            store.exchange(DAY, second())
    server.start()
    with pytest.raises(StoreLost):  # nothing was persisted
        store.exchange(DAY, second())


def test_restart_with_persistence(serve: Serve) -> None:
    """What a server has persisted goes on after kill -9, and the process notices nothing but a new connection."""
    server = serve("--appendonly", "yes", "--appendfsync", "always")
    store = RedisStore(server.url)
    store.exchange(DAY, TEN)
    server.kill()
    server.start()
    reply = store.exchange(DAY, second())
    assert (reply.granted, reply.state.spent, reply.state.leased) == (4, 2, 2)


def test_restart_without_persistence(serve: Serve) -> None:
    """What was not persisted is lost, and said to be; processes that go on then bring their own totals back."""
    server = serve()
    store, other = RedisStore(server.url), RedisStore(server.url)
    store.exchange(DAY, TEN)
    other.exchange(DAY, replace(TEN, lease="two"))
    server.kill()
    server.start()
    with pytest.raises(StoreLost):
        store.exchange(DAY, second())
    store.exchange(DAY, Message(lease="three", number=1, limit=Decimal(10), wants=Decimal(1)))
    for one, lease in ((store, "one"), (other, "two")):
        one.exchange(DAY, second(lease=lease, reply_granted=Decimal(4) if lease == "one" else Decimal(3)))
    state = store.read(DAY)
    assert state is not None
    assert (state.spent, state.leased, state.free) == (4, 4, 2)


def test_a_slow_server(serve: Serve) -> None:
    """A server that does not answer in time raises within the timeout; when it is back, a repeated message changes nothing."""
    server = serve()
    store = RedisStore(f"{server.url}?socket_timeout=0.3")
    store.exchange(DAY, TEN)
    server.ask("CLIENT", "PAUSE", 2000, "ALL")
    with within(1.5), pytest.raises(rlm_obs.StoreError, match="TimeoutError"):
        store.exchange(DAY, second())
    until(lambda: store.read(DAY))
    reply = store.exchange(DAY, second())
    assert (reply.granted, reply.state.spent) == (4, 2)


def test_nobody_answers() -> None:
    """A host that takes the connection and says nothing raises within the timeouts."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        with within(SOON_S), pytest.raises(rlm_obs.StoreError, match="TimeoutError"):
            store.exchange(DAY, TEN)


def test_a_replica(serve: Serve) -> None:
    """A server that is read-only refuses to write, and says so."""
    server, replica = serve(), serve()
    replica.ask("REPLICAOF", "127.0.0.1", server.port)
    until(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up")
    with pytest.raises(rlm_obs.StoreError, match="read only replica"):
        RedisStore(replica.url).exchange(DAY, TEN)


class Cut(threading.Thread):
    """Stands between a store and its server, and cuts the connection in the middle of the answer to an exchange, once."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.server, self.armed, self.cuts = port, False, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self.server)) as server:
                while asked := client.recv(65536):
                    server.sendall(asked)
                    answer = server.recv(65536)
                    if self.armed and b"exchange" in asked:
                        self.armed, self.cuts = False, self.cuts + 1
                        client.sendall(answer[: len(answer) // 2])
                        break
                    client.sendall(answer)


def test_a_connection_that_is_cut(shared: Server) -> None:
    """A reply that breaks off raises; the message has been taken in, and saying it again changes nothing."""
    proxy = Cut(shared.port)
    proxy.start()
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}?prefix=cut")
    assert store.exchange(DAY, TEN).granted == 4
    proxy.armed = True
    with within(SOON_S), pytest.raises(rlm_obs.StoreError, match="ConnectionError"):
        store.exchange(DAY, second())
    for _ in range(2):
        reply = store.exchange(DAY, second())
        assert (reply.granted, reply.state.spent) == (4, 2)
    assert proxy.cuts == 1
    store.close()
    proxy.listening.close()


def test_scripts_are_sent_again(store: RedisStore) -> None:
    """A server that has forgotten the script gets it again, unseen."""
    assert store.exchange(DAY, TEN).granted == 4
    store._connected().execute_command("SCRIPT", "FLUSH")
    assert store.exchange(DAY, second()).state.spent == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_after_a_fork(store: RedisStore) -> None:
    """A forked child has a connection of its own, and its parent's goes on."""
    store.exchange(DAY, TEN)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            for n in range(1, 50):
                reply = store.exchange(
                    DAY, replace(TEN, lease="child", number=n, wants=Decimal("0.01"), least=Decimal(0))
                )
            os.write(writing, str(reply.granted).encode())
            store.close()
        finally:
            os._exit(0)
    for n in range(2, 50):
        assert store.exchange(DAY, replace(TEN, number=n, granted=Decimal(4), wants=Decimal(0))).granted == 4
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"0.49"
    os.close(reading)
    os.close(writing)


def test_names_do_not_mix(shared: Server) -> None:
    """Whatever a budget, a key or a prefix is called, it is an account of its own, and lists its own."""
    odd = ["", "a", "a:b", "{a}", "}", "*", "a b", "a%20b", "ä", "[a-z]"]
    store = RedisStore(f"{shared.url}?prefix=o*d[d]")
    wanted = [AccountId(b, "usd", k, w) for b in odd for k, w in (("", ""), (b, ""), ("", b), (b, b))]
    for n, account in enumerate(dict.fromkeys(wanted)):
        store.exchange(account, replace(TEN, limit=Decimal(10**6), wants=Decimal(n + 1), least=Decimal(0)))
    assert store.accounts() == sorted(set(wanted))
    for n, account in enumerate(dict.fromkeys(wanted)):
        state = store.read(account)
        assert state is not None
        assert state.leased == n + 1
    other = RedisStore(f"{shared.url}?prefix=odd")
    assert other.accounts() == []
    other.close()
    store.close()


def test_amounts_that_cannot_be_kept(store: RedisStore) -> None:
    """An amount that the server could not keep exactly is refused, never rounded."""
    for amount in (Decimal("1e16"), Decimal("inf"), Decimal("nan")):
        with pytest.raises(ValueError, match="more than a budget on Redis can keep"):
            store.exchange(DAY, replace(TEN, limit=amount))
