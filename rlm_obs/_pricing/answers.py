"""Prices what was not seen live: a usage out of a log, an answer as the API gave it, a line of a batch's output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rlm_obs._pricing import plugin
from rlm_obs._pricing.hosts import provider_of
from rlm_obs._pricing.overrides import Overrides
from rlm_obs._pricing.parts import ZERO
from rlm_obs._pricing.usage import read_usage
from rlm_obs._record import Cost, Request, Usage

Prices = Overrides | Mapping[str, Mapping[str, Any]] | Path | str


def price(
    model: str,
    usage: Usage | Mapping[str, Any],
    provider: str = "openai",
    *,
    service_tier: str | None = None,
    base_url: str | None = None,
    at: datetime | None = None,
    overrides: Prices | None = None,
) -> Cost | None:
    """Return what a call cost in US dollars, or None where nobody knows: an unlisted model or tier is never 0.

    `usage` is a Usage or the API's JSON (`prompt_tokens` or `input_tokens`, with details). `service_tier` is the
    answered one, "batch" for the Batch API. `at` is when the call was made (now): rates change. `base_url` tells who
    bills; without it `provider` does. `overrides` are prices as in the setting `prices`, which hold where none are
    given. Other plugins are not asked. Raises ConfigError where `overrides` are wrong.
    """
    if base_url and provider == "openai":
        provider = provider_of(base_url, plugin._user[1]).provider
    used = usage if isinstance(usage, Usage) else read_usage(dict(usage), provider)
    return _price(model, used, provider, service_tier, base_url or "", at, overrides)


def price_answer(
    answer: Mapping[str, Any] | str | bytes,
    endpoint: str = "/v1/chat/completions",
    request: Mapping[str, Any] | None = None,
    base_url: str = "https://api.openai.com/v1",
    status: int = 200,
    at: datetime | None = None,
    overrides: Prices | None = None,
) -> Cost | None:
    """Return what an answer cost in US dollars, or None where it does not say what it used, or nobody knows the price.

    `answer` is the JSON as the API gave it, or a line of a batch's output; `request` the JSON that was sent: its model
    and tier count where the answer names none (its "batch" always, since a batch answers "default"). An error (`status`
    of 400 or more) and a moderation cost exactly 0. `at` and `overrides` are as in `price`.
    """
    said, asked = _json(answer), request or {}
    if "custom_id" in said and "response" in said:
        line = _json(said["response"])
        code = line.get("status_code")
        said, status = _json(line.get("body")), code if type(code) is int else status
        asked = {**asked, "service_tier": "batch"}
    if status >= 400:
        return Cost(total=ZERO, source="status")
    provider = provider_of(base_url, plugin._user[1]).provider
    used = read_usage(said.get("usage"), provider, said.get("tool_usage"))
    if used is None and endpoint.rstrip("/").endswith("/moderations"):
        used = Usage(input_tokens=0, output_tokens=0)
    model = said.get("model") or asked.get("model")
    tier = said.get("service_tier") or asked.get("service_tier")
    if asked.get("service_tier") == "batch":
        tier = "batch"
    return _price(model, used, provider, tier, base_url, at, overrides)


def _price(
    model: object,
    usage: Usage | None,
    provider: str,
    tier: object,
    base_url: str,
    at: datetime | None,
    overrides: Prices | None,
) -> Cost | None:
    prices = plugin._user[0] if overrides is None else Overrides.read(overrides)
    if usage is None or not isinstance(model, str):
        return None
    request = Request(
        provider=provider, endpoint="", operation="", model=model, params={"service_tier": tier}, base_url=base_url
    )
    cost = plugin.by_user(request, usage, prices)
    return plugin.by_list(request, usage, at) if cost is None else cost


def _json(answer: object) -> Mapping[str, Any]:
    """Return the JSON object that `answer` is, or an empty one: plain text says nothing about its usage."""
    if isinstance(answer, str | bytes | bytearray):
        try:
            answer = json.loads(answer)
        except ValueError:
            return {}
    return answer if isinstance(answer, Mapping) else {}
