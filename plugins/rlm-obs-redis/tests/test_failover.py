"""When another server takes over, by hand, by Sentinel or in a Cluster, the processes' totals bring right what it does not know."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from rlm_obs_redis.store import RedisStore
from servers import Server, free_port, until

import rlm_obs
from rlm_obs.stores import AccountId, Message

DAY = AccountId("day")
Serve = Callable[..., Server]


class Process:
    """What a process does with a store: one lease, messages that are numbered, totals that only it knows for sure."""

    def __init__(self, store: RedisStore, lease: str) -> None:
        self.store, self.message = store, Message(lease=lease, number=0, limit=Decimal(10))

    def say(self, spends: int = 0, wants: int = 0) -> Message:
        """Spend, and tell the store; a message that fails is followed by the next one, with the totals as they are."""
        before = self.message
        self.message = replace(
            before,
            number=before.number + 1,
            spent=before.spent + spends,
            wants=Decimal(wants),
            least=Decimal(1 if wants else 0),
        )
        reply = self.store.exchange(DAY, self.message)
        self.message = replace(self.message, granted=reply.granted)
        return self.message

    def insist(self, **said: int) -> Message:
        """Say it until it is heard."""
        self.message = replace(self.message, spent=self.message.spent + said.pop("spends", 0))
        found: list[Message] = []
        until(lambda: found.append(self.say(**said)) or found)
        return found[-1]


def follows(replica: Server) -> bool:
    return bool(replica.ask("INFO", "replication").get("master_link_status") == "up")


def test_a_replica_that_has_lost_writes(serve: Serve) -> None:
    """A replica that takes over without the last messages is put right by the next message of each process."""
    server, replica = serve(), serve()
    one, two = Process(RedisStore(server.url), "one"), Process(RedisStore(server.url), "two")
    one.say(wants=4)
    two.say(wants=2)
    replica.ask("REPLICAOF", "127.0.0.1", server.port)
    until(lambda: follows(replica))
    until(lambda: replica.ask("EXISTS", one.store._key("day", "account:usd::")))
    replica.ask("REPLICAOF", "NO", "ONE")  # from here on it hears of nothing
    one.say(spends=3)
    one.say(spends=1, wants=1)
    two.say(spends=1)
    server.kill()
    one.store = two.store = RedisStore(replica.url)
    lost = one.store.read(DAY)
    assert lost is not None
    assert (lost.spent, lost.leased) == (0, 6)
    assert one.say().granted == 5
    assert two.say().granted == 2
    healed = two.store.read(DAY)
    assert healed is not None
    assert (healed.spent, healed.leased, healed.free) == (5, 2, 3)


def test_sentinel(serve: Serve, tmp_path: Path) -> None:
    """The master dies, Sentinel names another, and the store finds it by itself: nothing is spent twice, nothing is lost."""
    master, replica = serve(), serve()
    replica.ask("REPLICAOF", "127.0.0.1", master.port)
    until(lambda: follows(replica))
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds mymaster 300\n"
        "sentinel failover-timeout mymaster 3000\n"
    )
    sentinel = serve(config=config)
    until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "mymaster"))
    dead = free_port()
    store = RedisStore(f"redis+sentinel://127.0.0.1:{dead},127.0.0.1:{sentinel.port}/mymaster/0?prefix=s")
    process = Process(store, "one")
    assert process.say(wants=4).granted == 4
    until(lambda: replica.ask("EXISTS", store._key("day", "account:usd::")))
    master.kill()
    with pytest.raises(rlm_obs.StoreError):
        process.say(spends=1)
    assert process.insist(spends=1).granted == 4
    state = store.read(DAY)
    assert state is not None
    assert (state.spent, state.leased, state.free) == (2, 2, 6)
    replica.ask("CONFIG", "SET", "maxmemory", "100mb")
    replica.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(rlm_obs.ConfigError, match="may evict"):
        RedisStore(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster?prefix=s").read(DAY)
    store.close()


def test_a_cluster(serve: Serve) -> None:
    """Each budget lives on one node of a Cluster; a node that dies stops its own budgets only, until its replica takes over."""
    nodes = [
        serve("--cluster-enabled", "yes", "--cluster-node-timeout", "500", port=free_port(below=55_000))
        for _ in range(4)
    ]
    for n, node in enumerate(nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    for n, node in enumerate(nodes[:3]):
        node.ask("CLUSTER", "ADDSLOTS", *range(n * 16384 // 3, (n + 1) * 16384 // 3))
        nodes[3].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
    until(lambda: "cluster_state:ok" in nodes[3].ask("CLUSTER", "INFO"))
    until(lambda: all("cluster_known_nodes:4" in node.ask("CLUSTER", "INFO") for node in nodes))
    nodes[3].ask("CLUSTER", "REPLICATE", nodes[0].ask("CLUSTER", "MYID"))
    until(lambda: follows(nodes[3]))

    store = RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[2].port}?prefix=c")
    budgets = [AccountId(f"budget-{n}") for n in range(12)]
    message = Message(lease="one", number=1, limit=Decimal(10), wants=Decimal(4))
    for account in budgets:
        store.declare(account.budget, {("usd", ""): Decimal(10)}, "refuse", "me")
        assert store.exchange(account, message).granted == 4
        assert store.once(account, "0.8") and not store.once(account, "0.8")
        assert store.change(account, "top-up", Decimal(1), "me").limit == 11
        assert [change.what for change in store.history(account.budget)] == ["created", "top-up"]
    assert store.accounts() == sorted(budgets)

    port_of = {
        account: store._connected().get_node_from_key(store._key(account.budget, "limits")).port for account in budgets
    }
    assert set(port_of.values()) == {node.port for node in nodes[:3]}
    until(lambda: nodes[3].ask("DBSIZE") == nodes[0].ask("DBSIZE"))
    nodes[0].kill()
    for n, port in enumerate(port_of.values()):
        more = replace(message, number=2, granted=Decimal(4), spent=Decimal(1), wants=Decimal(0))
        if port == nodes[0].port:
            with contextlib.suppress(rlm_obs.StoreError):
                store.exchange(budgets[n], more)
        else:
            until(lambda n=n, more=more: store.exchange(budgets[n], more).state.spent == 1)
    more = replace(message, number=3, granted=Decimal(4), spent=Decimal(2), wants=Decimal(0))
    for account in budgets:
        until(lambda account=account: store.exchange(account, more).state.spent == 2)
        state = store.read(account)
        assert state is not None
        assert (state.limit, state.leased) == (11, 2)
    store.close()


def test_a_cluster_that_evicts(serve: Serve) -> None:
    """A node of a Cluster that may evict budgets is refused as a server is."""
    node = serve(
        "--cluster-enabled",
        "yes",
        "--maxmemory",
        "100mb",
        "--maxmemory-policy",
        "allkeys-lru",
        port=free_port(below=55_000),
    )
    node.ask("CLUSTER", "ADDSLOTS", *range(16384))
    until(lambda: "cluster_state:ok" in node.ask("CLUSTER", "INFO"))
    with pytest.raises(rlm_obs.ConfigError, match="may evict"):
        RedisStore(f"redis+cluster://127.0.0.1:{node.port}").read(DAY)
