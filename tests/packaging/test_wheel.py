"""What is published is what was tested: the wheel's files, its metadata, and the README's first lines run on it."""

from __future__ import annotations

import configparser
import re
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rlm_obs
from rlm_obs.testing import FakeOpenAI
from tests.packaging.conftest import ROOT, run, run_there

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(files: dict[str, bytes]) -> Message:
    return Parser().parsestr(files[f"rlm_obs-{rlm_obs.__version__}.dist-info/METADATA"].decode())


def test_files(files: dict[str, bytes]) -> None:
    """The wheel has every module of the package, the templates, py.typed and its own papers; nothing else strays in."""
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlm_obs").rglob("*.py")}
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlm_obs/_cli/templates").rglob("*.txt")}
    assert len(templates) > 12
    papers = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    information = f"rlm_obs-{rlm_obs.__version__}.dist-info"
    assert set(files) == package | templates | {"rlm_obs/py.typed"} | {f"{information}/{name}" for name in papers}


def test_licence(files: dict[str, bytes], metadata: Message) -> None:
    """The licence's text is in the wheel, and its name in the metadata."""
    text = files[f"rlm_obs-{rlm_obs.__version__}.dist-info/licenses/LICENSE"].decode()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert metadata["License-Expression"] == "Apache-2.0"


def test_entry_points(files: dict[str, bytes]) -> None:
    """Plugins, pytest fixtures and the script are found as pyproject.toml names them."""
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(files[f"rlm_obs-{rlm_obs.__version__}.dist-info/entry_points.txt"].decode())
    found = {section: dict(parser[section]) for section in parser.sections()}
    assert found == {**PROJECT["entry-points"], "console_scripts": PROJECT["scripts"]}


def test_metadata(metadata: Message) -> None:
    """Name, version, Python and description say what the project says."""
    assert (metadata["Name"], metadata["Version"]) == ("rlm-obs", rlm_obs.__version__)
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert (metadata["Summary"], metadata["Description-Content-Type"]) == (PROJECT["description"], "text/markdown")
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()


def test_requirements(metadata: Message) -> None:
    """Each dependency has a lower bound and no upper one, so that it never stands in the way of another package."""
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert len(requirements) > 8
    for one in requirements:
        if one.name != "rlm-obs":
            assert [bound.operator for bound in one.specifier] == [">="], f"{one}: one lower bound, no upper one"


def test_changelog() -> None:
    """The changelog's newest heading is this version, or what will be the next one."""
    heading = re.search(r"^## \[?([^]\s]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert heading is not None
    assert heading[1] in (rlm_obs.__version__, "Unreleased")


@pytest.mark.network
def test_the_readme(fresh: Path, fake_openai: FakeOpenAI, tmp_path: Path) -> None:
    """The README's first lines of Python run on the wheel alone, and show a trace with its cost."""
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert block is not None
    said = run_there(fresh, block[1], tmp_path, {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": fake_openai.base_url})
    assert "[SPAN] chat" in said
    assert "cost: " in said
    assert fake_openai.calls == 1


@pytest.mark.network
def test_the_script(fresh: Path) -> None:
    """The script works there too: every plugin of ours is in use, but for none."""
    said = run(fresh.parent / "rlm-obs", "plugins")
    assert "not in use" not in said
    assert {line.split()[0] for line in said.splitlines()[1:]} == PROJECT["entry-points"]["rlm_obs"].keys()


@pytest.mark.network
def test_types(fresh: Path, tmp_path: Path) -> None:
    """Type checkers take the installed package's own types."""
    said = run_there(fresh, "import rlm_obs; print(rlm_obs.__path__[0])", tmp_path, {})
    assert (Path(said.strip()) / "py.typed").exists()
