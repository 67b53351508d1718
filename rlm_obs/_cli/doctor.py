"""`rlm-obs doctor`: tries the exporters that are set up, each by a real request, and says what to do where one fails."""

from __future__ import annotations

from typing import Annotated, Any

from rlm_obs._plugins import loaded
from rlm_obs._settings import near, read_settings
from rlm_obs.errors import ConfigError


def doctor(exporter: Annotated[str | None, "One exporter by name; without it, those of the settings."]) -> int:
    """Try an exporter by a real request: its keys, its host, its project. Keys are never printed."""
    settings = read_settings()
    offered = loaded(settings).collect("register_exporters")
    named = (exporter,) if exporter is not None else settings.exporters or ("console",)
    for name in named:
        if name not in offered:
            raise ConfigError(f"there is no exporter {name!r}{near(name, offered)}")
    failed = 0
    for name in named:
        try:
            print(f"{name}: ok, {_checked(offered[name](settings))}")
        except ConfigError as error:
            failed = 1
            print(f"{name}: {error}")
    return failed


def _checked(exporter: Any) -> str:
    try:
        check = getattr(exporter, "check", None)
        return str(check()) if check is not None else "it can be made, and has no check of its own"
    finally:
        exporter.shutdown()
