"""Opens a budget store by its URL: the scheme says which plugin makes it. No message shows the URL, which may hold a password."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from rlm_obs._budgets.store import Store
from rlm_obs._plugins import loaded
from rlm_obs._settings import near
from rlm_obs.errors import ConfigError

#: Distributions of ours that offer more.
ELSEWHERE = {"redis": "rlm-obs-redis", "rediss": "rlm-obs-redis", "valkey": "rlm-obs-redis"}
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(url: str) -> Store:
    """Return a handle on the store at `url`. It may be opened at the first use only: see there for what can fail.

    Raises ConfigError for what is no URL, for a scheme that no plugin offers, and where the plugin says that it is wrong.
    """
    return opener(url)()


def opener(url: str) -> Callable[[], Store]:
    """Return what opens the store at `url`. Raises ConfigError for what is no URL, and a scheme that no plugin offers."""
    found = SCHEME.match(url) if isinstance(url, str) else None
    if found is None:
        raise ConfigError('store: give a URL such as "sqlite:///budgets.db", "memory://name" or "redis://host:6379/0"')
    scheme, offered = found[1].lower(), loaded().collect("register_budget_stores")
    if scheme not in offered:
        missing = f"; pip install {ELSEWHERE[scheme]}" if scheme in ELSEWHERE else near(scheme, offered)
        raise ConfigError(f"store: no plugin offers {scheme}://{missing}")
    return functools.partial(offered[scheme], url)
