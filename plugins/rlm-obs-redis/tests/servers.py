"""Real servers for the tests: each in a folder of its own, on a free port, with persistence only where it is asked for."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

import rlm_obs

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
MISSING = "neither redis-server nor valkey-server is installed (apt-get install redis-server)"


def free_port(below: int = 65536) -> int:
    """Return a port that nobody listens on; a node of a Cluster wants the one 10,000 above, too."""
    while True:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port: int = taken.getsockname()[1]
            if port < below:
                return port


def until(true: Callable[[], Any], timeout_s: float = 30.0) -> None:
    """Wait until something is true; errors of a server that is not ready count as not yet."""
    late = time.monotonic() + timeout_s
    while True:
        try:
            if true():
                return
        except (rlm_obs.StoreError, redis.RedisError, OSError):
            pass
        if time.monotonic() > late:
            raise TimeoutError("it did not become true")
        time.sleep(0.02)


class Server:
    """One redis-server, a Sentinel if there is a `config`. `kill` is kill -9, `start` again finds what was persisted in `folder`."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, config: Path | None = None) -> None:
        self.folder, self.options, self.port, self.config = folder, options, port or free_port(), config
        self.url = f"redis://127.0.0.1:{self.port}/0"
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        where = ["--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder]
        command = [*where, "--save", "", "--repl-diskless-sync-delay", "0"]
        if self.config is not None:
            command = [self.config, *where, "--sentinel"]
        assert PROGRAM is not None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([PROGRAM, *map(str, [*command, *self.options])], stdout=log, stderr=log)
        until(lambda: self.ask("PING"))

    def ask(self, *command: str | int) -> Any:
        with redis.Redis(port=self.port, decode_responses=True, protocol=2, socket_timeout=5) as client:
            return client.execute_command(*command)

    def stop(self) -> None:
        """Stop it as an administrator does."""
        self.process.terminate()
        self.process.wait(30)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
