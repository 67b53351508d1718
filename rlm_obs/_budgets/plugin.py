"""The built-in plugin of budget stores: in memory, and in an SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rlm_obs._hookspecs import hookimpl
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from rlm_obs._budgets.memory import MemoryStore
    from rlm_obs._budgets.sqlite import SqliteStore
    from rlm_obs._budgets.store import Store

#: What has been opened in memory, by name.
_named: dict[str, MemoryStore] = {}


@hookimpl
def register_budget_stores() -> Mapping[str, Callable[[str], Store]]:
    """Offer what needs nothing else installed."""
    return {"memory": memory, "sqlite": sqlite}


def memory(url: str) -> MemoryStore:
    """Return the store of that name in this process: "memory://name". Raises ConfigError without a name."""
    from rlm_obs._budgets.memory import MemoryStore

    name = unquote(url.partition("://")[2])
    if not name:
        raise ConfigError("store: memory:// has no name; give one, such as memory://shared")
    return _named.get(name) or _named.setdefault(name, MemoryStore())


def sqlite(url: str) -> SqliteStore:
    """Return the store in a file: "sqlite:///relative.db", "sqlite:////absolute.db". Raises ConfigError for other forms."""
    from rlm_obs._budgets.sqlite import SqliteStore

    slash, path = url.partition("://")[2][:1], url.partition("://")[2][1:]
    if slash != "/" or not path or "\0" in unquote(path):
        raise ConfigError(
            "store: write sqlite:///budgets.db (three slashes) for a file in the current folder, "
            "or sqlite:////var/lib/budgets.db (four) for an absolute path"
        )
    if path == ":memory:":
        raise ConfigError("store: for a store in memory write memory://name")
    if "?" in path or "#" in path:
        raise ConfigError("store: a sqlite URL has no options; in the name of a file write ? as %3F and # as %23")
    return SqliteStore(unquote(path))
