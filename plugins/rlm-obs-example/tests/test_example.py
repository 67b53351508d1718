"""Holds the example plugin to what every exporter keeps, and uses it in a real run through its entry point."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import openai
import pytest
import rlm_obs_example

import rlm_obs
from rlm_obs.testing import ExporterContract, FakeOpenAI, PriceCase, PricesContract


class TestCsvExporter(ExporterContract):
    """The exporter keeps the contract; these tests come with rlm_obs."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "calls.csv"

    def make_exporter(self) -> rlm_obs_example.CsvExporter:
        return rlm_obs_example.CsvExporter(self.path)

    def make_failing_exporter(self) -> rlm_obs_example.CsvExporter:
        return rlm_obs_example.CsvExporter(self.path / "in" / "no folder")

    def arrived(self) -> int:
        return len(self.path.read_text("utf-8").splitlines()) if self.path.exists() else 0


class TestPrices(PricesContract):
    """So do the prices theirs: what is worked out by hand is what the hook says."""

    def make_plugin(self) -> object:
        return rlm_obs_example

    def cases(self) -> list[PriceCase]:
        usage = rlm_obs.Usage(input_tokens=1000, output_tokens=321)
        return [PriceCase(model="example-model", usage=usage, usd="0.004568")]


def test_a_real_call(fake_openai: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the made-up model is priced, exported, counted, and told the program's name."""
    monkeypatch.setenv("EXAMPLE_CSV", str(tmp_path / "calls.csv"))
    client = openai.OpenAI(api_key="none", base_url=fake_openai.base_url)
    counted = rlm_obs_example.ended["ok"]
    with rlm_obs.instrument(exporters=["csv"], service_name="shop") as instrumented:
        client.chat.completions.create(model="example-model", messages=[{"role": "user", "content": "Hi"}])
        cost = instrumented.report().total_cost
    (billed,) = fake_openai.billed
    used = billed.usage
    assert cost == (used["prompt_tokens"] * Decimal(2) + used["completion_tokens"] * Decimal(8)) / 1_000_000
    operation, model, amount = (tmp_path / "calls.csv").read_text().strip().split(",")
    assert (operation, model, Decimal(amount)) == ("chat", "example-model", cost)
    assert rlm_obs_example.ended["ok"] == counted + 1
    assert rlm_obs_example.told["service_name"] == "shop"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command adds up a file, all of it or one model's calls; an unknown cost counts as a call and adds nothing."""
    file = tmp_path / "calls.csv"
    file.write_text("chat,a,0.5\nchat,b,0.25\nchat,b,\n")
    rlm_obs_example.csv_total(file)
    rlm_obs_example.csv_total(file, model="b")
    assert capsys.readouterr().out == "3 calls: $0.75\n2 calls: $0.25\n"
