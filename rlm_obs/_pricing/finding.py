"""Finds whose rates hold for a call, the user's own or the list's, and by which factors they are changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from rlm_obs._pricing import genai, rules
from rlm_obs._pricing.deployments import Deployment
from rlm_obs._pricing.hosts import ASSUMED, Host, Hosts, provider_of
from rlm_obs._pricing.overrides import SOURCE, Overrides
from rlm_obs._pricing.rates import Rates
from rlm_obs._record import EXACT, Cost, Request, Usage

MOST_HOSTS = MOST_FOUND = 1024
#: What a list says is looked up again after so long: its rates may turn at each minute of the day, and newer data may come.
MINUTE_S = 60
HOST_SOURCE = "hosts"
NO_ALSO = "there is no price for {0}, which the call used too"


@dataclass(slots=True)
class Stated:
    """What the user's settings say about prices; `known` keeps who answers at each base URL, `listed` and `answered` the rates
    that were found since `moment` last turned."""

    overrides: Overrides | None = None
    hosts: Hosts = field(default_factory=dict)
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    known: dict[str, Host] = field(default_factory=dict)
    listed: dict[tuple[object, ...], Found | None] = field(default_factory=dict)
    answered: dict[tuple[object, ...], Found | None] = field(default_factory=dict)
    _began: float = 0.0
    _moment: object = None

    def moment(self) -> object:
        """Return the same object for a minute of the clock; then what was found in the list is forgotten, and looked up again."""
        if not self._began <= time.time() < self._began + MINUTE_S:
            self.listed, self.answered = {}, {}
            self._moment = object()
            self._began = (
                time.time() // MINUTE_S * MINUTE_S
            )  # last: another thread takes it for a sign that the rest is new
        return self._moment

    def host(self, base_url: str) -> Host:
        """Return who answers at a base URL."""
        found = self.known.get(base_url)
        if found is None:
            if len(self.known) >= MOST_HOSTS:
                self.known.clear()
            found = self.known[base_url] = provider_of(base_url, self.hosts)
        return found


@dataclass(slots=True)  # made for each call: frozen, it would take twice as long
class Found:
    """The rates of one model, who says so, and what they are multiplied by, each factor with its reason."""

    rates: Rates
    source: str
    caveats: tuple[str, ...] = ()
    factors: tuple[tuple[str, Decimal], ...] = ()

    def cost(self, usage: Usage, duration_s: float | None = None) -> Cost | None:
        """Return what a usage costs by these rates."""
        cost = self.rates.cost(usage, self.source, self.caveats, duration_s)
        if cost is not None:
            for _, factor in self.factors:
                cost = rules.scaled(cost, factor)
        return cost


def by_user(request: Request, stated: Stated) -> Found | None:
    """Return the user's own rates: of the model, else of the host; None where they say nothing."""
    model = request.model
    if stated.overrides is not None and isinstance(model, str):
        rates = stated.overrides.rates(request.provider, model)
        if rates is not None:
            return Found(rates, SOURCE)
    if stated.hosts and request.base_url:
        rates = stated.host(request.base_url).rates
        if rates is not None:
            return Found(rates, HOST_SOURCE)
    return None


def by_list(request: Request, stated: Stated, at: datetime | None = None) -> Found | None:
    """Return the rates of the price list of whoever answers at the request's host, at the time `at` (now)."""
    if at is not None:
        return _in_list(request, stated, at)
    params = request.params
    key = (
        *(request.provider, request.model, request.base_url, request.endpoint),
        *(params.get("service_tier"), params.get("deployment"), params.get("completion_window")),
    )
    stated.moment()
    kept = stated.listed
    try:
        return kept[key]
    except KeyError:
        if len(kept) >= MOST_FOUND:
            kept.clear()
        found = kept[key] = _in_list(request, stated, None)
        return found
    except TypeError:  # a parameter that is no text
        return _in_list(request, stated, None)


def _in_list(request: Request, stated: Stated, at: datetime | None) -> Found | None:
    model, params = request.model, request.params
    if not isinstance(model, str) or not model:
        return None
    tier = params.get("service_tier")
    if not isinstance(tier, str):
        tier = None
    provider, regional = request.provider, False
    caveats: tuple[str, ...] = ()
    if request.base_url:
        host = stated.host(request.base_url)
        if host.declared or request.provider == host.provider:
            provider, regional = host.bills_like, host.regional
            caveats = (host.caveat,) if host.caveat else ()
        else:  # another SDK's call, at a host of its own
            caveats = (ASSUMED.format(request.provider),)
    factors: tuple[tuple[str, Decimal], ...] = ()
    if provider in ("azure", "azure.ai.openai"):
        deployed = stated.deployments.get(str(params.get("deployment") or model))
        if deployed is not None:
            if deployed.provisioned:
                return None
            if model == params.get("deployment", model) or genai.resolve(provider, model, tier, at) is None:
                model = deployed.model
            if deployed.data_zone:
                factors = (("data zone", rules.UPLIFT),)
    elif provider == "openai":
        if regional and rules.is_newer(model):
            factors = (("regional host", rules.UPLIFT),)
        left = rules.WINDOWS.get(window) if isinstance(window := params.get("completion_window"), str) else None
        if left is not None and tier in rules.STANDARD:
            factors = (*factors, (f"waits up to {window}", left))
        if request.endpoint.endswith("/decisions"):
            provider = "openai-decisions"
    rates = genai.resolve(provider, model, tier, at)
    return None if rates is None else Found(rates, genai.source(), caveats, factors)


