"""Takes the pictures of the docs: the page of a trace in a real receiver, as a real browser shows it; chromium has to be installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.receivers.reading import get

#: What a page has to show of itself before it is taken, in milliseconds of its own clock.
PATIENCE_MS = 20_000
SIZE = (1600, 640)


def page_of_phoenix(url: str) -> str:
    """Return the address of the trace's page in Phoenix."""
    (project,) = [one for one in get(f"{url}/v1/projects")["data"] if one["name"] == "default"]
    (trace, *_) = {span["context"]["trace_id"] for span in get(f"{url}/v1/projects/default/spans?limit=100")["data"]}
    return f"{url}/projects/{project['id']}/traces/{trace}"


def page_of_mlflow(url: str) -> str:
    """Return the address of the trace's page in MLflow."""
    where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}]
    (trace, *_) = get(f"{url}/api/3.0/mlflow/traces/search", {"locations": where, "max_results": 1})["traces"]
    return f"{url}/#/experiments/0/traces?selectedEvaluationId={trace['trace_id']}"


PAGES = {"phoenix": page_of_phoenix, "mlflow": page_of_mlflow}


def take(address: str, file: Path) -> None:
    """Write a picture of a page. Raises SystemExit where there is no chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("pictures are taken by chromium: apt-get install chromium")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-proxy-server",
                f"--user-data-dir={profile}",
                f"--window-size={SIZE[0]},{SIZE[1]}",
                f"--virtual-time-budget={PATIENCE_MS}",
                f"--screenshot={file}",
                address,
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )
