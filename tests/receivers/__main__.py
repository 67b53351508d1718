"""Sends one run to real receivers, at once and later from files, reads it back and compares it: `make receivers`.

Each receiver is installed into an environment of its own beside `.venv`, and runs on loopback while it is asked.
`make receivers RECEIVERS='--pictures=docs/images phoenix mlflow'` takes the pictures of the docs, with a chromium that is installed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.receivers.pictures import PAGES, take
from tests.receivers.reading import Seen, from_mlflow, from_oteltap, from_phoenix, get
from tests.receivers.run import run

ROOT = Path(__file__).parents[2]
EXACT = 1e-12
LONGEST_START_S, LONGEST_WAIT_S = 300, 60


@dataclass(frozen=True)
class Receiver:
    """A real receiver: its package, how it is started, how it is pointed at, and how it is read."""

    package: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    exporter: str
    point: str
    ready: str
    read: Callable[[str, Path], dict[str, Seen]]
    #: How exactly it keeps times, in nanoseconds.
    clock_ns: int = 0


def free_port() -> int:
    """Return a port that nobody has; the next one, which Phoenix takes for gRPC, is as good as free."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


PORT = free_port()
RECEIVERS = {
    "oteltap": Receiver(
        "oteltap", ("oteltap", "--port", str(PORT)), {}, "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT", "", from_oteltap
    ),
    "phoenix": Receiver(
        "arize-phoenix",
        ("phoenix", "serve"),
        {"PHOENIX_PORT": str(PORT), "PHOENIX_GRPC_PORT": str(PORT + 1), "PHOENIX_TELEMETRY_ENABLED": "false"},
        "phoenix",
        "PHOENIX_COLLECTOR_ENDPOINT",
        "/healthz",
        from_phoenix,
        clock_ns=1000,
    ),
    "mlflow": Receiver(
        "mlflow", ("mlflow", "server", "--port", str(PORT)), {}, "mlflow", "MLFLOW_TRACKING_URI", "/health", from_mlflow
    ),
}


#: The files that the run is kept in, and how exactly each keeps times, in nanoseconds.
FILES = {"records.jsonl": 2000, "otlp.jsonl": 0}


def main(names: list[str], pictures: Path | None = None) -> int:
    """Try the receivers by name, or all of them; returns how many show anything else than the ledger.

    With `pictures`, a folder, the page of the trace is taken there, of those that have one.
    """
    wrong = 0
    for name in names or RECEIVERS:
        receiver = RECEIVERS[name]
        bin_, found = installed(name, receiver.package), []
        with tempfile.TemporaryDirectory() as kept:
            with tempfile.TemporaryDirectory() as folder, started(receiver, bin_, Path(folder)) as url:
                sent = run(receiver.exporter, {receiver.point: url}, Path(kept))
                found += compared(sent, awaited(receiver, url, Path(folder), sent), receiver.clock_ns)
                if pictures is not None and name in PAGES:
                    take(PAGES[name](url), pictures / f"{name}.png")
            for file, clock_ns in FILES.items():
                with tempfile.TemporaryDirectory() as folder, started(receiver, bin_, Path(folder)) as url:
                    for _ in range(2):  # what comes twice is stored once
                        send_later(Path(kept) / file, receiver, url)
                    seen = awaited(receiver, url, Path(folder), sent)
                    found += [f"{file}: {one}" for one in compared(sent, seen, receiver.clock_ns + clock_ns)]
        version = subprocess.check_output(
            [bin_ / "python", "-c", f"import importlib.metadata as m; print(m.version({receiver.package!r}))"],
            text=True,
        )
        cost = sum(span.cost or 0 for span in sent.values())
        told = "as the ledger has it" if not found else "; ".join(found)
        print(f"{receiver.package} {version.strip()}: {len(sent)} spans, ${cost:.8f}: {told}", flush=True)
        wrong += bool(found)
    return wrong


def installed(name: str, package: str) -> Path:
    """Return the programs of a receiver's own environment, made at the first time."""
    folder = ROOT / f".venv-{name}"
    bin_ = folder / ("Scripts" if sys.platform == "win32" else "bin")
    if not (folder / ".done").exists():
        subprocess.check_call([sys.executable, "-m", "venv", folder])
        subprocess.check_call([bin_ / "python", "-m", "pip", "install", "--quiet", package])
        (folder / ".done").touch()
    return bin_


@contextmanager
def started(receiver: Receiver, bin_: Path, folder: Path) -> Iterator[str]:
    """Run a receiver in a folder of its own; yields its address when it answers."""
    url = f"http://127.0.0.1:{PORT}"
    own = {
        **os.environ,
        **receiver.variables,
        "NO_PROXY": "*",
        "PHOENIX_WORKING_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
    }
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [bin_ / receiver.command[0], *receiver.command[1:]], cwd=folder, env=own, stdout=out, stderr=out
        )
        try:
            until = time.monotonic() + LONGEST_START_S
            while get(url + receiver.ready) is None and b"Listening" not in (folder / "out").read_bytes():
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{receiver.package} does not start:\n{(folder / 'out').read_text()[-2000:]}")
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def awaited(receiver: Receiver, url: str, folder: Path, sent: Mapping[str, Seen]) -> dict[str, Seen]:
    """Read until everything that was sent is there: a receiver may store it later."""
    until = time.monotonic() + LONGEST_WAIT_S
    while True:
        seen = receiver.read(url, folder)
        if sent.keys() <= seen.keys() or time.monotonic() > until:
            return seen
        time.sleep(0.5)


def send_later(file: Path, receiver: Receiver, url: str) -> None:
    """Send a file of the run by `rlm-obs send`."""
    own = {**os.environ, receiver.point: url, "NO_PROXY": "*"}
    program = Path(sys.executable).parent / "rlm-obs"
    subprocess.check_call([program, "send", file, "--to", receiver.exporter], env=own, stdout=subprocess.DEVNULL)


def compared(sent: Mapping[str, Seen], seen: Mapping[str, Seen], clock_ns: int) -> list[str]:
    """Return what differs, span by span."""
    found = [f"{sent[one].name} is missing" for one in sent.keys() - seen.keys()]
    found += [f"{seen[one].name} was never sent" for one in seen.keys() - sent.keys()]
    for one in sent.keys() & seen.keys():
        ours, theirs = sent[one], seen[one]
        for what in ("name", "parent", "input_tokens", "output_tokens"):
            if getattr(ours, what) != getattr(theirs, what):
                found.append(f"{ours.name}: {what} is {getattr(theirs, what)!r}, not {getattr(ours, what)!r}")
        if (ours.cost is None) != (theirs.cost is None) or abs((ours.cost or 0) - (theirs.cost or 0)) > EXACT:
            found.append(f"{ours.name}: cost is {theirs.cost}, not {ours.cost}")
        for what in ("start", "end"):
            if abs(getattr(ours, what) - getattr(theirs, what)) > clock_ns:
                found.append(f"{ours.name}: {what} differs by {getattr(theirs, what) - getattr(ours, what)} ns")
    return found


if __name__ == "__main__":
    folders = [Path(one.removeprefix("--pictures=")) for one in sys.argv[1:] if one.startswith("--pictures=")]
    raise SystemExit(main([one for one in sys.argv[1:] if not one.startswith("--")], *folders))
