"""Windows of time: each moment lies in one, they follow each other without a gap, and their names never come back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlm_obs import ConfigError
from rlm_obs._budgets.windows import Window

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "America/Havana",  # its clocks repeat midnight
    "America/Santiago",  # its clocks skip midnight
    "Pacific/Apia",  # has skipped a whole day, 2011-12-30
)
CALENDARS = ("hour", "day", "week", "month")
moments = st.floats(datetime(2010, 1, 1, tzinfo=UTC).timestamp(), datetime(2039, 1, 1, tzinfo=UTC).timestamp())


def read(window: object, zone: str = "UTC") -> Window:
    found = Window.read(window, zone)
    assert found is not None
    return found


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@example(now=2177452799.9999995, calendar="day", zone="UTC")  # less than a microsecond before midnight
@given(now=moments, calendar=st.sampled_from(CALENDARS), zone=st.sampled_from(ZONES))
def test_each_moment_lies_in_its_window(now: float, calendar: str, zone: str) -> None:
    """A window holds the moment that it was asked for, and is the same one at its beginning and just before its end."""
    window = read(calendar, zone)
    turn = window.at(now)
    assert turn.starts_at is not None
    assert turn.ends_at is not None
    assert turn.starts_at <= now < turn.ends_at
    assert window.at(turn.starts_at).name == turn.name
    assert window.at(turn.ends_at).name != turn.name


@given(now=moments, calendar=st.sampled_from(CALENDARS[1:]), zone=st.sampled_from(ZONES))
def test_windows_follow_each_other(now: float, calendar: str, zone: str) -> None:
    """The next window begins where the last one ends, also where clocks are changed."""
    window = read(calendar, zone)
    turn = window.at(now)
    assert turn.ends_at is not None
    assert window.at(turn.ends_at).starts_at == turn.ends_at


@pytest.mark.parametrize(
    ("window", "zone", "now", "name", "hours"),
    [
        ("day", "Europe/Berlin", "2026-03-29T12:00+02:00", "day:2026-03-29@Europe/Berlin", 23),
        ("day", "Europe/Berlin", "2026-10-25T12:00+01:00", "day:2026-10-25@Europe/Berlin", 25),
        ("day", "UTC", "2028-02-29T23:59:59+00:00", "day:2028-02-29@UTC", 24),
        ("day", "America/New_York", "2026-11-25T01:00+00:00", "day:2026-11-24@America/New_York", 24),
        ("week", "UTC", "2026-11-25T00:00+00:00", "week:2026-11-23@UTC", 168),
        ("week", "UTC", "2027-01-01T00:00+00:00", "week:2026-12-28@UTC", 168),
        ("month", "UTC", "2026-02-10T00:00+00:00", "month:2026-02-01@UTC", 28 * 24),
        ("month", "UTC", "2028-02-29T00:00+00:00", "month:2028-02-01@UTC", 29 * 24),
        ("month", "UTC", "2026-12-31T23:00+00:00", "month:2026-12-01@UTC", 31 * 24),
        ("month", "Europe/Berlin", "2026-10-01T00:00+02:00", "month:2026-10-01@Europe/Berlin", 31 * 24 + 1),
        ("hour", "Asia/Kathmandu", "2026-11-25T10:50+05:45", "hour:2026-11-25T10+0545@Asia/Kathmandu", 1),
    ],
)
def test_by_the_calendar(window: str, zone: str, now: str, name: str, hours: int) -> None:
    """Daylight saving, leap days, ends of months and years: names and lengths by hand."""
    turn = read(window, zone).at(at(now))
    assert turn.name == name
    assert turn.starts_at is not None
    assert turn.ends_at is not None
    assert turn.ends_at - turn.starts_at == hours * 3600


def test_an_hour_that_comes_twice_is_two() -> None:
    """When the clocks are set back, the hour from two to three is two windows with two names."""
    window = read("hour", "Europe/Berlin")
    first, second = window.at(at("2026-10-25T02:30+02:00")), window.at(at("2026-10-25T02:30+01:00"))
    assert first.name != second.name
    assert first.ends_at == second.starts_at


def test_a_rolling_window_is_one() -> None:
    """A rolling window never turns: what it counts grows old instead."""
    window = read(timedelta(hours=24))
    assert window.rolling_s == 86_400
    assert window.at(0.0) == window.at(1e9)
    assert window.at(0.0).ends_at is None


@pytest.mark.parametrize(
    ("window", "zone", "named"),
    [
        ("fortnight", "UTC", "window='fortnight'"),
        ("DAY", "UTC", "window='DAY'"),
        (86_400, "UTC", "window=86400"),
        (timedelta(0), "UTC", "a rolling window is a second to ten years"),
        (timedelta(days=-1), "UTC", "a rolling window is"),
        (None, "Mars/Olympus", "time_zone='Mars/Olympus'"),
        ("day", "../../etc/passwd", "time_zone="),
        ("day", None, "time_zone=None"),
    ],
)
def test_a_bad_window_is_named(window: object, zone: str, named: str) -> None:
    """What cannot be a window or a time zone is a ConfigError that says what can."""
    with pytest.raises(ConfigError) as raised:
        Window.read(window, zone)
    assert named in str(raised.value)


def test_midnight_is_the_zones() -> None:
    """A day begins at the zone's own midnight."""
    turn = read("day", "Asia/Tokyo").at(at("2026-11-25T00:00+09:00"))
    assert datetime.fromtimestamp(turn.starts_at or 0, ZoneInfo("Asia/Tokyo")).hour == 0
