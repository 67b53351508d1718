"""`rlm-obs demo` shows all of the main job: traces, prices, and the stop at the budget."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

import rlm_obs
from rlm_obs.testing import FakeOpenAI

Script = Callable[..., subprocess.CompletedProcess[str]]
PARTS = [
    "A question over a long document",
    "A streamed answer",
    "An embedding",
    "A structured answer",
    "A call that fails",
    "An agent that never stops by itself",
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """What a run of the demo prints, by its headings, and the file that it leaves."""
    folder = tmp_path_factory.mktemp("demo")
    script = Path(sys.executable).parent / "rlm-obs"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RLM_OBS_", "OTEL_", "OPENAI_"))}
    clean |= {"NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([script, "demo"], cwd=folder, env=clean, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = re.split(r"^== (?:\d+\. )?(.*)$", done.stdout, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True)), folder / "rlm_obs_demo.jsonl"


def test_parts(shown: tuple[dict[str, str], Path]) -> None:
    """The parts stand in their order, each with its own trace and nobody else's."""
    parts, _ = shown
    assert list(parts) == [*PARTS, "What it cost"]
    roots = [re.findall(r"^\[SPAN\] (\S+)", parts[part], flags=re.MULTILINE) for part in PARTS]
    assert roots == [["ask_about"], ["chat"], ["embedding.create"], ["chat"], ["chat"], ["agent"]]


def test_fan_out(shown: tuple[dict[str, str], Path]) -> None:
    """The sub-questions that ran in threads stand below the question: one tree."""
    names = re.findall(r"^( *)\[SPAN\] (\S+)", shown[0][PARTS[0]], flags=re.MULTILINE)
    assert sorted((len(depth) // 2, name) for depth, name in names) == sorted(
        [(0, "ask_about"), (1, "chat"), *[(1, "ask_part"), (2, "chat")] * 3]
    )


def test_failure_and_refusal(shown: tuple[dict[str, str], Path]) -> None:
    """The failed call is an error's span; the agent ends with the refusal, whose text says what to do."""
    assert "ERROR NotFoundError" in shown[0][PARTS[4]]
    agent = shown[0][PARTS[5]]
    assert agent.count("[SPAN] chat") > 3
    assert agent.count("REFUSED BudgetExceeded") == 1
    assert "It raised BudgetExceeded: budget 'agent'" in agent
    assert "Nothing was sent. To go on: raise budget_usd" in agent


def test_spending(shown: tuple[dict[str, str], Path]) -> None:
    """The table and the file agree: each call is in the file, and their sum is the total."""
    parts, file = shown
    said, records = parts["What it cost"], list(rlm_obs.read_records(file))
    costs = [record.cost_usd for record in records]
    total = sum((cost for cost in costs if cost is not None), Decimal(0))
    assert None not in costs
    assert [r.status for r in records].count("refused") == 1
    assert [r.status for r in records].count("error") == 1
    assert f"{len(records) - 1} calls, 1 of them failed  {rlm_obs.errors.money(total)} of $0.01" in said
    assert f"{len(records)} calls were added to {file}" in said
    assert re.findall(r"^   (\w+)", said, flags=re.MULTILINE) == ["model"] * 3 + ["operation"] * 4 + [
        "total",
        "remaining",
        "refused",
    ]


def test_live(rlm_obs_script: Script, fake_openai: FakeOpenAI, tmp_path: Path) -> None:
    """`--live` asks the user's own server with the user's model, and adds to the file that is named."""
    file = tmp_path / "mine.jsonl"
    variables = {"OPENAI_API_KEY": "sk-mine", "OPENAI_BASE_URL": fake_openai.base_url, "OPENAI_MODEL": "gpt-4.1-nano"}
    done = rlm_obs_script("demo", "--live", "--file", str(file), **variables)
    assert done.returncode == 0, done.stderr
    assert fake_openai.requests[0].headers["authorization"] == "Bearer sk-mine"
    assert "gpt-4.1-nano" in {record.requested_model for record in rlm_obs.read_records(file)}
    assert "sk-mine" not in done.stdout + done.stderr + file.read_text()
    before = len(list(rlm_obs.read_records(file)))
    again = rlm_obs_script("demo", "--live", "--file", str(file), **variables)
    assert f"{len(list(rlm_obs.read_records(file))) - before} calls were added to {file}" in again.stdout


@pytest.mark.parametrize("status", [401, 404])
def test_live_that_fails(rlm_obs_script: Script, fake_openai: FakeOpenAI, status: int) -> None:
    """A server that answers nothing but errors ends no part with a traceback."""
    fake_openai._status = status
    done = rlm_obs_script("demo", "--live", OPENAI_API_KEY="sk-mine", OPENAI_BASE_URL=fake_openai.base_url)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stdout.count("It raised ") == len(PARTS)


def test_live_with_a_model_without_a_price(rlm_obs_script: Script, fake_openai: FakeOpenAI) -> None:
    """A model that nobody can price is one line that says how to price it, and nothing is sent."""
    variables = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": fake_openai.base_url, "OPENAI_MODEL": "acme-7b"}
    done = rlm_obs_script("demo", "--live", **variables)
    assert done.returncode == 2
    assert "rlm-obs: budget 'program': no price is known for 'acme-7b'" in done.stderr
    assert not fake_openai.requests


def test_live_without_a_key(rlm_obs_script: Script, tmp_path: Path) -> None:
    """Without a key `--live` is one line that says what to set, and leaves no file."""
    done = rlm_obs_script("demo", "--live")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rlm-obs: ")
    assert "OPENAI_API_KEY" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.jsonl"))


def test_without_openai() -> None:
    """Without the openai package it is one line with what to install."""
    code = "import sys; sys.modules['openai'] = None; from rlm_obs._cli import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rlm-obs: demo needs the openai package: pip install 'rlm-obs[openai]'\n"
