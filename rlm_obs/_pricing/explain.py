"""Explains a cost: each product that it is made of, whose rates they are, and by what they were multiplied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from rlm_obs._pricing import finding, plugin
from rlm_obs._pricing.answers import priced, request_of
from rlm_obs._pricing.finding import Found
from rlm_obs._pricing.parts import Line
from rlm_obs._record import Cost, Record


@dataclass(frozen=True, slots=True)
class Part:
    """What one model cost within a call: its products, whose rates they are, and the factors on its tokens."""

    model: str
    lines: tuple[Line, ...]
    source: str
    factors: tuple[tuple[str, Decimal], ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """The cost of a record, worked out again: `cost` is None where the rates are not known (any more)."""

    cost: Cost | None
    parts: tuple[Part, ...]


def explain(record: Record) -> Explained:
    """Work a record's cost out again, with the user's prices and the list's of the day of the call.

    A record does not hold the call's host, nor what of its request changed the price (a region, a deployment, the time
    that it was given to wait): then the sum differs from the recorded one, which is the one that holds.
    """
    usage = record.usage
    if usage is None or record.cost is None or record.cost.source in ("provider", "status", "free", "billed before"):
        return Explained(record.cost, ())
    stated, at, params = plugin.stated(), record.started_at, {"service_tier": record.service_tier}
    request = request_of(record.provider, record.model, "", params, record.endpoint)
    parts = []
    for model, used in ((record.model or "?", replace(usage, also={})), *usage.also.items()):
        found: Found | None = finding.found(replace(request, model=model), stated, at)
        if found is not None:
            lines = found.rates.lines(used, record.duration_s)
            parts.append(Part(model, tuple(lines), found.source, found.factors))
    return Explained(priced(request, usage, at, record.duration_s, stated), tuple(parts))
