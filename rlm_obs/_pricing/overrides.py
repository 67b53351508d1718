"""The user's own prices: a mapping, or a TOML or JSON file, in US dollars per million tokens."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from rlm_obs._pricing.parts import HOUR
from rlm_obs._pricing.rates import Rates
from rlm_obs._record import EXACT, dollars
from rlm_obs.errors import ConfigError

MILLION = Decimal(1_000_000)
#: The keys of a model, in dollars per million of what they name.
PER_MILLION = {
    "input": "input",
    "cached_input": "cached_input",
    "cache_write": "cache_write",
    "cache_write_long": "cache_write_long",
    "output": "output",
    "reasoning": "reasoning",
    "input_audio": "input_audio",
    "cached_audio": "cached_audio",
    "output_audio": "output_audio",
    "input_image": "input_image",
    "cached_image": "cached_image",
    "output_image": "output_image",
    "characters": "character",
    "training": "training",
}
#: The keys in dollars per one: a call, a second of audio or video, an image, an hour of the time that the call takes.
PER_ONE = ("per_call", "per_second", "per_image", "per_hour")
#: The table of discounts, which is no model.
DISCOUNT = "discount"
SNAPSHOT = re.compile(r"-(?:20\d\d-\d\d-\d\d|20\d{6}|\d{4})$")
MOST = 4096
SOURCE = "override"


class Overrides:
    """The user's prices by model. Names are compared without case; a price holds on every service tier and day."""

    def __init__(self, prices: Mapping[str, Mapping[str, Any]], where: str = "prices") -> None:
        self._exact: dict[str, Rates] = {}
        self._prefixes: dict[str, Rates] = {}
        self._found: dict[tuple[str, str], Rates | None] = {}
        self.discounts: dict[str, Decimal] = {}
        if not isinstance(prices, Mapping):
            raise ConfigError(f'{where}: give a table per model, such as {{"a-model": {{"input": 1, "output": 4}}}}')
        for name, given in prices.items():
            if name == DISCOUNT:
                self.discounts = _discounts(given, where)
                continue
            folded = str(name).strip().casefold()
            table = self._prefixes if folded.endswith("*") else self._exact
            key = folded.removesuffix("*")
            if not folded:
                raise ConfigError(f"{where}: a model has no name")
            if key in table:
                raise ConfigError(f"{where}: the model {name!r} is priced twice")
            table[key] = rates_of(given, where, str(name))

    @classmethod
    def read(cls, prices: Overrides | Mapping[str, Mapping[str, Any]] | Path | str | None) -> Overrides | None:
        """Return the prices of a mapping or a file (`.toml`, `.json`), or None for none.

        Raises ConfigError that names the file, the model, the key and its value.
        """
        if prices is None or isinstance(prices, Overrides):
            return prices
        if not isinstance(prices, str | Path):
            return cls(prices)
        path = Path(prices)
        if path.suffix.lower() not in (".toml", ".json"):
            raise ConfigError(f"prices={str(path)!r}: end the file's name in .toml or .json")
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix.lower() == ".toml":
                return cls(tomllib.loads(text, parse_float=Decimal), str(path))
            return cls(json.loads(text, parse_float=Decimal), str(path))
        except OSError as error:
            raise ConfigError(f"prices={str(path)!r} cannot be read: {error.strerror}") from None
        except ConfigError:
            raise
        except ValueError as error:  # of the TOML or the JSON, or not UTF-8
            raise ConfigError(f"{path} cannot be read: {error}") from None

    def rates(self, provider: str, model: str) -> Rates | None:
        """Return the user's rates of a model, or None where they say nothing of it.

        "provider/model" or "model" as it is; then without the date of a snapshot ("gpt-4o" holds for
        "gpt-4o-2024-08-06"); then the longest prefix ("gpt-4*"), where one with the provider wins over one without.
        """
        key = (provider, model)
        try:
            return self._found[key]
        except KeyError:
            found = self._look_up(provider.casefold(), model.strip().casefold())
            if len(self._found) >= MOST:
                self._found.clear()
            if len(model) < MOST:
                self._found[key] = found
            return found

    def stated(self) -> Iterator[tuple[str, Rates]]:
        """Give each name that is priced, with its rates."""
        yield from self._exact.items()
        yield from ((f"{name}*", rates) for name, rates in self._prefixes.items())

    def discount(self, provider: str, model: str) -> Decimal | None:
        """Return the share that is taken off a list's price: of the model, else of its provider, else of everything."""
        provider, model = provider.casefold(), model.strip().casefold()
        for name in (model, SNAPSHOT.sub("", model)):
            for key in (f"{provider}/{name}", name):
                if key in self.discounts:
                    return self.discounts[key]
        return self.discounts.get(provider, self.discounts.get("*"))

    def _look_up(self, provider: str, model: str) -> Rates | None:
        for name in (model, SNAPSHOT.sub("", model)):
            for key in (f"{provider}/{name}", name):
                if key in self._exact:
                    return self._exact[key]
        best: tuple[int, bool] = (-1, False)
        chosen: Rates | None = None
        for prefix, rates in self._prefixes.items():
            scoped = prefix.startswith(f"{provider}/")
            start = prefix.removeprefix(f"{provider}/")
            if model.startswith((start, prefix)) and (len(start), scoped) > best:
                best, chosen = (len(start), scoped), rates
        return chosen


def rates_of(given: object, where: str, model: str) -> Rates:
    """Return the rates of one table of prices. Raises ConfigError that names the key and its value."""
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f'{where}: {model!r} = {given!r}: give its prices, such as {{"input": 1.0, "output": 4.0}}')
    amounts: dict[str, Decimal] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            name = f"{model}.{key}"
            raise ConfigError(f'{where}: {model!r}: {key!r} is a table; a name with a dot stands in quotes: ["{name}"]')
        if key not in PER_MILLION and key not in PER_ONE:
            from rlm_obs._settings import near

            hint = near(str(key), (*PER_MILLION, *PER_ONE))
            raise ConfigError(f"{where}: {model!r}: there is no price {key!r} (={value!r}){hint}")
        amounts[key] = dollars(value, f"{where}: {model!r}: {key}")
    rates: dict[str, Any] = {
        ours: EXACT.divide(amounts[key], MILLION) for key, ours in PER_MILLION.items() if key in amounts
    }
    if ("per_call" in amounts or "per_hour" in amounts) and not rates:
        rates = {"input": Decimal(0), "output": Decimal(0)}  # the call or its time is the price, its tokens are free
    second = amounts.get("per_second")
    return Rates(
        **rates,
        per_call=amounts.get("per_call"),
        per_hour=amounts.get("per_hour"),
        image=amounts.get("per_image"),
        audio_hour=None if second is None else EXACT.multiply(second, HOUR),
    )


def _discounts(given: object, where: str) -> dict[str, Decimal]:
    """Return the shares that are taken off: {"*": 0.1, "openai": "15%", "openai/gpt-4o": 0.2}."""
    if not isinstance(given, Mapping):
        raise ConfigError(f'{where}: discount = {given!r}: give a table, such as {{"openai": 0.15}} for 15% off')
    shares = {}
    for name, value in given.items():
        text = str(value).strip()
        percent = text.endswith("%")
        share = dollars(text.removesuffix("%"), f"{where}: discount: {name!r}")
        if percent:
            share = EXACT.divide(share, Decimal(100))
        if share > 1:
            raise ConfigError(f'{where}: discount: {name!r} = {value!r}: give the share taken off: 0.15, or "15%"')
        shares[str(name).strip().casefold()] = share
    return shares
