"""The chain of price sources, as the hooks see it."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from rlm_obs._hookspecs import hookimpl
from rlm_obs._plugins import Plugins
from rlm_obs._pricing import Chain, plugin, price
from rlm_obs._record import Cost, Request, Usage
from rlm_obs._settings import read_settings
from rlm_obs.errors import ConfigError

USAGE = Usage(input_tokens=1_000_000, output_tokens=0)


@pytest.fixture(autouse=True)
def _nobodys_prices() -> Iterator[None]:
    """Leave no test's prices and hosts behind."""
    yield
    plugin.held = plugin.Stated()


def chain(**settings: Any) -> Chain:
    """Build a chain over the installed plugins, and over the module of prices if the package is not installed."""
    plugins = Plugins(read_settings(settings))
    if not plugins.manager.has_plugin("prices"):
        plugins.register(plugin, name="prices")
    return Chain(plugins)


def request(model: str | None = "gpt-4o", base_url: str = "https://api.openai.com/v1", **params: Any) -> Request:
    return Request(
        provider="openai", endpoint="/chat/completions", operation="chat", model=model, params=params, base_url=base_url
    )


def test_the_list_prices_a_listed_model() -> None:
    """Without anything stated, a listed model costs what the list says."""
    cost = chain().price(request(), USAGE)
    assert cost is not None
    assert cost.total == Decimal("2.5")
    assert cost.source.startswith("genai-prices ")
    assert cost.exact


def test_a_plugin_wins_over_the_list_and_the_user_over_a_plugin() -> None:
    """The user's prices come first, a plugin's next, the built-in list last."""

    class Mine:
        @hookimpl
        def price(self, request: Request, usage: Usage) -> Cost | None:
            return Cost(total=Decimal(7), source="mine") if request.model != "gpt-4o-mini" else None

    prices = chain(prices={"o3": {"input": 9, "output": 9}})
    prices._plugins.register(Mine())
    sources = {}
    for model in ("gpt-4o", "gpt-4o-mini", "o3"):
        cost = prices.price(request(model), USAGE)
        assert cost is not None
        sources[model] = cost.source.split()[0]
    assert sources == {"gpt-4o": "mine", "gpt-4o-mini": "genai-prices", "o3": "override"}


def test_the_answered_tier_is_priced() -> None:
    """`service_tier` among the parameters is the tier that is priced; one without a price is unknown."""
    prices = chain()
    cost = prices.price(request(service_tier="priority"), USAGE)
    assert cost is not None
    assert cost.total == Decimal("4.25")
    assert prices.price(request(service_tier="scale"), USAGE) is None


def test_a_free_host_costs_nothing() -> None:
    """A host that is declared free costs exactly 0, whatever the model, and for no other host."""
    prices = chain(hosts={"localhost:11434": "free"}, prices={"llama3": {"input": 1, "output": 1}})
    cost = prices.price(request("llama3", "http://localhost:11434/v1"), USAGE)
    assert cost == Cost(total=Decimal(0), source="hosts")
    paid = prices.price(request("llama3", "http://localhost:8000/v1"), USAGE)
    assert paid is not None
    assert paid.total == 1


def test_an_undeclared_host_is_assumed_to_bill_like_openai() -> None:
    """At a host nobody declared, OpenAI's models cost what they cost there, with a caveat; other models are unknown."""
    prices = chain()
    cost = prices.price(request("gpt-4o", "http://127.0.0.1:8000/v1"), USAGE)
    assert cost is not None
    assert cost.total == Decimal("2.5")
    assert cost.caveats == ("host assumed to bill like openai",)
    for model in ("llama3", "gpt-oss-20b", "deepseek-chat"):
        assert prices.price(request(model, "http://127.0.0.1:8000/v1"), USAGE) is None


def test_a_declared_host_bills_like_its_provider() -> None:
    """A host declared as a provider has that provider's prices, without a caveat."""
    cost = chain(hosts={"llm.acme.example": "groq"}).price(
        request("llama-3.3-70b-versatile", "https://llm.acme.example/v1"), USAGE
    )
    assert cost is not None
    assert cost.total == Decimal("0.59")
    assert cost.exact


@pytest.mark.parametrize("settings", [{"prices": {"m": {"input": -1}}}, {"hosts": {"h": "freee"}}])
def test_wrong_settings_are_an_error_where_they_are_given(settings: dict[str, Any]) -> None:
    """Prices and hosts that cannot be are a ConfigError when the chain is built, not a log line later."""
    with pytest.raises(ConfigError):
        chain(**settings)


def test_the_last_settings_win() -> None:
    """Settings that come later, through the hook, replace the prices of the earlier."""
    prices = chain(prices={"mine": {"input": 1, "output": 1}})
    prices._plugins.configured(read_settings({"prices": {"mine": {"input": 2, "output": 2}}}))
    cost = prices.price(request("mine"), USAGE)
    assert cost is not None
    assert cost.total == 2


