"""Settings come from arguments, variables and pyproject.toml, in this order; what is wrong is named, and no secret is shown."""

from __future__ import annotations

import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import rlm_obs
from rlm_obs import ConfigError, Settings
from rlm_obs._settings import _names, read_settings

#: Each field: a value as a variable has it, as a file has it, and what both are read as; then one for the argument.
FIELDS: dict[str, tuple[str, str, Any, Any, Any]] = {
    "exporters": ("console, file", '["console", "file"]', ("console", "file"), ["file"], ("file",)),
    "budget_usd": ("2.50", '"2.50"', Decimal("2.50"), 0.1, Decimal("0.1")),
    "budget_window": ("day", '"day"', "day", "month", "month"),
    "budget_time_zone": ("Asia/Tokyo", '"Asia/Tokyo"', "Asia/Tokyo", "UTC", "UTC"),
    "alert_threshold": ("0.5", "0.5", 0.5, 0.9, 0.9),
    "unknown_price": ("warn", '"warn"', "warn", 2.5, "2.5"),
    "service_name": ("shop", '"shop"', "shop", "other", "other"),
    "sample_rate": ("0.25", "0.25", 0.25, 1.0, 1.0),
    "capture_content": ("true", "true", True, False, False),
    "content_limit": ("500", "500", 500, 0, 0),
    "redact": ("keys, email", '["keys", "email"]', ("keys", "email"), "card", ("card",)),
    "redact_patterns": ('["A,[0-9]"]', '["A,[0-9]"]', ("A,[0-9]",), ["b"], ("b",)),
    "rate_limits": ("on", "true", True, False, False),
    "prices": (
        '{"m": {"input": 1, "output": 4}}',
        "{ m = { input = 1, output = 4 } }",
        {"m": {"input": Decimal(1), "output": Decimal(4)}},
        "prices.toml",
        Path("prices.toml"),
    ),
    "azure_deployments": ('{"a": "gpt-4o"}', '{ "a" = "gpt-4o" }', {"a": "gpt-4o"}, {"a": "o3"}, {"a": "o3"}),
    "price_data": ("new.json", '"new.json"', Path("new.json"), "other.json", Path("other.json")),
    "price_refresh": ("true", "true", True, False, False),
    "hosts": ('{"h:1": "free"}', '{ "h:1" = "free" }', {"h:1": "free"}, {"h:1": "openai"}, {"h:1": "openai"}),
    "project_tier": ("default", '"default"', "default", "flex", "flex"),
    "count_tokens": ("tiktoken", '"tiktoken"', "tiktoken", "bytes", "bytes"),
    "stream_usage": ("always", '"always"', "always", "never", "never"),
    "threads": ("0", "false", False, True, True),
    "propagate": ("provider", '"provider"', "provider", "never", "never"),
    "baggage": ("a,b", '["a", "b"]', ("a", "b"), "c", ("c",)),
    "budget_store": ("memory://a", '"memory://a"', "memory://a", "memory://b", "memory://b"),
    "file_path": ("calls.jsonl", '"calls.jsonl"', Path("calls.jsonl"), "x", Path("x")),
    "file_format": ("otlp", '"otlp"', "otlp", "records", "records"),
    "file_max_bytes": ("1000", "1000", 1000, 5, 5),
    "file_rotate_every_s": ("3600", "3600", 3600.0, 1.5, 1.5),
    "file_backup_count": ("7", "7", 7, 1, 1),
    "file_compress": ("yes", "true", True, False, False),
    "file_fsync": ("1", "true", True, False, False),
    "langfuse_public_key": ("pk-1", '"pk-1"', "pk-1", "pk-2", "pk-2"),
    "langfuse_secret_key": ("sk-1", '"sk-1"', "sk-1", "sk-2", "sk-2"),
    "langfuse_host": ("http://one", '"http://one"', "http://one", "http://two", "http://two"),
    "langfuse_environment": ("live", '"live"', "live", "other", "other"),
    "langfuse_release": ("1.2", '"1.2"', "1.2", "1.3", "1.3"),
    "export": ("sync", '"sync"', "sync", "background", "background"),
    "spool": ("kept", '"kept"', Path("kept"), "x", Path("x")),
    "spool_mb": ("5", "5", 5, 7, 7),
    "spool_hours": ("1.5", "1.5", 1.5, 2, 2.0),
    "metrics": ("otlp", '"otlp"', "otlp", "otlp", "otlp"),
    "exit_timeout_s": ("1.5", "1.5", 1.5, 2, 2.0),
    "flush_on_sigterm": ("yes", "true", True, False, False),
    "block": ("a,b", '["a", "b"]', ("a", "b"), "c", ("c",)),
    "debug_plugins": ("1", "true", True, False, False),
}


