"""Budgets that many machines share, on Redis or Valkey: `CostTracker(store="redis://…")`. Offers the stores by URL scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import rlm_obs

if TYPE_CHECKING:
    from rlm_obs_redis.store import RedisStore

__all__ = ["open_store", "register_budget_stores"]

SCHEMES = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


def open_store(url: str) -> RedisStore:
    """Return the store that a URL names; nothing is connected before it is used.

    Raises: rlm_obs.ConfigError for a URL that is wrong; it never shows the URL's password.
    """
    from rlm_obs_redis.store import RedisStore

    return RedisStore(url)


@rlm_obs.hookimpl
def register_budget_stores() -> Mapping[str, Callable[[str], RedisStore]]:
    """Offer one server, Sentinel and Cluster, each with and without TLS."""
    return dict.fromkeys(SCHEMES, open_store)
