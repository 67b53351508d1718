"""Nobody starves: money that calls could cost but do not is spent by others, and what was promised not to be passed is not."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any

import openai
import pytest

from benchmarks.budgets.simulation import DISTRIBUTIONS, run
from rlm_obs import BudgetExceeded, CostTracker
from rlm_obs._budgets.crowd import kinds
from rlm_obs.testing import FakeOpenAI, Seen, fake_openai
from tests.budgets.conftest import HELLO

#: A call of "chatty" may write 128,000 tokens, which cost $12.80, and writes a hundredth.
LIMIT, WRITES, EACH = Decimal(100), 1280, Decimal("0.1281")


def usage(seen: Seen) -> dict[str, int]:
    """Write a hundredth of what there is room for, or as much as was asked for."""
    return {"prompt_tokens": 10, "completion_tokens": min(WRITES, seen.json.get("max_completion_tokens", WRITES))}


def truth(server: FakeOpenAI) -> Decimal:
    """Return what the server's answers cost."""
    return (
        sum(
            (
                b.usage["prompt_tokens"] * Decimal(10) + b.usage["completion_tokens"] * Decimal(100)
                for b in server.billed
            ),
            Decimal(0),
        )
        / 10**6
    )


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize("enforcement", ["reserve", "expected"])
def test_nobody_is_refused_before_the_budget_is_spent(enforcement: str) -> None:
    """64 threads, no output limit: at least 95 % is spent before the first final refusal, and never more than all."""
    kinds.clear()
    tracker = CostTracker(LIMIT, enforcement=enforcement, wait_s=300)
    spent_at_refusal: list[Decimal] = []
    with (
        fake_openai(usage=usage) as server,
        openai.OpenAI(api_key="x", base_url=server.base_url, max_retries=0) as client,
    ):

        def work() -> None:
            try:
                while True:
                    with tracker:
                        client.chat.completions.create(model="chatty", messages=HELLO)
            except BudgetExceeded:
                spent_at_refusal.append(tracker.spent)

        threads = [threading.Thread(target=work) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(spent_at_refusal) == 64
        assert min(spent_at_refusal) >= LIMIT * Decimal("0.95")
        assert truth(server) == tracker.spent <= LIMIT
    assert tracker.held == 0


@pytest.mark.usefixtures("priced")
async def test_five_hundred_tasks_never_pass_the_limit() -> None:
    """500 asyncio tasks ask for what fits a hundred times: as many go out as fit, and the server has billed no more."""
    tracker = CostTracker(100 * EACH, wait_s=300)
    with fake_openai(usage=usage) as server:
        async with openai.AsyncOpenAI(api_key="x", base_url=server.base_url, max_retries=0) as client:

            async def call() -> Any:
                with tracker:
                    return await client.chat.completions.create(
                        model="chatty", messages=HELLO, max_completion_tokens=1280
                    )

            done = await asyncio.gather(*[call() for _ in range(500)], return_exceptions=True)
        assert truth(server) == tracker.spent <= 100 * EACH
        refused = [one for one in done if isinstance(one, BaseException)]
        assert all(isinstance(one, BudgetExceeded) for one in refused)
        assert 98 <= server.calls == 500 - len(refused) <= 100
    assert tracker.held == 0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_simulated_budgets_hold(name: str) -> None:
    """Ten budgets run out: reserved ones never pass the limit, expected ones did not; none refuses early, none hangs."""
    for enforcement in ("reserve", "expected"):
        for seed in range(10):
            found = run(seed, enforcement, DISTRIBUTIONS[name], workers=32)
            assert not found.stuck
            assert found.first_refusal_at > 0.95
            assert not found.over or (enforcement == "expected" and "as long as can be" in name and found.over < 0.3)


def test_alike_calls_all_run_at_once() -> None:
    """64 workers whose calls are alike all run in parallel under what is expected, seven under what is reserved."""
    alike = DISTRIBUTIONS["all alike"]
    assert run(1, "expected", alike).most_in_flight == 64
    assert run(1, "reserve", alike).most_in_flight == 7
