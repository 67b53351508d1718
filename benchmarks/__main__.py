"""Prints the table: added CPU per call, per chunk, per span, per price and per hold; workers take turns, medians are paired."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from decimal import Decimal

CHUNKS = 200
MODES = ("bare", "again", "yardstick", "ours")


class Worker:
    """A process that runs one mode's slices when asked."""

    def __init__(self, mode: str, base_url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", mode, base_url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, kind: str, calls: int) -> tuple[float, float]:
        """Return (CPU, wall) seconds per call of one slice."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(kind, calls, file=self._process.stdin, flush=True)
        cpu, wall = json.loads(self._process.stdout.readline())
        return cpu / calls, wall / calls

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def serve(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start the test server in a process of its own; returns it and its base URL."""
    command = [sys.executable, "-m", "benchmarks.server", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and its 90 % bootstrap interval."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(differences, k=len(differences))) for _ in range(500))
    return statistics.median(differences), medians[25], medians[474]


def ratio_interval(ours: Sequence[float], yardstick: Sequence[float]) -> tuple[float, float]:
    """Return the 90 % bootstrap interval of the ratio of two medians, whose slices were run side by side."""
    chance, numbers = random.Random(1), range(len(ours))
    ratios = []
    for _ in range(500):
        drawn = chance.choices(numbers, k=len(numbers))
        below = statistics.median([yardstick[n] for n in drawn])
        ratios.append(statistics.median([ours[n] for n in drawn]) / below if below > 0 else float("inf"))
    ratios.sort()
    return ratios[25], ratios[474]


def paired(base_url: str, kind: str, slices: int, calls: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Run the modes' slices in turn, in a new order each time, and return their times per call.

    Each round has processes of its own: where one's memory happens to lie makes it a tenth faster or slower than its twin.
    """
    times: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    order = list(MODES)
    for _ in range(rounds):
        with ExitStack() as stack:
            workers = {mode: Worker(mode, base_url) for mode in MODES}
            for worker in workers.values():
                stack.callback(worker.close)
                worker.run(kind, calls)
            for _ in range(-(-slices // rounds)):
                random.shuffle(order)
                for mode in order:
                    times[mode].append(workers[mode].run(kind, calls))
    return times


def show(title: str, times: dict[str, list[tuple[float, float]]], per: int = 1) -> None:
    """Print what each mode adds to the bare client, as absolute microseconds and as ratios."""
    bare = statistics.median(cpu for cpu, _ in times["bare"])
    print(f"\n{title}: the bare client takes {bare * 1e6:,.0f} µs of CPU")
    added = {}
    for mode in MODES[1:]:
        gaps = [cpu - was for (cpu, _), (was, _) in zip(times[mode], times["bare"], strict=True)]
        middle, low, high = interval(gaps)
        wall = statistics.median(w - was for (_, w), (_, was) in zip(times[mode], times["bare"], strict=True))
        added[mode] = middle
        name = {"again": "bare against bare", "yardstick": "one hand-written span", "ours": "rlm_obs"}[mode]
        each = f", {middle / per * 1e6:.2f} µs a chunk" if per > 1 else ""
        print(
            f"  {name:22} {middle * 1e6:+8.1f} µs CPU [{low * 1e6:+.1f}, {high * 1e6:+.1f}]"
            f"  {wall * 1e6:+8.1f} µs wall  {middle / bare:+.2%} of the bare client{each}"
        )
    if added["yardstick"] > 0:
        gaps = [
            [cpu - was for (cpu, _), (was, _) in zip(times[mode], times["bare"], strict=True)]
            for mode in ("ours", "yardstick")
        ]
        low, high = ratio_interval(*gaps)
        print(f"  rlm_obs / one hand-written span = {added['ours'] / added['yardstick']:.2f} [{low:.2f}, {high:.2f}]")


def best_of(functions: Sequence[Callable[[], object]], rounds: int = 60, number: int = 300) -> list[float]:
    """Return the CPU seconds a call of each, the best of many short rounds in turn, so that a busy machine harms all alike."""
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for at, function in enumerate(functions):
            began = time.thread_time()
            for _ in range(number):
                function()
            best[at] = min(best[at], time.thread_time() - began)
    return [seconds / number for seconds in best]


def parts() -> None:
    """Print what our parts take on their own: a span, a price, a hold, the bound of an input."""
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    import rlm_obs
    from rlm_obs._budgets.bound import most_input_tokens
    from rlm_obs._budgets.desk import Account, Desk
    from rlm_obs._pricing import Chain, read_answer
    from rlm_obs._runtime import runtime

    provider = TracerProvider()
    provider.add_span_processor(SpanProcessor())
    plain = provider.get_tracer("plain")
    tracer = rlm_obs.Tracer("benchmark", tracer_provider=provider, exporters=[])

    def bare_span() -> None:
        with plain.start_as_current_span("work"):
            pass

    @rlm_obs.traced(name="work", tracer=tracer)
    def decorated() -> None: ...

    chain: Chain = runtime().prices
    request = rlm_obs.Request(
        provider="openai",
        endpoint="/chat/completions",
        operation="chat",
        model="gpt-4o",
        base_url="https://api.openai.com/v1/",
    )
    usage = rlm_obs.Usage(input_tokens=1200, cached_input_tokens=1000, output_tokens=300)
    desk, account, most = Desk(), Account("benchmark", Decimal(1000), simple=True), Decimal("0.01")

    def hold() -> None:
        held = desk.hold_at_once(most, (account,), "benchmark")
        assert held is not None
        desk.settle(held, Decimal("0.0000001"))

    messages = [{"role": "user", "content": "x" * 2000} for _ in range(5)]
    answer = answer_of_chat()
    spans, ours, price, held, bounds, read = best_of(
        [
            bare_span,
            decorated,
            lambda: chain.price(request, usage),
            hold,
            lambda: most_input_tokens(messages),
            lambda: read_answer(answer),
        ]
    )
    print("\nParts, CPU, best of 60 rounds:")
    print(f"  OpenTelemetry's start_as_current_span   {spans * 1e6:7.2f} µs")
    print(f"  @traced                                 {ours * 1e6:7.2f} µs   ratio {ours / spans:.2f}")
    print(f"  a cached price                          {price * 1e6:7.2f} µs   at most 5")
    print(f"  the usage of a chat's answer            {read * 1e6:7.2f} µs   at most 10")
    print(f"  hold and settle                         {held * 1e6:7.2f} µs")
    print(f"  the bound of five 2 kB messages         {bounds * 1e6:7.2f} µs")


def answer_of_chat() -> object:
    """Return a chat's answer as the client makes it, with all that OpenAI tells of its usage."""
    from openai.types.chat import ChatCompletion

    usage = {
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 1000, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 0, "accepted_prediction_tokens": 0},
    }
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}
    return ChatCompletion.model_validate({**answer, "usage": usage})


def imports() -> None:
    """Print what `import rlm_obs` takes, beside an empty interpreter."""

    def one(code: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    pairs = [(one("pass"), one("import rlm_obs")) for _ in range(25)]
    added = min(ours for _, ours in pairs) - min(empty for empty, _ in pairs)
    print(f"\nimport rlm_obs: {added * 1e3:.0f} ms of CPU beside an empty interpreter, best of {len(pairs)}")


def main() -> None:
    """Run all, or the parts named."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=main.__doc__)
    parser.add_argument("what", nargs="*", default=["parts", "imports", "chat", "stream"])
    parser.add_argument("--slices", type=int, default=84)
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=12, help="how often the processes are started anew")
    given = parser.parse_args()
    print(f"Python {sys.version.split()[0]}")
    if "parts" in given.what:
        parts()
    if "imports" in given.what:
        imports()
    server, base_url = serve(str(CHUNKS))
    try:
        if "chat" in given.what:
            show("A chat call", paired(base_url, "chat", given.slices, given.calls, given.rounds))
        if "stream" in given.what:
            slices = max(10, given.slices // 3)
            show(f"A stream of {CHUNKS} chunks", paired(base_url, "stream", slices, 5, given.rounds), per=CHUNKS)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
