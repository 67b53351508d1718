"""Plugins are found by their entry points and loaded one by one: what is broken costs a log line, never the program."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rlm_obs
from rlm_obs import ConfigError, _guard, _plugins
from rlm_obs._plugins import Gates, Plugin, Plugins, loaded
from rlm_obs._settings import read_settings

GOOD = """
import rlm_obs
told = []

@rlm_obs.hookimpl
def configured(settings):
    told.append(settings)

@rlm_obs.hookimpl
def register_exporters():
    return {"good": lambda settings: rlm_obs.ConsoleExporter()}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a distribution with entry points of ours, as pip would leave it; each test's modules are forgotten again."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    names: list[str] = []
    before = _plugins._loaded

    def write(distribution: str, entries: dict[str, str], **modules: str) -> None:
        info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = "\n".join(f"{name} = {target}" for name, target in entries.items())
        (info / "entry_points.txt").write_text(f"[rlm_obs]\n{lines}\n")
        for name, text in modules.items():
            (site / f"{name}.py").write_text(text)
            names.append(name)
        importlib.invalidate_caches()

    yield write
    for name in names:
        sys.modules.pop(name, None)
    _plugins._loaded = before


def load(**settings: Any) -> Plugins:
    return Plugins(read_settings(settings))


def found(plugins: Plugins, name: str) -> Plugin:
    return next(p for p in plugins.found if p.name == name)


def test_an_installed_plugin_is_in_use(install: Callable[..., None]) -> None:
    """An entry point is all it takes; where it came from is known."""
    install("csv-for-rlm", {"good": "good_one"}, good_one=GOOD)
    plugins = load()
    assert "good" in plugins.collect("register_exporters")
    assert found(plugins, "good").hooks == ("configured", "register_exporters")
    plugin = found(plugins, "good")
    assert (plugin.distribution, plugin.version, plugin.target, plugin.failed) == (
        "csv-for-rlm",
        "1.2",
        "good_one",
        None,
    )


