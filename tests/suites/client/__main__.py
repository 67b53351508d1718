"""Runs openai's own tests bare and instrumented, and says which of them end differently: `make client-suite`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.suites.environment import ROOT, environment, pip, table

HERE = Path(__file__).parent
LINES = ("openai<3", "openai>=3")
EXTRAS = "aiohttp,httpx2,realtime,datalib,bedrock,vertex"
TOOLS = ["pytest>=9", "pytest-asyncio>=1.4", "pytest-xdist", "inline-snapshot", "respx", "trio", "nest_asyncio"]
TOOLS += [
    "rich",
    "griffe",
    "dirty-equals",
    "jsonschema",
    "time-machine",
    "Pillow",
    "azure-identity",
    "google-auth[requests]",
]
#: The tests of the SDK's own repository, which run its tools and make no call.
NO_CALLS = ("tests/test_uv_workflows.py",)
Outcomes = dict[str, dict[str, Any]]


def main(lines: list[str]) -> int:
    """Try each line of openai; 0 if nothing differs."""
    rows = [("openai", "tests", "passed bare", "saw a call", "differing", "flaky", "failures of ours")]
    details: list[str] = []
    for line in lines or LINES:
        row, said = tried(line)
        rows.append(row)
        details += said
    print(table(rows), *details, sep="\n")
    return int(any(row[4] != "0" or row[6] != "0" for row in rows[1:]))


def tried(line: str) -> tuple[tuple[str, ...], list[str]]:
    """Run the tests of the newest version of a line; return a row of the table, and the names behind its numbers."""
    folder, version = unpacked(line)
    python = environment(f"openai-{version.partition('.')[0]}", [f"openai[{EXTRAS}]=={version}", *TOOLS])
    with served(python) as url:
        suite = Suite(folder, python, url)
        bare, again = suite.run("bare"), suite.run("bare again")
        ours = suite.run("instrumented", instrumented=True)
        flaky = [name for name in bare if end(bare, name) != end(again, name)]
        differing = [name for name in bare if name not in flaky and end(bare, name) != end(ours, name)]
        differing, by_chance = suite.differing_again(differing)
    failures = [f"{name}: {kind}" for name, one in ours.items() for kind in one["seen"] if kind != "calls"]
    passed = sum(one["outcome"] == "passed" for one in bare.values())
    seen = sum("calls" in one["seen"] for one in ours.values())
    numbers = (len(bare), passed, seen, len(differing), len(flaky) + len(by_chance), len(failures))
    said = [f"\n{version} differing: {name}: {end(bare, name)}, now {end(ours, name)}" for name in differing]
    said += [f"{version} flaky: {name}" for name in [*flaky, *by_chance]]
    said += [f"{version} failure of ours: {one}" for one in failures]
    return (version, *map(str, numbers)), said


def end(outcomes: Outcomes, name: str) -> tuple[str, str | None]:
    """Return how a test ended, and what was raised if it did not pass."""
    one = outcomes.get(name, {"outcome": "missing", "raised": None})
    return one["outcome"], one["raised"]


class Suite:
    """openai's tests of one version, with a server to speak to."""

    def __init__(self, folder: Path, python: Path, url: str) -> None:
        self.folder, self.python, self.url = folder, python, url

    def run(self, title: str, names: tuple[str, ...] = ("tests",), *, instrumented: bool = False) -> Outcomes:
        """Run them, and return how each one ended."""
        print(f"{self.folder.name}: {title}", file=sys.stderr, flush=True)
        written = self.folder.parent / f"{title.replace(' ', '-')}.json"
        written.unlink(missing_ok=True)
        told = {"SUITE_OUTCOMES": str(written), **({"SUITE_INSTRUMENTED": "1"} if instrumented else {})}
        paths = {"PYTHONPATH": str(HERE), "TEST_API_BASE_URL": self.url, "PYTHONDONTWRITEBYTECODE": "1"}
        ours = ("RLM_OBS_", "OTEL_", "OPENAI_", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        command = [str(self.python), "-m", "pytest", "-p", "outcomes", "-p", "no:rlm_obs", "-p", "no:cacheprovider"]
        command += [*(f"--ignore={path}" for path in NO_CALLS), "--quiet", *names]
        with written.with_suffix(".log").open("w") as log:
            subprocess.run(command, cwd=self.folder, env=kept | paths | told, stdout=log, stderr=log, check=False)
        return json.loads(written.read_text("utf-8"))

    def differing_again(self, names: list[str]) -> tuple[list[str], list[str]]:
        """Run those that differed once more, both ways; return those that differ still, and those that do not."""
        if not names:
            return [], []
        files = tuple(dict.fromkeys(name.partition("::")[0] for name in names))
        bare, ours = self.run("differing bare", files), self.run("differing instrumented", files, instrumented=True)
        still = [name for name in names if end(bare, name) != end(ours, name)]
        return still, [name for name in names if name not in still]


def unpacked(line: str) -> tuple[Path, str]:
    """Return the folder of the newest source distribution of a line, and its version."""
    with tempfile.TemporaryDirectory() as fresh:
        pip(sys.executable, "download", "--no-deps", "--no-binary", "openai", "--dest", fresh, line)
        (archive,) = Path(fresh).iterdir()
        name = archive.name.removesuffix(".tar.gz")
        at = ROOT / ".venv-suite-sources" / name
        if not at.exists():
            with tarfile.open(archive) as tar:
                tar.extractall(at, filter="data")
    return at / name, name.removeprefix("openai-")


@contextlib.contextmanager
def served(python: Path) -> Iterator[str]:
    """Run the server that answers each route with its declared type; gives its URL."""
    with subprocess.Popen([python, HERE / "server.py"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
