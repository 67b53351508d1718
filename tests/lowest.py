"""Prints the lowest version of each dependency that we and our plugins allow: pip's constraints for LOWEST=1."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

LOWEST = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def main() -> None:
    """Print `name==version` for each `name>=version` of the dependencies and the extras, ours and then the plugins'."""
    root = Path(__file__).parents[1]
    for file in [root / "pyproject.toml", *sorted(root.glob("plugins/*/pyproject.toml"))]:
        project = tomllib.loads(file.read_text("utf-8"))["project"]
        say(
            [
                *project["dependencies"],
                *(one for extra in project.get("optional-dependencies", {}).values() for one in extra),
            ]
        )


def say(requirements: list[str]) -> None:
    """Print the constraints of those that have a lower bound."""
    for requirement in requirements:
        found = LOWEST.match(requirement)
        if found:
            print(f"{found[1]}=={found[2]}")


if __name__ == "__main__":
    main()
