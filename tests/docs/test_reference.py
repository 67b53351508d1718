"""The reference and the code say the same, both ways: a missing entry fails, and so does a stale one."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import re
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import click
import pytest

import rlm_obs
import rlm_obs.stores
import rlm_obs.testing
from rlm_obs import _attributes, _cli, _settings, errors, instrumentation
from rlm_obs._plugins import loaded

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
#: Words that only metrics use: the page of metrics has them.
OF_METRICS = frozenset({"TOKEN_TYPE"})


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = generator()


def read(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def headings(name: str, level: int = 2) -> list[str]:
    return re.findall(rf"^{'#' * level} (\S.*)$", read(name), re.MULTILINE)


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_made_page_is_as_the_code_says(name: str) -> None:
    """A page that is made from the code is up to date: `python docs/generate.py` makes it so."""
    assert read(name) == generate.page(name), "run: python docs/generate.py"


def test_settings() -> None:
    """Each setting has its heading, each heading is a setting, and each variable is there."""
    assert headings("settings.md") == list(rlm_obs.Settings.model_fields)
    said = set(
        re.findall(r"`([A-Z][A-Z0-9_]+)`", "\n".join(re.findall(r"^- Environment: .*$", read("settings.md"), re.M)))
    )
    assert said == {variable for name in rlm_obs.Settings.model_fields for variable in _settings._names(name)}
    for name, field in rlm_obs.Settings.model_fields.items():
        assert field.description, f"{name} has no description"


def test_hooks() -> None:
    """Each hook has its heading with its arguments, and says its return, raises, speed, since and example."""
    specs = generate.specs()
    assert headings("hooks.md") == list(specs)
    for name, spec in specs.items():
        arguments = ", ".join(f"{p.name}: {p.annotation}" for p in inspect.signature(spec).parameters.values())
        assert f"{name}({arguments})" in read("hooks.md")
        first, sections = generate.parted(spec)
        assert first
        assert all(sections.values()), f"{name}: an empty section"


def test_hook_examples_exist() -> None:
    """The example that a hook's page names is in the repository."""
    for name, spec in generate.specs().items():
        where = re.findall(r"`([^`]+)`", generate.parted(spec)[1]["Example"])
        assert where, name
        assert all((ROOT / one).exists() for one in where), f"{name}: {where}"


def test_public_names() -> None:
    """Each public name stands on the page of names or on that of errors, once; no other does."""
    assert sorted([*headings("api.md", 3), *headings("errors.md")]) == sorted(
        [*rlm_obs.__all__, *rlm_obs.testing.__all__, *rlm_obs.stores.__all__]
    )


def test_errors() -> None:
    """Each error has its heading, and stands in the tree under its parent."""
    assert headings("errors.md") == sorted(errors.__all__)
    above: list[str] = []
    seen = set()
    for line in re.findall(r"^[│ ├└─]*[A-Z]\w+Error\b.*|^[│ ├└─]*(?:[A-Z]\w+)  .*", errors.__doc__ or "", re.M):
        found = re.match(r"([│ ├└─]*)(\w+)", line)
        assert found is not None
        depth, name = len(found[1]) // 4, found[2]
        above[depth:] = [name]
        seen.add(name)
        if depth:
            assert getattr(errors, above[depth - 1]) in getattr(errors, name).__bases__
    assert seen == set(errors.__all__)


def test_attributes() -> None:
    """Each attribute that a span may carry is on the page, and no other."""
    rows = [
        one
        for row in re.findall(r"^\| (`.*?) \|", read("attributes.md"), re.M)
        for one in re.findall(r"`([^`]+)`", row)
    ]
    constants = {k: v for k, v in vars(_attributes).items() if k.isupper() and isinstance(v, str) and "." in v}
    prefixes = {k for k in constants if k.endswith("_PREFIX")}
    written = {v for k, v in constants.items() if k not in prefixes | OF_METRICS}
    written |= {*_attributes.PARAMS.values(), *_attributes.USAGE.values(), _attributes.TOOL_PREFIX + "*"}
    written |= {_attributes.ARGUMENT_PREFIX + "*"}
    written |= {_attributes.LIMIT_PREFIX + "*"}
    written |= {_attributes.COST_PREFIX + part for part in (*_attributes.COST_PARTS, "source", "caveats")}
    assert len(rows) == len(set(rows))
    assert set(rows) == written


