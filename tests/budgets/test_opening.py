"""A store is opened by its URL, by the hook that any plugin offers its own by; no message shows a password."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import rlm_obs
from rlm_obs._budgets.memory import MemoryStore
from rlm_obs._budgets.opening import open_store
from rlm_obs._budgets.sqlite import SqliteStore
from rlm_obs._plugins import loaded
from rlm_obs.stores import AccountId, Message

USD = AccountId("b")


def spent(url: str) -> object:
    """Return what is spent there."""
    store = open_store(url)
    state = store.read(USD)
    store.close()
    return None if state is None else state.spent


def spend(url: str) -> None:
    """Spend a dollar there."""
    store = open_store(url)
    store.exchange(USD, Message(lease="x", number=1, limit=Decimal(10), spent=Decimal(1)))
    store.close()


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes name a file in the folder that is current when the store is opened, and the store stays with it."""
    store = open_store("sqlite:///my%20budgets.db")
    assert isinstance(store, SqliteStore)
    assert repr(store) == f"SqliteStore({str(tmp_path / 'my budgets.db')!r})"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert store.once(USD, "mark")
    store.close()
    assert (tmp_path / "my budgets.db").exists()
    assert os.listdir() == []


def test_an_absolute_path(tmp_path: Path) -> None:
    """Four slashes name any file; two handles are on the same data."""
    url = f"SQLite:///{tmp_path}/a%3Fb%23c.db"
    assert spent(url) is None
    assert list(tmp_path.iterdir()) == []  # nobody makes a file by reading
    spend(url)
    assert spent(url) == 1
    assert (tmp_path / "a?b#c.db").exists()


def test_memory() -> None:
    """A store in memory is one per name in the process."""
    assert isinstance(open_store("memory://one"), MemoryStore)
    spend("memory://one")
    assert (spent("memory://one"), spent("memory://two")) == (1, None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://hunter2.db", "three slashes"),
        ("sqlite://", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite://ann:hunter2@host/x.db", "three slashes"),
        ("sqlite:///x.db?password=hunter2", "no options"),
        ("sqlite:///x%00hunter2", "three slashes"),
        ("sqlite:///:memory:", "memory://name"),
        ("memory://", "no name"),
        ("postgres://ann:hunter2@host/db", "no plugin offers postgres://"),
        ("sqlit:///x.db", "did you mean 'sqlite'"),
        ("redis://:hunter2@host:6379/0", "pip install rlm-obs-redis"),
        ("ann:hunter2@host", "give a URL"),
        ("hunter2", "give a URL"),
        ("", "give a URL"),
        (None, "give a URL"),
        (Path("hunter2.db"), "give a URL"),
    ],
)
def test_what_cannot_be_opened(url: str, said: str) -> None:
    """A wrong URL is a ConfigError that says what to write, and never shows what may be a password."""
    if str(url).startswith("redis") and "redis" in loaded().collect("register_budget_stores"):
        pytest.skip("the plugin is installed")
    with pytest.raises(rlm_obs.ConfigError) as caught:
        open_store(url)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("url", ["sqlite://hunter2.db", "memory://", "postgres://ann:hunter2@host/db", "hunter2"])
def test_a_tracker_of_a_wrong_url(url: str) -> None:
    """A tracker with a wrong URL is a ConfigError where it is made, not a budget whose calls are refused later."""
    with pytest.raises(rlm_obs.ConfigError, match="store: ") as caught:
        rlm_obs.CostTracker(budget_usd=1, store=url)
    assert "hunter2" not in str(caught.value)


class Offering:
    """A plugin that offers a store."""

    @rlm_obs.hookimpl
    def register_budget_stores(self) -> dict[str, object]:
        return {"house": lambda url: ("the store at", url)}


@pytest.fixture
def _offered() -> Iterator[None]:
    plugin = Offering()
    rlm_obs.register_plugin(plugin)
    yield
    rlm_obs.unregister_plugin(plugin)


@pytest.mark.usefixtures("_offered")
def test_a_plugins_store() -> None:
    """A plugin's scheme opens its store, with the URL as it was given."""
    assert open_store("house://Some/Where") == ("the store at", "house://Some/Where")
