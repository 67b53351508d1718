"""The receivers of OTLP that have a name: an address, a few headers and a spelling, by variables that their users know."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from rlm_obs._exporters import _spelling
from rlm_obs._exporters._spelling import Spelling
from rlm_obs.errors import ConfigError

Headers = dict[str, str]
SECRET = ("authorization", "x-api-key")


def variable(*names: str) -> str | None:
    """Return the first of some variables that is set, of those that other tools have made known; an empty one is not."""
    return next((value for name in names if (value := os.environ.get(name))), None)


def _as_they_are(headers: Headers) -> Headers:
    return headers


def _mlflow(headers: Headers) -> Headers:
    """Add the experiment, and a user's password where there is no token."""
    user, password = variable("MLFLOW_TRACKING_USERNAME"), variable("MLFLOW_TRACKING_PASSWORD")
    basic = {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {"x-mlflow-experiment-id": "0", **(basic if user and password else {}), **headers}


def _phoenix(headers: Headers) -> Headers:
    """Add what PHOENIX_CLIENT_HEADERS says, in the form of OTEL_EXPORTER_OTLP_HEADERS."""
    pairs = [pair.partition("=") for pair in (variable("PHOENIX_CLIENT_HEADERS") or "").split(",") if "=" in pair]
    return headers | {unquote(key.strip()): unquote(value.strip()) for key, _, value in pairs}


@dataclass(frozen=True, slots=True)
class Preset:
    """A receiver that has a name: the variables that its users have set already, its path, its headers, its spelling."""

    address: tuple[str, ...]  # variables
    default: str
    path: str
    headers: Mapping[str, tuple[str, ...]]  # header -> its variable, and what stands before the value
    spelling: Spelling = _spelling.plainly
    more: Callable[[Headers], Headers] = _as_they_are
    key: str | None = None  # the variable without which nothing would be taken
    idempotent: bool = False  # a span that comes twice is counted once: tried on the real one

    def url(self) -> str:
        """Return where spans go. Raises ConfigError for what is no http(s) address."""
        said = (variable(*self.address) or self.default).strip().rstrip("/")
        parts = urlsplit(said)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{self.address[0]}: give an address such as {self.default}")
        return said if said.endswith(self.path) else said + self.path

    def told(self, headers: Headers) -> Headers:
        """Return those of its headers that say where in the receiver spans go, such as a project; no key is among them."""
        return {name: headers[name] for name in self.headers if name in headers and name.lower() not in SECRET}

    def said_headers(self) -> Headers:
        """Return the headers, of what is set. Raises ConfigError for a value that no header can have; it is not shown."""
        found = {header: (variable(name), "".join(before)) for header, (name, *before) in self.headers.items()}
        headers = self.more({header: before + value for header, (value, before) in found.items() if value})
        for header, value in headers.items():
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(
                    f"the value of the header {header} cannot be sent: look at the variable it comes from"
                )
        return headers


#: Sources: each receiver's own page on OpenTelemetry, read in November 2026.
PRESETS = {
    "phoenix": Preset(
        ("PHOENIX_COLLECTOR_ENDPOINT",),
        "http://localhost:6006",
        "/v1/traces",
        {"authorization": ("PHOENIX_API_KEY", "Bearer "), "x-project-name": ("PHOENIX_PROJECT_NAME",)},
        _spelling.openinference,
        _phoenix,
        idempotent=True,
    ),
    "mlflow": Preset(
        ("MLFLOW_TRACKING_URI",),
        "http://localhost:5000",
        "/v1/traces",
        {"authorization": ("MLFLOW_TRACKING_TOKEN", "Bearer "), "x-mlflow-experiment-id": ("MLFLOW_EXPERIMENT_ID",)},
        _spelling.mlflow,
        _mlflow,
    ),
    "langsmith": Preset(
        ("LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT"),
        "https://api.smith.langchain.com",
        "/otel/v1/traces",
        {"x-api-key": ("LANGSMITH_API_KEY",), "Langsmith-Project": ("LANGSMITH_PROJECT",)},
        _spelling.langsmith,
        key="LANGSMITH_API_KEY",
    ),
    "logfire": Preset(
        ("LOGFIRE_BASE_URL",),
        "https://logfire-us.pydantic.dev",
        "/v1/traces",
        {"authorization": ("LOGFIRE_TOKEN",)},
        _spelling.logfire,
        key="LOGFIRE_TOKEN",
    ),
    "braintrust": Preset(
        ("BRAINTRUST_API_URL",),
        "https://api.braintrust.dev",
        "/otel/v1/traces",
        {"authorization": ("BRAINTRUST_API_KEY", "Bearer "), "x-bt-parent": ("BRAINTRUST_PARENT",)},
        key="BRAINTRUST_API_KEY",
    ),
    "opik": Preset(
        ("OPIK_URL_OVERRIDE",),
        "https://www.comet.com/opik/api",
        "/v1/private/otel/v1/traces",
        {
            "authorization": ("OPIK_API_KEY",),
            "Comet-Workspace": ("OPIK_WORKSPACE",),
            "projectName": ("OPIK_PROJECT_NAME",),
        },
    ),
}
