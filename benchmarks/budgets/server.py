"""The provider, in a process of its own: answers after a while, and keeps the books that count: calls, dollars, crowd.

python -m benchmarks.budgets.server LATENCY_S OUTPUT_TOKENS; prints its base URL, then its books for each line it reads.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from rlm_obs.testing import Seen, fake_openai

#: US dollars per million tokens, in and out.
PRICES = {"gpt-5": (1.25, 10), "gpt-4o": (2.5, 10)}
INPUT = 10


def main() -> None:
    """Serve until standard input ends."""
    latency_s, output = float(sys.argv[1]), int(sys.argv[2])
    lock = threading.Lock()
    books: dict[str, float] = {"calls": 0, "usd": 0.0, "most_in_flight": 0}
    here = 0

    def answer(seen: Seen) -> str:
        nonlocal here
        with lock:
            here += 1
            books["calls"] += 1
            books["most_in_flight"] = max(books["most_in_flight"], here)
        time.sleep(latency_s)
        with lock:
            here -= 1
        return "It is about the sea."

    def usage(seen: Seen) -> Mapping[str, Any]:
        asked = seen.json.get("max_completion_tokens") or seen.json.get("max_tokens") or output
        written = min(output, asked)
        into, out = PRICES[seen.json["model"]]
        with lock:
            books["usd"] += (INPUT * into + written * out) / 1e6
        return {"prompt_tokens": INPUT, "completion_tokens": written}

    with fake_openai(answer, usage=usage) as server:
        print(server.base_url, flush=True)
        for _ in sys.stdin:
            with lock:
                print(json.dumps(books), flush=True)


if __name__ == "__main__":
    main()
