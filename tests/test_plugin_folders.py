"""Each plugin of the repository, installed by pip from its wheel, is listed, and passes its own tests."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import ROOT
from tests.test_example_plugin import installed, run, script

#: Their own tests need more than a wheel beside this one, and are run elsewhere.
TRIED_ELSEWHERE = {"rlm-obs-example", "rlm-obs-redis"}
FOLDERS = sorted(
    path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml") if path.parent.name not in TRIED_ELSEWHERE
)


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    """The folder of one plugin."""
    return Path(request.param)


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin's wheel."""
    return installed(folder, tmp_path_factory)


@pytest.fixture(scope="module")
def project(folder: Path) -> dict[str, Any]:
    """What the plugin's pyproject.toml says."""
    said: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return said


def test_it_is_listed(site: Path, project: dict[str, Any], tmp_path: Path) -> None:
    """`rlm-obs plugins` lists it, with its version and some hooks, and without a failure."""
    found = json.loads(script(site, "plugins", "--json", folder=tmp_path))
    (own,) = [one for one in found if one["distribution"] == project["name"]]
    assert (own["name"], own["version"]) == (next(iter(project["entry-points"]["rlm_obs"])), project["version"])
    assert own["failed"] is None
    assert own["hooks"]


def test_its_own_tests(site: Path, folder: Path, tmp_path: Path) -> None:
    """Its tests pass on its wheel, with warnings as errors."""
    options = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", "-q")
    assert " passed" in run(site, "-m", "pytest", *options, str(folder), folder=tmp_path)


def test_its_readme_names_it(folder: Path, project: dict[str, Any]) -> None:
    """Its README begins with its name, and its folder is called so."""
    assert folder.name == project["name"]
    assert (folder / "README.md").read_text("utf-8").startswith(f"# {project['name']}\n")
