"""The shapes of a budget: in windows, per key, nested, in tokens and in calls; each refusal says which had no room."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine

import rlm_obs
from rlm_obs import BudgetExceeded, ConfigError, CostTracker
from rlm_obs.testing import FakeOpenAI
from tests.budgets.conftest import EACH

Chat = Callable[..., Any]
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def until_refused(chat: Chat, tracker: CostTracker, most: int = 50, **params: Any) -> tuple[int, BudgetExceeded]:
    """Return how many calls went out, and the refusal that stopped the next."""
    with tracker:
        for went_out in range(most):
            try:
                chat(**params)
            except BudgetExceeded as refusal:
                return went_out, refusal
    raise AssertionError(f"{most} calls went out")


# In windows


def test_a_day_has_its_own_budget(chat: Chat, server: FakeOpenAI) -> None:
    """Spent by noon, refused until midnight of the zone, open again from then on; nothing was zeroed meanwhile."""
    with time_machine.travel(NOON, tick=False) as clock:
        tracker = CostTracker(3 * EACH, window="day", time_zone="America/New_York", name="day")
        went_out, refusal = until_refused(chat, tracker)
        assert went_out in (2, 3)
        assert refusal.reset_at == datetime(2026, 11, 26, 5, 0, tzinfo=UTC)
        assert "2026-11-26 05:00:00 UTC" in str(refusal)
        assert tracker.reset_at == refusal.reset_at
        clock.move_to(datetime(2026, 11, 26, 4, 59, 59, tzinfo=UTC))
        assert until_refused(chat, tracker)[0] == 0
        clock.move_to(datetime(2026, 11, 26, 5, 0, tzinfo=UTC))
        assert tracker.spent == 0
        assert until_refused(chat, tracker)[0] == went_out
        assert tracker.get_report().total_cost == went_out * EACH
    assert len(server.billed) == 2 * went_out


def test_a_call_belongs_to_the_window_in_which_it_began(server: FakeOpenAI, chat: Chat) -> None:
    """A stream that ends after midnight is settled in yesterday's budget, not in today's."""
    with time_machine.travel(datetime(2026, 11, 25, 23, 59, 59, tzinfo=UTC), tick=False) as clock:
        tracker = CostTracker("0.01", window="day")
        with tracker:
            stream = chat(stream=True)
            clock.move_to(datetime(2026, 11, 26, 0, 0, 1, tzinfo=UTC))
            assert tracker.spent == tracker.held == 0
            list(stream)
            assert tracker.spent == 0
            chat()
        assert tracker.spent == EACH


def test_a_rolling_window_lets_go(chat: Chat) -> None:
    """What was spent counts for an hour, and a little longer: never less."""
    with time_machine.travel(NOON, tick=False) as clock:
        tracker = CostTracker(3 * EACH, window=timedelta(hours=1))
        went_out, refusal = until_refused(chat, tracker)
        assert refusal.reset_at is not None
        assert timedelta(hours=1) < refusal.reset_at - NOON <= timedelta(hours=1, minutes=1)
        clock.move_to(NOON + timedelta(hours=1))
        assert until_refused(chat, tracker)[0] == 0
        clock.move_to(refusal.reset_at)
        assert tracker.remaining == 3 * EACH
        assert until_refused(chat, tracker)[0] == went_out


def test_a_rolling_window_never_holds_more_than_its_limit(chat: Chat) -> None:
    """In any hour, wherever it begins, no more than the limit was spent."""
    spent: list[datetime] = []
    with time_machine.travel(NOON, tick=False) as clock:
        tracker = CostTracker(4 * EACH, window=timedelta(hours=1))
        for minutes in range(0, 240, 7):
            clock.move_to(NOON + timedelta(minutes=minutes))
            try:
                with tracker:
                    chat()
                spent.append(datetime.now(UTC))
            except BudgetExceeded:
                pass
    assert len(spent) > 8
    for first in spent:
        assert len([at for at in spent if first <= at < first + timedelta(hours=1)]) <= 4


# Per key


def test_each_key_has_a_budget_of_its_own(chat: Chat) -> None:
    """One tenant that has spent its budget does not stop another; the refusal says whose it was."""
    tracker = CostTracker(2 * EACH, per="tenant.id", limits={"vip": 4 * EACH}, name="tenants")
    went_out = {}
    for tenant in ("acme", "other", "vip"):
        with rlm_obs.context(attributes={"tenant.id": tenant}):
            went_out[tenant], refusal = until_refused(chat, tracker)
            assert (refusal.key, refusal.budget) == (tenant, "tenants")
            assert repr(tenant) in str(refusal)
            assert tracker.spent == went_out[tenant] * EACH
    assert went_out["acme"] == went_out["other"] == 1
    assert went_out["vip"] == 3
    assert tracker.balance("vip").limit == 4 * EACH
    assert tracker.balance("acme").remaining == EACH
    assert tracker.balance("nobody yet").spent == 0
    report = tracker.get_report()
    assert report.by_key == {"acme": EACH, "other": EACH, "vip": 3 * EACH}
    assert report.total_cost == tracker.spent == 5 * EACH
    assert report.remaining is None


def test_a_key_may_be_computed(chat: Chat) -> None:
    """`per` and `limits` may be functions; a limit of None is the default."""
    limits = {"chatty": None, "cheap": EACH / 5}
    tracker = CostTracker(3 * EACH, per=lambda request: request.model, limits=limits.get)
    assert until_refused(chat, tracker)[0] == 2
    assert until_refused(chat, tracker, model="cheap")[1].limit == EACH / 5


def test_calls_without_a_key_share_one_budget(chat: Chat) -> None:
    """What names no key is not free: it falls under the default limit, together."""
    tracker = CostTracker(2 * EACH, per="user.id")
    went_out, refusal = until_refused(chat, tracker)
    assert (went_out, refusal.key) == (1, None)


# In tokens and calls, for models that cost nothing


def test_a_budget_in_tokens(chat: Chat) -> None:
    """Input and output count, also of a model that costs nothing."""
    tracker = CostTracker(budget_tokens=200, name="tokens")
    went_out, refusal = until_refused(chat, tracker, model="local")
    assert refusal.unit == "tokens"
    assert refusal.spent == went_out * 19
    assert 200 - refusal.spent < refusal.needed
    assert "raise budget_tokens" in str(refusal)
    assert tracker.balance(unit="tokens").spent == went_out * 19
    assert tracker.get_report().tokens == went_out * 19


def test_a_budget_in_calls(chat: Chat, server: FakeOpenAI) -> None:
    """Each call that is sent counts, and one more is refused."""
    tracker = CostTracker(budget_calls=5)
    went_out, refusal = until_refused(chat, tracker, model="local")
    assert went_out == len(server.billed) == 5
    assert (refusal.unit, refusal.limit, refusal.spent) == ("calls", 5, 5)


def test_an_output_limit_is_lowered_to_the_tokens_left(chat: Chat, server: FakeOpenAI) -> None:
    """A call that set no limit is given what is left in tokens."""
    with CostTracker(budget_tokens=1000, min_output_tokens=1):
        chat(model="local", max_tokens=None)
    sent = server.requests[-1].json
    assert 800 < sent.get("max_completion_tokens", sent.get("max_tokens")) < 1000


def test_the_first_limit_that_is_reached_stops(chat: Chat) -> None:
    """Dollars, tokens and calls hold together; whichever has no room is named."""
    assert until_refused(chat, CostTracker(1, budget_calls=2, budget_tokens=10_000))[1].unit == "calls"
    assert until_refused(chat, CostTracker(2 * EACH, budget_calls=20, budget_tokens=10_000))[1].unit == "usd"
    assert until_refused(chat, CostTracker(1, budget_calls=20, budget_tokens=100))[1].unit == "tokens"


# Together


def test_nested_budgets_name_the_one_without_room(chat: Chat) -> None:
    """An agent's run inside a tenant inside a day: the call has to fit in all, and the error says in which it did not."""
    day = CostTracker(20 * EACH, name="day", window="day")
    tenant = CostTracker(3 * EACH, name="tenant", per="tenant.id")
    run = CostTracker(10 * EACH, name="run")
    with day, rlm_obs.context(attributes={"tenant.id": "acme"}), tenant:
        _, refusal = until_refused(chat, run)
        assert (refusal.budget, refusal.key) == ("tenant", "acme")
    with day, rlm_obs.context(attributes={"tenant.id": "other"}), tenant:
        chat()
    assert (day.spent, run.spent) == (3 * EACH, 2 * EACH)


