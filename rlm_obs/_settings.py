"""Settings: the only reader of the environment. Arguments win over RLM_OBS_* variables, those over [tool.rlm_obs]."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
)

from rlm_obs._guard import say_once
from rlm_obs._record import dollars
from rlm_obs.errors import ConfigError

PREFIX = "RLM_OBS_"
Names = Annotated[tuple[str, ...], NoDecode]
Redactor = Literal["keys", "email", "card", "phone"]
#: Who logs in within a URL.
PASSWORD = re.compile(r"//[^/@\s]*@")
#: What OpenTelemetry's variable may say beside true and false: where content goes. We know spans only.
CAPTURES = {"span_only": True, "span_and_event": True, "event_only": False, "no_content": False}


def _also(*names: str) -> AliasChoices:
    """Take the field from RLM_OBS_* first, then from a variable that others have made known; in code and files, by its name."""
    return AliasChoices(*names)


class Settings(BaseSettings):
    """What a program may choose. Every field is an `RLM_OBS_…` variable and a key of `[tool.rlm_obs]` in pyproject.toml."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        pyproject_toml_table_header=("tool", "rlm_obs"),
        pyproject_toml_depth=8,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        env_ignore_empty=False,
    )

    exporters: Names | None = Field(
        default=None, description="Exporters by name, comma-separated; empty names none; unset is the console tree."
    )
    budget_usd: Decimal | None = Field(
        default=None, description="A budget for all calls of the process, in US dollars."
    )
    budget_window: Literal["hour", "day", "week", "month"] | None = Field(
        default=None,
        description="The window of that budget; unset is for as long as the process runs, or the store keeps it.",
    )
    budget_time_zone: str = Field(
        default="UTC", description="The time zone in which its windows begin, such as Europe/Berlin."
    )
    budget_store: SecretStr | None = Field(
        default=None,
        description="The URL of the store that shares that budget under the service's name, and that `rlm-obs budget` reads.",
    )
    alert_threshold: float = Field(default=0.8, gt=0, le=1, description="The share of a budget at which it alerts.")
    unknown_price: str = Field(
        default="block",
        description='What a budget does with a model without a price: "block", "warn", or US dollars per million tokens.',
    )
    service_name: str | None = Field(
        default=None,
        validation_alias=_also("RLM_OBS_SERVICE_NAME", "OTEL_SERVICE_NAME"),
        description="The name of the program on its traces (`service.name`).",
    )
    sample_rate: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="The share of traces that is kept; costs and budgets count all calls. Unset: OTEL_TRACES_SAMPLER, or all.",
    )
    capture_content: bool = Field(
        default=False,
        validation_alias=_also("RLM_OBS_CAPTURE_CONTENT", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"),
        description="Record prompts and answers on spans. Off unless asked for.",
    )
    content_limit: int = Field(
        default=100_000,
        ge=0,
        le=1_000_000,
        description="The longest text of a recorded prompt or answer, in characters.",
    )
    redact: Annotated[tuple[Redactor, ...], NoDecode] = Field(
        default=(),
        description="What is taken out of recorded content and arguments, where it can be told by its form.",
    )
    redact_patterns: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description='Regular expressions of your own whose matches are taken out too: ["ACME-[0-9]{6}"].',
    )
    rate_limits: bool = Field(
        default=False, description="Put what an answer's headers say of rate limits on records and spans."
    )
    prices: Path | dict[str, dict[str, Decimal | str]] | None = Field(
        default=None, description="Your own prices: a TOML or JSON file, or a mapping; US dollars per million tokens."
    )
    price_data: Path | None = Field(
        default=None, description="A newer price list for genai-prices, as `rlm-obs prices update FILE` writes it."
    )
    price_refresh: bool = Field(
        default=False,
        description="Fetch the newest data of genai-prices every hour, in a thread of its own. Off unless asked for.",
    )
    hosts: Annotated[dict[str, str | dict[str, Decimal | str]], NoDecode] = Field(
        default_factory=dict,
        description='Who bills for a host: {"localhost:11434": "free", "llm.acme.example": "openai", '
        '"gpu.acme.example": {"per_hour": 2.5}}; prices are as those of a model.',
    )
    azure_deployments: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description='What is behind the names of Azure deployments: {"chat": "gpt-4o", "chat-eu": "gpt-4o@data-zone", '
        '"own": "gpt-4o@provisioned"}; needed where the answer names no model, or the price is not the global one.',
    )
    project_tier: Literal["any", "default", "flex", "priority"] = Field(
        default="any", description="The tier that your OpenAI project gives to calls that name none; any: the dearest."
    )
    count_tokens: Literal["bytes", "tiktoken"] = Field(
        default="bytes", description="How budgets count text before a call; tiktoken wants its vocabulary on this disk."
    )
    stream_usage: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Ask streamed chats for their usage (`stream_options.include_usage`): auto is OpenAI's and Azure's hosts only.",
    )
    threads: bool = Field(default=True, description="Carry traces and budgets into threads and thread pools.")
    propagate: Literal["never", "provider"] = Field(
        default="never",
        description="Whether calls carry a `traceparent` header to the model's host; users and sessions never go there.",
    )
    baggage: Names = Field(
        default=("user.id", "session.id", "tenant.id"),
        description="Attributes of `rlm_obs.context` that `inject` and `extract` carry from service to service.",
    )
    metrics: Literal["otlp"] | None = Field(
        default=None,
        description="Where metrics go if the program has no OpenTelemetry MeterProvider: otlp, by `OTEL_EXPORTER_OTLP_METRICS_…`.",
    )
    file_path: Path = Field(
        default=Path("rlm_obs.jsonl"),
        description='Where the "file" exporter writes; `-` is the standard output, a name in `.gz` is written as gzip.',
    )
    file_format: Literal["records", "otlp"] = Field(
        default="records", description="What a line is: a record, or a span in OTLP-JSON as the collector reads it."
    )
    file_max_bytes: int | None = Field(
        default=None, ge=1, description="The size at which the file becomes an old one; unset: it grows."
    )
    file_rotate_every_s: float | None = Field(
        default=None,
        ge=1,
        allow_inf_nan=False,
        description="How often a new file is begun, in seconds: 86400 is at midnight UTC.",
    )
    file_backup_count: int | None = Field(
        default=None, ge=1, description="How many old files are kept; unset: all of them."
    )
    file_compress: bool = Field(default=False, description="Gzip old files.")
    file_fsync: bool = Field(
        default=False, description="Have the disk take each batch before it counts as sent; slower."
    )
    langfuse_public_key: str | None = Field(
        default=None,
        validation_alias=_also("RLM_OBS_LANGFUSE_PUBLIC_KEY", "LANGFUSE_PUBLIC_KEY"),
        description="Langfuse's public key.",
    )
    langfuse_secret_key: SecretStr | None = Field(
        default=None,
        validation_alias=_also("RLM_OBS_LANGFUSE_SECRET_KEY", "LANGFUSE_SECRET_KEY"),
        description="Langfuse's secret key.",
    )
    langfuse_host: str = Field(
        default="https://cloud.langfuse.com",
        validation_alias=_also("RLM_OBS_LANGFUSE_HOST", "LANGFUSE_HOST", "LANGFUSE_BASE_URL"),
        description="Langfuse's address.",
    )
    langfuse_environment: str | None = Field(
        default=None,
        validation_alias=_also("RLM_OBS_LANGFUSE_ENVIRONMENT", "LANGFUSE_TRACING_ENVIRONMENT"),
        description="Langfuse's environment of the traces; unset is the resource's `deployment.environment.name`.",
    )
    langfuse_release: str | None = Field(
        default=None,
        validation_alias=_also("RLM_OBS_LANGFUSE_RELEASE", "LANGFUSE_RELEASE"),
        description="The program's release on Langfuse's traces; unset is the resource's `service.version`.",
    )
    export: Literal["background", "sync"] = Field(
        default="background",
        description="When spans are sent: in the background, or (sync) before the topmost span or call around them has ended.",
    )
    spool: Path | None = Field(
        default=None, description="A folder in which spans are kept that cannot be sent now; unset is lost."
    )
    spool_mb: int = Field(
        default=100, ge=1, description="The most that the spool holds for one exporter, in megabytes; the oldest goes."
    )
    spool_hours: float = Field(
        default=72.0, gt=0, description="How long a span is kept in the spool at most, in hours."
    )
    exit_timeout_s: float = Field(
        default=5.0,
        ge=0,
        le=600,
        description="The longest that the end of the program waits for exporters, and the end of a topmost span where "
        "`export` is sync.",
    )
    flush_on_sigterm: bool = Field(
        default=False,
        description="Flush when the process is told to stop (SIGTERM), then do what was installed before.",
    )
    block: Names = Field(default=(), description="Plugins, by entry point or distribution, that are never loaded.")
    debug_plugins: bool = Field(default=False, description="Print each plugin and each hook call to stderr.")

    @field_validator("exporters", "block", "baggage", "redact", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("budget_usd", mode="before")
    @classmethod
    def _amount(cls, value: object) -> object:
        return None if value is None else dollars(value, "budget_usd")

    @field_validator("unknown_price", mode="before")
    @classmethod
    def _policy(cls, value: object) -> object:
        if value in ("block", "warn"):
            return value
        try:
            return str(dollars(value, "unknown_price"))
        except ConfigError:
            raise ValueError('give "block", "warn", or US dollars per million tokens') from None

    @field_validator("capture_content", mode="before")
    @classmethod
    def _captures(cls, value: object) -> object:
        return CAPTURES.get(value.strip().lower(), value) if isinstance(value, str) else value

    @field_validator("redact_patterns", mode="before")
    @classmethod
    def _patterns(cls, value: object) -> object:
        try:
            given = json.loads(value) if isinstance(value, str) else value
            if isinstance(given, list | tuple) and all(re.compile(one).pattern for one in given):
                return tuple(given)
        except (ValueError, TypeError, re.error):
            pass  # said below
        raise ValueError('give a list of regular expressions, in a variable as JSON: ["ACME-[0-9]{6}"]')

    @field_validator("hosts", "azure_deployments", mode="before")
    @classmethod
    def _json(cls, value: object, info: ValidationInfo) -> object:
        try:
            return json.loads(value, parse_float=Decimal) if isinstance(value, str) else value
        except ValueError:
            example = '{"localhost:11434": "free"}' if info.field_name == "hosts" else '{"chat": "gpt-4o"}'
            raise ValueError(f"give JSON, such as {example}") from None

    @field_validator("*", mode="before")  # the last validator is the first to run
    @classmethod
    def _empty_is_unset(cls, value: object, info: ValidationInfo) -> object:
        if value != "" or info.field_name in ("exporters", "block", "baggage", "redact"):
            return value
        return cls.model_fields[str(info.field_name)].get_default(call_default_factory=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, PyprojectTomlConfigSettingsSource(settings_cls)


SECRETS = frozenset({"budget_store", "langfuse_public_key", "langfuse_secret_key"})


def read_settings(given: Settings | Mapping[str, Any] | None = None, **arguments: Any) -> Settings:
    """Return the settings: `arguments` (None is "not given"), then `given`, the environment, pyproject.toml, defaults.

    Raises ConfigError that names the variable or key, its value and what to write instead; a secret's value is never shown.
    """
    _report_unknown()
    if given is not None and not isinstance(given, Settings | Mapping):
        raise ConfigError(
            f"settings={type(given).__name__}: give a mapping such as {{'exporters': ['console']}}, or rlm_obs.Settings"
        )
    base = given.model_dump(exclude_unset=True) if isinstance(given, Settings) else dict(given or {})
    chosen = base | {k: v for k, v in arguments.items() if v is not None}
    for name in chosen:
        if name not in Settings.model_fields:
            raise ConfigError(f"there is no setting {name!r}{near(name, Settings.model_fields)}")
    try:
        return Settings(**chosen)
    except ValidationError as error:
        raise ConfigError(_explain(error, chosen)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"pyproject.toml cannot be read: {error}") from None


def stated(settings: Settings) -> list[tuple[str, str, str]]:
    """Return each setting that somebody has set: its name, its value (a secret's is never shown), and who says it."""
    said = []
    for name in Settings.model_fields:
        if name in settings.model_fields_set:
            where, shown = _source(name, {}, getattr(settings, name))
            said.append((name, PASSWORD.sub("//…@", shown.removeprefix("=")) or "set, not shown", where))
    return said


def near(name: str, known: Any) -> str:
    """Say which of `known` were probably meant, or list them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; there are: {', '.join(known)}"


def _explain(error: ValidationError, chosen: Mapping[str, Any]) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        field = str(problem["loc"][0]) if problem["loc"] else "settings"
        name = next((n for n in Settings.model_fields if field in (n, *_names(n))), field)
        if problem["type"] == "extra_forbidden":
            lines.append(f"[tool.rlm_obs] {name}: there is no such setting{near(field, Settings.model_fields)}")
            continue
        where, shown = _source(name, chosen, problem["input"])
        inner = "".join(f".{part}" for part in problem["loc"][1:] if str(part).isidentifier())
        said = problem["msg"].removeprefix("Value error, ")
        lines.append(said if said.startswith(f"{where}{shown}") else f"{where}{inner}{shown}: {said}")
    return "; ".join(dict.fromkeys(lines))


def _source(name: str, chosen: Mapping[str, Any], given: object) -> tuple[str, str]:
    """Return where a field's value came from, and `=value` to show: never a key's."""
    if name in chosen:
        where, value = name, chosen[name]
    else:
        variable = next((v for v in _names(name) if v in os.environ), None)
        where, value = (variable, os.environ[variable]) if variable else (f"[tool.rlm_obs] {name}", given)
    return where, "" if name in SECRETS else f"={value!r}"


def _names(field: str) -> tuple[str, ...]:
    """Return the variables that set a field, ours first."""
    alias = Settings.model_fields[field].validation_alias if field in Settings.model_fields else None
    if isinstance(alias, AliasChoices):
        return tuple(str(c) for c in alias.choices if str(c).isupper())
    return (PREFIX + field.upper(),)


def _report_unknown() -> None:
    known = {v for f in Settings.model_fields for v in _names(f)}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in known:
            say_once(f"unknown {variable}", "%s is no setting of rlm_obs%s", variable, near(variable, known))
