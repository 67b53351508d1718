"""`rlm-obs prices update`: fetches the newest price list into a file. Nothing else of rlm_obs asks a server for prices."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Annotated

from rlm_obs._pricing import genai
from rlm_obs.errors import ConfigError

LONGEST_WAIT_S = 30


def update(
    file: Path,
    url: Annotated[str | None, "Where from; without it, where genai-prices publishes its data."] = None,
) -> None:
    """Write the newest data of genai-prices to a file; the setting `price_data` names it for the library to use."""
    where = url or genai.published_at()
    if not where.startswith(("https://", "http://")):
        raise ConfigError(f"--url={where}: give an address that begins with https://")
    try:
        with urllib.request.urlopen(where, timeout=LONGEST_WAIT_S) as answer:  # noqa: S310
            text = answer.read().decode()
        data = genai.read_data(json.loads(text, parse_float=str))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: no prices could be read: {error}") from None
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(text, "utf-8")
    os.replace(beside, file)
    models = sum(len(provider.models) for provider in data.providers)
    print(f"{file}: {models} models of {len(data.providers)} providers. Use it: RLM_OBS_PRICE_DATA={file}")
