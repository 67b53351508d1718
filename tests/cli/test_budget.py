"""`rlm-obs budget` shows and steers the budgets in a store, as a shell runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from decimal import Decimal

import pytest

from rlm_obs._budgets.opening import open_store
from rlm_obs.stores import AccountId, Message

Script = Callable[..., subprocess.CompletedProcess[str]]
URL = "sqlite:///budgets.db"


@pytest.fixture
def _spent() -> None:
    store = open_store(URL)
    store.declare("day", {("usd", ""): Decimal(10), ("tokens", "ann"): Decimal(500)}, "refuse", "program")
    message = Message(
        lease="x", number=1, limit=Decimal(10), spent=Decimal("2.5"), wants=Decimal(1), ends_at=4_102_444_800.0
    )
    store.exchange(AccountId("day", window="day:2026-11-25"), message)
    store.close()


@pytest.mark.usefixtures("_spent")
def test_show(rlm_obs_script: Script) -> None:
    """`show` is a table of all accounts; the store is the option's, or RLM_OBS_BUDGET_STORE's."""
    done = rlm_obs_script("budget", "show", "--store", URL)
    assert (done.returncode, done.stderr) == (0, "")
    head, row = done.stdout.splitlines()
    assert head.split() == [
        "BUDGET",
        "UNIT",
        "KEY",
        "WINDOW",
        "LIMIT",
        "SPENT",
        "LEASED",
        "FREE",
        "LEASES",
        "ENDS",
        "OPENS",
    ]
    assert row.split()[:4] == ["day", "usd", "-", "day:2026-11-25"]
    assert row.split()[4:] == ["$10.00", "$2.50", "$1.00", "$6.50", "1", "2100-01-01", "00:00:00Z", "-"]
    assert rlm_obs_script("budget", "show", "--budget", "day", RLM_OBS_BUDGET_STORE=URL).stdout == done.stdout


@pytest.mark.usefixtures("_spent")
def test_steer(rlm_obs_script: Script) -> None:
    """`set`, `top-up` and `reset` change what they name and print it; `history` tells who did it."""
    (said,) = json.loads(rlm_obs_script("budget", "set", "day", "20", "--who", "ann", "--store", URL, "--json").stdout)
    assert said["limit"] == "20"
    (said,) = json.loads(rlm_obs_script("budget", "top-up", "day", "0.50", "--store", URL, "--json").stdout)
    assert (said["limit"], said["window"]) == ("20.5", "day:2026-11-25")
    shown = rlm_obs_script(
        "budget", "reset", "day", "--window", "day:2026-11-25", "--who", "eve", "--store", URL
    ).stdout
    assert "$20.50  $0.00  $1.00   $19.50" in shown
    done = rlm_obs_script("budget", "set", "day", "900", "--unit", "tokens", "--key", "ann", "--store", URL, "--json")
    assert json.loads(done.stdout)[0]["limit"] == "900"
    log = json.loads(rlm_obs_script("budget", "history", "day", "--store", URL, "--json").stdout)
    assert [(one["what"], one["before"], one["after"]) for one in log[2:]] == [
        ("set", "10", "20"),
        ("top-up", "20", "20.5"),
        ("reset", "2.5", "0"),
        ("set", "500", "900"),
    ]
    table = rlm_obs_script("budget", "history", "day", "--store", URL).stdout.splitlines()
    assert table[0].split() == ["WHEN", "WHO", "WHAT", "UNIT", "KEY", "WINDOW", "FROM", "TO"]
    assert table[3].split()[2:] == ["ann", "set", "usd", "-", "-", "$10.00", "$20.00"]


def test_nothing_yet(rlm_obs_script: Script) -> None:
    """A store in which nothing is says so; looking does not create it."""
    done = rlm_obs_script("budget", "show", "--store", URL)
    assert (done.returncode, done.stdout) == (0, "nothing was spent of any budget here yet\n")
    assert "no program has declared a budget 'day'" in rlm_obs_script("budget", "history", "day", "--store", URL).stdout
    assert json.loads(rlm_obs_script("budget", "show", "--store", URL, "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], "give --store URL"),
        (["show", "--store", "redis-of-mine://u:hunter2@h"], "no plugin offers redis-of-mine://"),
        (["set", "nobody", "5", "--store", URL], "no program has declared a budget 'nobody'"),
        (["set", "nobody", "five", "--store", URL], "limit='five'"),
        (["show", "--store", "sqlite:////nowhere/at/all/x.db", "--budget", "x"], None),
        (["set", "x", "1", "--store", "sqlite:////nowhere/at/all/x.db"], "cannot be opened"),
    ],
)
def test_what_cannot_be(rlm_obs_script: Script, arguments: list[str], said: str | None) -> None:
    """What is wrong is one line on stderr and code 2, without the URL's password."""
    done = rlm_obs_script("budget", *arguments)
    if said is None:
        assert done.returncode == 0
        return
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr
