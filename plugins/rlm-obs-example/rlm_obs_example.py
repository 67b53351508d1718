"""An example plugin of rlm_obs: an exporter, a price, a command, and two hooks that only listen. Copy what you need."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Annotated, Any

import rlm_obs

#: US dollars per million tokens: input, output.
RATES = {"example-model": (Decimal("2"), Decimal("8"))}
MILLION = 1_000_000

#: What the hooks that listen have heard: the program's name, and how many calls ended how.
told: dict[str, Any] = {}
ended: Counter[str] = Counter()


class CsvExporter(rlm_obs.CallExporter):
    """Append each call to a CSV file: its operation, its model, and its cost in US dollars (empty where unknown)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def export_call(self, record: rlm_obs.Record) -> None:
        """Append one line."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([record.operation, record.model, record.cost_usd])


@rlm_obs.hookimpl
def register_exporters() -> Mapping[str, Callable[[rlm_obs.Settings], CsvExporter]]:
    """Offer `exporters=["csv"]`; the file is that of EXAMPLE_CSV."""
    return {"csv": lambda settings: CsvExporter(os.environ.get("EXAMPLE_CSV", "calls.csv"))}


@rlm_obs.hookimpl
def price(request: rlm_obs.Request, usage: rlm_obs.Usage) -> rlm_obs.Cost | None:
    """Price the models of RATES; None leaves any other model, and an answer without usage, to the next plugin."""
    rates = RATES.get(request.model or "")
    if rates is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    with localcontext(prec=60):  # exact, whatever precision the program counts with
        cost_in, cost_out = usage.input_tokens * rates[0] / MILLION, usage.output_tokens * rates[1] / MILLION
        return rlm_obs.Cost(total=cost_in + cost_out, input=cost_in, output=cost_out, source="rlm-obs-example")


@rlm_obs.hookimpl
def configured(settings: rlm_obs.Settings) -> None:
    """Keep the program's name."""
    told["service_name"] = settings.service_name


@rlm_obs.hookimpl
def call_finished(record: rlm_obs.Record) -> None:
    """Count the calls by how they ended."""
    ended[record.status] += 1


@rlm_obs.hookimpl
def register_commands() -> Mapping[str, Callable[..., Any]]:
    """Offer `rlm-obs csv-total FILE`."""
    return {"csv-total": csv_total}


def csv_total(file: Path, model: Annotated[str | None, "Only the calls of this model."] = None) -> None:
    """Print what the calls in a CSV file of this plugin's exporter cost, in US dollars."""
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.reader(lines) if model in (None, row[1])]
    print(f"{len(rows)} calls: ${sum(Decimal(cost or 0) for _, _, cost in rows)}")
