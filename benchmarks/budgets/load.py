"""One guard under one load, in a process of its own: threads make calls; what became of them is printed as JSON.

python -m benchmarks.budgets.load GUARD '{"url": …, "usd": …, "threads": …, "calls": …, "asked": {…}}'
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.budgets.guards import GUARDS

MESSAGES = [{"role": "user", "content": "What is rain?"}]


def main(name: str, given: dict[str, Any]) -> None:
    """Let each thread make `calls` calls, or make calls until it is refused where `stops` is set; `most` calls in all."""
    outcomes: Counter[str] = Counter()
    lock, turns = threading.Lock(), iter(range(given.get("most", 10**9)))
    written, at_first_refusal = 0, None

    with GUARDS[name](given["usd"], given["url"]) as make:
        start = threading.Barrier(given["threads"] + 1)

        def work(_: int) -> None:
            nonlocal written, at_first_refusal
            start.wait()
            for _ in range(given["calls"]):
                with lock:
                    if next(turns, None) is None:
                        return
                try:
                    usage = make(messages=MESSAGES, **given["asked"]).usage
                except Exception as error:
                    with lock:
                        outcomes[type(error).__name__] += 1
                        at_first_refusal = written if at_first_refusal is None else at_first_refusal
                    if given.get("stops"):
                        return
                    continue
                with lock:
                    outcomes["ok"] += 1
                    written += usage.completion_tokens

        with ThreadPoolExecutor(given["threads"]) as pool:
            done = [pool.submit(work, n) for n in range(given["threads"])]
            cpu = time.process_time()
            start.wait()
            began = time.monotonic()
            for one in done:
                one.result()
            seconds = time.monotonic() - began
    told = {"outcomes": outcomes, "seconds": seconds, "cpu": time.process_time() - cpu}
    print(json.dumps({**told, "written_at_first_refusal": at_first_refusal}))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
