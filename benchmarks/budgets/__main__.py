"""Prints the tables of the page "Budgets, measured". Arguments: tight loose simulation speed; --peers, --python, --runs."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.budgets import simulation, speed, tables
from benchmarks.budgets.guards import OURS, PEERS

PARTS = ("tight", "loose", "simulation", "speed")
#: The peers live in an environment of their own.
PEERS_IN = Path(".venv-peers")
PACKAGES = ("openai", "backstop-ai", "agent-budget-guard", "floe-guard", "shekel", "agentbudget", "litellm")


def peers_python() -> str:
    """Return the interpreter of the peers' environment, made where it is missing; says which of them do not install."""
    python = PEERS_IN / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS_IN)], check=True)
        for package in PACKAGES:
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{package} does not install: {done.stderr.strip().splitlines()[-1]}")
    return str(python.absolute())


def main() -> None:
    """Run all parts, or those named."""
    parser = argparse.ArgumentParser(prog="benchmarks.budgets", description=main.__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="|".join(PARTS))
    parser.add_argument("--peers", action="store_true", help="put the peers under the loads too")
    parser.add_argument("--runs", type=int, default=1000, help="how many budgets are simulated each way")
    given = parser.parse_args()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {os.cpu_count()} cores{load}")
    python = peers_python() if given.peers else None
    if "tight" in given.parts:
        print("\n$1.00, 20 calls of $0.05 fit, 64 threads x 5\n")
        print("| guard | reached the provider | over | seconds | refused though it would have fitted |")
        tables.tight(["no guard", *OURS])
        if python:
            tables.tight(PEERS, python)
    if "loose" in given.parts:
        print("\n$10, a call may cost $1.28 and costs $0.0128, 64 threads until each is refused\n")
        print("| guard | reached the provider | over | spent before the first refusal | most in flight | seconds |")
        tables.loose(OURS)
        if python:
            tables.loose(PEERS, python)
    if "simulation" in given.parts:
        simulation.show(given.runs)
    if "speed" in given.parts:
        speed.show()


if __name__ == "__main__":
    main()
