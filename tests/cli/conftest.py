"""The script `rlm-obs` as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def rlm_obs_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the installed script in the current folder: `rlm_obs_script("plugins", "--json", RLM_OBS_BLOCK="file")`."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        script = str(Path(sys.executable).parent / "rlm-obs")
        environment = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8", **variables}
        return subprocess.run([script, *arguments], env=environment, capture_output=True, text=True, timeout=60)

    return run
