"""`rlm-obs endpoints` lists what costs what."""

from __future__ import annotations

import subprocess
from collections.abc import Callable


def test_endpoints(rlm_obs_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """All of them, or those that are billed in one way."""
    everything = rlm_obs_script("endpoints").stdout.splitlines()
    later = rlm_obs_script("endpoints", "--bill", "later").stdout.splitlines()
    assert len(everything) > 150
    assert later[0].split() == ["BILL", "ENDPOINT", "NOTE"]
    assert all(line.startswith("later") for line in later[1:])
    assert any("GET /responses/{response_id}" in line for line in later)
