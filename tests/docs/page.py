"""Runs the Python blocks of a page in one namespace, against a server on loopback, and says what came of each."""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<lang>\w+)[ \t]*(?P<note>[^\n]*)\n(?P<body>.*?)^(?P=indent)```[ \t]*$", re.M | re.S
)
#: Whatever is not on loopback is out of reach: no page may send anything to anybody.
NOWHERE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
#: What a page leaves to its reader.
GIVEN = {
    "observability-ru.md": """
huge_document, results = "Длинный документ. " * 50, []
def load_all_documents(): return ["первый", "второй"]
def save_to_database(rows): pass
""",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, the note in its fence, and its text."""

    line: int
    lang: str
    note: str
    body: str


def blocks(text: str) -> Iterator[Block]:
    """Return the fenced blocks of a page; those inside a list or a tab are taken out of their indent."""
    for found in FENCE.finditer(text):
        indent = len(found["indent"])
        body = "".join(line[indent:] for line in found["body"].splitlines(keepends=True))
        yield Block(text.count("\n", 0, found.start()) + 2, found["lang"], found["note"].strip(), body)


def run(path: Path, names: dict[str, object]) -> Iterator[dict[str, object]]:
    """Run what can be run of a page, and say for each block what it printed and how it failed."""
    import rlm_obs

    exec(GIVEN.get(path.name, ""), names)
    for block in blocks(path.read_text("utf-8")):
        if block.lang != "python" or block.note.startswith(("no-run:", "title=")):
            continue
        name, printed, error = f"{path.name}:{block.line}", io.StringIO(), None
        code = "\n" * (block.line - 1) + block.body
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        with contextlib.redirect_stdout(printed):
            try:
                exec(compile(code, name, "exec"), names)
                rlm_obs.flush()
            except BaseException:
                error = traceback.format_exc()
        yield {"line": block.line, "printed": printed.getvalue(), "error": error}


def main() -> None:
    """Serve, run the page, print the outcome as JSON; what is left is flushed by the program's own end."""
    path = Path(sys.argv[1])
    from rlm_obs.testing import fake_openai

    with fake_openai() as server:
        host = server.base_url.split("/")[2]
        os.environ.update(OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY="none", **NOWHERE)
        os.environ["RLM_OBS_HOSTS"] = json.dumps({host: "openai"})
        from rlm_obs import _guard

        _guard.reraise = path.name != "observability-ru.md"  # there, Langfuse is out of reach
        outcome = list(run(path, {"__name__": "page", "server": server}))
        print(json.dumps(outcome))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
