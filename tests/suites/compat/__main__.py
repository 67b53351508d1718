"""Calls a model through each library that people use on top of openai's client, and checks the sums: `make compat`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.suites.environment import environment, table, version

HERE = Path(__file__).parent
#: The distribution to install, and the file that calls through it.
LIBRARIES = {
    "openai-agents": "openai_agents",
    "langchain-openai": "langchain_openai",
    "instructor": "instructor",
    "pydantic-ai-slim[openai]": "pydantic_ai",
    "dspy": "dspy",
    "llama-index-llms-openai": "llama_index",
    "smolagents[openai]": "smolagents",
    "litellm": "litellm",
}
WAYS = ("plain", "streamed", "structured", "asynchronous")
#: No library may ask the network for anything: prices of its own, or somewhere to tell that it was used.
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def main(chosen: list[str]) -> int:
    """Try each library; 0 if every call of every way was seen and priced as it was billed."""
    rows = [("library", "openai", *WAYS, "calls seen / answered", "cost / truth")]
    details: list[str] = []
    for requirement, file in LIBRARIES.items():
        name = requirement.partition("[")[0]
        if chosen and name not in chosen:
            continue
        print(name, file=sys.stderr, flush=True)
        try:
            row, said = tried(name, requirement, file)
        except subprocess.CalledProcessError as error:
            row, said = (name, "-", *("FAILED" for _ in WAYS), "-", "-"), [f"\n{name}: {error}\n{error.stderr[-3000:]}"]
        rows.append(row)
        details += said
    print(table(rows), *details, sep="\n")
    return int(any("FAILED" in row for row in rows))


def tried(name: str, requirement: str, file: str) -> tuple[tuple[str, ...], list[str]]:
    """Make a library's calls in its environment; return a row of the table, and what there is to say about it."""
    python = environment(name, [requirement])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RLM_OBS_", "OTEL_", "OPENAI_"))}
    command = [str(python), "-W", "ignore", str(HERE / "measured.py"), str(HERE / "libraries" / f"{file}.py")]
    run = subprocess.run(command, env=kept | OFFLINE, capture_output=True, text=True, check=True, timeout=900)
    found = {one["way"]: one for one in map(json.loads, run.stdout.splitlines()) if "way" in one}
    faults = {way: fault(found[way]) if way in found else f"not run: {run.stderr[-1000:]}" for way in WAYS}
    done = [found[way] for way in WAYS if way in found]
    seen, answered = sum(one["seen"] for one in done), sum(one["answered"] for one in done)
    cost, truth = sum(Decimal(one["cost"]) for one in done), sum(Decimal(one["truth"]) for one in done)
    row = (
        f"{name} {version(python, name)}",
        version(python, "openai"),
        *("FAILED" if faults[way] else "ok" for way in WAYS),
        f"{seen} / {answered}",
        f"${cost.normalize():f} / ${truth.normalize():f}",
    )
    said = [f"\n{name}, {way}: {why}" for way, why in faults.items() if why]
    for way, one in found.items():
        if way not in WAYS:
            said.append(f"\n{name}, {way}: beyond the client; {one['seen']} of {one['answered']} calls seen")
    return row, said


def fault(one: dict[str, Any]) -> str | None:
    """Return what is wrong with a call, or None."""
    if one["wrong"]:
        return str(one["wrong"])
    if not one["answered"] or one["seen"] != one["answered"]:
        return f"{one['seen']} calls seen, {one['answered']} answered"
    if one["unpriced"] or Decimal(one["cost"]) != Decimal(one["truth"]):
        return f"${one['cost']} counted, ${one['truth']} billed, {one['unpriced']} unpriced"
    return f"failures of ours: {one['failures']}" if one["failures"] else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
