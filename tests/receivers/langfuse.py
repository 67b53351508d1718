"""What Langfuse's server reads of the run that every receiver gets: the request, decoded, as a tree of observations.

No server of Langfuse's runs here, so this stands where the other pages have a picture; `python -m tests.receivers.langfuse`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.exporters.receiver import Span, receiving
from tests.receivers.run import run

KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-of-the-run", "LANGFUSE_SECRET_KEY": "sk-lf-of-the-run"}


def observations() -> list[str]:
    """Make the run, and return a line for each observation, below the one that it is part of."""
    with receiving() as server, tempfile.TemporaryDirectory() as folder:
        run("langfuse", {**KEYS, "LANGFUSE_HOST": server.url}, Path(folder))
    return list(lines(sorted(server.spans, key=lambda span: span.start), "", ""))


def lines(spans: Sequence[Span], parent: str, indent: str) -> Iterator[str]:
    for span in spans:
        if span.parent_id == parent:
            said = {key.removeprefix("langfuse."): value for key, value in span.said.items()}
            whose = [] if parent else [f"user {said.get('user.id')}, session {said.get('session.id')}"]
            yield "  ".join([f"{indent}{span.name}".ljust(36), *facts(said), *whose]).rstrip()
            yield from lines(spans, span.span_id, indent + "  ")


def facts(said: dict[str, Any]) -> Iterator[str]:
    """Yield what a person sees of an observation: its type, level, tokens and cost."""
    yield str(said["observation.type"]).ljust(10)
    if said.get("observation.level", "DEFAULT") != "DEFAULT":
        yield f"{said['observation.level']}: {said.get('observation.status_message')}"
    tokens = json.loads(said.get("observation.usage_details", "{}"))
    if any(tokens.values()):
        yield ", ".join(f"{name} {count}" for name, count in tokens.items() if count)
    if "observation.cost_details" in said:
        yield f"${json.loads(said['observation.cost_details'])['total']:.8f}".rstrip("0").rstrip(".")


if __name__ == "__main__":
    print("\n".join(observations()))
