"""`rlm-obs new-plugin`: writes a distribution that is ready to install and to test, for one kind of plugin."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rlm_obs._plugins import loaded
from rlm_obs.errors import ConfigError

TEMPLATES = Path(__file__).with_name("templates")
#: As the packaging specifications have it: https://packaging.python.org/en/latest/specifications/name-normalization/
VALID = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE)


@dataclass(frozen=True)
class Kind:
    """What differs between the kinds beside their folders of templates: the hook that must not offer the name already."""

    hook: str | None
    description: str
    tests: tuple[str, ...] = ("mypy", "openai", "pytest", "ruff")


KINDS = {
    "exporter": Kind("register_exporters", "An exporter for rlm-obs"),
    "price": Kind(None, "Prices for rlm-obs"),
    "store": Kind(
        "register_budget_stores", "A budget store for rlm-obs", ("hypothesis", "mypy", "openai", "pytest", "ruff")
    ),
    "instrumentor": Kind("register_instrumentors", "Makes the calls of an SDK pass the gate of rlm-obs"),
}


def new_plugin(
    name: str,
    kind: Annotated[Literal["exporter", "price", "store", "instrumentor"], "What it shall be."] = "exporter",
    dir: Annotated[Path, "The folder in which its own is made."] = Path(),  # noqa: A002  # the option's name
) -> None:
    """Write a plugin to begin with: a distribution NAME with code, tests that inherit the contract, README and CI file."""
    words = Words.of(name, kind)
    folder = dir / name
    if folder.exists():
        raise ConfigError(f"{folder} is there already: give another name, or another --dir")
    for source in sorted(one for part in ("every", kind) for one in (TEMPLATES / part).rglob("*.txt")):
        inside = Path(*source.relative_to(TEMPLATES).parts[1:])
        target = folder / words.written(str(inside).removesuffix(".txt"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(words.written(source.read_text("utf-8")), encoding="utf-8", newline="\n")
    print(f"{folder}: {KINDS[kind].description[0].lower()}{KINDS[kind].description[1:]}, called {words.short!r}\n")
    print(f'    cd {folder}\n    pip install --editable ".[test]"\n    pytest\n    rlm-obs plugins')


@dataclass(frozen=True)
class Words:
    """A plugin's name, in each spelling that the templates have of theirs, which is `rlm-obs-acme`."""

    name: str
    kind: Kind

    @classmethod
    def of(cls, name: str, kind: str) -> Words:
        """Return the words of a name. Raises ConfigError for one that cannot be, or that would stand in another's place."""
        words = cls(name, KINDS[kind])
        if words.module == "rlm_obs" or words.short == "":
            raise ConfigError(f"{name!r} is the name of rlm-obs itself: add your own to it, such as rlm-obs-csv")
        spelled = (words.module, words.camel)
        if (
            not VALID.fullmatch(name)
            or not all([one.isidentifier() for one in spelled])
            or keyword.iskeyword(words.module)
        ):
            raise ConfigError(
                f"{name!r} cannot be the name of a distribution with a module: begin with a letter, use letters, digits and "
                "hyphens, such as rlm-obs-csv"
            )
        plugins = loaded()
        taken = {plugin.name for plugin in plugins.found}
        taken |= set(plugins.collect(words.kind.hook)) if words.kind.hook else set()
        if words.short in taken:
            raise ConfigError(
                f"{words.short!r} is taken: a plugin is called so, or offers it (see rlm-obs plugins). Give another name"
            )
        if words.module in sys.stdlib_module_names or importlib.util.find_spec(words.module) is not None:
            other = "" if words.module.startswith("rlm_obs_") else f": call it rlm-obs-{words.short}"
            raise ConfigError(
                f"{name!r} would stand in the place of the module {words.module!r}, which is there{other}"
            )
        return words

    @property
    def module(self) -> str:
        """The module, as import spells it."""
        return re.sub(r"[-_.]+", "_", self.name).lower()

    @property
    def short(self) -> str:
        """The plugin's own name, without what says for whom it is."""
        return re.sub(r"[-_.]+", "-", self.name).lower().removeprefix("rlm-obs").strip("-")

    @property
    def camel(self) -> str:
        """The beginning of its classes' names."""
        return "".join(part.capitalize() for part in self.short.split("-"))

    def written(self, text: str) -> str:
        """Return a template's text with this name in the place of theirs."""
        parts = self.short.split("-")
        spelled = {
            "rlm-obs-acme": self.name,
            "rlm_obs_acme": self.module,
            "ACME": "_".join(parts).upper(),
            "Acme": self.camel,
            "acme": self.short,
            "A_DESCRIPTION": self.kind.description,
            "A_LIST": ", ".join(f'"{one}"' for one in self.kind.tests),
        }
        return re.sub("|".join(spelled), lambda found: spelled[found[0]], text)
