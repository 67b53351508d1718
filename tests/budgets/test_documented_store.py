"""The store that the plugin page shows keeps the contract, so that whoever copies it has a store that holds."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import rlm_obs
from rlm_obs.stores import Store
from rlm_obs.testing import StoreContract

PAGE = Path(__file__).parents[2] / "docs/how-to/plugins.md"


class TestDocumentedStore(StoreContract):
    """The page's store, with a clock that is moved."""

    examples = 10

    def setup_method(self) -> None:
        blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
        (code,) = [block.partition("class Dicts:")[0] for block in blocks if "class DictStore" in block]
        self.now, self.rows = 1_000.0, {}
        self.page: dict[str, Any] = {"rlm_obs": rlm_obs}
        exec(code, self.page)
        self.page["time"] = SimpleNamespace(time=lambda: self.now)

    def make_store(self) -> Store:
        store: Store = self.page["DictStore"](self.rows)
        return store

    def advance(self, seconds: float) -> None:
        self.now += seconds
