"""The loopback server in a process of its own: short plain answers, long streams; prints its base URL first."""

from __future__ import annotations

import contextlib
import sys
import threading

from rlm_obs.testing import Seen, fake_openai


def main() -> None:
    """Serve until killed. Argument: how many words a stream has."""
    words = " ".join(["word"] * int(sys.argv[1]))

    def answer(seen: Seen) -> str:
        return words if isinstance(seen.json, dict) and seen.json.get("stream") else "It is about the sea."

    with fake_openai(answer) as server:
        print(server.base_url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while not threading.Event().wait(1):
                server.clear()


if __name__ == "__main__":
    main()
