"""Prints what a call adds, finely: one process, which has each call made bare and by each other way, in turn.

The processes of `python -m benchmarks` tell how programs differ, and so does where their memory happens to lie: which is more
than a stream is to cost. Here all of that is the same for all ways, and a round is over before the machine has changed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import openai

from benchmarks import worker
from benchmarks.__main__ import CHUNKS, interval, serve

Completions = openai.resources.chat.completions.Completions
#: The flush of the queue is measured once for so many rounds, and shared among their calls.
FLUSHED = 5


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
            "bare against bare": bool,
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


def measure(ways: Ways, base_url: str, kind: str, rounds: int, calls: int) -> None:
    """Print what each way adds to a call of the bare client."""
    run = {"chat": worker.chat, "stream": worker.stream}[kind]
    order = list(ways.flush)
    times: dict[str, list[float]] = {way: [] for way in order}
    flushes: dict[str, list[float]] = {way: [] for way in order}
    with openai.OpenAI(base_url=base_url, api_key="benchmark", max_retries=0) as client:
        for number in range(-3, rounds):  # the first ones warm up
            random.shuffle(order)
            for way in order:
                ways.take(way)
                run(client, 1)  # a program's call comes after others of its own kind: the caches are as those have left them
                took = timed(run, client, calls) / calls
                if number >= 0:
                    times[way].append(took)
            if number >= 0 and number % FLUSHED == FLUSHED - 1:
                for way in order:
                    flushes[way].append(timed(ways.flush[way]) / FLUSHED / calls)
    bare = statistics.median(times["bare"])
    what = f"A stream of {CHUNKS} chunks" if kind == "stream" else "A chat call"
    print(f"\n{what}, {rounds} times in turn: the bare client takes {bare:,.0f} µs of CPU")
    for way in list(ways.flush)[1:]:
        middle, low, high = interval([took - was for took, was in zip(times[way], times["bare"], strict=True)])
        flush = statistics.median(flushes[way])
        share = (middle + flush) / bare
        print(
            f"  {way:22} {middle + flush:+8.1f} µs [{low + flush:+.1f}, {high + flush:+.1f}] = {share:+.2%} of the bare client"
            f" [{(low + flush) / bare:+.2%}, {(high + flush) / bare:+.2%}], {flush:.0f} µs of it the flush"
        )


def main() -> None:
    """Run both kinds, or the ones named."""
    parser = argparse.ArgumentParser(prog="benchmarks.pairs", description=main.__doc__)
    parser.add_argument("what", nargs="*", default=["chat", "stream"])
    parser.add_argument("--rounds", type=int, default=300)
    given = parser.parse_args()
    server, base_url = serve(str(CHUNKS))
    try:
        ways = Ways(base_url)
        for kind in given.what:
            measure(ways, base_url, kind, given.rounds, {"chat": 5, "stream": 1}[kind])
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