def test_the_names_for_instrumentors() -> None:
    """Each name of `rlm_obs.instrumentation` is in the table of the page on plugins, and is there."""
    text = (DOCS / "how-to/plugins.md").read_text("utf-8")
    table = text[text.index("## Another SDK") : text.index("## Other hooks")]
    rows = "".join(re.findall(r"^\| (`.*?) \|", table, re.M))
    assert sorted(re.findall(r"`(\w+)`", rows)) == sorted(instrumentation.__all__)
    assert all([hasattr(instrumentation, name) for name in instrumentation.__all__])


def test_file_format() -> None:
    """The fields of a line are those of the page."""
    said = {
        one for row in re.findall(r"^\| (`.*?) \|", read("file-format.md"), re.M) for one in re.findall(r"`(\w+)`", row)
    }
    known = {f.name for f in dataclasses.fields(rlm_obs.Record)}
    scores = {"value", "comment", "scored_span_id"}
    around = {"resource", "span_kind", "remote_parent", "more"}
    assert said == known | {"v", "kind", "name", "events", "cost_usd"} | set(_attributes.CONTENT) | scores | around
    whole = rlm_obs.Cost(total=Decimal(1), source="a", **dict.fromkeys(_attributes.COST_PARTS[1:], Decimal(0)))
    for part in whole.to_dict():
        assert f"`{part}`" in read("file-format.md")


def test_commands() -> None:
    """Each command of the package has its heading, and each of its options is there."""
    from rlm_obs._cli import commands

    offered = commands.register_commands()
    assert headings("cli.md") == [f"rlm-obs {name}" for name in sorted(offered)]
    assert set(offered) <= set(loaded().collect("register_commands"))
    for name, function in offered.items():
        made = _cli.command(name, function)
        for parameter in made.params:
            if isinstance(parameter, click.Option):
                assert all(option in read("cli.md") for option in parameter.opts)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_speaks_of_what_is_not_there(path: Path) -> None:
    """Every `rlm_obs.name`, every RLM_OBS_ variable and every `make` target that a page names exists."""
    text = path.read_text("utf-8")
    attributes = {*attribute_words(), "jsonl", "delivery"}
    for name in re.findall(r"(?<!tool\.)\brlm_obs\.([A-Za-z_]+)", text):
        assert name in attributes or hasattr(rlm_obs, name) or importlib.util.find_spec(f"rlm_obs.{name}"), name
    variables = {v for name in rlm_obs.Settings.model_fields for v in _settings._names(name)}
    for variable in re.findall(r"\bRLM_OBS_[A-Z_]*[A-Z](?![A-Z_])", text):
        assert variable in variables, variable
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.M)[0].split()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
        assert target in targets, target


def attribute_words() -> set[str]:
    """Return the words that follow `rlm_obs.` in names of attributes."""
    named = [v for v in vars(_attributes).values() if isinstance(v, str) and v.startswith("rlm_obs.")]
    named.append(_attributes.ARGUMENT_PREFIX)
    return {v.split(".")[1] for v in [*named, *_attributes.USAGE.values()] if "." in v}


def test_the_example_line_of_json_is_json() -> None:
    """Every fenced block of JSON in the docs can be read."""
    for path in PAGES:
        for block in re.findall(r"^```json\n(.*?)^```", path.read_text("utf-8"), re.M | re.S):
            json.loads(block)


def test_the_map_of_the_repository_is_right() -> None:
    """Every folder and file that the contributor's page names is there."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"`((?:rlm_obs|tests|docs|plugins|examples)/[\w/.-]*)`", text)
    assert len(named) > 20
    assert [one for one in named if not (ROOT / one).exists()] == []
