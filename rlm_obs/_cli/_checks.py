"""What `rlm-obs doctor` tries: each part that is configured, by the smallest real round trip that tells whether it works."""

from __future__ import annotations

import functools
import importlib
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib import metadata
from typing import Any, Literal

from rlm_obs._hookspecs import Instrumentor
from rlm_obs._plugins import Plugin, Plugins
from rlm_obs._record import Request, Usage
from rlm_obs._settings import Settings
from rlm_obs.errors import ConfigError, RlmObsError, money

MODEL = "gpt-4o-mini"
#: The account that the store's check talks about; a store may forget it a month later.
ACCOUNT, WINDOW = "rlm-obs doctor", "check"
WITHOUT = "it can be made, and has no check of its own"


class Unused(Exception):
    """What the part is for is not there, which is no fault unless somebody asks for it: the text says what is missing."""


@dataclass(frozen=True)
class Part:
    """One thing to try: `check` returns what was found, or raises. `configured`: it is tried also where nobody names it."""

    kind: Literal["plugin", "exporter", "prices", "store", "instrumentor", "check"]
    name: str
    check: Callable[[], str]
    configured: bool = True


@dataclass(frozen=True)
class Finding:
    """What came of it."""

    kind: str
    name: str
    state: Literal["ok", "unused", "failed"]
    says: str


def parts_of(plugins: Plugins, settings: Settings) -> Iterator[Part]:
    """Yield every part there is."""
    for plugin in plugins.found:
        if plugin.failed and not plugin.blocked:
            yield Part("plugin", plugin.name, functools.partial(_left_out, plugin))
    named = ("console",) if settings.exporters is None else settings.exporters
    exporters = plugins.collect("register_exporters")
    for name in dict.fromkeys([*named, *exporters]):
        yield Part("exporter", name, functools.partial(_exporter, name, exporters, settings), name in named)
    yield Part("prices", "prices", functools.partial(_prices, plugins))
    for owner, function, wanted in plugins.callers("price"):
        if owner != "prices":
            yield Part("prices", owner, functools.partial(_source, function, wanted))
    if settings.budget_store is not None:
        url = settings.budget_store.get_secret_value()
        yield Part("store", url.partition("://")[0] if "://" in url else "store", functools.partial(_store, url))
    for name, build in plugins.collect("register_instrumentors").items():
        yield Part("instrumentor", name, functools.partial(_instrumentor, build, _distribution_of(plugins, name)))
    for name, check in plugins.collect("register_checks").items():
        yield Part("check", name, check)


def tried(part: Part, *, asked_for: bool) -> Finding:
    """Try a part. What it raises is told without what may hold a secret: only our own errors speak for themselves."""
    try:
        return Finding(part.kind, part.name, "ok", str(part.check()))
    except Unused as missing:
        return Finding(part.kind, part.name, "failed" if asked_for else "unused", str(missing))
    except RlmObsError as error:
        return Finding(part.kind, part.name, "failed", str(error))
    except OSError as error:
        return Finding(part.kind, part.name, "failed", f"{type(error).__name__}: {error.strerror or 'no connection'}")
    except Exception as error:  # a stranger's check may raise anything, and must not keep the others from being tried
        return Finding(
            part.kind, part.name, "failed", f"{type(error).__name__}, which is a fault in it: tell its authors"
        )


def _left_out(plugin: Plugin) -> str:
    what = f"reinstall or upgrade {plugin.distribution}, or leave it out for good: RLM_OBS_BLOCK={plugin.name}"
    raise ConfigError(f"{plugin.distribution} {plugin.version} could not be loaded ({plugin.failed}); {what}")


def _checked(part: Any) -> str:
    check = getattr(part, "check", None)
    return WITHOUT if check is None else str(check())


def _exporter(name: str, offered: Mapping[str, Any], settings: Settings) -> str:
    if name not in offered:
        raise ConfigError(f"no plugin offers it; there are: {', '.join(sorted(offered))}")
    exporter = offered[name](settings)
    try:
        return _checked(exporter)
    finally:
        exporter.shutdown()


