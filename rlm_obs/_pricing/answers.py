"""Prices what was not seen live: a usage out of a log, an answer as the API gave it, a line of a batch's output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rlm_obs._pricing import plugin
from rlm_obs._pricing.finding import Stated, discounted
from rlm_obs._pricing.overrides import Overrides
from rlm_obs._pricing.parts import ZERO
from rlm_obs._pricing.usage import fields_of, read_usage
from rlm_obs._pricing.whole import read_answer
from rlm_obs._record import Cost, Request, Usage

Prices = Overrides | Mapping[str, Mapping[str, Any]] | Path | str
BATCH = "batch"


def price(
    model: str,
    usage: Usage | Mapping[str, Any],
    provider: str = "openai",
    *,
    service_tier: str | None = None,
    base_url: str | None = None,
    at: datetime | None = None,
    duration_s: float | None = None,
    overrides: Prices | None = None,
) -> Cost | None:
    """Return what a call cost in US dollars, or None where nobody knows: an unlisted model or tier is never 0.

    `usage` is a Usage or the API's JSON (`prompt_tokens` or `input_tokens`, with details). `service_tier` is the
    answered one, "batch" for the Batch API. `at` is when the call was made (now): rates change. `duration_s` is how
    long it took, which counts where you stated a price per hour. `base_url` tells who bills; without it `provider`
    does. `overrides` are prices as in the setting `prices`, which hold where none are given. Other plugins are not
    asked. Raises ConfigError where `overrides` are wrong.
    """
    stated = plugin.stated(Overrides.read(overrides))
    if base_url and provider == "openai":
        provider = stated.host(base_url).provider
    used = usage if isinstance(usage, Usage) else read_usage(dict(usage), provider)
    if used is None:
        return None
    return priced(
        request_of(provider, model, base_url or "", {"service_tier": service_tier}), used, at, duration_s, stated
    )


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

    `answer` is the JSON as the API gave it, a line of a batch's output, or the event that carries the answer;
    `request` the JSON that was sent: its model and tier count where the answer names none (its "batch" always, since a
    batch answers "default"), its `completion_window` and the characters of its `input` where these are billed. An
    error (`status` of 400 or more) and a moderation cost exactly 0. `at` and `overrides` are as in `price`.
    """
    said, asked = json_of(answer), request or {}
    if "custom_id" in said and "response" in said:
        line = json_of(said["response"])
        code = line.get("status_code")
        said, status = json_of(line.get("body")), code if type(code) is int else status
        asked = {**asked, "service_tier": BATCH}
    elif "usage" not in said and isinstance(whole := said.get("response"), Mapping):
        said = whole  # `response.completed`, `response.done`
    if status >= 400:
        return Cost(total=ZERO, source="status")
    stated = plugin.stated(Overrides.read(overrides))
    provider = stated.host(base_url).provider
    used = read_answer(said, provider, endpoint, asked)
    if used is None and endpoint.rstrip("/").endswith("/moderations"):
        return Cost(total=ZERO, source="free")
    if used is None:
        return None
    params = params_of(asked)
    tier = said.get("service_tier") or params.get("service_tier")
    params["service_tier"] = BATCH if params.get("service_tier") == BATCH else tier
    model = said.get("model") or asked.get("model")
    return priced(request_of(provider, model, base_url, params, endpoint), used, at, None, stated)


def params_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request that its price depends on."""
    window = fields_of(asked.get("background_options")).get("completion_window")
    return {
        "service_tier": asked.get("service_tier"),
        "completion_window": window,
        "deployment": asked.get("model"),
    }


def request_of(provider: str, model: object, base_url: str, params: Mapping[str, Any], endpoint: str = "") -> Request:
    """Return the request of an answer that was not seen live."""
    name = model if isinstance(model, str) else None
    kept = {key: value for key, value in params.items() if value is not None}
    return Request(provider=provider, endpoint=endpoint, operation="", model=name, params=kept, base_url=base_url)


def priced(
    request: Request, usage: Usage, at: datetime | None, duration_s: float | None, stated: Stated
) -> Cost | None:
    """Return the cost by the user's prices, else by the list, with the user's discount."""
    cost = plugin.by_user(request, usage, stated, at, duration_s)
    if cost is None:
        cost = plugin.by_list(request, usage, stated, at)
    return None if cost is None else discounted(cost, request, stated.overrides)


def json_of(answer: object) -> Mapping[str, Any]:
    """Return the JSON object that `answer` is, or an empty one: plain text says nothing about its usage."""
    if isinstance(answer, str | bytes | bytearray):
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError):
            return {}
    return answer if isinstance(answer, Mapping) else {}