def test_an_unknown_model_is_said_once_with_what_would_price_it(caplog: pytest.LogCaptureFixture) -> None:
    """A model without a price is logged once, with lines that price it when they are put into the file of prices."""
    prices = chain()
    with caplog.at_level(logging.WARNING, "rlm_obs"):
        for _ in range(3):
            assert prices.price(request("acme-9.1"), USAGE) is None
    (record,) = caplog.records
    assert "'acme-9.1'" in record.getMessage()
    lines = record.getMessage().partition("\n")[2]
    stated = chain(prices=tomllib.loads(lines))
    cost = stated.price(request("acme-9.1"), USAGE)
    assert cost is not None
    assert cost.total == 1


def test_an_unknown_usage_is_not_a_missing_price(caplog: pytest.LogCaptureFixture) -> None:
    """A call that says nothing of its usage is unknown, and no price is said to be missing; nor without a name."""
    prices = chain()
    assert prices.price(request(), Usage()) is None
    assert prices.price(request(None), USAGE) is None
    assert caplog.records == []


def test_a_flood_of_names_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """After some hundred unknown names the log says no more."""
    prices = chain()
    for number in range(400):
        prices.price(request(f"made-up-{number}"), USAGE)
    assert len(caplog.records) <= 256


def test_hooks_take_odd_requests() -> None:
    """A tier that is no string, or another SDK's call at its own host, is priced as far as it can be."""
    assert plugin.price(request(service_tier=7), USAGE) is not None
    theirs = SimpleNamespace(
        provider="anthropic",
        endpoint="/v1/messages",
        model="claude-haiku-5-5",
        params={},
        base_url="https://gate.acme.example",
    )
    cost = plugin.price(theirs, USAGE)  # type: ignore[arg-type]
    assert cost is not None
    assert cost.caveats == ("host assumed to bill like anthropic",)


def test_what_a_call_depends_on_is_taken_from_its_parameters() -> None:
    """The deployment, the window of the wait and the time of the call price it, as they price a recorded answer."""
    prices = chain(azure_deployments={"eu": "gpt-4o@data-zone"}, hosts={"gpu:1": {"per_hour": "3.6"}})
    azure = Request(
        provider="azure.ai.openai", endpoint="", operation="chat", model="gpt-4o-2024-11-20",
        params={"deployment": "eu"}, base_url="https://a.openai.azure.com/openai/v1",
    )  # fmt: skip
    waits = request("gpt-5.4", completion_window="8h")  # above the step: 5 dollars, and 40% less
    hour = request("llama3", "http://gpu:1/v1")
    costs = [prices.price(azure, USAGE), prices.price(waits, USAGE), prices.price(hour, USAGE, 20.0)]
    assert [cost.total for cost in costs if cost] == [Decimal("2.75"), Decimal("3.0"), Decimal("0.02")]
    before = prices.price(hour, USAGE)
    assert before is not None
    assert before.total == Decimal("0.001")
    assert before.caveats == ("the time that the call takes is not known; a second is counted",)


def test_a_discount_is_off_plugins_too() -> None:
    """What a plugin says is discounted, its parts too or only its total; what the user stated is not."""

    class Mine:
        @hookimpl
        def price(self, request: Request, usage: Usage) -> Cost | None:
            return Cost(total=Decimal(8), source="mine")

    prices = chain(prices={"o3": {"input": 9, "output": 9}, "discount": {"*": "25%"}})
    prices._plugins.register(Mine())
    mine, own = prices.price(request(), USAGE), prices.price(request("o3"), USAGE)
    assert mine == Cost(total=Decimal(6), source="mine, 25% off")
    assert own is not None
    assert (own.total, own.source) == (9, "override")


def test_an_unknown_host_is_said_with_the_setting_that_declares_it(caplog: pytest.LogCaptureFixture) -> None:
    """The log line of a model at a host that nobody declared names the host and the setting."""
    assert chain().price(request("llama3.3", "http://gpu.acme.example:8000/v1"), USAGE) is None
    assert "hosts says who bills at 'gpu.acme.example:8000'" in caplog.text


@pytest.mark.parametrize(
    ("deployments", "said"),
    [({"a": "gpt-4o@moon"}, "gpt-4o@moon"), ({"a": ""}, "'a'"), ({"": "gpt-4o"}, "''")],
)
def test_a_deployment_that_cannot_be_is_an_error(deployments: dict[str, str], said: str) -> None:
    """A deployment without a model, or billed in a way that does not exist, is a ConfigError that names it."""
    with pytest.raises(ConfigError, match="azure_deployments") as caught:
        chain(azure_deployments=deployments)
    assert said in str(caught.value)


@pytest.mark.parametrize("discount", [{"*": 2}, {"*": "150%"}, {"*": "x"}, "10%"])
def test_a_discount_that_cannot_be_is_an_error(discount: Any) -> None:
    """A share that is no share is a ConfigError."""
    with pytest.raises(ConfigError, match="discount"):
        price("gpt-4o", USAGE, overrides={"discount": discount})
