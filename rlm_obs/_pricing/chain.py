"""Asks every source of prices in turn: the user, the plugins, the built-in list; and says so when none knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rlm_obs import _guard
from rlm_obs._guard import say_once
from rlm_obs._pricing import plugin
from rlm_obs._pricing.dearest import Dearest
from rlm_obs._pricing.finding import as_answered, by_tokens, discounted
from rlm_obs._pricing.slopes import Slopes
from rlm_obs._record import Cost, Request, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from rlm_obs._budgets.bound import Bound
    from rlm_obs._plugins import Plugins
    from rlm_obs._pricing.finding import Found

#: After so many unknown models nothing more is said: made-up names shall fill neither log nor memory.
MOST_SAID = 256
NOBODY = 'The setting hosts says who bills at {0!r}: "free", a provider, or prices by the token or hour.'


class Chain:
    """The prices of a process. Raises ConfigError where the settings' prices, hosts or deployments are wrong."""

    def __init__(self, plugins: Plugins) -> None:
        plugin.use(plugins.settings)
        self._plugins = plugins
        self._said: set[tuple[str, str]] = set()
        self._dearest = Dearest(self._ask, plugins.settings.project_tier)
        self._slopes = Slopes(plugins.settings.project_tier)
        self._known: object = None  # what `_alone` was found in
        self._alone = False

    def price(self, request: Request, usage: Usage, duration_s: float | None = None) -> Cost | None:
        """Return the first answer of the `price` hooks, less the user's discount.

        None is "nobody knows": then the log says, once per model, how to price it. `duration_s` is None before the call.
        """
        return self.charge(request, usage, duration_s, None, None)

    def charge(
        self, request: Request, usage: Usage, duration_s: float | None, model: str | None, tier: str | None
    ) -> Cost | None:
        """Return what `price` does for a request that was answered by `model` and `tier`, None where it does not say.

        Where nobody but the built-in plugin prices, a usage of tokens is multiplied by the rates that are at hand.
        """
        stated = plugin.held
        plain = usage.charged_usd is None and not usage.also
        if self._plugins.known is not self._known:
            self._look_around()
        if plain and self._alone and (stated.overrides is None or not stated.overrides.discounts):
            found = None
            try:
                found = by_tokens(request, model, tier, stated)
            except Exception as error:
                _guard.failed("price", error)
            if found is not None:
                rates = found.rates  # what `found.cost` does, a call less
                cost = (
                    found.cost(usage, duration_s)
                    if found.factors
                    else rates.cost(usage, found.source, found.caveats, duration_s)
                )
                if cost is not None:
                    return cost
        answered = as_answered(request, model, tier)
        cost = self._ask(answered, usage, duration_s)
        if cost is None and usage.to_dict():
            self._say(answered)
        return cost

    def total(
        self, request: Request, counts: Mapping[str, int], model: str | None, tier: str | None
    ) -> tuple[Decimal, Found] | None:
        """Return the total of what `charge` says of counts of text, and the rates that tell the rest of it; None where it
        takes more to say, or has a caveat."""
        stated = plugin.held
        if self._plugins.known is not self._known:
            self._look_around()
        if not self._alone or (stated.overrides is not None and stated.overrides.discounts):
            return None
        found = by_tokens(request, model, tier, stated)
        if found is None or found.factors or found.caveats:
            return None
        total = found.rates.total(counts)
        return None if total is None else (total, found)

    def most(self, request: Request, bound: Bound, output_tokens: int | None = None) -> Cost | None:
        """Return the most that a call can cost: at the dearest tier and cache that its bill may show; None as `price`.

        `output_tokens` are those of the bound if not given.
        """
        cost = self._dearest.cost(request, bound, output_tokens)
        if cost is None:
            self._say(request)
        return cost

    def most_usd(self, request: Request, bound: Bound, output_tokens: int | None = None) -> Decimal | None:
        """Return what `most` does, the amount alone; where nobody but the built-in plugin prices, by its rates at once."""
        if self._plugins.known is not self._known:
            self._look_around()
        if self._alone:
            try:
                usd = self._slopes.most(request, bound, output_tokens, plugin.held)
            except Exception as error:
                _guard.failed("price", error)
                usd = None
            if usd is not None:
                return usd
        cost = self.most(request, bound, output_tokens)
        return None if cost is None else cost.total

    def _look_around(self) -> None:
        """See whether the built-in plugin is the only one with a `price`; then its answers need not be asked for."""
        known, callers = self._plugins.known, self._plugins.callers("price")
        self._alone = [function for _, function, _ in callers] == [plugin.price_of_user, plugin.price]
        self._known = known  # last: another thread takes it for a sign that the rest is true

    def _ask(self, request: Request, usage: Usage, duration_s: float | None = None) -> Cost | None:
        cost: Cost | None = self._plugins.first("price", request=request, usage=usage, duration_s=duration_s)
        overrides = plugin.stated().overrides
        return cost if cost is None or overrides is None else discounted(cost, request, overrides)

    def _say(self, request: Request) -> None:
        model = request.model
        if not model or (request.provider, model) in self._said or len(self._said) >= MOST_SAID:
            return
        self._said.add((request.provider, model))
        tier = request.params.get("service_tier")
        declared = not request.base_url or plugin.stated().host(request.base_url).declared
        say_once(
            f"no price {request.provider} {model}",
            "no price is known for %r (%s%s): its calls cost an unknown amount, which is not 0. %s"
            "Give it in the file that RLM_OBS_PRICES names, in US dollars per million tokens:\n[%s]\n%s",
            model,
            request.provider,
            f", service tier {tier!r}" if isinstance(tier, str) else "",
            "" if declared else f"{NOBODY.format(urlsplit(request.base_url).netloc)} ",
            json.dumps(model, ensure_ascii=False),  # a TOML key in quotes
            "input = 1.00\noutput = 4.00",
        )