def test_a_budget_in_words(chat: Chat) -> None:
    """`budget=` says amount, unit and window in one."""
    tracker = CostTracker(budget="$0.002 per day, 19k tokens a day")
    assert tracker.budget_usd == Decimal("0.002")
    assert tracker.balance(unit="tokens").limit == 19_000
    assert tracker.reset_at is not None
    assert until_refused(chat, tracker)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"budget": "ten dollars"}, "budget='ten dollars'"),
        ({"budget": "$5 tokens"}, "budget='$5 tokens'"),
        ({"budget": "5/day, 3 calls/hour"}, "one tracker has one window"),
        ({"budget": "$5", "budget_usd": 5}, "give it alone"),
        ({"budget_tokens": 1.5}, "budget_tokens=1.5"),
        ({"budget_calls": -1}, "budget_calls=-1"),
        ({"limits": {"a": 1}}, "say what a key is"),
        ({"per": 5}, "per=5"),
        ({"per": "user.id", "limits": {"a": {"euro": 1}}}, "there is no unit 'euro'"),
        ({"per": "user.id", "limits": {"a": "much"}}, "limits['a']"),
        ({"window": "year"}, "window='year'"),
        ({"store": "sqlite:///x.db"}, "give it a limit"),
        ({"budget_usd": 1, "store": 5}, "store=int"),
        ({"budget_usd": 1, "store": "mongodb://user:secret@host"}, "mongodb://"),
        ({"budget_usd": 1, "fail": "maybe"}, "fail='maybe'"),
        ({"budget_usd": 1, "lease_s": 0}, "lease_s=0"),
        ({"max_repeats": 0}, "max_repeats=0"),
        ({"max_spend_rate": 1}, "max_spend_rate=1"),
        ({"on_low": 5}, "on_low=5"),
        ({"alert_threshold": [0.5, 2]}, "alert_threshold=[0.5, 2]"),
        ({"alert_threshold": []}, "alert_threshold=[]"),
    ],
)
def test_a_bad_shape_is_named(arguments: dict[str, Any], named: str) -> None:
    """What cannot be is a ConfigError that names it, where the tracker is made; a password is never shown."""
    with pytest.raises(ConfigError) as raised:
        CostTracker(**arguments)
    assert named in str(raised.value)
    assert "secret" not in str(raised.value)


