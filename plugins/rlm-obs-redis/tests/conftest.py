"""Servers that end with the test, and a store on each; without a server installed, the tests are skipped and say so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rlm_obs_redis.store import RedisStore
from servers import MISSING, PROGRAM, Server

NUMBERS = itertools.count()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers; they are killed after the test."""
    if PROGRAM is None:
        pytest.skip(MISSING)
    servers: list[Server] = []

    def start(*options: str, port: int | None = None, config: Path | None = None) -> Server:
        servers.append(Server(tmp_path / f"server-{len(servers)}", *options, port=port, config=config))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that harm no other."""
    if PROGRAM is None:
        pytest.skip(MISSING)
    server = Server(tmp_path_factory.mktemp("shared"))
    yield server
    server.kill()


@pytest.fixture
def store(shared: Server) -> Iterator[RedisStore]:
    """A store that has the server's keys of one prefix to itself."""
    store = RedisStore(f"{shared.url}?prefix=test-{next(NUMBERS)}")
    yield store
    store.close()
