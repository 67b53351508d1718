"""The package is light: few packages beside it, little imported, and no module that nobody can reach."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, run_there

MOST_PACKAGES = 30
HEAVY = {"asyncio", "genai_prices", "httpx", "httpx2", "openai", "opentelemetry", "pluggy", "pydantic", "wrapt"}


@pytest.mark.network
def test_few_packages(fresh: Path, tmp_path: Path) -> None:
    """A fresh environment with openai has at most 30 packages, pip among them."""
    code = "import importlib.metadata as m, json; print(json.dumps(sorted(d.name for d in m.distributions())))"
    names = json.loads(run_there(fresh, code, tmp_path, {}))
    assert {"openai", "pip", "rlm-obs"} <= set(names)
    assert len(set(names) - {"setuptools"}) <= MOST_PACKAGES, names  # which Python 3.11 puts into an empty environment


def test_import_is_light() -> None:
    """`import rlm_obs` brings none of what it stands on; that comes with the first name that is used."""
    code = "import sys; before = set(sys.modules); import rlm_obs; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found = set(done.stdout.split())
    assert not HEAVY & {name.partition(".")[0] for name in found}
    assert {name for name in found if name.startswith("rlm_obs")} == {"rlm_obs", "rlm_obs._lazy"}


def test_the_testing_kit_brings_no_openai() -> None:
    """The kit's pytest plugin is loaded by every pytest run, so it brings nothing heavy either."""
    code = "import sys; import rlm_obs.testing.fixtures; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert not (HEAVY - {"asyncio", "pluggy"}) & found  # pytest's own


def modules() -> dict[str, Path]:
    """Return every module of the package by its name."""
    found = {}
    for path in (ROOT / "rlm_obs").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Yield the name of each module that a file imports when it runs, anywhere in it, and of each name in them."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []  # walked later, so never
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_is_reachable() -> None:
    """Each module is imported from a public name or an entry point on: none is left behind."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    known = modules()
    open_ends = {
        "rlm_obs",
        "rlm_obs.testing",
        "rlm_obs.instrumentation",
        *(target.partition(":")[0] for target in project["scripts"].values()),
    }
    open_ends |= {target for group in project["entry-points"].values() for target in group.values()}
    for package in ("rlm_obs", "rlm_obs.testing"):
        open_ends |= set(importlib.import_module(package)._HOMES.values())
    assert open_ends <= known.keys(), "a name whose module is not there"
    reached: set[str] = set()
    while open_ends:
        name = open_ends.pop()
        reached.add(name)
        parent = name.rpartition(".")[0]
        open_ends |= {one for one in (parent, *imported(known[name])) if one in known} - reached
    assert not known.keys() - reached
