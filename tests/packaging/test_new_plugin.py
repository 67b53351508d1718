"""What `rlm-obs new-plugin` writes is installed into a fresh environment, and passes its tests and checks without a change."""

from __future__ import annotations

import json
import os
import tomllib
import venv
from pathlib import Path

import pytest

from tests.packaging.conftest import once, run

pytestmark = [pytest.mark.network, once]
NAMES = {
    "exporter": "rlm-obs-warehouse",
    "price": "rlm-obs-contract_prices",
    "store": "rlm-obs-Ledgers",
    "instrumentor": "spoken",
}
#: Each hook that makes a plugin of its kind.
HOOKS = {
    "exporter": "register_exporters",
    "price": "price",
    "store": "register_budget_stores",
    "instrumentor": "register_instrumentors",
}


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with our wheel in it, and with one plugin of each kind, as a reader installs them."""
    folder = tmp_path_factory.mktemp("written")
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel)
    for kind, name in NAMES.items():
        said = run(programs / "rlm-obs", "new-plugin", name, "--kind", kind, "--dir", folder)
        assert f'cd {folder / name}\n    pip install --editable ".[test]"' in said
    several = [part for name in NAMES.values() for part in ("--editable", f"{folder / name}[test]")]
    run(programs / "python", "-m", "pip", "install", "--quiet", *several)
    return programs


@pytest.fixture(params=NAMES)
def kind(request: pytest.FixtureRequest) -> str:
    """One kind of plugin."""
    return str(request.param)


def test_its_tests_pass(programs: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pytest` passes: the contract of the kind, and a real run."""
    monkeypatch.chdir(programs.parents[1] / NAMES[kind])
    said = run(programs / "python", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    assert int(said.rpartition(" passed")[0].split()[-1]) > 10


def test_its_checks_pass(programs: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ruff check`, `ruff format --check` and `mypy`, which is strict there, find nothing."""
    folder = programs.parents[1] / NAMES[kind]
    monkeypatch.chdir(folder)
    run(programs / "ruff", "check", "--no-cache", ".")
    run(programs / "ruff", "format", "--no-cache", "--check", ".")
    assert tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]["strict"] is True
    assert "Success: no issues found" in run(programs / "mypy", "--cache-dir", os.devnull)


def test_it_is_listed(programs: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rlm-obs plugins` lists it beside the others, with the hook of its kind."""
    monkeypatch.chdir(tmp_path)
    found = {one["distribution"]: one for one in json.loads(run(programs / "rlm-obs", "plugins", "--json"))}
    one = found[NAMES[kind]]
    assert (one["failed"], HOOKS[kind] in one["hooks"]) == (None, True)
