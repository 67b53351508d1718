"""Makes the copy of litellm's list that the plugin carries, from the wheel of litellm that is given: python bundle.py FILE."""

from __future__ import annotations

import gzip
import json
import sys
import zipfile
from pathlib import Path

LIST = "litellm/model_prices_and_context_window_backup.json"
TO = Path(__file__).parent / "rlm_obs_litellm_prices" / "prices.json.gz"


def main(wheel: str) -> None:
    """Keep what prices a model, and drop the rest: what it supports, where it was read, when it ends."""
    listed = json.loads(zipfile.ZipFile(wheel).read(LIST))
    kept = {
        name: {key: value for key, value in entry.items() if is_price(key) and isinstance(value, str | int | float)}
        for name, entry in sorted(listed.items())
        if name != "sample_spec"
    }
    text = json.dumps({"version": Path(wheel).name.split("-")[1], "models": kept}, separators=(",", ":"))
    TO.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(TO, len(kept), "models,", TO.stat().st_size, "bytes")


def is_price(key: str) -> bool:
    return "cost" in key or key in ("litellm_provider", "mode")


if __name__ == "__main__":
    main(sys.argv[1])
