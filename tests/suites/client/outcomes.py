"""A pytest plugin for openai's own tests: instruments them where it is told to, and writes down how each one ended.

`SUITE_OUTCOMES` names the file to write; with `SUITE_INSTRUMENTED` each call is traced, recorded with its content, and
reserved in a budget that is never used up, from before the first test to the end of the last one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

INSTRUMENTED = "SUITE_INSTRUMENTED" in os.environ
_outcomes: dict[str, dict[str, Any]] = {}
_counted: dict[str, int] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Instrument this process; with xdist each worker comes by here."""
    if not INSTRUMENTED:
        return
    import rlm_obs

    class Forgetful(rlm_obs.CallExporter):
        def export_call(self, record: rlm_obs.Record) -> None:
            """Take a record and do nothing with it: that it was made is what counts."""

    rlm_obs.instrument(
        exporters=[Forgetful()],
        budget_usd="1000000",
        capture_content=True,
        settings={"hosts": {"127.0.0.1": "openai"}, "unknown_price": "warn"},
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Add to a report what was raised; to a test's last one what was seen: calls, and failures that the guard took in."""
    report = yield
    report.raised = None if call.excinfo is None else call.excinfo.typename
    report.seen = _seen() if INSTRUMENTED and report.when == "teardown" else {}
    return report


def _seen() -> dict[str, int]:
    """Return what has been counted since the last test."""
    import rlm_obs

    stats = rlm_obs.stats()["failures"]
    now = {"calls": rlm_obs.report().calls, **{f"failed: {kind}": n for kind, n in stats.items()}}
    new = {name: n - _counted.get(name, 0) for name, n in now.items()}
    _counted.update(now)
    return {name: n for name, n in new.items() if n > 0}


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the worst of a test's phases."""
    test = _outcomes.setdefault(report.nodeid, {"outcome": "passed", "raised": None, "seen": {}})
    test["seen"].update(report.seen)
    if report.outcome != "passed" and test["outcome"] == "passed":
        test["outcome"], test["raised"] = report.outcome, report.raised


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the outcomes: the process that was asked for the run does, not xdist's workers."""
    if not hasattr(session.config, "workerinput"):
        Path(os.environ["SUITE_OUTCOMES"]).write_text(json.dumps(_outcomes), "utf-8")
