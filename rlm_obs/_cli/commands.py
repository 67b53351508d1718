"""Offers the commands that come with rlm_obs, by the hook that any plugin offers its own by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlm_obs._hookspecs import hookimpl


@hookimpl
def register_commands() -> Mapping[str, Callable[..., Any]]:
    """Offer the commands; each is a plain function in a file of its own."""
    from rlm_obs._cli import budget
    from rlm_obs._cli.demo import demo
    from rlm_obs._cli.doctor import doctor
    from rlm_obs._cli.endpoints import endpoints
    from rlm_obs._cli.new_plugin import new_plugin
    from rlm_obs._cli.plugins import plugins
    from rlm_obs._cli.prices.check import check
    from rlm_obs._cli.prices.diff import diff
    from rlm_obs._cli.prices.explain import explain
    from rlm_obs._cli.prices.listing import list_prices
    from rlm_obs._cli.prices.show import show
    from rlm_obs._cli.prices.update import update
    from rlm_obs._cli.send import send
    from rlm_obs._cli.tail import tail

    return {
        "budget history": budget.history,
        "budget reset": budget.reset,
        "budget set": budget.set_limit,
        "budget show": budget.show,
        "budget top-up": budget.top_up,
        "demo": demo,
        "doctor": doctor,
        "endpoints": endpoints,
        "new-plugin": new_plugin,
        "plugins": plugins,
        "prices check": check,
        "prices diff": diff,
        "prices explain": explain,
        "prices list": list_prices,
        "prices show": show,
        "prices update": update,
        "send": send,
        "tail": tail,
    }
