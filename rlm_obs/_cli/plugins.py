"""`rlm-obs plugins`: which plugins there are, where they come from, and why one is not in use."""

from __future__ import annotations

import dataclasses
import json as jsons
from typing import Annotated

from rlm_obs._cli.table import table
from rlm_obs._plugins import Plugin, loaded


def plugins(json: Annotated[bool, "Print JSON: one object per plugin."] = False) -> None:
    """List every plugin: its distribution, what it implements and how long it took to load, or why it is not in use."""
    found = loaded().found
    if json:
        print(jsons.dumps([dataclasses.asdict(plugin) for plugin in found], indent=2))
        return
    print(table([("PLUGIN", "DISTRIBUTION", "VERSION", "LOADED IN", "HOOKS"), *map(row, found)]))


def row(plugin: Plugin) -> tuple[str, ...]:
    said = f"not in use: {plugin.failed}" if plugin.failed else ", ".join(plugin.hooks)
    took = "-" if plugin.failed else f"{plugin.load_s * 1000:.1f} ms"
    return plugin.name, plugin.distribution, plugin.version, took, said
