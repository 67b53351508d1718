"""The facts about a call, as frozen data: what was asked, what it used, what it cost. Imports nothing of ours but errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, Literal

from rlm_obs._frozen import quick_to_make
from rlm_obs.errors import ConfigError

__all__ = ["Cost", "Record", "Request", "Usage", "dollars"]

ABSURD = Decimal(10) ** 12
#: Sums do not depend on the decimal context of the thread that calls: a program may have set its own precision.
EXACT = Context(prec=60)
Status = Literal["ok", "error", "refused", "aborted"]


def dollars(value: object, name: str) -> Decimal:
    """Return `value` (int, float, str or Decimal) as an exact Decimal of US dollars; `name` is what to blame in the error.

    A float is read as it is written (`Decimal(str(x))`), so 0.1 is ten cents and not 0.1000000000000000055.
    Raises ConfigError for anything negative, infinite, not a number, or past a million million.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ConfigError(f"{name}={value!r} is not an amount: give a number of US dollars such as 10 or '0.50'")
    try:
        amount = Decimal(str(value).strip())
    except ArithmeticError:
        raise ConfigError(
            f"{name}={value!r} is not an amount: give a number of US dollars such as 10 or '0.50'"
        ) from None
    if not amount.is_finite() or amount < 0 or amount > ABSURD:
        raise ConfigError(f"{name}={value!r} cannot be: give a finite amount of US dollars, 0 or more")
    return amount


