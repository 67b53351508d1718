"""The store keeps the contract that every budget store keeps; these tests come with rlm_obs."""

from __future__ import annotations

import itertools
import time

import pytest
from rlm_obs_redis.store import RedisStore
from servers import Server

from rlm_obs.testing import StoreContract

NUMBERS = itertools.count()


class TestContract(StoreContract):
    """Redis, with a clock that is moved by the mark that it never goes back behind."""

    examples = 30

    @pytest.fixture(autouse=True)
    def _server(self, shared: Server) -> None:
        self.server, self.prefix = shared, f"contract-{next(NUMBERS)}"

    def make_store(self) -> RedisStore:
        return RedisStore(f"{self.server.url}?prefix={self.prefix}")

    def advance(self, seconds: float) -> None:
        client = self.open()._connected()
        for key in client.scan_iter(match=f"{self.prefix}:*:limits", count=1000):
            client.hset(key, "clock", repr(max(time.time(), float(client.hget(key, "clock") or 0)) + seconds))
