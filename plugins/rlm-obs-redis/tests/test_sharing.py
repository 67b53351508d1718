"""Many processes share one budget: never more than the limit, few round trips, and nothing lost but what the dead had left."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import spenders
from rlm_obs_redis.store import RedisStore
from servers import Server

from rlm_obs.stores import AccountId, Message


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_killed_at_random(shared: Server, tmp_path: Path) -> None:
    """Eight processes spend, one is killed with -9 each second: the truth stays below what is counted, and that below the limit."""
    limit, url = Decimal(40), f"{shared.url}?prefix=killed"
    command = [sys.executable, spenders.__file__, url, str(tmp_path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    killed = int(done.stdout)
    assert killed >= 1
    time.sleep(spenders.TTL_S)
    truth = sum(file.stat().st_size for file in tmp_path.iterdir()) * spenders.COST
    store = RedisStore(url)
    state = store.read(spenders.DAY)
    store.close()
    assert state is not None
    assert truth <= state.spent <= limit
    assert state.spent - truth <= killed * spenders.LEASE
    assert state.leased == 0
    assert state.spent + state.free == limit
    assert state.free < spenders.COST * spenders.PROCESSES * 2


def test_few_round_trips(store: RedisStore, shared: Server) -> None:
    """Ten thousand calls of four processes that want what they can get take fewer than 200 exchanges, and spend all to the cent."""
    account, cost = AccountId("many"), Decimal("0.001")
    said = {f"l{n}": Message(lease=f"l{n}", number=0, limit=Decimal(10), least=cost) for n in range(4)}
    shared.ask("CONFIG", "RESETSTAT")
    calls, short = 0, set[str]()
    while len(short) < len(said):
        for lease, message in list(said.items()):
            if message.granted - message.spent < cost and lease not in short:
                asks = replace(
                    message, number=message.number + 1, wants=Decimal(10), returns=message.granted - message.spent
                )
                reply = store.exchange(account, asks)
                message = said[lease] = replace(asks, granted=reply.granted)
            if message.granted - message.spent < cost:
                short.add(lease)
            else:
                said[lease], calls = replace(message, spent=message.spent + cost), calls + 1
    assert calls == 10_000
    trips = shared.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    print(trips, "round trips")
    assert trips < 200
    assert sum(message.spent for message in said.values()) == 10
