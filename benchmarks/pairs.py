"""Prints what a call adds, finely: each process has calls made bare and by each other way, in turn.

Two processes that do the same differ by more than a stream is to cost, by where their memory happens to lie. Here that is the
same for all ways, a round is over before the machine has changed, and several processes, one after the other, stand for all.
A way's first call of a round is not measured: the client's code would be in the processor's caches then, its own would not.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import openai

from benchmarks import worker
from benchmarks.__main__ import CHUNKS, serve

Completions = openai.resources.chat.completions.Completions
#: Calls measured together: few enough that the machine does not change meanwhile.
CALLS = {"chat": 20, "stream": 4, "unasked": 4}
WHAT = {
    "chat": "A chat call",
    "stream": f"A stream of {CHUNKS} chunks",
    "unasked": f"A stream of {CHUNKS} chunks whose usage the user has not asked for",
}
#: The queue is flushed once in so many rounds, which are five seconds of a program that does nothing but stream, as often as
#: the queue's own thread does, and what that takes is shared among their calls.
FLUSHED = 60


class Ways:
    """What stands in the client's place, each way, and what flushes it."""

    def __init__(self, base_url: str) -> None:
        self._create = Completions.create
        yardstick = worker.yardstick(base_url)
        self._traced = Completions.create
        ours = worker.ours(base_url)
        self._request = openai.OpenAI.__dict__["request"]
        self.flush: dict[str, Callable[[], object]] = {
            "bare": bool,
            "bare again": bool,
            "one hand-written span": yardstick,
            "rlm_obs": ours,
        }

    def take(self, way: str) -> None:
        """Have the client work this way from now on."""
        client: Any = openai.OpenAI
        Completions.create = self._traced if way == "one hand-written span" else self._create  # type: ignore[method-assign]
        if way == "rlm_obs":
            client.request = self._request
        elif "request" in client.__dict__:
            del client.request


def timed(function: Callable[..., object], *given: object) -> float:
    """Return the CPU time of the process, in microseconds, that a call takes."""
    began = time.process_time_ns()
    function(*given)
    return (time.process_time_ns() - began) / 1e3


def measure(ways: Ways, base_url: str, kind: str, rounds: int) -> dict[str, list[float]]:
    """Return what a call takes each way, in each round (microseconds of CPU), its share of the flush included."""
    run, calls = {"chat": worker.chat, "stream": worker.stream, "unasked": worker.unasked}[kind], CALLS[kind]
    order = list(ways.flush)
    times: dict[str, list[float]] = {way: [] for way in order}
    flushes: dict[str, list[float]] = {way: [] for way in order}
    with openai.OpenAI(base_url=base_url, api_key="benchmark", max_retries=0) as client:
        for number in range(-3, rounds):  # the first ones warm up
            random.shuffle(order)
            for way in order:
                ways.take(way)
                run(client, 1)
                took = timed(run, client, calls) / calls
                if number >= 0:
                    times[way].append(took)
            if number == -1 or number % FLUSHED == FLUSHED - 1 or number == rounds - 1:
                for way in order:
                    took = timed(ways.flush[way])
                    if number >= 0:
                        flushes[way].append(took)
    return {way: [took + sum(flushes[way]) / rounds / calls for took in times[way]] for way in ways.flush}


def mean(one: float, other: float) -> float:
    """Return what lies between two measurements of the same."""
    return (one + other) / 2


def middle(many: Sequence[float]) -> float:
    """Return the mean of the middle half: what the machine did to a few rounds does not count, and most of them do."""
    ranked = sorted(many)
    cut = len(ranked) // 4
    return statistics.fmean(ranked[cut : len(ranked) - cut])


def typical(processes: Sequence[Sequence[float]]) -> float:
    """Return the mean of the processes' middles."""
    return statistics.fmean(map(middle, processes))


def interval(processes: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the 90 % bootstrap interval of `typical`: other processes, and other rounds in each."""
    chance = random.Random(1)
    drawn = sorted(
        typical([chance.choices(rounds, k=len(rounds)) for rounds in chance.choices(processes, k=len(processes))])
        for _ in range(500)
    )
    return drawn[25], drawn[474]


def show(kind: str, processes: Sequence[dict[str, list[float]]]) -> None:
    """Print what each way adds to a call of the bare client, which is measured twice in each round; and how those two differ."""
    bares = [list(map(mean, times["bare"], times["bare again"])) for times in processes]
    bare, rounds = typical(bares), len(bares[0])
    print(f"\n{WHAT[kind]}, {len(processes)} processes of {rounds} rounds: the bare client takes {bare:,.0f} µs of CPU")
    added = {}
    for way in list(processes[0])[1:]:
        against = [times["bare"] for times in processes] if way == "bare again" else bares
        # Of the bare call in the same round: the machine is twice as slow in some rounds as in others.
        more = [
            [took / was - 1 for took, was in zip(times[way], bare_times, strict=True)]
            for times, bare_times in zip(processes, against, strict=True)
        ]
        added[way], (low, high) = typical(more), interval(more)
        print(
            f"  {way:22} {added[way] * bare:+8.1f} µs [{low * bare:+.1f}, {high * bare:+.1f}]"
            f" = {added[way]:+.2%} of the bare client [{low:+.2%}, {high:+.2%}]"
        )
    print(f"  rlm_obs / one hand-written span = {added['rlm_obs'] / added['one hand-written span']:.2f}", flush=True)


def main() -> None:
    """Run all kinds, or the ones named."""
    parser = argparse.ArgumentParser(prog="benchmarks.pairs", description=main.__doc__)
    parser.add_argument("what", nargs="*", default=list(CALLS))
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=60, help="of each process")
    parser.add_argument("--server", help="measure in this process, with the server there, and print what was measured")
    given = parser.parse_args()
    if given.server:
        ways = Ways(given.server)
        print(json.dumps({kind: measure(ways, given.server, kind, given.rounds) for kind in given.what}))
        return
    server, base_url = serve(str(CHUNKS))
    try:
        command = [sys.executable, "-m", "benchmarks.pairs", "--rounds", str(given.rounds), "--server", base_url]
        for kind in given.what:
            said = [
                subprocess.run([*command, kind], stdout=subprocess.PIPE, check=True).stdout
                for _ in range(given.processes)
            ]
            show(kind, [json.loads(one)[kind] for one in said])
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
