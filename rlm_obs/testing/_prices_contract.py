"""The contract of price sources: a pytest class that the author of a `price` hook inherits, with the sums they expect."""

from __future__ import annotations

import decimal
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NoReturn

import pluggy
import pytest

from rlm_obs import _hookspecs
from rlm_obs._record import Cost, Request, Usage

PARTS = ("input", "cached_input", "cache_write", "output", "tools")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCase:
    """A call and what it has to cost, in US dollars: worked out by hand, from the provider's own page of prices.

    `params` are those of the request that change the price (`service_tier`). `at` is when the call is made, for a price
    that changes on a day; it is told to `move_clock`.
    """

    model: str
    usage: Usage
    usd: Decimal | str
    provider: str = "openai"
    params: Mapping[str, Any] = field(default_factory=dict)
    base_url: str = ""
    at: datetime | None = None

    @property
    def request(self) -> Request:
        """The request that is priced."""
        return Request(
            provider=self.provider,
            endpoint="/chat/completions",
            operation="chat",
            model=self.model,
            params=self.params,
            base_url=self.base_url,
        )


class PricesContract:
    """What every `price` hook keeps to. Inherit it in a test file, write `make_plugin` and `cases`; pytest runs the rest.

    `unknown_model` is one that your prices do not know; None if there is none such, as with a price per hour.
    """

    unknown_model: str | None = "a-model-that-nobody-has"
    _manager: pluggy.PluginManager | None = None

    def make_plugin(self) -> object:
        """Return the module, or the object, that has the hook."""
        raise AssertionError("write make_plugin(self) in your test class")

    def cases(self) -> Sequence[PriceCase]:
        """Return calls with what they have to cost: of each kind of price that you have, at least one."""
        raise AssertionError("write cases(self) in your test class")

    def move_clock(self, moment: datetime) -> None:
        """Set the clock that your prices ask."""
        raise AssertionError("a case has a date: write move_clock(self, moment)")

    # -- exactness ---------------------------------------------------------------------------------------------------

    def test_each_case_is_exact(self) -> None:
        """Each case costs what was worked out by hand, to the last digit; every amount is a Decimal, and has a source."""
        assert self.cases(), "no case: what do your prices say?"
        for case in self.cases():
            cost = self._cost_of(case)
            assert cost is not None, f"{case.model} has no price"
            assert cost.total == Decimal(case.usd), case
            assert cost.source.strip(), "a cost names its source"
            given = [part for name in PARTS if (part := getattr(cost, name)) is not None]
            assert all(type(part) is Decimal for part in [cost.total, *given]), cost
            assert sum(given) <= cost.total, f"the parts are more than the whole: {cost}"

    def test_the_precision_of_the_program_does_not_matter(self) -> None:
        """A program may have told `decimal` to round to a few digits: a price is exact all the same."""
        for case in self.cases():
            with decimal.localcontext(prec=3):
                cost = self._cost_of(case)
            assert cost is not None and cost.total == Decimal(case.usd), case

    def test_more_never_costs_less(self) -> None:
        """Ten times the tokens cost as much or more: a budget holds the most that a call can use, and relies on it."""
        for case in self.cases():
            counts = {f.name: getattr(case.usage, f.name) for f in fields(Usage)}
            more = {name: 10 * count for name, count in counts.items() if type(count) in (int, float)}
            cost = self._cost_of(case, replace(case.usage, **more))
            assert cost is None or cost.total >= Decimal(case.usd), case

    def test_a_price_holds_from_its_day(self) -> None:
        """A price that changes on a day is the old one before it and the new one from it on, whichever was asked first."""
        dated = sorted((case for case in self.cases() if case.at is not None), key=lambda case: str(case.at))
        if not dated:
            pytest.skip("no case has a date")
        for case in [*dated, *reversed(dated)]:
            cost = self._cost_of(case)
            assert cost is not None and cost.total == Decimal(case.usd), case

    # -- what is not known -------------------------------------------------------------------------------------------

    def test_an_unknown_model_has_no_price(self) -> None:
        """None for a model that is not on the list: 0 would be a free call, and the next plugin would not be asked."""
        if self.unknown_model is None:
            pytest.skip("every model has a price here")
        for case in self.cases():
            assert self._cost_of(replace(case, model=self.unknown_model)) is None

    def test_no_model_has_no_price(self) -> None:
        """None too for a call that names no model."""
        if self.unknown_model is None:
            pytest.skip("every model has a price here")
        for case in self.cases():
            assert self._ask(replace(case.request, model=None), case.usage) is None

    def test_an_unknown_usage_is_not_free(self) -> None:
        """An answer that says nothing of its usage costs an unknown amount, never 0."""
        for case in self._charged():
            cost = self._cost_of(case, Usage())
            assert cost is None or cost.total > 0, case

    @pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
    def test_what_is_not_said_is_not_taken_for_0(self, name: str) -> None:
        """Where the count of the input or of the output is missing, the cost is unknown, or says that it is not exact."""
        for case in self._charged():
            if getattr(case.usage, name):
                unsaid: Any = {name: None}
                cost = self._cost_of(case, replace(case.usage, **unsaid))
                assert cost is None or cost.caveats or cost.total >= Decimal(case.usd), case

    # -- harm --------------------------------------------------------------------------------------------------------

    def test_it_never_raises(self) -> None:
        """Whatever is asked, it answers with a finite amount, or None."""
        for request, usage in self._odd():
            cost = self._ask(request, usage)
            assert cost is None or (isinstance(cost, Cost) and cost.total.is_finite() and cost.total >= 0), request

    def test_it_asks_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It runs inside the user's call, so it connects to nothing: read your list when `configured` is called."""
        asked = []

        def refuse(*args: object, **kwargs: object) -> NoReturn:
            asked.append(args)
            raise OSError("a price asks nobody")

        self._ready()
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr(socket.socket, "connect", refuse)
        for case in self.cases():
            self._cost_of(case)
        assert not asked

    # -- what the tests use ------------------------------------------------------------------------------------------

    def _charged(self) -> Iterable[PriceCase]:
        return [case for case in self.cases() if Decimal(case.usd) > 0]

    def _odd(self) -> Iterable[tuple[Request, Usage]]:
        odd = [Usage(), Usage(input_tokens=0, output_tokens=0), Usage(input_tokens=10**12, output_tokens=10**12)]
        odd += [Usage(seconds=0.1), Usage(images=1), Usage(characters=7), Usage(output_tokens=1)]
        odd += [Usage(tool_calls={"web_search": 1}), Usage(input_tokens=1, also={"another": Usage(output_tokens=1)})]
        for case in self.cases():
            for usage in [case.usage, *odd]:
                for model in (case.model, None, "", "模型/🧾", "x" * 5000):
                    yield replace(case.request, model=model), usage
                yield replace(case.request, provider="", base_url="not a url:::"), usage
                yield replace(case.request, params={"service_tier": 7, "completion_window": ["2h"]}), usage
                yield replace(case.request, attributes={"user.id": "u"}, streamed=True), usage

    def _cost_of(self, case: PriceCase, usage: Usage | None = None) -> Cost | None:
        if case.at is not None:
            self.move_clock(case.at)
        return self._ask(case.request, case.usage if usage is None else usage)

    def _ready(self) -> pluggy.PluginManager:
        """Return a manager that has your plugin alone, and that has told it the settings; one per test."""
        if self._manager is not None:
            return self._manager
        from rlm_obs._settings import read_settings

        manager = pluggy.PluginManager("rlm_obs")
        manager.add_hookspecs(_hookspecs)
        manager.register(self.make_plugin())
        for one in manager.hook.configured.get_hookimpls():
            one.function(*([read_settings()] if one.argnames else []))
        assert manager.hook.price.get_hookimpls(), "there is no hook `price` in it"
        self._manager = manager
        return manager

    def _ask(self, request: Request, usage: Usage) -> Cost | None:
        """Ask as the library does, but let exceptions through."""
        said: dict[str, Any] = {"request": request, "usage": usage, "duration_s": 1.0}
        for one in reversed(self._ready().hook.price.get_hookimpls()):
            ask: Any = one.function
            cost: Cost | None = ask(*[said[name] for name in one.argnames])
            if cost is not None:
                assert isinstance(cost, Cost), f"the answer is a {type(cost).__name__}: give an rlm_obs.Cost, or None"
                return cost
        return None
