"""`rlm-obs doctor`: tries every part that is set up, each by a real round trip, and says what to do where one fails."""

from __future__ import annotations

import dataclasses
import json as jsons
from typing import Annotated

from rlm_obs._cli._checks import Finding, parts_of, tried
from rlm_obs._plugins import loaded
from rlm_obs._settings import near, read_settings, stated
from rlm_obs.errors import ConfigError


def doctor(
    name: Annotated[tuple[str, ...] | None, "Only parts of these names; without one, all that are set up."],
    json: Annotated[bool, "Print JSON: the settings, and an object per part."] = False,
) -> int:
    """Try exporters, prices, the budget store, SDKs and plugins for real; exit with 1 where one fails. Keys are never shown."""
    settings = read_settings()
    parts = list(parts_of(loaded(settings), settings))
    for one in name or ():
        if one not in [part.name for part in parts]:
            raise ConfigError(f"there is nothing called {one!r}{near(one, {part.name for part in parts})}")
    wanted = [part for part in parts if (part.name in name if name else part.configured)]
    said = [] if name else stated(settings)
    if json:
        found = [tried(part, asked_for=bool(name)) for part in wanted]
        shown = [{"name": one, "value": value, "from": source} for one, value, source in said]
        print(jsons.dumps({"settings": shown, "parts": [dataclasses.asdict(one) for one in found]}, indent=2))
    else:
        for one, value, source in said:
            print(f"setting {one}: {value} (from {source})")
        found = []
        for part in wanted:  # each is told at once: the next may take its time
            found.append(tried(part, asked_for=bool(name)))
            print(line(found[-1]), flush=True)
    return int(any([one.state == "failed" for one in found]))


def line(found: Finding) -> str:
    """Lay out what came of one part."""
    name = found.kind if found.name == found.kind else f"{found.kind} {found.name}"
    return f"{name}: {found.state.upper() if found.state == 'failed' else found.state}, {found.says}"
