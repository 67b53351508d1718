"""The site builds strictly: no dead link, no page without a place, nothing that is loaded from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="mkdocs-material is in the group `dev` only")
ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"""<(?:script|img|iframe)[^>]*\bsrc=["'](?:https?:)?//|<link[^>]*\bstylesheet[^>]*\bhref=["'](?:https?:)?//"""
)


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """`mkdocs build --strict` passes; a page loads nothing from elsewhere, and shows no note of the tests."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text("utf-8")
        assert not LOADED.search(text), page
        assert "no-run:" not in text, page
        assert "```" not in text.replace("```python no-run", ""), f"{page}: a fence was not read"
