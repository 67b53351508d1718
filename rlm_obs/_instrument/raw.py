"""Tells whether the bytes of an HTTP response are those that arrive, so that they need not pass the client's decoder."""

from __future__ import annotations

import functools
from typing import Any


def is_raw(response: Any, own: Any) -> bool:
    """Tell whether a response's bytes are those that arrive, so that they need not pass the client's decoder.

    One generator less for each chunk: that is what the keeping of its bytes takes.
    """
    if "_content" in response.__dict__ or not _is_clients(own):
        return False
    return not any([name.lower() == b"content-encoding" for name, _ in response.headers.raw])


@functools.lru_cache(maxsize=16)
def _is_clients(own: Any) -> bool:
    """Tell whether a method of a response's class is what the HTTP client has put there, and nobody else."""
    return getattr(own, "__globals__", {}).get("__name__") in ("httpx._models", "httpx2._models")
