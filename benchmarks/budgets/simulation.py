"""Thousands of budgets run out in virtual time: the desk decides, costs are drawn, and what passes the limit is counted."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from statistics import mean

from rlm_obs._budgets.account import Account, Hold, Need
from rlm_obs._budgets.crowd import Kind
from rlm_obs._budgets.desk import Desk
from rlm_obs._budgets.line import Waiting
from rlm_obs.errors import BudgetExceeded

#: A call writes up to so many tokens, at 10 dollars a million.
TOKENS, RATE = 128_000, Decimal("0.00001")
#: What calls write in the middle: a hundredth.
USUAL = TOKENS // 100
Draw = Callable[[random.Random], float]

#: How many tokens calls write, by the name of the distribution. All are independent of each other.
DISTRIBUTIONS: dict[str, Draw] = {
    "all alike": lambda chance: USUAL,
    "lognormal, sigma 1": lambda chance: chance.lognormvariate(0, 1) * USUAL,
    "lognormal, sigma 2": lambda chance: chance.lognormvariate(0, 2) * USUAL,
    "one in 10 is ten times as long": lambda chance: USUAL * (10 if chance.random() < 0.1 else 1),
    "one in 100 is as long as can be": lambda chance: USUAL * (100 if chance.random() < 0.01 else 1),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one budget. `over` and `first_refusal_at` are shares of the limit; `stuck` calls waited for nobody."""

    calls: int
    over: float
    first_refusal_at: float
    most_in_flight: int
    in_flight: float
    took: float
    stuck: int


def run(seed: int, enforcement: str, draw: Draw, *, workers: int = 64, limit: Decimal = Decimal(10)) -> Outcome:
    """Let `workers` make calls until each is refused. A call takes as long as it writes, as real ones do."""
    chance, desk, account = random.Random(seed), Desk(), Account("simulated", limit, enforcement)
    kind = Kind() if enforcement == "expected" else None
    threads = [threading.Thread() for _ in range(workers)]  # never started: they only say who is who
    running: list[tuple[float, int, int, Hold, Decimal]] = []
    waiting: set[int] = set()
    woken: list[tuple[int, Waiting]] = []
    numbers, now, busy, calls, most = itertools.count(), 0.0, 0.0, 0, 0
    first_refusal_at = 1.0

    def refused(worker: int) -> None:
        nonlocal first_refusal_at
        first_refusal_at = min(first_refusal_at, float(account.spent / limit))

    def started(worker: int, hold: Hold) -> None:
        nonlocal calls, most
        tokens = min(TOKENS if hold.tokens is None else hold.tokens, max(1, int(draw(chance))))
        heapq.heappush(running, (now + tokens * chance.uniform(0.9, 1.1), next(numbers), worker, hold, tokens * RATE))
        calls, most = calls + 1, max(most, len(running))

    def ask(worker: int) -> None:
        need = Need(RATE, TOKENS * RATE, TOKENS, lowerable=True, input_tokens=10, kind=kind)
        try:
            found = desk._ask(need, (account,), (weakref.ref(threads[worker]), None), "call", True, None)
        except BudgetExceeded:
            refused(worker)
            return
        if isinstance(found, Hold):
            started(worker, found)
        elif found is not None:
            waiting.add(worker)
            found._wake = lambda: woken.append((worker, found))

    for worker in range(workers):
        ask(worker)
    while running:
        in_flight, before = len(running), now
        now, _, worker, hold, cost = heapq.heappop(running)
        busy += in_flight * (now - before)
        desk.settle(hold, cost)
        for other, waited in woken:
            waiting.discard(other)
            if waited.hold is not None:
                started(other, waited.hold)
            else:
                refused(other)
        woken.clear()
        ask(worker)
    over = max(Decimal(0), account.spent - limit) / limit
    return Outcome(calls, float(over), first_refusal_at, most, busy / now, now / USUAL, len(waiting))


def show(runs: int) -> None:
    """Print what became of `runs` budgets, shared out among the distributions, each way to enforce."""
    each = max(1, runs // len(DISTRIBUTIONS))
    print(f"\n{each} simulated budgets of $10 for each distribution, 64 workers, as in the load above\n")
    print(
        "| enforcement | costs | over | the furthest over | in flight, mean (most) | time | first refusal at, least |"
    )
    for enforcement in ("reserve", "expected"):
        for name, draw in DISTRIBUTIONS.items():
            found = [run(seed, enforcement, draw) for seed in range(each)]
            over = [one.over for one in found if one.over]
            stuck = sum(one.stuck for one in found)
            print(
                f"| {enforcement} | {name} | {len(over)} of {each} | {max(over, default=0):.1%} "
                f"| {mean([one.in_flight for one in found]):.1f} ({max(one.most_in_flight for one in found)}) "
                f"| {mean([one.took for one in found]):.0f} | {min(one.first_refusal_at for one in found):.2%} |"
                + (f" {stuck} calls waited for nobody" if stuck else ""),
                flush=True,
            )
