"""The plugins that the page on kinds shows keep the contracts that it shows beside them."""

from __future__ import annotations

from rlm_obs.testing import ExporterContract, PricesContract
from tests.docs.test_examples import ROOT, page

PAGE = ROOT / "docs/how-to/plugins.md"
NAMES: dict[str, object] = {"__name__": __name__}
for block in page.blocks(PAGE.read_text("utf-8")):
    if any(f"class {name}" in block.body for name in ("CsvExporter", "CompanyPrices", "TestCsvExporter")):
        exec(block.body.partition("\nprices = ")[0], NAMES)

TestCsvExporter, TestCompanyPrices = NAMES["TestCsvExporter"], NAMES["TestCompanyPrices"]


def test_they_are_contracts() -> None:
    """Both are what the page says that they are, so that pytest has run them."""
    assert isinstance(TestCsvExporter, type) and issubclass(TestCsvExporter, ExporterContract)
    assert isinstance(TestCompanyPrices, type) and issubclass(TestCompanyPrices, PricesContract)