@quick_to_make
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is about to be asked: never the prompt, only what names, bounds and prices it.

    `provider` and `operation` are spelled as in OpenTelemetry's GenAI conventions ("openai", "chat"); `endpoint` is the
    path below the version ("/chat/completions"); `params` are the scalar parameters as sent (`max_completion_tokens`,
    `temperature`, `service_tier`, …), `stop` as a tuple and of `response_format` its type; `attributes` are the user's
    own, from the context of the call.
    """

    provider: str
    endpoint: str
    operation: str
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    streamed: bool = False
    base_url: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    #: What was found out about such a request, by those who ask at each call: true whatever its attributes are.
    found: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def within(self, attributes: Mapping[str, Any]) -> Request:
        """Return the same request with other attributes."""
        if not attributes and not self.attributes:
            return self
        same = Request(
            provider=self.provider,
            endpoint=self.endpoint,
            operation=self.operation,
            model=self.model,
            params=self.params,
            streamed=self.streamed,
            base_url=self.base_url,
            attributes=attributes,
        )
        object.__setattr__(same, "found", self.found)
        return same


@quick_to_make
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one answer says it used. `None` is "not said"; each part is included in its total.

    Tokens, except `characters`, `seconds` (of audio or video), `images` and `tool_calls` (hosted tools by name, in calls).
    `input_tokens` counts all of them, cached and written to the cache too; `output_tokens` counts reasoning and
    predictions too, of which `rejected_prediction_tokens` are billed although nobody sees them.
    `cache_write_long_tokens` are those written for longer than the shortest time (12 hours at OpenAI, 1 at Anthropic).
    `also` is what other models used within the same call, by their names: an image drawn in a response.
    `charged_usd` is the host's own charge, in US dollars, where its answer says one.
    """

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_long_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None
    input_audio_tokens: int | None = None
    cached_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    input_image_tokens: int | None = None
    cached_image_tokens: int | None = None
    output_image_tokens: int | None = None
    trained_tokens: int | None = None
    characters: int | None = None
    seconds: float | None = None
    images: int | None = None
    tool_calls: Mapping[str, int] = field(default_factory=dict)
    also: Mapping[str, Usage] = field(default_factory=dict)
    charged_usd: Decimal | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known as a JSON-ready dict; what is not said is left out."""
        said = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None and v != {}}
        if self.tool_calls:
            said["tool_calls"] = dict(self.tool_calls)
        if self.also:
            said["also"] = {model: usage.to_dict() for model, usage in self.also.items()}
        if self.charged_usd is not None:
            said["charged_usd"] = format(self.charged_usd, "f")
        return said

    def plus(self, other: Usage) -> Usage:
        """Return what both used together; what neither says stays unsaid."""
        sums: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            mine, its = getattr(self, name), getattr(other, name)
            if isinstance(mine, Mapping):
                sums[name] = _both(mine, its)
            else:
                sums[name] = mine if its is None else its if mine is None else mine + its
        return Usage(**sums)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Usage:
        """Return the usage that `to_dict` wrote; fields of a later version are left out."""
        known = {f.name: said[f.name] for f in fields(cls) if f.name in said}
        if "also" in known:
            known["also"] = {model: cls.from_dict(used) for model, used in known["also"].items()}
        if "charged_usd" in known:
            known["charged_usd"] = Decimal(known["charged_usd"])
        return cls(**known)


def _both(mine: Mapping[str, Any], its: Mapping[str, Any]) -> dict[str, Any]:
    """Return two mappings of counts, or of usages, as one."""
    joined = dict(mine)
    for name, value in its.items():
        had = joined.get(name)
        joined[name] = value if had is None else had.plus(value) if isinstance(had, Usage) else had + value
    return joined


@quick_to_make
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a call cost, in US dollars, exactly. `Cost(total=..., source=...)` alone is valid; the parts explain it.

    `input` is what the uncached input cost, `cached_input` and `cache_write` their shares; the parts sum to `total`
    where all are given. `source` names who priced it: "override", "genai-prices 0.2.3", a plugin's name, "provider".
    `caveats` are short reasons why the total is not exact; an empty tuple means that it is.
    """

    total: Decimal
    source: str
    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal | None = None
    tools: Decimal | None = None
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.total) is not Decimal:
            object.__setattr__(self, "total", dollars(self.total, "Cost.total"))

    @property
    def exact(self) -> bool:
        """Tell whether the total is the provider's charge to the last digit, as far as the answer tells."""
        return not self.caveats

    def plus(self, other: Cost) -> Cost:
        """Return both as one, part by part, exactly; the source is the first one's, the caveats are those of both."""
        names = ("input", "cached_input", "cache_write", "output", "tools")
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        parts = {name: EXACT.add(a or 0, b or 0) for name, a, b in pairs if a is not None or b is not None}
        caveats = tuple(dict.fromkeys((*self.caveats, *other.caveats)))
        return Cost(total=EXACT.add(self.total, other.total), source=self.source, **parts, caveats=caveats)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; amounts are strings, so that no digit is lost."""
        parts = ("total", "input", "cached_input", "cache_write", "output", "tools")
        said: dict[str, Any] = {p: format(v, "f") for p in parts if (v := getattr(self, p)) is not None}
        return {**said, "source": self.source, "caveats": list(self.caveats)}


@quick_to_make
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A finished call: made once, never edited. `cost is None` means that nobody knows, never that it was free.

    `model` is the answered one, `requested_model` what was asked for. `status` is "ok", "error" (`error` names the
    exception's class), "refused" (nothing was sent) or "aborted" (a stream left early). Durations are seconds,
    `started_at` is UTC; ids are lower-case hex as in W3C traceparent, `request_id` is the provider's.
    """

    id: str
    provider: str
    endpoint: str
    operation: str
    model: str | None
    requested_model: str | None
    status: Status
    error: str | None = None
    started_at: datetime
    duration_s: float
    time_to_first_chunk_s: float | None = None
    streamed: bool = False
    service_tier: str | None = None
    usage: Usage | None = None
    cost: Cost | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_id: str | None = None
    request_id: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cost_usd(self) -> Decimal | None:
        """US dollars, or None where the price or the usage is unknown."""
        return None if self.cost is None else self.cost.total

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens per second: of a stream from its first chunk on, else over the whole call; None where unknown."""
        tokens = None if self.usage is None else self.usage.output_tokens
        seconds = self.duration_s - (self.time_to_first_chunk_s or 0.0)
        return tokens / seconds if tokens and seconds > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict of what is known: amounts as strings, times in ISO 8601."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        said["started_at"] = self.started_at.isoformat()
        said["usage"] = None if self.usage is None else self.usage.to_dict()
        said["cost"] = None if self.cost is None else self.cost.to_dict()
        said["cost_usd"] = None if self.cost is None else format(self.cost.total, "f")
        said["attributes"] = dict(self.attributes)
        return said