# Asking before


def test_a_program_can_ask_whether_a_call_would_fit(chat: Chat) -> None:
    """`would_fit` says what a call would meet: it holds nothing, and sends nothing."""
    small = {"model": "chatty", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
    large = {**small, "max_tokens": 1000}
    tracker = CostTracker(5 * EACH)
    assert tracker.would_fit(small)
    assert not tracker.would_fit(large)
    with tracker:
        for _ in range(4):
            chat()
        assert not tracker.would_fit(small)
        with pytest.raises(BudgetExceeded):
            chat()
    assert tracker.held == 0
    assert CostTracker().would_fit(large)
    assert CostTracker(budget_tokens=100).would_fit(small)
    assert not CostTracker(budget_tokens=100).would_fit(large)
    unknown = {**small, "model": "nobody-knows-it"}
    assert not CostTracker(5).would_fit(unknown)
    assert CostTracker(5, unknown_price="warn").would_fit(unknown)


def test_a_call_that_is_held_by_others_does_not_fit_now(chat: Chat) -> None:
    """What calls in flight hold is not there for another one."""
    small = {"model": "chatty", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
    with CostTracker(2 * EACH) as tracker:
        stream = chat(stream=True)
        assert not tracker.would_fit(small)
        stream.close()
    assert tracker.remaining is not None


def test_a_key_with_a_limit_of_its_own_blocks_unknown_prices(chat: Chat, server: FakeOpenAI) -> None:
    """Also where there is no default limit: what nobody can price is not let out under a limit uncounted."""
    tracker = CostTracker(per="user.id", limits={"ann": 1})
    with tracker:
        with rlm_obs.context(user_id="ann"), pytest.raises(rlm_obs.UnknownPrice):
            chat(model="nobody-knows-it")
        with rlm_obs.context(user_id="bob"):
            chat(model="nobody-knows-it")
    assert len(server.billed) == 1


@pytest.mark.swallows
def test_a_bound_that_fails_does_not_open_the_budget(
    chat: Chat, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that we cannot read goes out while there is money, is counted, and is refused when the money is spent."""

    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("no bound")

    monkeypatch.setattr("rlm_obs._instrument.needs.bound_of", broken)
    with CostTracker(2 * EACH) as tracker:
        chat()
        chat()
        with pytest.raises(BudgetExceeded):
            chat()
    assert tracker.spent == 2 * EACH
    assert len(server.billed) == 2
    assert rlm_obs.stats()["failures"]["bound"] == 3
