"""`rlm-obs prices …` says what models cost, by whom, and why a call cost what it did."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openai
import pytest

import rlm_obs
from rlm_obs._cli.prices.rates import money
from rlm_obs._pricing import genai, plugin, price
from rlm_obs.testing import FakeOpenAI

Script = Callable[..., subprocess.CompletedProcess[str]]
DATA = [
    {
        "id": "openai",
        "name": "OpenAI",
        "api_pattern": "https://api\\.openai\\.com",
        "models": [
            {"id": "gpt-4o", "match": {"equals": "gpt-4o"}, "prices": {"input_mtok": 1.1, "output_mtok": 7}},
        ],
    }
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    plugin.held = plugin.Stated()
    genai.use(None, refresh=False)


def test_show(rlm_obs_script: Script) -> None:
    """Each tier of a model, and what holds above a step of its input; as JSON too."""
    said = rlm_obs_script("prices", "show", "gpt-5.4").stdout
    assert "gpt-5.4, standard (genai-prices " in said
    assert "gpt-5.4, flex, above 272,000 input tokens" in said
    rows = [line.split() for line in said.splitlines()]
    assert ["input", "$2.5", "per", "million"] in rows
    assert ["web", "search", "$10", "per", "1,000", "calls"] in rows
    told = json.loads(rlm_obs_script("prices", "show", "gpt-5.4", "--json").stdout)
    assert {row["tier"] for row in told} == {"standard", "flex", "priority", "batch"}
    older = rlm_obs_script("prices", "show", "o3", "--day", "2025-06-01").stdout
    assert ["input", "$10", "per", "million"] in [line.split() for line in older.splitlines()]


def test_show_your_own(rlm_obs_script: Script, tmp_path: Path) -> None:
    """Your own price is shown where you stated one; a model that nobody knows, or a day that is none, is one line."""
    (tmp_path / "p.json").write_text('{"mine": {"input": 1, "output": 4}}')
    done = rlm_obs_script("prices", "show", "mine", RLM_OBS_PRICES="p.json")
    assert "mine, every tier (override)" in done.stdout
    for arguments in (["nobody-knows-it"], ["gpt-4o", "--day", "monday"]):
        wrong = rlm_obs_script("prices", "show", *arguments)
        assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_list(rlm_obs_script: Script) -> None:
    """The models of a provider, by either of its names, with their rates."""
    said = rlm_obs_script("prices", "list", "--provider", "mistral_ai", "--like", "mistral-large").stdout
    assert said.splitlines()[0].split() == ["MODEL", "INPUT", "CACHED", "INPUT", "CACHE", "WRITE", "OUTPUT"]
    assert any(line.split() == ["mistral-large-2512", "0.5", "0.05", "-", "1.5"] for line in said.splitlines())
    told = json.loads(rlm_obs_script("prices", "list", "--json").stdout)
    assert {"model": "gpt-4o-mini", "input": "0.15", "cached_input": "0.075", "output": "0.6"} in told
    wrong = rlm_obs_script("prices", "list", "--provider", "mistrall")
    assert (wrong.returncode, "did you mean" in wrong.stderr) == (2, True)


def test_diff(rlm_obs_script: Script, tmp_path: Path) -> None:
    """Two sources side by side; the exit code tells whether they differ."""
    same = rlm_obs_script("prices", "diff", "gpt-4o")
    assert same.returncode == 0
    (tmp_path / "p.json").write_text('{"gpt-4o": {"input": 2, "output": 10}}')
    other = rlm_obs_script("prices", "diff", "gpt-4o", RLM_OBS_PRICES="p.json")
    assert other.returncode == 1
    rows = [line.split() for line in other.stdout.splitlines()]
    assert rows[0][:3] == ["US", "DOLLARS", "override"]
    assert ["input", "2", "2.5"] in rows
    assert ["output", "10", "10"] in rows


def test_check(rlm_obs_script: Script, tmp_path: Path) -> None:
    """A file that can be used is told beside the list; a mistake in it is one line that names the key."""
    (tmp_path / "good.toml").write_text('["gpt-4o"]\ninput = 2\noutput = 9\n[discount]\n"*" = "10%"\n')
    done = rlm_obs_script("prices", "check", "good.toml")
    assert done.returncode == 0
    assert "input 2, output 9" in done.stdout
    assert "input 2.5, output 10" in done.stdout
    assert "10% off everything else" in done.stdout
    (tmp_path / "bad.toml").write_text('["gpt-4o"]\ninpt = 2\n')
    wrong = rlm_obs_script("prices", "check", "bad.toml")
    assert (wrong.returncode, "'inpt'" in wrong.stderr, wrong.stderr.count("\n")) == (2, True, 1)


def test_explain(rlm_obs_script: Script, fake_openai: FakeOpenAI, tmp_path: Path) -> None:
    """Each product of a recorded call: count, rate, dollars, and whose rate it is."""
    settings = {"hosts": {"127.0.0.1": "openai"}}
    with (
        rlm_obs.instrument(exporters=[rlm_obs.FileExporter("calls.jsonl")], settings=settings),
        openai.OpenAI(base_url=fake_openai.base_url, api_key="none") as client,
    ):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hello"}])
        client.chat.completions.create(model="nobody-knows-it", messages=[{"role": "user", "content": "hello"}])
    first, last = rlm_obs.read_records("calls.jsonl")
    assert first.cost is not None
    said = rlm_obs_script("prices", "explain", "calls.jsonl", "--id", first.id).stdout
    assert "gpt-4o-2024-08-06, by genai-prices" in said
    assert "input tokens" in said
    assert "x $2.5 per million" in said
    assert f"${money(first.cost.total)} by genai-prices" in said
    assert "worked out again" not in said
    unknown = rlm_obs_script("prices", "explain", "calls.jsonl").stdout
    assert unknown.startswith(last.id)
    assert "its cost is unknown: no source knows its price" in unknown
    wrong = rlm_obs_script("prices", "explain", "calls.jsonl", "--id", "no")
    assert (wrong.returncode, "there is no call 'no'" in wrong.stderr) == (2, True)


@pytest.fixture
def published() -> Iterator[str]:
    """A server of the data that genai-prices publishes, and of something that is none."""

    class Publishing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(DATA if self.path == "/data.json" else {"no": "data"}).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Publishing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_update(rlm_obs_script: Script, published: str, tmp_path: Path) -> None:
    """The newest list is fetched into a file when it is asked for; the setting `price_data` has it used."""
    done = rlm_obs_script("prices", "update", "new.json", "--url", f"{published}/data.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 models of 1 providers" in done.stdout
    used = rlm_obs_script("prices", "show", "gpt-4o", RLM_OBS_PRICE_DATA="new.json").stdout
    assert ["input", "$1.1", "per", "million"] in [line.split() for line in used.splitlines()]
    assert ", data of 20" in used
    for wrong in (f"{published}/other.json", "file:///etc/passwd", "http://127.0.0.1:1/x"):
        failed = rlm_obs_script("prices", "update", "new.json", "--url", wrong)
        assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert json.loads((tmp_path / "new.json").read_text()) == DATA


def test_a_newer_list_in_this_process(tmp_path: Path) -> None:
    """A file of data replaces the list that was installed, exactly, and leaving it out brings that back."""
    (tmp_path / "new.json").write_text(json.dumps(DATA))
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    totals = []
    for settings in ({"price_data": "new.json"}, {}):
        with rlm_obs.instrument(exporters=[], settings=settings):
            cost = price("gpt-4o", usage)
            assert cost is not None
            totals.append((format(cost.total.normalize(), "f"), ", data of" in cost.source))
    assert totals == [("1.1", True), ("2.5", False)]
    (tmp_path / "new.json").write_text("[]")
    with pytest.raises(rlm_obs.ConfigError, match="price_data"):
        rlm_obs.instrument(exporters=[], settings={"price_data": tmp_path / "new.json"})
