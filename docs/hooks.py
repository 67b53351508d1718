"""mkdocs hook: takes the notes for our tests (`no-run: reason`, `output`) off the fences before they are rendered; titles stay."""

from __future__ import annotations

import re
from typing import Any

NOTED = re.compile(r"^(\s*```\w+)[ \t]+(?!title=)\S.*$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with plain fences."""
    return NOTED.sub(r"\1", markdown)
