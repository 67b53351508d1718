"""The plugin of litellm's prices, installed by pip from its wheel, keeps its own tests and is asked before the list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, build

PLUGIN = ROOT / "plugins/rlm-obs-litellm-prices"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin's wheel."""
    site, wheel = tmp_path_factory.mktemp("site"), build(PLUGIN, tmp_path_factory.mktemp("wheel"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(list(map(str, install)), check=True, capture_output=True, timeout=300)
    return site


def run(site: Path, *command: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def test_its_own_tests(site: Path) -> None:
    """The plugin's own tests pass on its wheel."""
    said = run(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", folder=PLUGIN)
    assert " passed" in said, said
    assert "failed" not in said, said


def test_it_is_asked_before_the_list(site: Path, tmp_path: Path) -> None:
    """`rlm-obs prices diff` shows both sources, which agree on a plain model."""
    script = str(Path(sys.executable).parent / "rlm-obs")
    head, *rows = run(site, script, "prices", "diff", "gpt-4o-mini", folder=tmp_path).splitlines()
    assert head.split()[2:] == ["litellm", "1.110.2", "genai-prices", "0.2.3"]
    assert ["input", "0.15", "0.15"] in [row.split() for row in rows]


def test_the_licence_travels(site: Path) -> None:
    """The licence of the list is in the wheel beside it."""
    (licence,) = site.rglob("LICENSE-litellm")
    assert "Berri AI" in licence.read_text("utf-8")
