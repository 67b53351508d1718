"""Runs guards under the two loads, reads the provider's books, and prints a table of each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: $1.00, and calls of $0.05, so that 20 fit; 100 ms each; 64 threads with 5 calls each.
TIGHT = {"usd": "1.00", "threads": 64, "calls": 5, "asked": {"model": "gpt-4o", "max_tokens": 4990}}
TIGHT_SERVER = ("0.1", "4990")
#: $10, no output limit, a model that may write 128,000 tokens ($1.28) and writes a hundredth; until all are refused.
LOOSE = {"usd": "10", "threads": 64, "calls": 10**6, "stops": True, "most": 1600, "asked": {"model": "gpt-5"}}
LOOSE_SERVER = ("0.05", "1280")
USD_A_TOKEN = 10 / 1e6
HERE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Run:
    """What the provider has seen of a load, and what became of the calls."""

    calls: int
    usd: float
    most_in_flight: int
    seconds: float
    refused: int
    others: dict[str, int]
    first_refusal_usd: float | None


def run(guard: str, load: dict[str, Any], server: tuple[str, ...], python: str = sys.executable) -> Run | str:
    """Put one guard under a load; returns why it could not, where it could not."""
    command = [sys.executable, "-m", "benchmarks.budgets.server", *server]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE) as provider:
        assert provider.stdin is not None and provider.stdout is not None
        try:
            url = provider.stdout.readline().strip()
            asked = [python, "-m", "benchmarks.budgets.load", guard, json.dumps({**load, "url": url})]
            try:
                done = subprocess.run(asked, capture_output=True, text=True, timeout=180, cwd=HERE, check=False)
            except subprocess.TimeoutExpired:
                return "not over after 180 s"
            if done.returncode:
                return (done.stderr.strip().splitlines() or ["failed"])[-1][:160]
            told = json.loads(done.stdout.strip().splitlines()[-1])
            print(file=provider.stdin, flush=True)
            books = json.loads(provider.stdout.readline())
        finally:
            provider.kill()
    outcomes, at_first = dict(told["outcomes"]), told["written_at_first_refusal"]
    went = outcomes.pop("ok", 0)
    return Run(
        int(books["calls"]),
        books["usd"],
        int(books["most_in_flight"]),
        told["seconds"],
        sum(outcomes.values()),
        {"ok": went, **outcomes},
        None if at_first is None else at_first * USD_A_TOKEN,
    )


def tight(guards: Iterable[str], python: str = sys.executable) -> None:
    """Print who lets through how much of the load of which 20 calls fit."""
    for guard in guards:
        found = run(guard, TIGHT, TIGHT_SERVER, python)
        if isinstance(found, str):
            print(f"| {guard} | {found} | | | |")
            continue
        over, lost = max(0.0, found.usd - 1), max(0, min(found.refused, 20 - found.calls))
        print(
            f"| {guard} | {found.calls} | {dollars(over)} | {found.seconds:.1f} | {lost} |  {found.others}", flush=True
        )


def loose(guards: Iterable[str], python: str = sys.executable) -> None:
    """Print who starves, or overspends, where calls cost a hundredth of what they may."""
    for guard in guards:
        found = run(guard, LOOSE, LOOSE_SERVER, python)
        if isinstance(found, str):
            print(f"| {guard} | {found} | | | | |")
            continue
        first = "none" if found.first_refusal_usd is None else f"{found.first_refusal_usd / 10:.1%}"
        print(
            f"| {guard} | {found.calls} | {dollars(max(0.0, found.usd - 10))} | {first} | {found.most_in_flight} "
            f"| {found.seconds:.1f} |  {found.others}",
            flush=True,
        )


def dollars(amount: float) -> str:
    """Spell what is over the budget."""
    return f"${amount:.2f}" if amount > 1e-9 else "none"
