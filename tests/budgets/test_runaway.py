"""Guards against runaways: loops, bursts and speed raise their own error, before anything is sent."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from rlm_obs import CallRefused, CostTracker, Runaway
from rlm_obs._budgets import runaway
from rlm_obs._budgets.runaway import Guards
from rlm_obs.testing import FakeOpenAI

Chat = Callable[..., Any]


def test_the_same_request_again_and_again(chat: Chat, server: FakeOpenAI) -> None:
    """The fourth of the same requests in a row is refused; another one in between starts the count anew."""
    with CostTracker(max_repeats=3, name="agent") as tracker:
        for _ in range(3):
            chat()
        with pytest.raises(Runaway, match="'agent': the same request was made 4 times in a row") as raised:
            chat()
        chat(temperature=0.5)
        for _ in range(3):
            chat()
    assert len(server.billed) == 7
    assert tracker.get_report().refused_calls == 1
    assert isinstance(raised.value, CallRefused)
    assert (raised.value.rule, raised.value.budget) == ("max_repeats", "agent")
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_other_prompts_are_other_requests(chat: Chat, server: FakeOpenAI) -> None:
    """What differs in anything that is sent is not the same request."""
    with CostTracker(max_repeats=1):
        for n in range(5):
            chat(messages=[{"role": "user", "content": f"Hello {n}"}])
            chat(messages=[{"role": "user", "content": f"Hello {n}"}], seed=1)
    assert len(server.billed) == 10


def test_too_many_calls_in_a_minute(chat: Chat, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sixth call of a minute is refused, and a minute later there is room again."""
    now = [1000.0]
    monkeypatch.setattr(runaway.time, "monotonic", lambda: now[0])
    guards = Guards("x", None, 5, None)
    for _ in range(5):
        guards.admit(None)
        now[0] += 1
    with pytest.raises(Runaway, match="5 calls were made within a minute"):
        guards.admit(None)
    now[0] += 56
    guards.admit(None)
    monkeypatch.undo()
    with CostTracker(max_calls_per_minute=2):
        chat()
        chat()
        with pytest.raises(Runaway):
            chat()
    assert len(server.billed) == 2


def test_money_that_goes_far_faster_than_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once five minutes have shown what is usual, a minute far above it is refused, until it is over."""
    now = [6000.0]
    monkeypatch.setattr(runaway.time, "monotonic", lambda: now[0])
    guards = Guards("x", None, None, 3.0)
    for _ in range(6):
        guards.admit(None)
        guards.spend(Decimal("0.10"))
        now[0] += timedelta(minutes=1).total_seconds()
    guards.spend(Decimal("0.30"))
    guards.admit(None)
    guards.spend(Decimal("0.01"))
    with pytest.raises(Runaway, match=r"\$0.31 was spent within a minute, the usual is \$0.10"):
        guards.admit(None)
    now[0] += 60
    guards.admit(None)


def test_what_is_usual_has_to_be_seen_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its first minutes a program may spend as it likes: nothing is known to be unusual."""
    now = [6000.0]
    monkeypatch.setattr(runaway.time, "monotonic", lambda: now[0])
    guards = Guards("x", None, None, 2.0)
    for amount in ("0.01", "5", "0.01", "9"):
        guards.admit(None)
        guards.spend(Decimal(amount))
        now[0] += 60
    guards.admit(None)
