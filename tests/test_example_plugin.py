"""The example plugin, installed by pip from its wheel, works in a real run as its README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from rlm_obs.testing import FakeOpenAI
from tests.packaging.conftest import ROOT, build

EXAMPLE = ROOT / "plugins/rlm-obs-example"
PROGRAM = """
import openai, rlm_obs

client = openai.OpenAI()
with rlm_obs.instrument(exporters=["csv"]) as instrumented:
    for model in ("example-model", "gpt-4o-mini"):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}])
    report = instrumented.report()
print(report.total_cost, *report.by_model)
"""


def installed(plugin: Path, folders: pytest.TempPathFactory) -> Path:
    """Build a plugin's wheel and install it by pip into a folder of its own."""
    site, wheel = folders.mktemp("site"), build(plugin, folders.mktemp("wheel"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(list(map(str, install)), check=True, capture_output=True, timeout=300)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin's wheel."""
    return installed(EXAMPLE, tmp_path_factory)


def started(site: Path, *command: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Start a Python command with the plugin installed beside what is installed already."""
    environment = {**os.environ, "PYTHONPATH": str(site), **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *command], env=environment, cwd=folder, stdout=pipe, stderr=pipe, text=True
    )


def run(site: Path, *command: str, folder: Path, **variables: str) -> str:
    """Run a Python command with the plugin installed, to its end."""
    process = started(site, *command, folder=folder, **variables)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return out


def script(site: Path, *arguments: str, folder: Path, **variables: str) -> str:
    """Run `rlm-obs`, with the plugin installed."""
    return run(site, str(Path(sys.executable).parent / "rlm-obs"), *arguments, folder=folder, **variables)


def test_a_real_run(site: Path, fake_openai: FakeOpenAI, tmp_path: Path) -> None:
    """The plugin prices its model and exports every call; other models cost what they did; its command adds them up."""
    variables = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": fake_openai.base_url, "EXAMPLE_CSV": "mine.csv"}
    total, *models = run(site, "-c", PROGRAM, folder=tmp_path, **variables).split()
    rows = [line.split(",") for line in (tmp_path / "mine.csv").read_text().splitlines()]
    assert [row[:2] for row in rows] == [["chat", "example-model"], ["chat", "gpt-4o-mini-2024-07-18"]]
    used = fake_openai.billed[0].usage
    assert Decimal(rows[0][2]) * 1_000_000 == used["prompt_tokens"] * 2 + used["completion_tokens"] * 8
    assert Decimal(total) == sum(Decimal(row[2]) for row in rows)
    assert models == [row[1] for row in rows]
    assert script(site, "csv-total", "mine.csv", folder=tmp_path) == f"2 calls: ${total}\n"


def test_it_is_listed(site: Path, tmp_path: Path) -> None:
    """`rlm-obs plugins` lists it, with its distribution and its hooks."""
    found = json.loads(script(site, "plugins", "--json", folder=tmp_path))
    (example,) = [one for one in found if one["name"] == "example"]
    assert (example["distribution"], example["version"], example["failed"]) == ("rlm-obs-example", "0.1.0", None)
    assert example["hooks"] == ["call_finished", "configured", "price", "register_commands", "register_exporters"]


@pytest.mark.parametrize("name", ["example", "rlm-obs-example", "rlm_obs_example"])
def test_it_can_be_blocked(site: Path, tmp_path: Path, name: str) -> None:
    """Blocked by its name or its distribution's, it is not imported, and its exporter is unknown."""
    said = script(site, "plugins", folder=tmp_path, RLM_OBS_BLOCK=name)
    (line,) = [line for line in said.splitlines() if line.startswith("example ")]
    assert "not in use: blocked by RLM_OBS_BLOCK" in line
    code = "import sys, rlm_obs\ntry: rlm_obs.instrument(['csv'])\nexcept rlm_obs.ConfigError as error: print(error)"
    code += "\nprint('rlm_obs_example' in sys.modules)"
    refusal, imported = run(site, "-c", code, folder=tmp_path, RLM_OBS_BLOCK=name).splitlines()
    assert "'csv'" in refusal
    assert imported == "False"


def test_its_own_tests(site: Path, tmp_path: Path) -> None:
    """Its tests pass on its wheel, the exporters' contract among them."""
    said = run(site, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(EXAMPLE), folder=tmp_path)
    assert " passed" in said and "failed" not in said
