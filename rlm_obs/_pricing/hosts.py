"""Tells which provider a base URL is, and so whose price list holds there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from rlm_obs._pricing.overrides import rates_of
from rlm_obs._pricing.rates import Rates
from rlm_obs.errors import ConfigError

FREE = "free"
ASSUMED = "host assumed to bill like {0}"
AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
#: genai-prices' ids -> OpenTelemetry's names, where they are not the same; the others stay as they are.
NAMES = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshotai": "moonshot_ai",
    "x-ai": "x_ai",
}
#: What the setting `hosts` says: host -> "free", a provider, or prices.
Hosts = Mapping[str, "str | Mapping[str, Any]"]
#: Names that need no look into the price data.
COMMON = frozenset({"openai", "anthropic", "cohere", "deepseek", "groq", "openrouter", "perplexity", "together"})


@dataclass(frozen=True, slots=True)
class Host:
    """Who answers at a base URL: `provider` by OpenTelemetry's name, `bills_like` by that of the price list.

    `declared` is False for a host that nobody knows: an OpenAI model there is priced as OpenAI's, and `caveat` says so.
    `rates` are the host's own, whatever the model; `regional` is one of OpenAI's hosts that add to newer models' prices.
    """

    provider: str
    bills_like: str
    declared: bool = True
    free: bool = False
    caveat: str | None = None
    regional: bool = False
    rates: Rates | None = None


OPENAI = Host("openai", "openai")
UNKNOWN = Host("openai", "openai", declared=False, caveat=ASSUMED.format("openai"))


def provider_of(base_url: str, hosts: Hosts | None = None) -> Host:
    """Return who answers at `base_url`: as the setting `hosts` says, else by its name; kept, so it costs a microsecond.

    Loopback and private hosts are like any other that nobody declared: priced as OpenAI's only for OpenAI's models, and
    with a caveat. Raises ConfigError for a `hosts` that cannot be.
    """
    return _known(base_url, tuple([(key, _frozen(bills)) for key, bills in hosts.items()]) if hosts else ())


def check(hosts: Hosts) -> None:
    """Raise ConfigError where a key is not host[:port], or a value not "free", a provider's name, or prices."""
    for host, bills in hosts.items():
        name, _ = _split(f"//{host}")
        if not name or "/" in host or "@" in host:
            raise ConfigError(f'hosts: {host!r} is no host: give it as "localhost:11434" or "llm.acme.example"')
        _declared(host, _frozen(bills))


def _frozen(bills: str | Mapping[str, Any]) -> Any:
    return tuple(bills.items()) if isinstance(bills, Mapping) else bills


@lru_cache(maxsize=1024)
def _known(base_url: str, hosts: tuple[tuple[str, Any], ...]) -> Host:
    name, port = _split(base_url)
    declared = {_split(f"//{key}"): bills for key, bills in hosts}
    for key in ((name, port), (name, None)):
        if name and key in declared:
            return _declared(name, declared[key])
    if name == "api.openai.com":
        return OPENAI
    if name.endswith(".api.openai.com"):
        return Host("openai", "openai", regional=True)
    if name.endswith(AZURE):
        return Host("azure.ai.openai", "azure")
    listed = _listed(name, base_url) if "." in name and not re.fullmatch(r"[\d.]+|.*:.*", name) else None
    if listed is None:
        return UNKNOWN
    vertex = listed == "google" and name.endswith("aiplatform.googleapis.com")
    return Host("gcp.vertex_ai" if vertex else NAMES.get(listed, listed), listed)


def _declared(host: str, bills: Any) -> Host:
    if bills == FREE:
        return Host("openai", "openai", free=True)
    if isinstance(bills, tuple):
        return Host("openai", "openai", rates=rates_of(dict(bills), "hosts", host))
    listed = _provider(bills) if isinstance(bills, str) else None
    if listed is None:
        from rlm_obs._settings import near

        known = {FREE, *COMMON, *NAMES.values()}
        raise ConfigError(f'hosts: {host!r} = {bills!r} is not "free", a provider or prices{near(str(bills), known)}')
    return Host(NAMES.get(listed, listed), listed)


def _provider(name: str) -> str | None:
    """Return the price list's id of a provider given by either name, or None."""
    from rlm_obs._pricing import genai

    listed = genai.IDS.get(name, name)
    if listed in COMMON or listed in NAMES or any(p.id == listed for p in genai.providers()):
        return listed
    return None


def _listed(name: str, base_url: str) -> str | None:
    """Return the provider whose `api_pattern` names this host to its end (`api.deepseek.com.proxy.example` is none)."""
    from rlm_obs._pricing import genai

    start = f"https://{name}"
    path = base_url.partition("//")[2].partition("/")[2]
    for provider in genai.providers():
        found = re.match(provider.api_pattern, f"{start}/{path}")
        if found is None:
            continue
        left = start[found.end() :]
        if not left or (provider.api_pattern.endswith(r"\.") and "." not in left):
            return provider.id
    return None


def _split(url: str) -> tuple[str, int | None]:
    """Return host and port (of the scheme where it gives none), lower-case; ("", None) for what is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return (parts.hostname or "").rstrip("."), port
    except ValueError:
        return "", None
