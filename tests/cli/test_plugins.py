"""`rlm-obs plugins` tells what is installed, what it does, and why something of it is not in use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import rlm_obs

Script = Callable[..., subprocess.CompletedProcess[str]]


def install(folder: Path, name: str, code: str) -> None:
    """Put a plugin's distribution into a folder, as pip would."""
    information = folder / f"{name}-1.2.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text(f"[rlm_obs]\n{name} = {name}_code\n")
    (folder / f"{name}_code.py").write_text(code)


def test_the_built_in_ones(rlm_obs_script: Script) -> None:
    """Ours are listed like anybody's: name, distribution, version, load time, hooks."""
    done = rlm_obs_script("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["PLUGIN", "DISTRIBUTION", "VERSION", "LOADED", "IN", "HOOKS"]
    rows = {line.split()[0]: line.split() for line in lines}
    assert rows["console"][1:3] == ["rlm-obs", rlm_obs.__version__]
    assert rows["console"][4:] == ["ms", "register_exporters", "(console)"]
    assert rows["prices"][5:] == ["configured,", "price"]
    assert {"commands", "console", "file", "langfuse", "openai", "prices", "threads"} <= rows.keys()


def test_json(rlm_obs_script: Script) -> None:
    """`--json` says the same for programs."""
    found = {one["name"]: one for one in json.loads(rlm_obs_script("plugins", "--json").stdout)}
    file = found["file"]
    assert (file["distribution"], file["version"], file["target"]) == (
        "rlm-obs",
        rlm_obs.__version__,
        "rlm_obs._exporters.file",
    )
    assert (file["hooks"], file["blocked"], file["failed"]) == (["register_exporters"], False, None)
    assert file["load_s"] > 0
    assert (file["offers"], file["failures"]) == ({"register_exporters": ["file"]}, {})


def test_a_broken_one(rlm_obs_script: Script, tmp_path: Path) -> None:
    """A plugin that cannot be imported is listed with the reason; the others work, and so does the command."""
    install(tmp_path / "site", "shaky", "import no_such_module_anywhere")
    done = rlm_obs_script("plugins", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("shaky")]
    assert line.split()[1:4] == ["shaky", "1.2", "-"]
    assert "not in use: ModuleNotFoundError: No module named 'no_such_module_anywhere'" in line
    assert "console" in done.stdout


def test_a_hook_that_fails(rlm_obs_script: Script, tmp_path: Path) -> None:
    """What a plugin offers is asked, and a hook that raises is shown with its reason."""
    code = "import rlm_obs\n@rlm_obs.hookimpl\ndef register_exporters():\n    raise LookupError('no list')\n"
    install(tmp_path / "site", "shaky", code)
    done = rlm_obs_script("plugins", PYTHONPATH=str(tmp_path / "site"), RLM_OBS_DEBUG_PLUGINS="0")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("shaky")]
    assert "register_exporters (FAILED: LookupError: no list)" in line
    found = {
        one["name"]: one
        for one in json.loads(rlm_obs_script("plugins", "--json", PYTHONPATH=str(tmp_path / "site")).stdout)
    }
    assert found["shaky"]["failures"] == {"register_exporters": "LookupError: no list"}


def test_a_blocked_one(rlm_obs_script: Script, tmp_path: Path) -> None:
    """A blocked plugin is listed as such, and never imported."""
    install(tmp_path / "site", "shaky", "raise SystemExit('imported')")
    done = rlm_obs_script("plugins", "--json", PYTHONPATH=str(tmp_path / "site"), RLM_OBS_BLOCK="shaky,file")
    assert (done.returncode, done.stderr) == (0, "")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert {name for name, one in found.items() if one["blocked"]} == {"shaky", "file"}
    assert found["shaky"]["failed"] == "blocked by RLM_OBS_BLOCK"