def said(settings: Settings, name: str) -> Any:
    value = getattr(settings, name)
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def project(text: str) -> None:
    Path("pyproject.toml").write_text(f"[tool.rlm_obs]\n{text}\n")


def test_every_field_is_tried_below() -> None:
    """A setting that is added is added here too."""
    assert set(FIELDS) == set(Settings.model_fields)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLM_OBS_ and its name in capitals."""
    text, _, value, _, _ = FIELDS[name]
    monkeypatch.setenv(f"RLM_OBS_{name.upper()}", text)
    assert said(read_settings(), name) == value


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_a_key_of_pyproject(name: str) -> None:
    """[tool.rlm_obs] in the working folder."""
    _, text, value, _, _ = FIELDS[name]
    project(f"{name} = {text}")
    assert said(read_settings(), name) == value


def test_pyproject_is_found_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As other tools find it: in the folders above the working one."""
    project("exit_timeout_s = 3")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert read_settings().exit_timeout_s == 3


@pytest.mark.parametrize("name", FIELDS)
def test_arguments_win_over_variables_and_these_over_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each of the ways to give one: keyword, mapping, Settings."""
    text, in_file, value, argument, read = FIELDS[name]
    project(f"{name} = {in_file}")
    assert said(read_settings({name: argument}), name) == read
    monkeypatch.setenv(f"RLM_OBS_{name.upper()}", text)
    for other in _names(name)[1:]:
        monkeypatch.setenv(other, text)
    assert said(read_settings(), name) == value
    assert said(read_settings({name: argument}), name) == read
    assert said(read_settings(**{name: argument}), name) == read
    assert said(read_settings(Settings(**{name: argument})), name) == read
    assert said(read_settings({name: argument}, **{name: None}), name) == read, "None is: not given"


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("OTEL_SERVICE_NAME", "service_name"),
        ("LANGFUSE_PUBLIC_KEY", "langfuse_public_key"),
        ("LANGFUSE_SECRET_KEY", "langfuse_secret_key"),
        ("LANGFUSE_HOST", "langfuse_host"),
        ("LANGFUSE_BASE_URL", "langfuse_host"),
    ],
)
def test_variables_that_others_made_known_are_read(variable: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours come first."""
    monkeypatch.setenv(variable, "theirs")
    assert said(read_settings(), field) == "theirs"
    monkeypatch.setenv(f"RLM_OBS_{field.upper()}", "ours")
    assert said(read_settings(), field) == "ours"


@pytest.mark.parametrize("name", FIELDS)
def test_a_bare_name_is_nobodys_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVICE_NAME or CAPTURE_CONTENT of another program changes nothing of ours."""
    if name.upper() in _names(name):
        return
    monkeypatch.setenv(name.upper(), FIELDS[name][0])
    monkeypatch.setenv(name, FIELDS[name][0])
    assert said(read_settings(), name) == said(Settings.model_construct(), name)


@pytest.mark.parametrize("name", [n for n in FIELDS if n not in ("exporters", "block", "baggage")])
def test_an_empty_variable_is_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenTelemetry has it; only a list can be empty."""
    monkeypatch.setenv(f"RLM_OBS_{name.upper()}", "")
    assert said(read_settings(), name) == said(Settings.model_construct(), name)


