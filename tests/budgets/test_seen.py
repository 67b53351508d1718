"""What calls have cost: exact sums over the last of each kind, in bounded memory, from any thread."""

from __future__ import annotations

import math
import os
import statistics
import threading
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_obs._budgets.seen import LAST, MOST_KINDS, Seen

GRAIN = Decimal("1e-12")
cost = st.decimals("0", "100", places=8)


@given(st.lists(cost, min_size=1, max_size=400))
def test_the_sums_are_those_of_the_last_calls(costs: list[Decimal]) -> None:
    """Mean, deviation, median and 95th percentile are those of the last 128 costs; the count is of all."""
    seen = Seen()
    for one in costs:
        seen.add("m", "chat", one)
    kept, found = costs[-LAST:], seen.of("m", "chat")
    assert found is not None and found.count == len(costs)
    assert abs(found.mean - sum(kept) / len(kept)) <= GRAIN
    assert math.isclose(found.deviation, statistics.pstdev(kept), rel_tol=1e-9, abs_tol=1e-9)
    ranked = sorted(kept)
    assert found.median == ranked[math.ceil(len(kept) * 0.5) - 1]
    assert found.p95 == ranked[math.ceil(len(kept) * 95 / 100) - 1]
    assert found.most == ranked[-1]


def test_kinds_are_kept_apart_and_bounded() -> None:
    """A flood of made-up models costs no memory: the one seen first is forgotten."""
    seen = Seen()
    for number in range(MOST_KINDS + 5):
        seen.add(f"m{number}", "chat", Decimal(number))
    assert seen.of("m4", "chat") is None and seen.of("m9", "embeddings") is None
    kept = seen.of("m9", "chat")
    assert kept is not None and kept.mean == 9


def test_threads_lose_nothing() -> None:
    """Each of the costs that many threads note at once is in the sum."""
    seen = Seen()

    def note() -> None:
        for _ in range(500):
            seen.add("m", "chat", Decimal("0.001"))

    threads = [threading.Thread(target=note) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = seen.of("m", "chat")
    assert found is not None and (found.count, found.mean, found.deviation) == (4_000, Decimal("0.001"), 0)


def test_a_coarse_decimal_context_changes_nothing() -> None:
    """A program that computes with three digits gets the same sums."""
    seen = Seen()
    with localcontext(prec=3):
        seen.add("m", "chat", Decimal("0.123456789"))
        found = seen.of("m", "chat")
        assert found is not None and str(found.mean) == str(found.median) == "0.123456789"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_anew() -> None:
    """A child has seen no calls, and no lock of its parent's stands in its way."""
    from rlm_obs._budgets.seen import seen

    seen.add("m", "chat", Decimal(1))
    with seen._lock:
        child = os.fork()
        if child == 0:
            seen.add("m", "chat", Decimal(2))
            found = seen.of("m", "chat")
            os._exit(0 if found is not None and found.count == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    seen.clear()
