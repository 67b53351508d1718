"""Prints the lowest version of each dependency that pyproject.toml allows: pip's constraints for LOWEST=1."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

LOWEST = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def main() -> None:
    """Print `name==version` for each `name>=version` of the dependencies and the extras."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        found = LOWEST.match(requirement)
        if found:
            print(f"{found[1]}=={found[2]}")


if __name__ == "__main__":
    main()
