"""The Redis plugin, installed by pip from its wheel, offers its stores, and its own tests pass on real servers."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from rlm_obs.testing import fake_openai
from tests.packaging.conftest import ROOT
from tests.test_example_plugin import installed, run, script, started

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


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A real server without persistence, on a port of its own."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("neither redis-server nor valkey-server is installed (apt-get install redis-server)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < ends
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(20)


SERVICE = """
import sys
from fastapi.testclient import TestClient
sys.path.insert(0, "examples")
from tenant_budgets import app

with TestClient(app) as browser:
    def ask(tenant):
        return browser.post("/ask", headers={"X-Tenant": tenant}, json={"question": "Why is the sky blue?"})

    print(ask("acme").status_code, ask("other").json())
    app.state.tenants.budget_usd = "0.00001"
    print(ask("other").status_code, ask("acme").status_code, sorted(ask("other").json()))
    print(browser.get("/budget", headers={"X-Tenant": "acme"}).json()["limit"])
"""


def test_the_example_of_a_service(site: Path, redis_url: str, tmp_path: Path) -> None:
    """`examples/tenant_budgets.py`: a budget per tenant and day on Redis, which refuses with 429 and the time of the next."""
    with fake_openai() as server:
        variables = {"BUDGET_STORE": redis_url, "OPENAI_API_KEY": "x", "OPENAI_BASE_URL": server.base_url}
        said = run(site, "-c", SERVICE, folder=ROOT, **variables)
    lines = [line for line in said.splitlines() if line[:1].isdigit()]
    assert lines[0].startswith("200 {'answer': ")
    assert lines[1] == "429 200 ['error', 'reset_at']"
    assert Decimal(lines[2]) == 20


def test_8_processes_of_which_one_is_killed_each_second(site: Path, redis_url: str, tmp_path: Path) -> None:
    """On Redis too the truth at the provider never passes the limit, though processes die with calls in flight."""
    chance, limit, each = random.Random(7), Decimal("0.3"), Decimal("0.001")
    with fake_openai(usage={"prompt_tokens": 10, "completion_tokens": 9}, latency_s=0.02) as server:
        asked = {
            "url": server.base_url,
            "store": redis_url,
            "budget_usd": str(limit),
            "threads": 8,
            "calls": 400,
            "options": {"lease_s": 2.0},
        }

        def start() -> subprocess.Popen[str]:
            return started(site, "-m", "tests.budgets.worker", json.dumps(asked), folder=ROOT)

        running = [start() for _ in range(8)]
        for _ in range(5):
            time.sleep(1)
            victim = running.pop(chance.randrange(len(running)))
            victim.kill()
            victim.communicate(timeout=30)
            running.append(start())
        outcomes = [process.communicate(timeout=120) for process in running]
        billed = len(server.billed)
    assert all(process.returncode == 0 for process in running), outcomes
    assert 0 < billed * each <= limit
