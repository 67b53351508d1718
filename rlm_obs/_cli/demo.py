"""`rlm-obs demo`: runs a small program under `instrument()`, shows its traces as they end, and what they cost."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import rlm_obs
from rlm_obs._cli.table import table
from rlm_obs.errors import ConfigError, money

if TYPE_CHECKING:
    import openai

BUDGET_USD = "0.01"
MODEL = "gpt-4o-mini"


def demo(
    live: Annotated[bool, f"Ask your OPENAI_API_KEY (at OPENAI_BASE_URL, if set), for ${BUDGET_USD} at most."] = False,
    file: Annotated[Path, "Where to add the records of the run."] = Path("rlm_obs_demo.jsonl"),
) -> None:
    """Trace a small program, price it, and stop it at its budget; on a server that comes along, without a key."""
    with ExitStack() as stack:
        client, model, hosts = real_client() if live else local_client(stack)
        records = rlm_obs.FileExporter(file)
        before = calls_in(file)
        settings = {"hosts": hosts}
        on = stack.enter_context(rlm_obs.instrument(["console", records], BUDGET_USD, "demo", settings=settings))
        run(client, model)
        print(f"\n== What it cost\n\n{spent(on.report())}\n")
    added = calls_in(file) - before
    print(f"{added} calls were added to {file.absolute()}, a JSON object a line: rlm_obs.read_records() reads them.")


def run(client: openai.OpenAI, model: str) -> None:
    """Run the program part by part; the trace of each is on the screen before the next begins."""
    from rlm_obs._cli import _program as program

    log, question = program.logbook(), program.QUESTION
    parts: dict[str, Callable[[], object]] = {
        "A question over a long document": lambda: program.ask_about(client, model, log, question),
        "A streamed answer": lambda: program.stream_answer(client, model),
        "An embedding": lambda: program.embed_question(client),
        "A structured answer": lambda: program.parse_delay(client, model),
        "A call that fails": lambda: program.ask_retired_model(client),
        "An agent that never stops by itself": lambda: program.agent(client, model),
    }
    for number, (title, part) in enumerate(parts.items(), 1):
        print(f"\n== {number}. {title}\n", flush=True)
        ended = outcome(part)
        rlm_obs.flush()
        print(end=ended, flush=True)


def outcome(part: Callable[[], object]) -> str:
    """Run a part, and say in a line what came of it; a model that nobody can price ends the demo."""
    import openai

    try:
        found = part()
    except (openai.OpenAIError, rlm_obs.BudgetExceeded) as error:
        return f"It raised {type(error).__name__}: {error}\n"
    return "" if found is None else f"It returned {found!r}\n"


def spent(report: rlm_obs.CostReport) -> str:
    """Lay out a report: by model, by operation, and in all."""
    of = f"{money(report.total_cost)} of {money(report.budget_usd or report.total_cost)}"
    rows = [
        *(("model", name, money(cost)) for name, cost in report.by_model.items()),
        *(("operation", name, money(cost)) for name, cost in report.by_operation.items()),
        ("total", f"{report.calls} calls, {report.failed_calls} of them failed", of),
        ("remaining", f"{report.remaining_percent:.0f} %", money(report.remaining or report.total_cost * 0)),
        ("refused", f"{report.refused_calls} {'call' if report.refused_calls == 1 else 'calls'}, never sent", ""),
    ]
    return table(rows, indent="   ")


def calls_in(file: Path) -> int:
    return sum(1 for _ in rlm_obs.read_records(file))


def real_client() -> tuple[openai.OpenAI, str, dict[str, str]]:
    """Return the user's own client, the model to ask, and what is to be known of its host: nothing."""
    if not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError("demo --live asks your own model: set OPENAI_API_KEY (and OPENAI_BASE_URL, if not OpenAI's)")
    return sdk().OpenAI(), os.environ.get("OPENAI_MODEL") or MODEL, {}


def local_client(stack: ExitStack) -> tuple[openai.OpenAI, str, dict[str, str]]:
    """Start a server on loopback, and return a client of it; declared as OpenAI's, so that it is priced so."""
    from rlm_obs._cli._answers import serve

    server = stack.enter_context(serve())
    direct = sdk().DefaultHttpxClient(trust_env=False)  # a proxy in the environment is not for loopback
    client = stack.enter_context(sdk().OpenAI(api_key="none", base_url=server.base_url, http_client=direct))
    return client, MODEL, {urlsplit(server.base_url).netloc: "openai"}


def sdk() -> ModuleType:
    """Return the openai package. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module("openai")
    except ImportError:
        raise ConfigError("demo needs the openai package: pip install 'rlm-obs[openai]'") from None
