"""Windows of time in which a budget holds: a window is a name, so a new one begins by itself and nothing is ever zeroed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rlm_obs.errors import ConfigError

Calendar = Literal["hour", "day", "week", "month"]
HOUR_S = 3600
LONGEST = timedelta(days=3660)


@dataclass(frozen=True, slots=True)
class Turn:
    """One window: its name, and when it begins and ends (seconds since 1970; None: it has no end, or it rolls)."""

    name: str
    starts_at: float | None = None
    ends_at: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """The windows of a budget: by the calendar of a time zone ("day"), or rolling ("the last 24 hours")."""

    calendar: Calendar | None = None
    zone: ZoneInfo | None = None
    rolling_s: float | None = None

    @classmethod
    def read(cls, window: object, time_zone: str) -> Window | None:
        """Return what `window=` and `time_zone=` mean, None for a total. Raises ConfigError for what they cannot be."""
        try:
            zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            hint = 'give a name such as "Europe/Berlin" (where the system has no time zones: pip install tzdata)'
            raise ConfigError(f"time_zone={time_zone!r} is not known: {hint}") from None
        if window is None:
            return None
        if isinstance(window, timedelta):
            if not timedelta(seconds=1) <= window <= LONGEST:
                raise ConfigError(f"window={window!r}: a rolling window is a second to ten years")
            return cls(rolling_s=window.total_seconds())
        if window not in get_args(Calendar):
            known = ", ".join(map(repr, get_args(Calendar)))
            raise ConfigError(f"window={window!r}: there is {known}, or a timedelta for a rolling window")
        return cls(calendar=window, zone=zone)  # type: ignore[arg-type]

    def at(self, now: float) -> Turn:
        """Return the window that holds at `now` (seconds since 1970)."""
        if self.calendar is None or self.zone is None:
            return Turn(f"rolling:{self.rolling_s:g}s")
        now = math.floor(now)  # a moment before midnight is not rounded into the next day
        local = datetime.fromtimestamp(now, self.zone)
        if self.calendar == "hour":
            offset = local.utcoffset() or timedelta()
            since = now + offset.total_seconds()
            starts_at = since - since % HOUR_S - offset.total_seconds()
            shown = datetime.fromtimestamp(starts_at, self.zone)
            return Turn(f"hour:{shown:%Y-%m-%dT%H%z}@{self.zone.key}", starts_at, starts_at + HOUR_S)
        first, following = _days(self.calendar, local.date())
        starts_at, ends_at = _midnight(first, self.zone), _midnight(following, self.zone)
        return Turn(f"{self.calendar}:{first.isoformat()}@{self.zone.key}", starts_at, ends_at)


def _days(calendar: Calendar, day: date) -> tuple[date, date]:
    """Return the first day of the window around `day`, and that of the next one; weeks begin on Monday (ISO 8601)."""
    if calendar == "day":
        return day, day + timedelta(days=1)
    if calendar == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def _midnight(day: date, zone: ZoneInfo) -> float:
    """Return when a local day begins: at the first of its moments, also where the clocks skip or repeat midnight."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()
