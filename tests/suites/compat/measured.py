"""Makes one library call a model in four ways, and prints for each what was seen and priced, and what was answered.

Run in the library's own environment: `python measured.py libraries/litellm.py`. The answers are a small JSON object, as
text or as arguments of the first tool that is offered, so that each library finds in it what it looks for.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

import rlm_obs
from rlm_obs.testing import Answer, FakeOpenAI, Seen, fake_openai

MODEL = "gpt-4o"
PER_MILLION = {"input": Decimal("2.50"), "cached": Decimal("1.25"), "output": Decimal("10.00")}  # dollars, of gpt-4o
SAID = {"city": "Oslo", "celsius": 4}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 200}}
WAYS = ("plain", "streamed", "structured", "asynchronous")


class Weather(BaseModel):
    """What the structured calls ask for."""

    city: str
    celsius: int


def said(seen: Seen) -> Answer:
    """Answer with the object: as a call of the first tool if there is one, else as text."""
    tools = (seen.json or {}).get("tools")
    if not tools:
        return Answer(json.dumps(SAID))
    name = tools[0].get("function", tools[0])["name"]
    return Answer(tool_calls=[{"name": name, "arguments": SAID}])


def truth(server: FakeOpenAI) -> Decimal:
    """Return what the answers cost, in dollars, by the usage that was sent and the rates above."""
    total = Decimal(0)
    for bill in server.billed:
        usage = bill.usage
        given = usage.get("prompt_tokens", usage.get("input_tokens"))
        made = usage.get("completion_tokens", usage.get("output_tokens"))
        details = usage.get("prompt_tokens_details", usage.get("input_tokens_details")) or {}
        cached = details.get("cached_tokens") or 0
        parts = {"input": given - cached, "cached": cached, "output": made}
        total += sum(count * PER_MILLION[kind] / 1_000_000 for kind, count in parts.items())
    return total


def measured(way: str, function: Callable[[str], Any]) -> dict[str, Any]:
    """Call once, and return the figures; `wrong` says why the call did not do what it should."""
    row: dict[str, Any] = {"way": way, "wrong": None}
    hosts = {"hosts": {"127.0.0.1": "openai"}}
    with (
        fake_openai(said, usage=USAGE) as server,
        rlm_obs.instrument(exporters=[], budget_usd="100", settings=hosts) as instrumented,
    ):
        try:
            got = str(function(server.base_url))
            if "Oslo" not in got:
                row["wrong"] = f"the library gave {got!r}"
        except Exception:
            row["wrong"] = traceback.format_exc(limit=-3)
        instrumented.flush()
        report = instrumented.report()
        row |= {"seen": report.calls, "answered": server.calls, "unpriced": report.unpriced_calls}
        row |= {"cost": str(report.total_cost), "truth": str(truth(server)), "failures": rlm_obs.stats()["failures"]}
    return row


def main(path: str) -> None:
    """Print one line of JSON for each way."""
    spec = importlib.util.spec_from_file_location("library", path)
    assert spec is not None and spec.loader is not None
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    for way in (*WAYS, *getattr(library, "BEYOND", ())):
        print(json.dumps(measured(way, getattr(library, way))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
