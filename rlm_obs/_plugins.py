"""Finds the plugins, ours and strangers', by their entry points; loads each under the guard; calls their hooks one by one."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pluggy

from rlm_obs import _guard, _hookspecs
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from rlm_obs._settings import Settings

GROUP = "rlm_obs"


@dataclass(slots=True)
class Plugin:
    """One entry point: where it came from, and what became of it. `failed` says why it is not in use, in one line."""

    name: str
    distribution: str
    version: str
    target: str
    blocked: bool = False
    failed: str | None = None
    load_s: float = 0.0
    hooks: tuple[str, ...] = ()


class Plugins:
    """The loaded plugins. `settings.block` names entry points or distributions that are never imported."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(_hookspecs)
        self.found: list[Plugin] = []
        self.added: list[tuple[object, str | None]] = []
        self._lock = threading.RLock()
        self._settings_told: Settings | None = None
        #: What `callers` has found so far, by hook.
        self.known: dict[str, tuple[tuple[str, Callable[..., Any], tuple[str, ...]], ...]] = {}
        self._collected: dict[str, Mapping[str, Any]] = {}
        self._load()
        if settings.debug_plugins:
            print("rlm_obs plugins:", ", ".join(p.name for p in self.found if not p.failed), file=sys.stderr)

    def _load(self) -> None:
        blocked = {_plain(name) for name in self.settings.block}
        seen: dict[str, Plugin] = {}
        for entry in sorted(metadata.entry_points(group=GROUP), key=lambda e: (not _ours(e), _origin(e), e.name)):
            plugin = Plugin(entry.name, _origin(entry), entry.dist.version if entry.dist else "?", entry.value)
            twin = seen.get(entry.name)
            if twin is not None and (twin.distribution, twin.target) == (plugin.distribution, plugin.target):
                continue  # one distribution found twice on sys.path is one plugin
            self.found.append(plugin)
            if _plain(entry.name) in blocked or _plain(plugin.distribution) in blocked:
                plugin.blocked, plugin.failed = True, "blocked by RLM_OBS_BLOCK"
                continue
            if twin is not None:
                raise ConfigError(
                    f"two plugins are called {entry.name!r}: one of {twin.distribution}, one of {plugin.distribution}. "
                    f"Uninstall one, or block one by its distribution: RLM_OBS_BLOCK={plugin.distribution}"
                )
            seen[entry.name] = plugin
            began = time.perf_counter()
            try:
                self._add(entry.load(), entry.name)
            except (Exception, SystemExit) as error:  # any import may fail in any way, and must not cost the program
                plugin.failed = f"{type(error).__name__}: {error}"
                _guard.failures[f"plugin {entry.name}"] += 1
                _guard.say_once(
                    f"plugin {plugin.distribution}:{entry.name}",
                    "plugin %r of %s could not be loaded and is left out: %s",
                    entry.name,
                    plugin.distribution,
                    plugin.failed,
                )
                continue
            plugin.load_s = time.perf_counter() - began
            plugin.hooks = self._hooks_of(entry.name)

    def _add(self, plugin: object, name: str | None) -> str:
        """Register a plugin whole or not at all. Raises ConfigError for one that cannot be called as our hooks are."""
        name = name or self.manager.get_canonical_name(plugin)
        if self.manager.has_plugin(name) or self.manager.is_registered(plugin):
            raise ConfigError(f"plugin {name!r} is registered already")
        try:
            self.manager.register(plugin, name=name)
            for caller in self.manager.get_hookcallers(plugin) or []:
                if any(i.plugin is plugin and (i.wrapper or i.hookwrapper) for i in caller.get_hookimpls()):
                    raise ConfigError(f"plugin {name!r}: {caller.name} is a hook wrapper, which no hook of ours calls")
        except Exception as error:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            if isinstance(error, pluggy.PluginValidationError):
                raise ConfigError(str(error).replace("\n", " ")) from None
            raise
        return name

    def _hooks_of(self, name: str) -> tuple[str, ...]:
        callers = self.manager.get_hookcallers(self.manager.get_plugin(name)) or []
        return tuple(sorted({caller.name for caller in callers}))

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a plugin that is an object of this program (a module, or an instance), beside the installed ones."""
        with self._lock:
            name = self._add(plugin, name)
            self.added.append((plugin, name))
            self.known = {}  # a new one: who has drawn conclusions from the old one sees that
            self._collected.clear()
        for owner, function, wanted in self.callers("configured"):
            if owner == name and self._settings_told is not None:  # historic: who comes late learns it too
                _guard.guarded(f"{owner}.configured", function, *((self._settings_told,) if wanted else ()))

    def unregister(self, plugin: object) -> None:
        """Take a plugin out again."""
        with self._lock:
            self.manager.unregister(plugin)
            self.added = [(p, n) for p, n in self.added if p is not plugin]
            self.known = {}  # a new one: who has drawn conclusions from the old one sees that
            self._collected.clear()

    def callers(self, hook: str) -> tuple[tuple[str, Callable[..., Any], tuple[str, ...]], ...]:
        """Return (plugin, function, argument names) of each implementation of `hook`, in the order of their calls."""
        found = self.known.get(hook)
        if found is None:
            with self._lock:  # or a plugin that is registered meanwhile would be left out for ever
                impls = getattr(self.manager.hook, hook).get_hookimpls()
                found = tuple((i.plugin_name, self._watched(hook, i), tuple(i.argnames)) for i in reversed(impls))
                self.known[hook] = found
        return found

    def _watched(self, hook: str, impl: Any) -> Callable[..., Any]:
        function: Callable[..., Any] = impl.function
        if not self.settings.debug_plugins:
            return function

        def shown(*args: Any) -> Any:
            answer = function(*args)
            print(f"rlm_obs hook {impl.plugin_name}.{hook}{args!r} -> {answer!r}", file=sys.stderr)
            return answer

        return shown

    def notify(self, hook: str, **facts: Any) -> None:
        """Call every implementation of `hook`, each under the guard; only a refusal gets out."""
        found = self.known.get(hook)
        for name, function, wanted in self.callers(hook) if found is None else found:
            _guard.guarded(f"{name}.{hook}", function, *[facts[w] for w in wanted])

    def first(self, hook: str, **facts: Any) -> Any:
        """Return the first answer that is not None, or None; an implementation that raises is taken as None."""
        for name, function, wanted in self.known.get(hook) or self.callers(hook):
            try:
                answer = function(*[facts[w] for w in wanted])
            except Exception as error:
                _guard.caught(f"{name}.{hook}", error)
                continue
            if answer is not None:
                return answer
        return None

    def collect(self, hook: str) -> Mapping[str, Any]:
        """Return what all implementations of a `register_*` hook offer, by name. Raises ConfigError for a name twice."""
        with self._lock:
            if hook in self._collected:
                return self._collected[hook]
            offered: dict[str, Any] = {}
            owners: dict[str, str] = {}
            for plugin, function, _ in self.callers(hook):
                for name, thing in (_guard.guarded(f"{plugin}.{hook}", function) or {}).items():
                    if name in offered:
                        raise ConfigError(
                            f"{hook}: the name {name!r} is offered by plugin {owners[name]!r} and by plugin {plugin!r}. "
                            f"Block one of them: RLM_OBS_BLOCK={plugin}"
                        )
                    offered[name], owners[name] = thing, plugin
            self._collected[hook] = offered
            return offered

    def after_fork(self) -> None:
        """Start with a lock that nobody holds in a forked child."""
        self._lock = threading.RLock()

    def configured(self, settings: Settings) -> None:
        """Tell every plugin the settings, those that come later too."""
        self._settings_told = settings
        for name, function, wanted in self.callers("configured"):
            _guard.guarded(f"{name}.configured", function, *((settings,) if wanted else ()))


def _origin(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist else "unknown"


def _ours(entry: metadata.EntryPoint) -> bool:
    return _plain(_origin(entry)) == "rlm-obs"


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


_loaded: Plugins | None = None
_loaded_lock = threading.RLock()


def loaded(settings: Settings | None = None) -> Plugins:
    """Return the plugins of this process, loaded at the first use; again if `settings` block others than before."""
    global _loaded
    with _loaded_lock:
        if settings is None:
            if _loaded is None:
                from rlm_obs._settings import read_settings

                _loaded = Plugins(read_settings())
        elif _loaded is None or (_loaded.settings.block, _loaded.settings.debug_plugins) != (
            settings.block,
            settings.debug_plugins,
        ):
            added = [] if _loaded is None else _loaded.added
            _loaded = Plugins(settings)
            for plugin, name in added:
                _loaded.register(plugin, name)
        else:
            _loaded.settings = settings
        return _loaded


class Gates:
    """Which SDKs' calls pass our gate: installed at the first tracer, budget or `instrument()`, gone by `uninstrument()`.

    While a block of ours is still open (a budget, a span), the gate stays: it goes when the last of them ends.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._installed: list[tuple[str, _hookspecs.Instrumentor]] = []
        self._open_blocks = 0
        self._going = False
        self.up = False

    def hold(self) -> None:
        """Enter a block that needs the gate."""
        with self._lock:
            if not self.up:
                self._install()
            self._open_blocks += 1

    def release(self) -> None:
        """Leave it; the gate stays for what the block has started, unless `drop` was asked for meanwhile."""
        with self._lock:
            self._open_blocks -= 1
            if self._going and not self._open_blocks:
                self._remove()

    def keep(self) -> None:
        """Install the gate, and keep it until `drop`."""
        with self._lock:
            self._going = False
            if not self.up:
                self._install()

    def drop(self) -> None:
        """Take the gate away, now or when the last open block ends."""
        with self._lock:
            self._going = True
            if not self._open_blocks:
                self._remove()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Install no instrumentor within the block, and take those away that are: a test of one brings its own."""
        with self._lock:
            were_up = self.up
            self._remove()
            self.up = True
        try:
            yield
        finally:
            with self._lock:
                self._remove()
                if were_up:
                    self._install()

    def after_fork(self) -> None:
        """Start with a lock that nobody holds in a forked child."""
        self._lock = threading.RLock()

    def _install(self) -> None:
        offered = loaded().collect("register_instrumentors")  # raises where two plugins offer one name
        self.up = True
        for name, build in offered.items():
            instrumentor = _guard.guarded(f"instrumentor {name}", build)
            if instrumentor is not None:
                _guard.guarded(f"instrumentor {name}", instrumentor.instrument)
                self._installed.append((name, instrumentor))

    def _remove(self) -> None:
        self.up = self._going = False
        while self._installed:
            name, instrumentor = self._installed.pop()
            _guard.guarded(f"instrumentor {name}", instrumentor.uninstrument)


gates = Gates()


def _after_fork() -> None:
    global _loaded_lock
    _loaded_lock = threading.RLock()
    gates.after_fork()
    if _loaded is not None:
        _loaded.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
