"""The built-in plugin of prices: what is stated first of all plugins, genai-prices after all others."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rlm_obs._hookspecs import hookimpl
from rlm_obs._pricing import deployments, finding, genai
from rlm_obs._pricing import hosts as host_names
from rlm_obs._pricing.finding import HOST_SOURCE, Stated
from rlm_obs._pricing.overrides import Overrides
from rlm_obs._pricing.parts import ZERO
from rlm_obs._record import Cost, Request, Usage

if TYPE_CHECKING:
    from rlm_obs._settings import Settings

PROVIDER = "provider"
#: What the settings said last: `stated()`, for those who ask at each call.
held = Stated()


def use(settings: Settings) -> None:
    """Take the user's prices, hosts and deployments from the settings. Raises ConfigError where they are wrong."""
    global held
    if settings.price_data is not None or settings.price_refresh or genai.in_use():
        genai.use(settings.price_data, refresh=settings.price_refresh)
    host_names.check(settings.hosts)
    named = deployments.read_deployments(settings.azure_deployments)
    held = Stated(Overrides.read(settings.prices), dict(settings.hosts), named)


def stated(overrides: Overrides | None = None) -> Stated:
    """Return what the settings said last, with other prices if some are given."""
    if overrides is None:
        return held
    return Stated(overrides, held.hosts, held.deployments, held.known)


@hookimpl
def configured(settings: Settings) -> None:
    """Keep the user's prices and hosts; the last settings win."""
    use(settings)


@hookimpl(specname="price", tryfirst=True)
def price_of_user(request: Request, usage: Usage, duration_s: float | None) -> Cost | None:
    """Answer with what was stated: the host's own charge, a host that is free, the user's price of the model or host."""
    return by_user(request, usage, held, None, duration_s)


@hookimpl(trylast=True)
def price(request: Request, usage: Usage) -> Cost | None:
    """Answer from genai-prices, when nobody else did."""
    return by_list(request, usage, held)


def by_user(
    request: Request, usage: Usage, stated: Stated, at: datetime | None = None, duration_s: float | None = None
) -> Cost | None:
    """Return what the host itself charged, 0 on a free host, or the cost by the user's prices; else None."""
    if usage.charged_usd is not None:
        return Cost(total=usage.charged_usd, source=PROVIDER)
    if stated.hosts and request.base_url and stated.host(request.base_url).free:
        return Cost(total=ZERO, source=HOST_SOURCE)
    if stated.overrides is None and not stated.hosts:
        return None  # nothing is stated
    found = finding.by_user(request, stated)
    if found is None:
        return None
    cost = found.cost(usage, duration_s)
    return finding.with_others(cost, request, usage, stated, at) if usage.also else cost


def by_list(request: Request, usage: Usage, stated: Stated, at: datetime | None = None) -> Cost | None:
    """Return the cost by the price list of whoever answers at the request's host, at the rates of `at` (now)."""
    found = finding.by_list(request, stated, at)
    cost = None if found is None else found.cost(usage)
    return finding.with_others(cost, request, usage, stated, at) if usage.also else cost
