"""The wheel, built once, and a fresh environment with nothing in it but the wheel and an openai."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What makes fresh environments for plugins is the same for all versions that are tested: it runs once.
once = pytest.mark.skipif(find_spec("mypy") is None, reason="it runs where the group `dev` is")


def run(*command: str | Path, **variables: str) -> str:
    """Run a command with nothing of this environment's settings, and return what it printed."""
    ours = ("RLM_OBS_", "OTEL_", "OPENAI_", "PYTHON")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | variables
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(project: Path, folder: Path) -> Path:
    """Build a project's wheel into a folder."""
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, project)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment: `pip install rlm-obs openai`, with the openai that is tested here."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, f"openai=={version('openai')}")
    return python


def run_there(python: Path, code: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Run code with a fresh environment's Python, in a folder where nothing of ours lies about."""
    file = folder / "program.py"
    file.write_text(code, encoding="utf-8")
    return run(python, "-I", "-W", "error", file, **variables)
