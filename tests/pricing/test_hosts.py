"""Which provider a base URL is."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rlm_obs._pricing.hosts import ASSUMED, Host, check, provider_of
from rlm_obs.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "provider", "list_"),
    [
        ("https://api.openai.com/v1", "openai", "openai"),
        ("https://API.openai.com:443/v1/", "openai", "openai"),
        ("https://eu.api.openai.com/v1", "openai", "openai"),
        ("https://acme.openai.azure.com/openai/deployments/x", "azure.ai.openai", "azure"),
        ("https://acme.cognitiveservices.azure.com/openai/v1", "azure.ai.openai", "azure"),
        ("https://acme.services.ai.azure.com/openai/v1", "azure.ai.openai", "azure"),
        ("https://api.deepseek.com", "deepseek", "deepseek"),
        ("https://api.groq.com/openai/v1", "groq", "groq"),
        ("https://api.mistral.ai/v1", "mistral_ai", "mistral"),
        ("https://api.perplexity.ai", "perplexity", "perplexity"),
        ("https://api.x.ai/v1", "x_ai", "x-ai"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gcp.gemini", "google"),
        ("https://europe-west1-aiplatform.googleapis.com/v1/x", "gcp.vertex_ai", "google"),
        ("https://openrouter.ai/api/v1", "openrouter", "openrouter"),
        ("https://api.together.xyz/v1", "together", "together"),
        ("https://api.moonshot.ai/v1", "moonshot_ai", "moonshotai"),
        ("https://router.huggingface.co/groq/openai/v1", "huggingface_groq", "huggingface_groq"),
        ("https://api.anthropic.com/v1", "anthropic", "anthropic"),
    ],
)
def test_known_hosts(url: str, provider: str, list_: str) -> None:
    """A provider's own host is known by its name, in OpenTelemetry's words and in those of the price list."""
    host = provider_of(url, {})
    assert (host.provider, host.bills_like, host.declared, host.free) == (provider, list_, True, False)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:11434/v1",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000/v1",
        "https://llm.acme.example/v1",
        "https://api.openai.com.proxy.example/v1",
        "https://api.deepseek.com.proxy.example/v1",
        "https://notapi.openai.com/v1",
        "https://proxy.example/https://api.deepseek.com",
        "",
        "no url",
        "http://[bad",
        "http://host:notaport/",
    ],
)
def test_other_hosts_are_assumed_and_said(url: str) -> None:
    """A host that nobody declared is called openai and not declared; loopback too, and whatever only looks like one."""
    assert provider_of(url, {}) == Host("openai", "openai", declared=False, caveat=ASSUMED.format("openai"))


@pytest.mark.parametrize(
    ("key", "url", "holds"),
    [
        ("localhost:11434", "http://localhost:11434/v1", True),
        ("localhost:11434", "http://localhost:8000/v1", False),
        ("localhost", "http://localhost:8000/v1", True),
        ("LLM.acme.example", "https://llm.acme.example/v1", True),
        ("llm.acme.example:443", "https://llm.acme.example/v1", True),
        ("[::1]:8000", "http://[::1]:8000/v1", True),
        ("acme.example", "https://llm.acme.example/v1", False),
    ],
)
def test_a_host_is_declared_with_or_without_its_port(key: str, url: str, holds: bool) -> None:
    """`hosts` names a host exactly, with its port or for all ports."""
    assert provider_of(url, {key: "free"}).free is holds


def test_a_declared_host_bills_like_its_provider() -> None:
    """A declared host has the provider's name and list, no caveat; either spelling of the provider will do."""
    for name in ("mistral_ai", "mistral"):
        host = provider_of("https://llm.acme.example", {"llm.acme.example": name})
        assert host == Host("mistral_ai", "mistral")
    assert provider_of("https://api.openai.com/v1", {"api.openai.com": "free"}).free


@pytest.mark.parametrize("hosts", [{"h": "freee"}, {"h": "no-such-provider"}, {"https://h/v1": "free"}, {"": "free"}])
def test_a_host_that_cannot_be_is_an_error(hosts: dict[str, str]) -> None:
    """A value that is neither "free" nor a provider, or a key that is no host, is a ConfigError that names it."""
    with pytest.raises(ConfigError, match="hosts: ") as caught:
        check(hosts)
    assert next(iter(hosts)) in str(caught.value)


def test_regional_hosts_are_known() -> None:
    """OpenAI's regional hosts are told from its main one, since they add to the price of newer models."""
    assert provider_of("https://us.api.openai.com/v1").regional
    assert not provider_of("https://api.openai.com/v1").regional


def test_a_host_has_prices_of_its_own() -> None:
    """A host may be given prices as a model is; one that cannot be is a ConfigError."""
    host = provider_of("http://gpu.acme.example:8000/v1", {"gpu.acme.example:8000": {"per_hour": "3.60"}})
    assert host.rates is not None
    assert host.rates.per_hour == Decimal("3.60")
    with pytest.raises(ConfigError, match="per_our"):
        check({"h": {"per_our": 1}})
