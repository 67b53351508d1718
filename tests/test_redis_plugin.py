"""The Redis plugin, installed by pip from its wheel, offers its stores, and its own tests pass on real servers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT
from tests.test_example_plugin import installed, run, script

PLUGIN = ROOT / "plugins/rlm-obs-redis"
LOOKS = """
import sys, rlm_obs
from rlm_obs import _plugins
offered = _plugins.loaded().collect("register_budget_stores")
print("redis" in sys.modules, repr(offered["redis+sentinel"]("redis+sentinel://me:secret@a,b/mymaster")))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin's wheel."""
    return installed(PLUGIN, tmp_path_factory)


def test_it_offers_stores(site: Path, tmp_path: Path) -> None:
    """It is listed with its hook, makes stores by URL, and imports Redis' client only when one is made."""
    (redis,) = [one for one in json.loads(script(site, "plugins", "--json", folder=tmp_path)) if one["name"] == "redis"]
    assert (redis["distribution"], redis["failed"], redis["hooks"]) == (
        "rlm-obs-redis",
        None,
        ["register_budget_stores"],
    )
    said = run(site, "-c", LOOKS, folder=tmp_path)
    assert said == "False RedisStore(redis+sentinel://a:26379,b:26379, prefix='rlm-obs')\n"


def test_its_own_tests(site: Path, tmp_path: Path) -> None:
    """Its tests pass on its wheel, the stores' contract among them."""
    if not (shutil.which("redis-server") or shutil.which("valkey-server")):
        pytest.skip("neither redis-server nor valkey-server is installed (apt-get install redis-server)")
    said = run(site, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", "-q", str(PLUGIN), folder=tmp_path)
    assert " passed" in said
    assert "skipped" not in said