def as_answered(request: Request, model: str | None, tier: str | None) -> Request:
    """Return a request as it was answered: that model and tier are what is billed."""
    if model is None and tier is None:
        return request
    return Request(  # in full: `dataclasses.replace` takes three times as long
        provider=request.provider,
        endpoint=request.endpoint,
        operation=request.operation,
        model=model or request.model,
        params=request.params if tier is None else {**request.params, "service_tier": tier},
        streamed=request.streamed,
        base_url=request.base_url,
        attributes=request.attributes,
    )


def by_tokens(request: Request, model: str | None, tier: str | None, stated: Stated) -> Found | None:
    """Return the rates that hold for a request as it was answered, found once a minute; None where rates do not tell all."""
    moment, kept = stated.moment(), request.found.get("rates")
    if kept is not None and kept[0] is moment and kept[1] == model and kept[2] == tier:
        there: Found | None = kept[3]
        return there
    try:
        there = _as_answered(request, model, tier, stated)
    except TypeError:  # a parameter that is no text
        return None
    request.found["rates"] = moment, model, tier, there
    return there


def _as_answered(request: Request, model: str | None, tier: str | None, stated: Stated) -> Found | None:
    """Return what `by_tokens` does, found once for all requests that are priced alike."""
    params, kept = request.params, stated.answered
    key = (
        *(request.provider, model or request.model, request.base_url, request.endpoint),
        *(tier or params.get("service_tier"), params.get("deployment"), params.get("completion_window")),
    )
    if key not in kept:
        if len(kept) >= MOST_FOUND:
            kept.clear()
        free = stated.hosts and request.base_url and stated.host(request.base_url).free
        kept[key] = None if free else found(as_answered(request, model, tier), stated)
    return kept[key]


def found(request: Request, stated: Stated, at: datetime | None = None) -> Found | None:
    """Return the rates that hold: the user's, else the list's."""
    return by_user(request, stated) or by_list(request, stated, at)


def with_others(cost: Cost | None, request: Request, usage: Usage, stated: Stated, at: datetime | None) -> Cost | None:
    """Add what other models used within the call; one without a price is a caveat, unless nothing at all is known."""
    if cost is None and says_own(usage):
        return None
    missing = []
    for model, used in usage.also.items():
        there = found(replace(request, model=model), stated, at)
        part = None if there is None else there.cost(used)
        if part is None:
            missing.append(NO_ALSO.format(model))
        else:
            cost = part if cost is None else cost.plus(part)
    if cost is None or not missing:
        return cost
    return replace(cost, caveats=(*cost.caveats, *missing))


def says_own(usage: Usage) -> bool:
    """Tell whether a usage says anything of the call's own model, beside what others used."""
    return usage.input_tokens is not None or usage.output_tokens is not None or bool(usage.tool_calls)


def left_of(known: Sequence[Found], request: Request, overrides: Overrides | None) -> list[Decimal]:
    """Return what is left of the price by each of these rates after the user's discount: 1 where there is none."""
    share = (
        None
        if overrides is None or not overrides.discounts
        else overrides.discount(request.provider, request.model or "")
    )
    one = Decimal(1)
    return [one if not share or found.source.startswith(STATED) else EXACT.subtract(one, share) for found in known]


def discounted(cost: Cost, request: Request, overrides: Overrides | None) -> Cost:
    """Return a cost with the user's discount taken off: off a list's or a plugin's, never off what somebody stated."""
    if overrides is None or not overrides.discounts or cost.source.startswith(STATED):
        return cost
    share = overrides.discount(request.provider, request.model or "")
    if not share:
        return cost
    percent = format(EXACT.multiply(share, Decimal(100)).normalize(EXACT), "f")
    source = f"{cost.source}, {percent}% off"
    return rules.scaled(cost, EXACT.subtract(Decimal(1), share), tools=True, source=source)


#: Who need not be discounted: the user's own prices, the host's own charge, and what is known to be 0.
STATED = (SOURCE, HOST_SOURCE, "provider", "status", "not ")
