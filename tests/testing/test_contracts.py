"""The contracts see what they are for: a plugin that breaks a promise fails in the tests of that promise."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlm_obs.testing import ExporterContract, InstrumentorContract, PricesContract, StoreContract

ROOT = Path(__file__).parents[2]
CONTRACTS = {
    "exporters": ExporterContract,
    "prices": PricesContract,
    "instrumentors": InstrumentorContract,
    "stores": StoreContract,
}
#: Of these a fault is in the way of many promises, so that their classes name some of the tests only.
ENTANGLED = {"stores"}


@pytest.fixture(scope="module", params=CONTRACTS)
def kind(request: pytest.FixtureRequest) -> str:
    """One kind of plugin."""
    return str(request.param)


@pytest.fixture(scope="module")
def failed(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, set[str]]:
    """Which tests of which class have failed, of all the broken ones of that kind."""
    report = tmp_path_factory.mktemp("broken") / "report.xml"
    tests = ROOT / "tests" / "testing" / "broken" / f"{kind}.py"
    options = ("-q", "-p", "no:cacheprovider", "--tb=no", f"--junitxml={report}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tests)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    found: dict[str, set[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # our own
        name = case.attrib["classname"].rpartition(".")[2]
        broken = case.find("failure") is not None or case.find("error") is not None
        found.setdefault(name, set()).update({case.attrib["name"].partition("[")[0]} if broken else ())
    assert found, done.stdout + done.stderr
    return found


def classes(kind: str) -> dict[str, set[str]]:
    module = importlib.import_module(f"tests.testing.broken.{kind}")
    return {name: set(cls.breaks.split()) for name, cls in vars(module).items() if name.startswith("Test")}


def test_what_is_broken_fails(kind: str, failed: Mapping[str, set[str]]) -> None:
    """Each broken plugin fails in the tests that its class names, and in no other; the sound one passes all."""
    expected = classes(kind)
    assert expected["TestNothing"] == set()
    if kind not in ENTANGLED:
        assert dict(failed) == expected
        return
    assert failed["TestNothing"] == set()
    assert {name: tests - failed[name] for name, tests in expected.items()} == {name: set() for name in expected}


def test_every_promise_can_be_broken(kind: str) -> None:
    """For each test of a contract there is a plugin that fails in it, so no test is there for nothing."""
    promises = {name for name in dir(CONTRACTS[kind]) if name.startswith("test_")}
    assert promises == set().union(*classes(kind).values())
