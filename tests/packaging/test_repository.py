"""The repository keeps its own habits: what is said twice agrees, and every file says why it is there."""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rlm_obs
import rlm_obs.testing
from tests.packaging.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS = ("rlm_obs", "tests", "benchmarks", "examples", "plugins")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
#: A file fits a sitting. These do not, and each says why; the number of lines beyond which nobody argues is MOST.
USUAL, MOST = 300, 460
LONG = {
    "_attributes.py": "every attribute has its name here and nowhere else",
    "_budgets/desk.py": "one lock guards all that reserving and settling touch",
    "_call.py": "the state machine of a call, whole",
    "_plugins.py": "finding, loading, blocking and calling are one subject",
    "_runtime.py": "what holds for a call, and the switch that all of it hangs on",
    "_settings.py": "every setting, with what it means",
    "_tracker.py": "one public class, most of it the docs of its arguments",
    "_instrument/gate.py": "a call's whole way, in both colours",
    "_instrument/openai.py": "every shape that one SDK has",
    "_instrument/watch.py": "every way that a stream can end",
    "testing/_routes.py": "a method per endpoint",
    "testing/_server.py": "one server, from socket to answer",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_says_why_it_exists(path: Path) -> None:
    """A file's first line is a docstring, one sentence long."""
    text = path.read_text("utf-8")
    assert text.startswith('"""'), "begin the file with a docstring that says why it exists"
    said = ast.get_docstring(ast.parse(text)) or ""
    assert len(said.split()) >= 4, said
    assert said.splitlines()[0][-1] in ".:", said


def test_no_file_is_too_long() -> None:
    """A file of the package has at most 300 lines, but for those that say why not; what has shrunk leaves the list."""
    lengths = {
        path.relative_to(ROOT / "rlm_obs").as_posix(): len(path.read_text("utf-8").splitlines())
        for path in (ROOT / "rlm_obs").rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > USUAL and name not in LONG} == {}
    assert {name: length for name, length in lengths.items() if length > MOST} == {}
    assert {name for name in LONG if lengths.get(name, 0) <= USUAL} == set()


def test_the_versions_of_python() -> None:
    """Classifiers, requires-python, the tools' targets and CI speak of the same oldest Python."""
    prefix = "Programming Language :: Python :: 3."
    minors = [int(c.removeprefix(prefix)) for c in PYPROJECT["project"]["classifiers"] if c.startswith(prefix)]
    oldest = f"3.{minors[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert PYPROJECT["project"]["requires-python"] == f">={oldest}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert re.search(rf"^OLDEST={re.escape(oldest)}$", (ROOT / ".ci/run").read_text("utf-8"), flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"sys.version_info < (3, {minors[0]})" in makefile
    assert {f"python3.{minor}" for minor in minors} <= set(makefile.split())
    for path in (ROOT / "plugins").glob("*/pyproject.toml"):
        assert tomllib.loads(path.read_text("utf-8"))["project"]["requires-python"] == f">={oldest}", path


def test_lowest_versions() -> None:
    """The constraints of `make test LOWEST=1` name every dependency and every extra's, at its lower bound, and the plugins'."""
    said = subprocess.run([sys.executable, ROOT / "tests/lowest.py"], capture_output=True, text=True, check=True)
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    ours = [one.replace(">=", "==") for one in wanted if not one.startswith("rlm-obs[")]
    assert said.stdout.split()[: len(ours)] == ours
    assert "redis==5" in said.stdout.split()[len(ours) :]


def test_every_command_of_make_is_in_its_help() -> None:
    """`make` alone lists every command there is."""
    said = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert re.findall(r"^  make ([\w-]+) ", said.stdout, flags=re.MULTILINE) == phony.split()[1:]


def test_ci_can_be_run() -> None:
    """`.ci/run` is a script that may be executed."""
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_typed_page_uses_every_public_name() -> None:
    """The file that the strict type check reads as a user's uses each public name, so none is published untyped."""
    assert "tests/typing_api.py" in PYPROJECT["tool"]["mypy"]["files"]
    tree = ast.parse((ROOT / "tests/typing_api.py").read_text("utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not {*rlm_obs.__all__, *rlm_obs.testing.__all__} - used
