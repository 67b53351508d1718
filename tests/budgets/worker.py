"""One process of a program that shares a budget: makes calls in threads, and prints what became of them as JSON.

python -m tests.budgets.worker '{"url": …, "store": …, "budget_usd": …, "threads": …, "calls": …, …}'
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from openai.types.chat import ChatCompletion

import rlm_obs
from rlm_obs import CallRefused, CostTracker
from tests.budgets.conftest import HELLO, PRICES

#: Read once before the threads do: an old pydantic finishes the client's models at their first use, and not for several threads.
ANSWER: dict[str, Any] = {
    "id": "x",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}],
    "usage": {"prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}},
}


def main(given: dict[str, Any]) -> None:
    """Make the calls; say "ready" first, and begin when a line comes, where `waits` asks for it."""
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()
    with rlm_obs.instrument(exporters=[], settings={"prices": PRICES}):
        client = openai.OpenAI(api_key="x", base_url=given["url"], max_retries=0)
        tracker = CostTracker(
            given["budget_usd"], name=given.get("name", "shared"), store=given["store"], **given.get("options", {})
        )
        ChatCompletion.construct(**ANSWER)
        if given.get("waits"):
            print("ready", flush=True)
            sys.stdin.readline()

        def call(_: int) -> None:
            try:
                with tracker:
                    client.chat.completions.create(
                        model="chatty", messages=HELLO, max_tokens=given.get("max_tokens", 9)
                    )
                outcome = "ok"
            except CallRefused as refusal:
                outcome = type(refusal).__name__
            except openai.APIError as error:
                outcome = type(error).__name__
            with lock:
                outcomes[outcome] += 1
            if outcome != "ok" and given.get("stops"):
                time.sleep(0.05)

        began = time.monotonic()
        with ThreadPoolExecutor(given["threads"]) as pool:
            list(pool.map(call, range(given["calls"])))
        took = time.monotonic() - began
        print(json.dumps({**outcomes, "seconds": took, "spent": str(tracker.spent)}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
