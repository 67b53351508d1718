"""Offers 10,000 calls a second to exporters that are quick, slow, hanging or down: what a call takes, what memory, what is lost."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import rlm_obs
from rlm_obs import _runtime
from rlm_obs._call import Needs

SLICE = 500


class Taking(SpanExporter):
    """Answers after `delay_s` seconds for each batch; `down` says that it could not be sent."""

    destination = "https://spans.example"

    def __init__(self, delay_s: float, down: bool) -> None:
        self._delay_s, self._down = delay_s, down

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        time.sleep(self._delay_s)
        return SpanExportResult.FAILURE if self._down else SpanExportResult.SUCCESS


#: Seconds for each batch of 512, whether it fails, and whether there is a spool.
MODES = {
    "quick": (0.0, False, False),
    "slow: 0.2 s a batch": (0.2, False, False),
    "hanging": (3600.0, False, False),
    "down, with a spool": (0.0, True, True),
}


def call() -> None:
    """Make one call as the gate makes it, but for the client and its HTTP: held, priced, traced, counted."""
    holds = _runtime.in_force()
    assert holds is not None
    asked = rlm_obs.Request(
        provider="openai",
        endpoint="/chat/completions",
        operation="chat",
        model="gpt-4o",
        base_url="https://api.openai.com/v1/",
    )
    made = holds.call(asked, Needs(None))
    made.start()
    made.answer.usage = rlm_obs.Usage(input_tokens=1200, output_tokens=300)
    made.answer.http_status = 200
    made.finish()


def offer(mode: str, rate: int, seconds: float) -> None:
    """Offer the calls in this process, and print what they took as a line of JSON."""
    delay_s, down, spooled = MODES[mode]
    with tempfile.TemporaryDirectory() as folder:
        wanted = {"exit_timeout_s": 0.1, **({"spool": folder} if spooled else {})}
        rlm_obs.instrument(exporters=[Taking(delay_s, down)], budget_usd=10**9, settings=wanted)
        for _ in range(3000):
            call()  # the queue of one that hangs is full, and everything is warm
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, cpu, late = time.perf_counter(), [], 0.0
        for number in range(int(rate * seconds / SLICE)):
            ahead = number * SLICE / rate - (time.perf_counter() - began)
            if ahead > 0:
                time.sleep(ahead)
            late = max(late, -ahead)
            was = time.thread_time()
            for _ in range(SLICE):
                call()
            cpu.append((time.thread_time() - was) / SLICE)
        took = time.perf_counter() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        (stats,) = rlm_obs.stats()["exporters"]
        assert stats["made"] == stats["queued"] + stats["sent"] + stats["spooled"] + sum(stats["dropped"].values())
        said = {
            "cpu": statistics.median(cpu),
            "best": min(cpu),
            "rate": len(cpu) * SLICE / took,
            "grown_kb": grown,
            **stats,
        }
        print(json.dumps(said), flush=True)
        rlm_obs.uninstrument()


def main() -> None:
    """Run each kind of exporter in turn, in processes of their own, and print the medians."""
    parser = argparse.ArgumentParser(prog="benchmarks.delivery", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--mode", choices=MODES)
    given = parser.parse_args()
    if given.mode is not None:
        offer(given.mode, given.rate, given.seconds)
        return
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for _ in range(given.rounds):
        for mode in MODES:
            command = [sys.executable, "-m", "benchmarks.delivery", "--mode", mode]
            command += ["--rate", str(given.rate), "--seconds", str(given.seconds)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[mode].append(json.loads(done.stdout))
    print(
        f"Python {sys.version.split()[0]}: {given.rate:,} calls a second for {given.seconds:g} s, median of {given.rounds}"
    )
    for mode, runs in found.items():
        last = runs[-1]
        cpu, best, rate, grown = (
            statistics.median(r[what] for r in runs) for what in ("cpu", "best", "rate", "grown_kb")
        )
        print(
            f"  {mode:20} {cpu * 1e6:6.1f} µs a call (best slice {best * 1e6:5.1f}), {rate:7,.0f}/s reached, "
            f"{grown / 1024:5.1f} MB more, sent {last['sent']:,}, spooled {last['spooled']:,}, dropped {last['dropped']}"
        )


if __name__ == "__main__":
    main()
