"""The options with which a generated SDK calls its `request`, and what it answers: read and copied, never changed in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlm_obs._pricing import fields_of as fields_of


def body_of(options: Any) -> Mapping[str, Any]:
    """Return the JSON as it will be sent: the client merges `extra_body` over the arguments."""
    body, extra = options.json_data, options.extra_json
    if type(body) is not dict and not isinstance(body, Mapping):
        body = {}
    return {**body, **extra} if extra and isinstance(extra, Mapping) else body


def changed(options: Any, changes: Mapping[str, Any], headers: Mapping[str, str] | None) -> Any:
    """Return a copy of the options with other values in their JSON, and more headers; the user's own headers win."""
    update: dict[str, Any] = {}
    if changes:
        update["json_data"] = {**(options.json_data if isinstance(options.json_data, Mapping) else {}), **changes}
    if headers:
        given = options.headers if isinstance(options.headers, Mapping) else {}
        users = {name.lower() for name in given}
        update["headers"] = {**given, **{k: v for k, v in headers.items() if k not in users}}
    extra = options.extra_json
    if isinstance(extra, Mapping) and not changes.keys().isdisjoint(extra):
        update["extra_json"] = {**extra, **{k: v for k, v in changes.items() if k in extra}}
    return options.model_copy(update=update)


def timeout_s(client: Any, options: Any) -> float:
    """Return how long the client itself would wait for this answer, in seconds."""
    for given in (options.timeout, client.timeout):
        if isinstance(given, int | float):
            return float(given)
        read = getattr(given, "read", None)
        if isinstance(read, int | float):
            return float(read)
    return 600.0
