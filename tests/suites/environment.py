"""An environment apart for a suite: made once, and anew when what it needs has changed."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(name: str, requirements: list[str]) -> Path:
    """Return the Python of `.venv-suite-<name>`, with this project and `requirements` in it.

    Raises CalledProcessError where they cannot be installed; what pip said is in its `stderr`.
    """
    folder = ROOT / f".venv-suite-{name}"
    python, stamp = folder / "bin/python", folder / ".made"
    wanted = "\n".join([sys.version, *requirements, (ROOT / "pyproject.toml").read_text("utf-8")])
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return python
    venv.create(folder, with_pip=True, clear=not stamp.exists())
    pip(python, "install", "--upgrade", "--no-compile", "--editable", str(ROOT), *requirements)
    stamp.write_text(wanted, "utf-8")
    return python


def pip(python: Path | str, *arguments: str) -> None:
    """Run pip quietly."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def version(python: Path, distribution: str) -> str:
    """Return the version of a distribution that is installed in an environment."""
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows as a Markdown table, the first one its head."""
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, tuple("---" for _ in head), *rest])