def _prices(plugins: Plugins) -> str:
    """Price one model as a call would be, with the user's prices, the plugins' and the list."""
    from rlm_obs._pricing import Chain

    cost = Chain(plugins).price(_request(), Usage(input_tokens=1_000_000, output_tokens=1_000_000))
    if cost is None:
        raise ConfigError(
            f"nobody has a price for {MODEL}: is the plugin `prices` blocked? State your own: RLM_OBS_PRICES"
        )
    return f"a million tokens in and out of {MODEL} cost {money(cost.total)} by {cost.source}"


def _source(function: Callable[..., Any], wanted: tuple[str, ...]) -> str:
    """Ask one plugin for the same model; that it leaves it to others is no fault."""
    facts = {"request": _request(), "usage": Usage(input_tokens=1_000_000, output_tokens=1_000_000), "duration_s": 1.0}
    cost = function(*[facts[name] for name in wanted])
    return f"it leaves {MODEL} to others" if cost is None else f"it prices {MODEL}, by {cost.source}"


def _request() -> Request:
    return Request(provider="openai", endpoint="/chat/completions", operation="chat", model=MODEL)


def _store(url: str) -> str:
    """Exchange a message in which nothing is spent, returned or wanted."""
    from rlm_obs._budgets.opening import open_store
    from rlm_obs._budgets.store import AccountId, Message

    store = open_store(url)
    try:
        began = time.perf_counter()
        ends_at = time.time() + 1
        message = Message(lease=uuid.uuid4().hex, number=1, limit=Decimal(0), ttl_s=1.0, ends_at=ends_at)
        state = store.exchange(AccountId(ACCOUNT, window=WINDOW), message).state
        took_ms = (time.perf_counter() - began) * 1000
        drift_s = abs(state.now - time.time())
        budgets = {account.budget for account in store.accounts()} - {ACCOUNT}
    finally:
        store.close()
    said = f"a message there and back took {took_ms:.1f} ms; it has {len(budgets)} {_plural('budget', len(budgets))}"
    return said if drift_s < 5 else f"{said}; its clock and this machine's differ by {drift_s:.0f} s"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _instrumentor(build: Callable[[], Instrumentor], distribution: str) -> str:
    from rlm_obs._instrument.sdk import SdkInstrumentor

    made: Any = build()
    own = getattr(made, "check", None)
    return _sdk(made, distribution) if own is None and isinstance(made, SdkInstrumentor) else _checked(made)


def _sdk(made: Any, distribution: str) -> str:
    """Look for the SDK: is it installed, is it new enough for the plugin, has it the clients that are to be patched."""
    package = metadata.packages_distributions().get(made._module, [made._module])[0]
    try:
        version = metadata.version(package)
        module = importlib.import_module(made._module)
    except ImportError as error:
        if isinstance(error, metadata.PackageNotFoundError | ModuleNotFoundError):
            raise Unused(f"the package {package} is not installed: pip install {package}") from None
        raise
    lowest = lowest_of(package, distribution)
    if lowest and _numbers(version) < _numbers(lowest):
        raise ConfigError(f"{package} {version} is too old: pip install --upgrade '{package}>={lowest}'")
    missing = [name for name in made._classes if not hasattr(getattr(module, name, None), "request")]
    if missing:
        raise ConfigError(
            f"{package} {version} has no {', '.join(missing)} with a method `request`: its calls are not seen"
        )
    return f"{package} {version}: {', '.join(made._classes)}"


def lowest_of(package: str, distribution: str) -> str | None:
    """Return the lowest version of a package that a distribution asks for, in any extra; None where it does not say."""
    try:
        wanted = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    found = (re.match(rf"{re.escape(package)}\s*\(?>=\s*([\d.]+)", one, re.IGNORECASE) for one in wanted)
    return next((match[1] for match in found if match), None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _distribution_of(plugins: Plugins, instrumentor: str) -> str:
    """Return the distribution whose plugin offers an instrumentor."""
    by_name = {plugin.name: plugin.distribution for plugin in plugins.found}
    for owner, function, _ in plugins.callers("register_instrumentors"):
        if instrumentor in (function() or {}):
            return by_name.get(owner, "")
    return ""
