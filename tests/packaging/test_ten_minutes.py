"""`Write a plugin in ten minutes` is followed to the letter: each command and each file of the page, in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_obs.testing import FakeOpenAI
from tests.docs.test_examples import matches, page
from tests.packaging.conftest import ROOT, once

PAGE = ROOT / "docs/how-to/write-a-plugin.md"
END = "# the end of the file"


def script(blocks: list[page.Block]) -> str:
    """Return the page as one shell's work: commands, whose output goes to a file by their line, and files where they stand."""
    steps = ["set -eu"]
    for block in blocks:
        if block.lang == "bash":
            steps.append(f"{{\n{block.body}}} > $SAID/{block.line} 2>&1")
        elif block.note.startswith("title="):
            name = shlex.quote(json.loads(block.note.removeprefix("title=")))
            steps.append(f"cat > {name} <<'{END}'\n{block.body}{END}")
    return "\n".join(steps)


@once
@pytest.mark.network
@pytest.mark.skipif(sys.platform == "win32", reason="the page is written for a shell")
def test_the_page_is_followed(wheel: Path, tmp_path: Path, fake_openai: FakeOpenAI) -> None:
    """The commands run, and print what the page says; at the end a real run has gone through the plugin."""
    blocks = list(page.blocks(PAGE.read_text("utf-8")))
    said, programs, work = (tmp_path / name for name in ("said", "programs", "work"))
    for folder in (said, programs, work):
        folder.mkdir()
    (programs / "python").symlink_to(getattr(sys, "_base_executable", sys.executable))
    (tmp_path / "constraints.txt").write_text(f"rlm-obs @ {wheel.as_uri()}\n")
    ours = ("RLM_OBS_", "OTEL_", "OPENAI_", "LANGFUSE_", "PYTHON", "VIRTUAL_ENV", "PYTEST")
    variables = {
        "PATH": f"{programs}{os.pathsep}{os.defpath}",
        "PIP_CONSTRAINT": str(tmp_path / "constraints.txt"),
        "SAID": str(said),
        "OPENAI_BASE_URL": fake_openai.base_url,
        "OPENAI_API_KEY": "none",
        "RLM_OBS_HOSTS": json.dumps({fake_openai.base_url.split("/")[2]: "openai"}),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        ["bash", "-c", script(blocks)],
        cwd=work,
        env={k: v for k, v in os.environ.items() if not k.startswith(ours)} | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    printed = {int(file.name): file.read_text("utf-8") for file in said.iterdir()}
    assert done.returncode == 0, f"{done.stderr}\n{printed.get(max(printed, default=0))}"
    for block, below in zip(blocks, [*blocks[1:], None], strict=True):
        if block.lang == "bash" and below is not None and below.note == "output":
            whole = below.body.removeprefix("…\n")
            lines = printed[block.line].strip().splitlines()
            last = lines[-len(whole.strip().splitlines()) :] if whole != below.body else lines
            assert matches(whole, "\n".join(last)), f"line {block.line} printed:\n{printed[block.line]}"
    assert fake_openai.calls == 2
    assert re.search(r"^ledger +rlm-obs-ledger ", printed[max(printed)], re.M)


def test_every_block_has_a_part() -> None:
    """No block of the page is left out: it is a command, a file, what a command prints, or what new-plugin has written."""
    for block in page.blocks(PAGE.read_text("utf-8")):
        known = block.lang == "bash" or block.note.startswith('title="') or block.note == "output"
        assert known or 'ledger = "rlm_obs_ledger"' in block.body, block
