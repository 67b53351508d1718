"""Every Python block of the README, of the docs and of the Russian tutorial runs, and prints what the page says."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("page.py")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SECONDS = re.compile(r"\b\d+(\.\d+)?s\b")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


page = load(RUNNER)


def listed() -> list[Any]:
    """Return each Python block of each page, under its file and line, with the output that stands below it."""
    found = []
    for path in PAGES:
        fences = list(page.blocks(path.read_text("utf-8")))
        for block, below in zip(fences, [*fences[1:], None], strict=False):
            if block.lang != "python":
                continue
            output = below.body if below is not None and below.note == "output" else None
            where = f"{path.relative_to(ROOT)}:{block.line}"
            found.append(pytest.param(path, block, output, id=where))
    return found


@functools.cache
def outcome(path: Path, folder: Path) -> dict[int, dict[str, Any]]:
    """Run a page once, in a process of its own, with nothing of this machine's settings."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RLM_OBS_", "OTEL_", "LANGFUSE_", "OPENAI_"))}
    own = folder / "_".join(path.relative_to(ROOT).with_suffix("").parts)
    own.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", str(RUNNER), str(path)],
        cwd=own,
        env=clean | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {one["line"]: one for one in json.loads(done.stdout.splitlines()[-1])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.mark.parametrize(("path", "block", "output"), listed())
def test_the_block_runs(path: Path, block: Any, output: str | None, folder: Path) -> None:
    """A block runs as it stands, after those above it on its page; one that cannot run says why in its fence.

    One with a title is a file of a page that is followed step by step: `tests/packaging/test_ten_minutes.py`.
    """
    if block.note.startswith("title="):
        compile(block.body, str(path), "exec")
        return
    if block.note.startswith("no-run:"):
        assert block.note.removeprefix("no-run:").strip(), "say why it cannot run"
        compile(block.body, str(path), "exec")
        return
    assert not block.note, f"unknown note {block.note!r}"
    ended = outcome(path, folder)[block.line]
    assert ended["error"] is None, ended["error"]
    if output is not None:
        assert matches(output, ended["printed"]), f"the page says:\n{output}\nit printed:\n{ended['printed']}"


def spaced(said: str) -> str:
    """Return a pattern of a text, whose columns may be wider or narrower; what a line begins with stays as it is."""
    return re.sub(r"(?<=\S)(\\ ){2,}", " +", re.escape(said))


def matches(said: str, printed: str) -> bool:
    """Compare line by line: durations are any, as wide as they like, and a `…` in the page stands for anything."""
    wanted, lines = (SECONDS.sub("#s", text).strip().splitlines() for text in (said, printed))
    if len(wanted) != len(lines):
        return False
    return all(
        re.fullmatch(".*".join(spaced(part) for part in want.rstrip().split("…")), line.rstrip())
        for want, line in zip(wanted, lines, strict=True)
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_example_runs(path: Path, tmp_path: Path) -> None:
    """Each program in `examples/` runs to its end against a server on loopback; a service is set up, and asks nothing yet."""
    from rlm_obs.testing import fake_openai

    with fake_openai() as server:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RLM_OBS_", "OTEL_", "LANGFUSE_"))}
        own = {
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": "none",
            "NO_PROXY": "*",
            "PYTHONIOENCODING": "utf-8",
            "RLM_OBS_HOSTS": json.dumps({server.base_url.split("/")[2]: "openai"}),
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", str(path)],
            cwd=tmp_path,
            env=clean | own,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert server.calls > 0 or "FastAPI(" in path.read_text("utf-8")