def test_built_ins_come_in_by_the_same_door() -> None:
    """Ours are entry points as any other, and are loaded before them, so that others are asked first."""
    plugins = load()
    ours = [p for p in plugins.found if p.distribution == "rlm-obs"]
    assert {"console", "file", "langfuse", "prices", "openai"} <= {p.name for p in ours}
    assert plugins.found[: len(ours)] == ours
    assert not [p.failed for p in ours if p.failed]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("syntax error(", "SyntaxError"),
        ("import rlm_obs\n@rlm_obs.hookimpl\ndef price(request, wrong): ...", "ConfigError"),
        ("import rlm_obs\n@rlm_obs.hookimpl(wrapper=True)\ndef price(): return (yield)", "hook wrapper"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_left_out(
    install: Callable[..., None], text: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs one log line that names it; the others are in use, and `found` says why it is not."""
    install("bad-one", {"bad": "bad_module"}, bad_module=text)
    install("good-one", {"good": "good_one"}, good_one=GOOD)
    for _ in range(2):
        plugins = load()
        assert says in (found(plugins, "bad").failed or "")
        assert "good" in plugins.collect("register_exporters")
        assert not [name for name, *_ in plugins.callers("price") if name == "bad"]
    assert len(caplog.records) == 1
    assert "plugin 'bad' of bad-one could not be loaded" in caplog.records[0].getMessage()
    assert _guard.failures["plugin bad"] == 2


@pytest.mark.swallows
def test_a_plugin_that_raises_when_it_registers_is_left_out(install: Callable[..., None]) -> None:
    """Its exporters are missing, the others are there."""
    install("bad-one", {"bad": "bad_module"}, bad_module=GOOD.replace("return {", "raise RuntimeError('no'); return {"))
    install("good-one", {"good": "good_one"}, good_one=GOOD)
    assert {"console", "good"} <= set(load().collect("register_exporters"))
    assert _guard.failures["bad.register_exporters"] == 1


def test_a_plugins_name_offered_twice_names_both(install: Callable[..., None]) -> None:
    """Two distributions with one entry-point name: a ConfigError says which, and how to go on; blocking one is enough."""
    install("first-one", {"good": "good_one"}, good_one=GOOD)
    install("second-one", {"good": "good_two"}, good_two=GOOD)
    with pytest.raises(ConfigError, match="'good': one of first-one, one of second-one.*RLM_OBS_BLOCK=second-one"):
        load()
    plugins = load(block=["second-one"])
    assert [(p.distribution, p.blocked) for p in plugins.found if p.name == "good"] == [
        ("first-one", False),
        ("second-one", True),
    ]


def test_an_exporters_name_offered_twice_names_both(install: Callable[..., None]) -> None:
    """Two plugins that offer one exporter: a ConfigError names them; blocking one is enough."""
    install("first-one", {"one": "good_one"}, good_one=GOOD)
    install("second-one", {"two": "good_two"}, good_two=GOOD)
    with pytest.raises(ConfigError, match="'good' is offered by plugin '(one|two)' and by plugin '(one|two)'"):
        load().collect("register_exporters")
    assert "good" in load(block=["one"]).collect("register_exporters")


def test_an_instrumentors_name_offered_twice_is_said_each_time() -> None:
    """The gate is not taken for installed because it failed once."""

    class Twice:
        @rlm_obs.hookimpl
        def register_instrumentors(self) -> Any:
            return {"openai": object}

    plugin = Twice()
    rlm_obs.register_plugin(plugin)
    try:
        for _ in range(2):
            with pytest.raises(ConfigError, match="'openai' is offered by plugin"):
                Gates().hold()
    finally:
        rlm_obs.unregister_plugin(plugin)


@pytest.mark.parametrize("named", ["bad", "bad-one", "Bad_One"])
def test_a_blocked_plugin_is_never_imported(install: Callable[..., None], named: str) -> None:
    """By the entry point or by the distribution, however it is spelled."""
    install("bad-one", {"bad": "bad_module"}, bad_module="raise RuntimeError('imported')")
    plugin = found(load(block=[named]), "bad")
    assert plugin.blocked
    assert plugin.failed == "blocked by RLM_OBS_BLOCK"
    assert "bad_module" not in sys.modules
    assert not _guard.failures


def test_a_distribution_found_twice_is_one(
    install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder on the path twice, or an editable install beside its build, is no clash."""
    install("csv-for-rlm", {"good": "good_one"}, good_one=GOOD)
    again = tmp_path / "again"
    again.symlink_to(tmp_path / "site")
    monkeypatch.syspath_prepend(str(again))
    assert len([p for p in load().found if p.name == "good"]) == 1


class Telling:
    """A plugin that keeps what it is told, and says its name where it is asked."""

    def __init__(self, name: str, book: list[str], answer: Any = None) -> None:
        self.name, self.book, self.answer = name, book, answer

    @rlm_obs.hookimpl
    def configured(self) -> None:
        self.book.append(self.name)

    @rlm_obs.hookimpl
    def call_starting(self, request: Any) -> None:
        self.book.append(self.name)
        if isinstance(self.answer, Exception):
            raise self.answer

    @rlm_obs.hookimpl
    def price(self, usage: Any) -> Any:
        self.book.append(self.name)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_last_registered_is_asked_first() -> None:
    """So a plugin of the user's comes before the installed ones, and the first answer that is not None wins."""
    book: list[str] = []
    plugins = load(block=["prices"])
    for name, answer in (("a", "of a"), ("b", "of b"), ("c", None)):
        plugins.register(Telling(name, book, answer), name)
    assert plugins.first("price", request=None, usage=None, duration_s=None) == "of b"
    assert book == ["c", "b"]


@pytest.mark.swallows
def test_who_raises_does_not_silence_the_others() -> None:
    """Each implementation is called under the guard of its own; one that raises is taken as None."""
    book: list[str] = []
    plugins = load(block=["prices"])
    for name in ("a", "b", "c"):
        plugins.register(Telling(name, book, RuntimeError("no") if name == "b" else None), name)
    plugins.notify("call_starting", request=None)
    assert plugins.first("price", request=None, usage=None, duration_s=None) is None
    assert book == ["c", "b", "a"] * 2
    assert _guard.failures == {"b.call_starting": 1, "b.price": 1}


def test_a_refusal_gets_out() -> None:
    """CallRefused is the one exception that reaches the user."""
    plugins = load()
    plugins.register(Telling("no", [], rlm_obs.CallRefused("no")))
    with pytest.raises(rlm_obs.CallRefused):
        plugins.notify("call_starting", request=None)


def test_who_comes_late_is_told_the_settings() -> None:
    """`configured` is historic: a plugin registered after `instrument()` gets the call too, once."""
    seen: list[Any] = []

    class Late:
        @rlm_obs.hookimpl
        def configured(self, settings: Any) -> None:
            seen.append(settings)

    plugin = Late()
    with rlm_obs.instrument(exporters=[], service_name="late") as made:
        rlm_obs.register_plugin(plugin)
        try:
            assert seen == [made.settings]
            with rlm_obs.instrument(exporters=[], service_name="again") as again:
                assert seen == [made.settings, again.settings]
        finally:
            rlm_obs.unregister_plugin(plugin)


def test_a_registered_plugin_stays_when_others_are_blocked() -> None:
    """`instrument(settings={"block": ...})` loads anew; what the program registered itself is still there."""
    book: list[str] = []
    plugin = Telling("mine", book)
    rlm_obs.register_plugin(plugin, "mine")
    book.clear()
    try:
        with rlm_obs.instrument(exporters=[], settings={"block": ["langfuse"]}):
            assert "langfuse" not in loaded().collect("register_exporters")
            assert book == ["mine"]
    finally:
        rlm_obs.unregister_plugin(plugin)
        loaded(read_settings())


def test_registering_twice_is_a_config_error_and_changes_nothing() -> None:
    """The same object, or another one of the same name."""
    plugin = Telling("mine", [])
    rlm_obs.register_plugin(plugin, "mine")
    try:
        for again, name in ((plugin, None), (Telling("other", []), "mine")):
            with pytest.raises(ConfigError, match="registered already"):
                rlm_obs.register_plugin(again, name)
        assert len([p for p, _ in loaded().added if p is plugin]) == 1
    finally:
        rlm_obs.unregister_plugin(plugin)
    assert "mine" not in [name for name, *_ in loaded().callers("price")]


def test_a_hook_with_a_wrong_argument_is_a_config_error() -> None:
    """Said where the plugin is registered, and it is not half in."""

    class Wrong:
        @rlm_obs.hookimpl
        def call_finished(self, recrod: Any) -> None: ...

    with pytest.raises(ConfigError, match="recrod"):
        rlm_obs.register_plugin(Wrong(), "wrong")
    assert "wrong" not in [name for name, *_ in loaded().callers("call_finished")]


def test_debug_plugins_prints_each_plugin_and_each_call(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """RLM_OBS_DEBUG_PLUGINS=1: what is loaded, and each hook with its arguments and its answer, on stderr."""
    install("csv-for-rlm", {"good": "good_one"}, good_one=GOOD)
    plugins = load(debug_plugins=True, block="prices")  # which wants a real usage
    plugins.register(Telling("mine", [], "an answer"), "mine")
    plugins.first("price", request="a request", usage="a usage", duration_s=None)
    said = capsys.readouterr().err
    assert "rlm_obs plugins:" in said
    assert "good" in said
    assert "rlm_obs hook mine.price('a usage',) -> 'an answer'" in said


def test_the_variables_reach_a_program(install: Callable[..., None], tmp_path: Path) -> None:
    """RLM_OBS_BLOCK and RLM_OBS_DEBUG_PLUGINS, as a program finds them in its environment."""
    install("csv-for-rlm", {"good": "good_one"}, good_one=GOOD)
    script = textwrap.dedent("""
    import rlm_obs
    rlm_obs.instrument(exporters=[])
    try:
        rlm_obs.Tracer("t", exporter="good")
    except rlm_obs.ConfigError as error:
        print(error)
    """)
    env = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "site"),
        "RLM_OBS_BLOCK": "csv_for_rlm",
        "RLM_OBS_DEBUG_PLUGINS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=20, check=True
    )
    assert "there is no exporter 'good'" in done.stdout
    assert "rlm_obs plugins: " in done.stderr
    assert "good" not in done.stderr.splitlines()[0].split(": ")[1].split(", ")
