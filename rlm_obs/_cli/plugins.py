"""`rlm-obs plugins`: which plugins there are, where they come from, what they offer, and what of them is not in use."""

from __future__ import annotations

import dataclasses
import json as jsons
from typing import Annotated, Any

from rlm_obs._cli.table import table
from rlm_obs._plugins import Plugin, Plugins, loaded


def plugins(json: Annotated[bool, "Print JSON: one object per plugin."] = False) -> None:
    """List every plugin: its distribution, its hooks, what it offers and how long it took to load, or why it is not in use."""
    found = loaded()
    offers = {plugin.name: offered_by(plugin, found) for plugin in found.found if not plugin.failed}
    if json:
        none: dict[str, Any] = {"offers": {}, "failures": {}}
        said = [{**dataclasses.asdict(one), **(offers.get(one.name) or none)} for one in found.found]
        print(jsons.dumps(said, indent=2))
        return
    rows = [row(plugin, offers.get(plugin.name)) for plugin in found.found]
    print(table([("PLUGIN", "DISTRIBUTION", "VERSION", "LOADED IN", "HOOKS"), *rows]))


def offered_by(plugin: Plugin, found: Plugins) -> dict[str, Any]:
    """Return the names that a plugin's `register_…` hooks offer, and how those fail that do."""
    offers: dict[str, list[str]] = {}
    failures: dict[str, str] = {}
    for hook in plugin.hooks:
        for owner, function, _ in found.callers(hook) if hook.startswith("register_") else ():
            if owner == plugin.name:
                try:
                    offers[hook] = sorted(function())
                except Exception as error:  # it is what is to be told
                    failures[hook] = f"{type(error).__name__}: {error}"
    return {"offers": offers, "failures": failures}


def row(plugin: Plugin, said: dict[str, Any] | None) -> tuple[str, ...]:
    """Lay out one plugin."""
    took = "-" if plugin.failed else f"{plugin.load_s * 1000:.1f} ms"
    start = plugin.name, plugin.distribution, plugin.version, took
    if said is None:
        return *start, f"not in use: {plugin.failed}"
    shown = {hook: offered for hook, offered in said["offers"].items() if hook != "register_commands"}  # see --help
    names = {hook: f" ({', '.join(offered)})" for hook, offered in shown.items()}
    names |= {hook: f" (FAILED: {why})" for hook, why in said["failures"].items()}
    return *start, ", ".join(hook + names.get(hook, "") for hook in plugin.hooks)