def test_an_empty_list_of_exporters_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLM_OBS_EXPORTERS= is "none", and not "the default"."""
    assert read_settings().exporters is None
    monkeypatch.setenv("RLM_OBS_EXPORTERS", "")
    assert read_settings().exporters == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUDGET_USD", "lots"),
        ("BUDGET_USD", "-1"),
        ("BUDGET_USD", "nan"),
        ("ALERT_THRESHOLD", "2"),
        ("SAMPLE_RATE", "1.5"),
        ("UNKNOWN_PRICE", "guess"),
        ("CAPTURE_CONTENT", "perhaps"),
        ("STREAM_USAGE", "sometimes"),
        ("HOSTS", "localhost"),
        ("EXIT_TIMEOUT_S", "-1"),
        ("EXIT_TIMEOUT_S", "soon"),
    ],
)
def test_a_bad_variable_is_named_with_its_value(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ConfigError where the settings are read; the same for a mapping, by its key."""
    monkeypatch.setenv(f"RLM_OBS_{name}", value)
    with pytest.raises(ConfigError) as wrong:
        rlm_obs.instrument(exporters=[])
    assert f"RLM_OBS_{name}='{value}'" in str(wrong.value)
    monkeypatch.delenv(f"RLM_OBS_{name}")
    with pytest.raises(ConfigError) as wrong:
        read_settings({name.lower(): value})
    assert f"{name.lower()}='{value}'" in str(wrong.value)


def test_a_bad_key_of_the_file_is_named_with_its_value() -> None:
    """And several mistakes are said together."""
    project('sample_rate = 7\nstream_usage = "sometimes"')
    with pytest.raises(ConfigError) as wrong:
        read_settings()
    assert "[tool.rlm_obs] sample_rate=7: Input should be less than or equal to 1" in str(wrong.value)
    assert "[tool.rlm_obs] stream_usage='sometimes': Input should be 'auto', 'always' or 'never'" in str(wrong.value)


def test_an_unknown_key_of_the_file_is_named_with_the_near_ones() -> None:
    """Never with its value, which may be a key with a letter too many."""
    project('langfuse_secrt_key = "sk-very-secret"\nbugdet_usd = 5')
    with pytest.raises(ConfigError) as wrong:
        read_settings()
    text = str(wrong.value)
    assert "[tool.rlm_obs] langfuse_secrt_key: there is no such setting; did you mean 'langfuse_secret_key'" in text
    assert "[tool.rlm_obs] bugdet_usd: there is no such setting; did you mean 'budget_usd'" in text
    assert "sk-very-secret" not in text


def test_an_unknown_argument_is_named_with_the_near_ones() -> None:
    """In `settings=`, whatever its value."""
    with pytest.raises(ConfigError, match="there is no setting 'samplerate'; did you mean 'sample_rate'") as wrong:
        rlm_obs.instrument(exporters=[], settings={"samplerate": "sk-1"})
    assert "sk-1" not in str(wrong.value)


@pytest.mark.parametrize("given", [5, "console", ["console"]])
def test_settings_are_a_mapping_or_settings(given: Any) -> None:
    """Anything else is a ConfigError that shows the way."""
    with pytest.raises(ConfigError, match="give a mapping such as"):
        read_settings(given)


def test_an_unknown_variable_is_reported_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A log line, once: a variable may belong to a newer version."""
    monkeypatch.setenv("RLM_OBS_BUDGET", "5")
    for _ in range(2):
        assert read_settings().budget_usd is None
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith("RLM_OBS_BUDGET is no setting of rlm_obs; did you mean 'RLM_OBS_BUDGET_USD'")


@pytest.mark.parametrize("name", ["langfuse_secret_key", "langfuse_public_key"])
def test_a_secret_is_never_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by an error nor by the settings' repr, however it was given."""
    secret = ["sk-very-secret"]
    with pytest.raises(ConfigError) as wrong:
        read_settings({name: secret})
    assert name in str(wrong.value)
    assert "sk-very" not in f"{wrong.value!r} {wrong.value.__cause__!r} {wrong.value.__context__!r}"
    project(f'{name} = ["sk-very-secret"]')
    with pytest.raises(ConfigError) as wrong:
        read_settings()
    assert "sk-very" not in str(wrong.value)
    Path("pyproject.toml").unlink()
    if name == "langfuse_secret_key":
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-very-secret")
        settings = read_settings()
        assert "sk-very" not in f"{settings!r} {settings} {settings.model_dump()}"


def test_a_broken_pyproject_is_a_config_error() -> None:
    """It says which file, and where in it."""
    Path("pyproject.toml").write_text("[tool.rlm_obs\n")
    with pytest.raises(ConfigError, match=r"pyproject\.toml cannot be read: .*line 1"):
        read_settings()


def test_settings_do_not_change() -> None:
    """They are frozen: what a plugin was told stays true."""
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        read_settings().exit_timeout_s = 1  # type: ignore[misc]
