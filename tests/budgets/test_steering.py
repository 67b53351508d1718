"""Budgets in a store can be read and steered from outside of the programs that spend them, and each change is on record."""

from __future__ import annotations

import getpass
import json
import socket
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

import rlm_obs
from rlm_obs._budgets.opening import open_store
from rlm_obs.stores import AccountId, Message, Store

URL = "sqlite:///budgets.db"


@pytest.fixture
def store() -> Iterator[Store]:
    """A store in which a program has declared two budgets, and spent and leased something of each."""
    made = open_store(URL)
    made.declare("day", {("usd", ""): Decimal(10), ("tokens", ""): Decimal(5000)}, "refuse", "program")
    made.declare("tenants", {("usd", ""): Decimal(1)}, "refuse", "program")
    now = time.time()
    for window, ends_at in (("day:2", now + 90_000), ("day:1", now + 3600)):
        say(made, AccountId("day", window=window), spent=2, wants=1, ends_at=ends_at)
    say(made, AccountId("tenants", key="ann"), spent="0.000001")
    yield made
    made.close()


def say(store: Store, account: AccountId, **said: Any) -> None:
    amounts = {name: Decimal(said.pop(name, 0)) for name in ("spent", "wants")}
    store.exchange(account, Message(lease="x", number=1, limit=Decimal(10), **amounts, **said))


@pytest.fixture
def budgets(store: Store) -> Iterator[rlm_obs.Budgets]:
    with rlm_obs.open_budgets(URL) as opened:
        yield opened


def test_show(budgets: rlm_obs.Budgets) -> None:
    """Each account is a row, with what is spent, leased and free, and when its window ends."""
    one, two, ann = budgets.show()
    assert (one.budget, one.unit, one.key, one.window, one.limit) == ("day", "usd", "", "day:1", 10)
    assert (one.spent, one.leased, one.free, one.leases) == (2, 1, 7, 1)
    assert (two.window, ann.budget, ann.key, ann.limit) == ("day:2", "tenants", "ann", 1)
    assert one.ends_at is not None and two.ends_at is not None and one.ends_at < two.ends_at
    assert ann.ends_at is ann.opens_at is None
    assert budgets.show("tenants") == [ann]
    assert budgets.show("nobody") == []


def test_a_row_in_json(budgets: rlm_obs.Budgets) -> None:
    """A row is JSON-ready, with amounts as text, so that no digit is lost and no exponent is written."""
    said = json.loads(json.dumps(budgets.show("tenants")[0].to_dict()))
    assert (said["spent"], said["limit"], said["leases"]) == ("0.000001", "1", 0)
    assert list(said) == list(rlm_obs.BudgetRow.__slots__)


def test_set(budgets: rlm_obs.Budgets) -> None:
    """A limit that is set holds at once, in each window; a key's before that of all keys."""
    assert budgets.set("day", "20.50").limit == Decimal("20.50")
    assert [row.limit for row in budgets.show("day")] == [Decimal("20.50")] * 2
    budgets.set("tenants", 5, key="ann")
    budgets.set("tenants", 2)
    assert budgets.show("tenants")[0].limit == 5
    assert budgets.set("day", 7000, unit="tokens").limit == 7000


def test_top_up(budgets: rlm_obs.Budgets) -> None:
    """A top-up without a window is the newest one's; the others stay as they are."""
    row = budgets.top_up("day", "2.5")
    assert (row.window, row.limit) == ("day:2", Decimal("12.5"))
    assert budgets.top_up("day", 1, window="day:1").limit == 11
    assert [one.limit for one in budgets.show("day")] == [11, Decimal("12.5")]
    assert budgets.top_up("tenants", 1, key="ann").key == "ann"


def test_no_top_up_of_what_is_over(store: Store, budgets: rlm_obs.Budgets) -> None:
    """Where the newest window has ended nothing is topped up, unless the window is named: nobody could spend it."""
    say(store, AccountId("tenants", key="bob", window="day:0"), spent=1, ends_at=time.time() - 1)
    with pytest.raises(rlm_obs.ConfigError, match=r"'day:0', has ended"):
        budgets.top_up("tenants", 1, key="bob")
    assert budgets.top_up("tenants", 1, key="bob", window="day:0").limit == 2


def test_reset(budgets: rlm_obs.Budgets) -> None:
    """After a reset nothing is spent, and what a living process holds stays held."""
    row = budgets.reset("day")
    assert (row.window, row.spent, row.leased, row.free) == ("day:2", 0, 1, 9)
    assert budgets.show("day")[0].spent == 2


def test_history(budgets: rlm_obs.Budgets) -> None:
    """Each change is on record with who has made it, which is user@host unless another name is given."""
    budgets.set("day", 20, who="ann")
    budgets.top_up("day", 1)
    budgets.reset("day", window="day:1", who="")
    log = budgets.history("day")
    me = f"{getpass.getuser()}@{socket.gethostname()}"
    assert [(one.what, one.who) for one in log] == [
        ("created", "program"),
        ("created", "program"),
        ("set", "ann"),
        ("top-up", me),
        ("reset", ""),
    ]
    assert [(one.before, one.after) for one in log[2:]] == [(10, 20), (20, 21), (2, 0)]
    assert budgets.history("nobody") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda b: b.set("dai", 1),
            "no program has declared a budget 'dai' in this store; there are: 'day', 'tenants'",
        ),
        (lambda b: b.set("day", -1), "limit=-1"),
        (lambda b: b.set("day", "much"), "limit='much'"),
        (lambda b: b.set("day", 1, unit="euro"), "unit='euro'"),
        (lambda b: b.set("day", "1.5", unit="calls"), "whole number of calls"),
        (lambda b: b.top_up("day", 0), "more than 0"),
        (lambda b: b.top_up("day", -1), "amount=-1"),
        (lambda b: b.top_up("tenants", 1, unit="calls"), "has no limit in calls"),
        (lambda b: b.reset("dai"), "'dai'"),
    ],
)
def test_what_cannot_be(budgets: rlm_obs.Budgets, change: Any, said: str) -> None:
    """A budget, unit or amount that cannot be is a ConfigError that says so, and nothing is changed or logged."""
    before = budgets.show(), budgets.history("day"), budgets.history("tenants")
    with pytest.raises(rlm_obs.ConfigError) as caught:
        change(budgets)
    assert said in str(caught.value)
    assert (budgets.show(), budgets.history("day"), budgets.history("tenants")) == before


def test_the_program_keeps_to_it(store: Store, budgets: rlm_obs.Budgets) -> None:
    """A program that runs, and one that starts again with the limit that it always declares, keep to what was set."""
    budgets.set("day", 3)
    reply = store.exchange(
        AccountId("day"), Message(lease="y", number=1, limit=Decimal(10), wants=Decimal(9), least=Decimal(4))
    )
    assert (reply.granted, reply.state.limit) == (0, 3)
    store.declare("day", {("usd", ""): Decimal(10), ("tokens", ""): Decimal(5000)}, "refuse", "program")
    assert {row.limit for row in budgets.show("day")} == {3}


def test_a_store_that_cannot_be_read(budgets: rlm_obs.Budgets) -> None:
    """What is wrong with a store is a StoreError, in one line."""
    with open("notes.txt", "w") as file:
        file.write("not a database, but long enough to be taken for one. " * 40)
    with (
        rlm_obs.open_budgets("sqlite:///notes.txt") as others,
        pytest.raises(rlm_obs.StoreError, match="no SQLite file"),
    ):
        others.show()
