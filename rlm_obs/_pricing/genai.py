"""The built-in prices: finds a model in genai-prices' data once, and keeps its rates."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_obs._pricing import matching
from rlm_obs._pricing.listed import rates_of
from rlm_obs._pricing.rates import Rates
from rlm_obs._pricing.rules import ruled
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, Provider

#: The most answers that are kept; past it all are forgotten, so a flood of made-up names costs no memory.
MOST = 4096
LONGEST_NAME = 200
#: What providers call their standard tier. Each other one needs a price of its own in the data.
STANDARD = frozenset({None, "", "auto", "default", "standard", "on_demand"})
#: OpenTelemetry's names of providers -> genai-prices' ids, where they are not the same.
IDS = {
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "x_ai": "x-ai",
}
DAY_S, EPOCH = 86_400, datetime(1970, 1, 1, tzinfo=UTC).toordinal()
WEEKEND = "peak rate taken, weekends may be cheaper"
#: Peak hours that hold from Monday to Friday only, which the data does not say: provider, hour of their beginning.
WEEKDAYS_ONLY = frozenset({("deepseek", 1), ("deepseek", 6)})

_lock = threading.Lock()
_get_snapshot: Callable[[], DataSnapshot] | None = None
_source = "genai-prices"
#: The file whose data is in use, and what fetches newer data.
_file: Path | None = None
_refreshing: Any = None
#: The data in use and what was found in it; one pair, so that newer data never meets what was found in older.
_kept: tuple[DataSnapshot | None, dict[tuple[str, str, str | None, int], Rates | _Clock | None]] = (None, {})


class _Clock:
    """A model whose price depends on the time of day: asked at each call, since no day has one price."""

    __slots__ = ("context", "model", "provider")

    def __init__(self, model: ModelInfo, provider: Provider, context: dict[str, str] | None) -> None:
        self.model, self.provider, self.context = model, provider, context

    def at(self, when: datetime) -> Rates | None:
        caveats: tuple[str, ...] = ()
        if when.weekday() >= 5:
            peaks = [c for c in _constraints(self.model) if c is not None and _timed(c) and c.active(when)]
            if any([(self.provider.id, c.start_time.hour) in WEEKDAYS_ONLY for c in peaks]):
                when = when.replace(hour=12)
            elif peaks:
                caveats = (WEEKEND,)
        rates = rates_of(self.model, self.provider, self.model.get_prices(when, self.context), caveats)
        return ruled(rates, self.provider.id, self.model.id)


def source() -> str:
    """Return who prices, with its version: "genai-prices 0.2.3", and the day of data that is newer than that."""
    _data()
    return _source


def resolve(provider: str, model: str, tier: str | None = None, at: datetime | None = None) -> Rates | None:
    """Return the rates of a model at `at` (now), or None where nobody knows them.

    `provider` is OpenTelemetry's name or genai-prices' id; `tier` is the answered service tier, or "batch". A tier that
    the data does not list for this model and day is unknown: genai-prices itself takes the standard price there. So
    is each name that is only near a listed one, see `matching.find`. One look-up per name, tier and day, then a dict.
    """
    when = None if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if tier in STANDARD:
        tier = None
    data, kept = _data()
    key = (provider, model, tier, EPOCH + int(time.time()) // DAY_S if when is None else when.toordinal())
    try:
        found = kept[key]
    except KeyError:
        when = when or datetime.now(UTC)
        if len(model) > LONGEST_NAME or len(provider) > LONGEST_NAME or len(tier or "") > LONGEST_NAME:
            return None
        found = _look_up(data, provider, model, tier, when)
        if len(kept) >= MOST:
            kept.clear()
        kept[key] = found
    return found.at(when or datetime.now(UTC)) if type(found) is _Clock else found  # type: ignore[return-value]


def context_window(model: str, provider: str = "openai") -> int | None:
    """Return the most tokens that input and output may have together, or None where the data does not say."""
    _, found = _find(_data()[0], provider, model)
    return None if found is None else found.context_window


def providers() -> tuple[Provider, ...]:
    """Return the providers of the data, in its order."""
    return tuple(_data()[0].providers)


def published_at() -> str:
    """Return where genai-prices publishes its newest data."""
    from genai_prices.update_prices import DEFAULT_UPDATE_URL

    return DEFAULT_UPDATE_URL


def read_data(raw: Any) -> DataSnapshot:
    """Return the data that genai-prices publishes, from its JSON. Raises ValueError where it is none."""
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import _providers_from_raw

    if not isinstance(raw, list) or not raw:
        raise ValueError("the data of genai-prices is a list of providers")
    return DataSnapshot(_providers_from_raw(raw), from_auto_update=True)


def use(file: Path | None, *, refresh: bool) -> None:
    """Take the data of a file, and fetch newer data every hour if asked to. Raises ConfigError for a file that is none."""
    global _file, _refreshing
    if file is not None and file != _file:
        try:
            data = read_data(json.loads(file.read_text("utf-8"), parse_float=str))
        except (OSError, ValueError) as error:
            raise ConfigError(f"price_data={str(file)!r} cannot be read: {error}") from None
        from genai_prices.data_snapshot import set_custom_snapshot

        data.timestamp = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        set_custom_snapshot(data)
    elif file is None and _file is not None:
        from genai_prices.data_snapshot import set_custom_snapshot

        set_custom_snapshot(None)
    _file = file
    if refresh and _refreshing is None:
        from genai_prices import UpdatePrices

        _refreshing = UpdatePrices()
        _refreshing.start()
    elif not refresh and _refreshing is not None:
        _refreshing.stop()
        _refreshing = None


def in_use() -> bool:
    """Tell whether data of a file, or fetched data, is in use."""
    return _file is not None or _refreshing is not None


def _data() -> tuple[DataSnapshot, dict[tuple[str, str, str | None, int], Rates | _Clock | None]]:
    """Return the data in use, a newer one if the program has it (`genai_prices.UpdatePrices`), and what was found.

    The import takes 0.2 to 0.4 s and happens here, at the first price; its warnings do not become errors of ours.
    """
    global _kept, _source
    data = (_get_snapshot or _load())()
    kept = _kept
    if kept[0] is not data:
        kept = _kept = (data, {})
        newer = f", data of {data.timestamp:%Y-%m-%d}" if data.from_auto_update else ""
        _source = _source.partition(",")[0] + newer
    return data, kept[1]


def _load() -> Callable[[], DataSnapshot]:
    global _get_snapshot, _source
    with _lock, warnings.catch_warnings():  # the lock: two threads in catch_warnings leave the filters changed
        warnings.simplefilter("ignore")
        from genai_prices import __version__, data_snapshot

        data_snapshot.get_snapshot()
        _source = f"genai-prices {__version__}"
        _get_snapshot = data_snapshot.get_snapshot
    return _get_snapshot


def _fresh_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


def _find(data: DataSnapshot, provider: str, model: str) -> tuple[Provider | None, ModelInfo | None]:
    wanted = IDS.get(provider, provider).lower()
    listed = next((p for p in data.providers if p.id == wanted), None)
    return listed, matching.find(listed, model, data.providers) if listed else None


def _look_up(data: DataSnapshot, provider: str, name: str, tier: str | None, when: datetime) -> Rates | _Clock | None:
    listed, model = _find(data, provider, name)
    if listed is None or model is None:
        return None
    context: dict[str, str] | None = None
    if tier is not None:
        # as in `ModelInfo.calc_price`: a fallback's variants are not this provider's
        context = _variant(model, tier, when) if any(model is own for own in listed.models) else None
        if context is None:
            return None
    if any(_timed(constraint) for constraint in _constraints(model)):
        return _Clock(model, listed, context)
    return ruled(rates_of(model, listed, model.get_prices(when, context)), listed.id, model.id)


def _variant(model: ModelInfo, tier: str, when: datetime) -> dict[str, str] | None:
    """Return the price context that the data has for this tier on this day, or None: the tier's price is unknown."""
    for variant in model.price_variants or ():
        asked = variant.when in ({"service_tier": tier}, {"processing": tier})
        if asked and (variant.constraint is None or variant.constraint.active(when)):
            return dict(variant.when)
    return None


def _constraints(model: ModelInfo) -> list[Any]:
    conditional = model.prices if isinstance(model.prices, list) else []
    return [c.constraint for c in (*conditional, *(model.price_variants or ()))]


def _timed(constraint: object) -> bool:
    return hasattr(constraint, "start_time")  # genai_prices.types.TimeOfDateConstraint
