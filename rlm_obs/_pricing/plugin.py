"""The built-in plugin of prices: the user's own first of all plugins, genai-prices after all others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from rlm_obs._hookspecs import hookimpl
from rlm_obs._pricing import genai
from rlm_obs._pricing import hosts as host_names
from rlm_obs._pricing.hosts import ASSUMED, Host, provider_of
from rlm_obs._pricing.overrides import SOURCE, Overrides
from rlm_obs._pricing.parts import ZERO
from rlm_obs._record import Cost, Request, Usage

if TYPE_CHECKING:
    from rlm_obs._settings import Settings

#: What `configured` was told last: the user's prices and hosts.
_user: tuple[Overrides | None, Mapping[str, str]] = (None, {})
#: Who answers at each base URL, by those hosts.
_hosts: dict[str, Host] = {}
MOST_HOSTS = 1024


def use(settings: Settings) -> None:
    """Take the user's prices and hosts from the settings. Raises ConfigError where they are wrong."""
    global _user, _hosts
    host_names.check(settings.hosts)
    _user, _hosts = (Overrides.read(settings.prices), dict(settings.hosts)), {}


@hookimpl
def configured(settings: Settings) -> None:
    """Keep the user's prices and hosts; the last settings win."""
    use(settings)


@hookimpl(specname="price", tryfirst=True)
def price_of_user(request: Request, usage: Usage) -> Cost | None:
    """Answer with what the user stated: a host that is free, or a price of the model.

    The provider's own charge in an answer will be read here too, before either of them.
    """
    return by_user(request, usage, _user[0])


@hookimpl(trylast=True)
def price(request: Request, usage: Usage) -> Cost | None:
    """Answer from genai-prices, when nobody else did."""
    return by_list(request, usage)


def by_user(request: Request, usage: Usage, overrides: Overrides | None) -> Cost | None:
    """Return 0 on a host that was declared free, else the cost by `overrides`, or None where they say nothing."""
    hosts = _user[1]
    if hosts and request.base_url and _host(request.base_url).free:
        return Cost(total=ZERO, source="hosts")
    if overrides is None or not isinstance(request.model, str):
        return None
    rates = overrides.rates(request.provider, request.model)
    return None if rates is None else rates.cost(usage, SOURCE)


def by_list(request: Request, usage: Usage, at: datetime | None = None) -> Cost | None:
    """Return the cost by the price list of whoever answers at the request's host, at the rates of `at` (now)."""
    if not isinstance(request.model, str) or not request.model:
        return None
    tier = request.params.get("service_tier")
    provider, caveats = _billing(request)
    rates = genai.resolve(provider, request.model, tier if isinstance(tier, str) else None, at)
    return None if rates is None else rates.cost(usage, genai.source(), caveats)


def _billing(request: Request) -> tuple[str, tuple[str, ...]]:
    """Return whose list holds, and the caveat of a host that nobody declared."""
    if not request.base_url:
        return request.provider, ()
    host = _host(request.base_url)
    if not host.declared and request.provider != host.provider:  # another SDK's call, at a host of its own
        return request.provider, (ASSUMED.format(request.provider),)
    return host.bills_like, (host.caveat,) if host.caveat else ()


def _host(base_url: str) -> Host:
    found = _hosts.get(base_url)
    if found is None:
        if len(_hosts) >= MOST_HOSTS:
            _hosts.clear()
        found = _hosts[base_url] = provider_of(base_url, _user[1])
    return found
