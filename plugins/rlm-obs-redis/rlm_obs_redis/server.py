"""What a store's URL says, and the connection it stands for: one server, the master that Sentinel names, or a Cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from rlm_obs import ConfigError

Client = redis.Redis | redis.RedisCluster
PREFIX = "rlm-obs"
PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}


def seconds(text: str) -> float:
    """Read a timeout. Raises ValueError for one that is not above 0."""
    if not 0 < float(text) < float("inf"):
        raise ValueError(text)
    return float(text)


def yes(text: str) -> bool:
    """Read a switch. Raises ValueError for anything but true, false, 1, 0, yes, no."""
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]


#: What may stand after the "?" of a URL, beside `prefix`: redis-py's names, and how each is read.
OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "socket_timeout": seconds,
    "socket_connect_timeout": seconds,
    "socket_keepalive": yes,
    "client_name": str,
    "ssl_cert_reqs": str,
    "ssl_check_hostname": yes,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "sentinel_username": str,
    "sentinel_password": str,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where budgets are kept, read from a URL. Its repr has no name, no password and no option."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    db: int = 0
    prefix: str = PREFIX
    options: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def kind(self) -> str:
        """Say what answers at `hosts`: "" (the server itself), "sentinel" or "cluster"."""
        return self.scheme.partition("+")[2]

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL. Raises ConfigError, which says what is wrong with it and shows nothing that may be secret."""
        scheme, _, rest = url.partition("://")
        kind = scheme.partition("+")[2]
        place, _, query = rest.partition("?")
        place, _, path = place.partition("/")
        login, _, hosts = place.rpartition("@")
        user, _, password = login.partition(":")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        prefix = asked.pop("prefix", PREFIX)
        if re.search(r"[{}\s]", prefix) or not prefix:
            raise ConfigError(f"the prefix of a {scheme} URL must not be empty, nor have braces or blanks")
        options: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
        options |= {"username": unquote(user) or None, "password": unquote(password) or None}
        options |= {name: _option(scheme, name, text) for name, text in asked.items()}
        *before, last = path.strip("/").split("/")
        service = unquote(before[0] if before else last if kind == "sentinel" else "")
        db = last if kind != "sentinel" or before else ""
        if kind == "sentinel" and not service:
            raise ConfigError(f"a {scheme} URL names its service: {scheme}://host:26379/mymaster")
        if (
            not re.fullmatch(r"\d*", db)
            or len(before) > (kind == "sentinel")
            or (kind == "cluster" and db not in ("", "0"))
        ):
            wanted = {"": "/0", "sentinel": "/mymaster/0", "cluster": ""}[kind]
            raise ConfigError(
                f"the path of a {scheme} URL is not understood: {scheme}://host:{PORTS[kind]}{wanted} is meant; "
                "a password with / ? @ or % in it must be percent-encoded"
            )
        found = tuple(_host(scheme, host, PORTS[kind]) for host in hosts.split(","))
        if len(found) > 1 and not kind:
            raise ConfigError("a redis URL names one host; for several, redis+sentinel:// or redis+cluster://")
        return cls(scheme=scheme, hosts=found, service=service, db=int(db or 0), prefix=prefix, options=options)

    def connect(self) -> Client:
        """Return a client that connects when it is used, waits no longer than the timeouts, and tries nothing twice.

        Each new connection looks whether the server may evict budgets, and raises ConfigError if it may.
        """
        once = Retry(NoBackoff(), 0)
        common = {k: v for k, v in self.options.items() if not k.startswith("sentinel_")}
        common |= {"decode_responses": True, "protocol": 2, "retry": once, "ssl": self.scheme.startswith("rediss")}
        if self.kind == "cluster":
            nodes = [redis.cluster.ClusterNode(host, port) for host, port in self.hosts]
            try:
                cluster = redis.RedisCluster(startup_nodes=nodes, redis_connect_func=refuse_eviction, **common)
            except redis.exceptions.RedisClusterException as error:
                if isinstance(error.__cause__, ConfigError):
                    raise error.__cause__ from None
                raise
            cluster.cluster_error_retry_attempts = 0  # type: ignore[attr-defined]  # of redis-py 5, before `retry`
            return cluster
        common |= {"db": self.db, "redis_connect_func": greet}
        if self.kind == "sentinel":
            login = {k: self.options.get(f"sentinel_{k}") for k in ("username", "password")}
            asking = {k: v for k, v in common.items() if k.startswith(("socket_", "ssl"))} | {"retry": once} | login
            master: redis.Redis = Sentinel(self.hosts, sentinel_kwargs=asking, **common).master_for(self.service)
            return master
        ((host, port),) = self.hosts
        return redis.Redis(host=host, port=port, **common)


def _option(scheme: str, name: str, text: str) -> Any:
    if name not in OPTIONS:
        near = get_close_matches(name, [*OPTIONS, "prefix"], 1)
        if near:
            raise ConfigError(f"a {scheme} URL has no option {name!r}: {near[0]!r} is meant?")
        raise ConfigError(  # without the name, which may be a piece of a password
            f"an option of a {scheme} URL is not known; there are: prefix, {', '.join(OPTIONS)}. "
            "A password with / ? @ or % in it must be percent-encoded"
        )
    try:
        return OPTIONS[name](text)
    except (ValueError, KeyError):
        raise ConfigError(f"the option {name!r} of a {scheme} URL cannot be {text!r}") from None


def _host(scheme: str, text: str, otherwise: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may be a piece of a password
        host, port = None, None
    if host is None:
        if text:
            raise ConfigError(
                f"a host of a {scheme} URL is not understood: host:{otherwise} is meant; "
                "a password with / ? @ or % in it must be percent-encoded"
            )
        host = "localhost"
    return host, otherwise if port is None else port


def greet(connection: Any) -> None:
    """Do what every new connection does, then look at what the server evicts."""
    connection.on_connect()
    refuse_eviction(connection)


def refuse_eviction(connection: Any) -> None:
    """Raise ConfigError if the server may throw budgets away when its memory is full."""
    connection.send_command("INFO", "memory")
    try:
        said = connection.read_response()
    except redis.exceptions.NoPermissionError:
        return  # the user may not ask; an account that was evicted is noticed all the same
    found = dict(re.findall(r"^(\w+):(\S+)", said if isinstance(said, str) else said.decode(), re.MULTILINE))
    policy = found.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys") and found.get("maxmemory", "0") != "0":
        connection.disconnect()
        raise ConfigError(
            f"this Redis server may evict budgets when its memory is full (maxmemory-policy is {policy}), so no budget "
            "would hold. Set maxmemory-policy to noeviction, or to a volatile-… one (the keys of a budget have no time "
            "to live while they matter), or use a server of its own"
        )
