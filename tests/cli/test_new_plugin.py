"""`rlm-obs new-plugin` writes under the name that was given, says what to do next, and refuses what cannot be."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., subprocess.CompletedProcess[str]]
KINDS = ["exporter", "price", "store", "instrumentor"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written(rlm_obs_script: Script, tmp_path: Path, kind: str) -> None:
    """A distribution with code, tests, README and CI file; in all of them the name stands in the place of the template's."""
    done = rlm_obs_script("new-plugin", "rlm-obs-two.words", "--kind", kind, "--dir", str(tmp_path / "in"))
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "in" / "rlm-obs-two.words"
    assert f"cd {folder}\n" in done.stdout
    files = {
        path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()
    }
    package = "rlm_obs_two_words/"
    expected = {
        "pyproject.toml",
        "README.md",
        ".github/workflows/test.yml",
        f"{package}__init__.py",
        f"{package}py.typed",
    }
    expected |= {"tests/test_plugin.py"} | ({"tests/stand_in_sdk.py"} if kind == "instrumentor" else set())
    assert set(files) == expected
    assert not [name for name, text in files.items() if "acme" in (name + text).lower() or "A_" in text]
    for name, text in files.items():
        if name.endswith(".py"):
            ast.parse(text)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "rlm-obs-two.words"
    assert project["entry-points"]["rlm_obs"] == {"two-words": "rlm_obs_two_words"}
    steps = re.findall(r"- run: (.*)", files[".github/workflows/test.yml"])
    assert steps == ['python -m pip install --editable ".[test]"', "ruff check .", "mypy", "pytest"]


def test_an_existing_folder_is_left_alone(rlm_obs_script: Script, tmp_path: Path) -> None:
    """It is refused, and nothing in it is touched."""
    (tmp_path / "rlm-obs-mine").mkdir()
    done = rlm_obs_script("new-plugin", "rlm-obs-mine")
    assert done.returncode == 2
    assert "rlm-obs-mine is there already" in done.stderr
    assert list((tmp_path / "rlm-obs-mine").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("two words", "exporter", "cannot be the name of a distribution"),
        ("-x", "exporter", "No such option"),
        ("../x", "exporter", "cannot be the name of a distribution"),
        ("x-", "exporter", "cannot be the name of a distribution"),
        ("имя", "exporter", "cannot be the name of a distribution"),
        ("7up", "exporter", "cannot be the name of a distribution"),
        ("rlm-obs-7up", "exporter", "cannot be the name of a distribution"),
        ("class", "exporter", "cannot be the name of a distribution"),
        ("rlm_obs", "exporter", "is the name of rlm-obs itself"),
        ("RLM-obs", "exporter", "is the name of rlm-obs itself"),
        ("rlm-obs-console", "price", "'console' is taken"),
        ("rlm-obs-phoenix", "exporter", "'phoenix' is taken"),
        ("rlm-obs-sqlite", "store", "'sqlite' is taken"),
        ("rlm-obs-openai", "instrumentor", "'openai' is taken"),
        ("csv", "exporter", "in the place of the module 'csv', which is there: call it rlm-obs-csv"),
        ("pytest", "exporter", "in the place of the module 'pytest'"),
    ],
)
def test_names_that_cannot_be(rlm_obs_script: Script, tmp_path: Path, name: str, kind: str, why: str) -> None:
    """A name that no distribution can have, one of ours, and one that would hide another module, are refused with a reason."""
    done = rlm_obs_script("new-plugin", name, "--kind", kind)
    assert done.returncode == 2
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_taken_by_its_kind(rlm_obs_script: Script) -> None:
    """Prices may be called as an exporter is offered: the names are of different kinds."""
    assert rlm_obs_script("new-plugin", "rlm-obs-phoenix", "--kind", "price").returncode == 0
