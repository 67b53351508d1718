"""The pictures of the docs: small, in use, and for Langfuse what its server reads in their place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PICTURES = sorted((DOCS / "images").iterdir())
MOST_BYTES = 150_000


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture(picture: Path) -> None:
    """It is no larger than 150 kB, one that a browser shows, and on a page, which says what is to be seen."""
    assert picture.stat().st_size <= MOST_BYTES
    assert picture.read_bytes().startswith((b"\x89PNG", b"RIFF"))
    pages = "".join(page.read_text("utf-8") for page in DOCS.rglob("*.md"))
    assert re.search(rf"!\[[^\]]{{20,}}\]\(\.\./images/{re.escape(picture.name)}\)", pages)


def test_what_langfuse_reads() -> None:
    """The tree on Langfuse's page is what its server reads of the run, decoded from the request."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RLM_OBS_", "OTEL_", "LANGFUSE_", "OPENAI_"))}
    command = [sys.executable, "-m", "tests.receivers.langfuse"]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"```text\n{done.stdout}```" in (DOCS / "how-to/langfuse.md").read_text("utf-8")
