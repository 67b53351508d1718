"""A URL says which servers, how, and under which names; what is wrong in it is refused where it is given, and shows no secret."""

from __future__ import annotations

import pickle
import traceback

import pytest
from rlm_obs_redis import SCHEMES, open_store, register_budget_stores
from rlm_obs_redis.server import Server
from rlm_obs_redis.store import RedisStore

import rlm_obs


def test_the_hook_offers_every_scheme() -> None:
    """Each scheme makes a store, without a server at hand."""
    offered = register_budget_stores()
    assert set(offered) == set(SCHEMES)
    for scheme, build in offered.items():
        assert isinstance(
            build(f"{scheme}://nowhere.invalid/mymaster" if "sentinel" in scheme else f"{scheme}://"), RedisStore
        )


@pytest.mark.parametrize(
    ("url", "hosts", "service", "db"),
    [
        ("redis://", [("localhost", 6379)], "", 0),
        ("redis://cache/3", [("cache", 6379)], "", 3),
        ("rediss://me:pass@[::1]:7000/", [("::1", 7000)], "", 0),
        ("redis+sentinel://a,b:7/mymaster/2", [("a", 26379), ("b", 7)], "mymaster", 2),
        ("redis+sentinel://a/my%2Fmaster", [("a", 26379)], "my/master", 0),
        ("rediss+cluster://me:pass@a:1,b", [("a", 1), ("b", 6379)], "", 0),
    ],
)
def test_what_is_read(url: str, hosts: list[tuple[str, int]], service: str, db: int) -> None:
    """Hosts with their usual ports, the service of Sentinel, the number of the database."""
    server = Server.parse(url)
    assert (list(server.hosts), server.service, server.db) == (hosts, service, db)


def test_options() -> None:
    """Options are redis-py's, read as what they are; the timeouts are a second unless asked for."""
    server = Server.parse(
        "rediss://me:p%40ss@h?prefix=shop&socket_timeout=0.5&ssl_check_hostname=no&ssl_ca_certs=/a/b.pem"
    )
    assert server.prefix == "shop"
    assert server.options == {
        "username": "me",
        "password": "p@ss",
        "socket_timeout": 0.5,
        "socket_connect_timeout": 1.0,
        "ssl_check_hostname": False,
        "ssl_ca_certs": "/a/b.pem",
    }


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h?socket_timout=1", "'socket_timeout' is meant"),
        ("redis://h?what=1", "there are: prefix, socket_timeout"),
        ("redis://h?socket_timeout=0", "cannot be '0'"),
        ("redis://h?ssl_check_hostname=perhaps", "cannot be 'perhaps'"),
        ("redis://h?prefix=", "prefix"),
        ("redis://h?prefix={a}", "prefix"),
        ("redis://a,b", r"redis\+sentinel"),
        ("redis://h/shop", "path"),
        ("redis://h/0/1", "path"),
        ("redis+cluster://h/1", "path"),
        ("redis+sentinel://h", "service"),
        ("redis+sentinel://h/a/b/c", "path"),
        ("redis://h:port", "host"),
    ],
)
def test_what_is_refused(url: str, said: str) -> None:
    """A mistake is a ConfigError that says what to write instead."""
    with pytest.raises(rlm_obs.ConfigError, match=said):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:secret@h:1/x",
        "redis://me:sec/secret@h:1/0",
        "redis://:sec?secret@h:1/0",
        "redis://me:secret@secret@h:secret/0",
        "redis://me:se%secret@h,b",
        "redis://h?socket_timeout=1&passwort=secret",
        "redis+sentinel://h/m?sentinel_pasword=secret",
    ],
)
def test_no_password_in_errors(url: str) -> None:
    """A refused URL shows neither password nor user in the error, however it is shown."""
    with pytest.raises(rlm_obs.ConfigError) as caught:
        open_store(url)
    shown = (
        "".join(traceback.format_exception_only(caught.value)) + repr(caught.value) + str(pickle.dumps(caught.value))
    )
    assert "secret" not in shown


def test_no_password_in_reprs() -> None:
    """Neither the store nor what it read shows user, password or options."""
    store = open_store(
        "redis+sentinel://me:secret@h,g/m/0?sentinel_password=secret&sentinel_username=secret&prefix=shop"
    )
    assert repr(store) == "RedisStore(redis+sentinel://h:26379,g:26379, prefix='shop')"
    assert "secret" not in repr(store.server)
    assert "'me'" not in repr(store.server)
