"""`rlm-obs prices explain`: why a recorded call cost what it did, product by product."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rlm_obs._cli.prices.rates import money
from rlm_obs._cli.table import table
from rlm_obs._exporters._reading import read_records
from rlm_obs._plugins import loaded
from rlm_obs._pricing import plugin
from rlm_obs._pricing.explain import Part
from rlm_obs._pricing.explain import explain as worked_out
from rlm_obs._pricing.parts import Line
from rlm_obs._record import Record
from rlm_obs.errors import ConfigError


def explain(
    file: Path,
    id: Annotated[str | None, "The record's id; without it, the last call of the file."] = None,  # noqa: A002
) -> None:
    """Explain the cost of a call in a file that the exporter "file" wrote: each count, its rate, and whose rate it is."""
    plugin.use(loaded().settings)
    found = None
    for record in read_records(file):
        if id is None or record.id == id:
            found = record
    if found is None:
        raise ConfigError(f"{file}: there is no call{f' {id!r}' if id else ''}")
    print("\n".join(said(found)))


def said(record: Record) -> list[str]:
    """Return the lines that explain a record."""
    tier = f", tier {record.service_tier}" if record.service_tier else ""
    lines = [f"{record.id}: {record.model} of {record.provider}{tier}, {record.started_at:%Y-%m-%d %H:%M} UTC"]
    if record.cost is None:
        why = "the answer does not say what it used" if record.usage is None else "no source knows its price"
        return [*lines, f"its cost is unknown: {why}"]
    again = worked_out(record)
    for part in again.parts:
        lines += products(part)
    lines.append(f"${money(record.cost.total)} by {record.cost.source}")
    lines += [f"not exact: {caveat}" for caveat in record.cost.caveats]
    if again.cost is None:
        lines.append("today no source knows a price for it")
    elif again.cost.total != record.cost.total:
        lines.append(
            f"worked out again it is ${money(again.cost.total)}: the record does not hold its host and its request,"
        )
        lines.append("or the prices have changed")
    return lines


def products(part: Part) -> list[str]:
    """Return the products of one model, each as count x rate = dollars."""
    rows = [
        (f"{line.count.normalize():,f} {line.what}", f"x {rate_of(line)}", f"= ${money(line.usd)}")
        for line in part.lines
    ]
    factors = [f"    tokens x {money(factor)}: {reason}" for reason, factor in part.factors]
    return [f"  {part.model}, by {part.source}", *([table(rows, "    ")] if rows else []), *factors]


def rate_of(line: Line) -> str:
    """Return a rate as price lists have it: of tokens and characters per million, of others each."""
    if "token" in line.what or line.what == "characters":
        return f"${money(line.rate * 1_000_000)} per million"
    return f"${money(line.rate)}"
