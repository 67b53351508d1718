"""The public names: the list, where they live, what they take. Other people's programs rest on these."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rlm_obs
import rlm_obs.testing
from rlm_obs import _lazy, errors

ROOT = Path(__file__).parents[1]
NAMES = Path(__file__).with_name("public_names.txt")
#: Parameters that are never renamed; more may be added.
PARAMETERS = {
    "instrument": "exporters budget_usd service_name sample_rate capture_content tracer_provider settings",
    "uninstrument": "",
    "flush": "timeout_s",
    "report": "",
    "traced": "name attributes capture_args tracer",
    "cost_tracked": "operation budget_usd tracker",
    "Tracer": "service_name exporter exporters sample_rate",
    "create_tracer": "service_name",
    "CostTracker": "budget_usd alert_threshold name budget budget_tokens budget_calls per window store enforcement wait_s "
    "clamp min_output_tokens unknown_price unseen_usage on_alert on_budget_exceeded limits time_zone fail store_timeout_s "
    "lease_s lost_lease on_limit_change on_low max_repeats max_calls_per_minute max_spend_rate",
    "ConsoleExporter": "show_attributes file",
    "FileExporter": "path",
    "LangfuseExporter": "public_key secret_key host",
    "RLM.from_openai": "model tracer cost_tracker client",
    "price": "model usage provider",
    "price_answer": "answer endpoint request base_url status at overrides",
    "Tracer.span": "name attributes",
    "CostTracker.track": "operation",
    "CostTracker.get_operation_cost": "operation",
    "CallExporter.export_call": "record",
}
MEMBERS = {
    "Instrumentation": "uninstrument __enter__ __exit__",
    "Tracer": "span flush shutdown",
    "CostTracker": "is_near_limit get_report track get_operation_cost spent held remaining __enter__ __exit__ __call__",
    "CostReport": "total_cost remaining remaining_percent by_model by_operation calls unpriced_calls to_dict",
    "RLM": "from_openai run",
    "RLMResult": "final_answer answer cost_usd usage trace_id",
    "CallExporter": "export_call",
    "testing": "fake_openai collect ExporterContract InstrumentorContract PricesContract PriceCase StoreContract",
    "testing.FakeOpenAI": "base_url requests",
    "testing.Collected": "records spans",
    "Request": "provider endpoint operation model params streamed base_url attributes",
    "Usage": "input_tokens cached_input_tokens cache_write_tokens output_tokens reasoning_tokens input_audio_tokens "
    "output_audio_tokens input_image_tokens output_image_tokens characters seconds images tool_calls",
    "Cost": "total input cached_input cache_write output tools source caveats exact",
    "Record": "id provider endpoint operation model requested_model status error started_at duration_s "
    "time_to_first_chunk_s streamed service_tier usage cost cost_usd trace_id span_id parent_id request_id attributes",
    "BudgetExceeded": "__init__",
}
TREE = {
    "RlmObsError": "Exception",
    "ConfigError": "RlmObsError",
    "StoreError": "RlmObsError",
    "CallRefused": "RlmObsError",
    "BudgetExceeded": "CallRefused",
    "BudgetUnavailable": "CallRefused",
    "Runaway": "CallRefused",
    "UnknownPrice": "CallRefused",
}
REFUSAL = ("budget", "spent", "held", "limit", "needed")


def find(name: str) -> Any:
    found: Any = rlm_obs
    for part in name.split("."):
        found = getattr(found, part)
    return found


def test_the_list_of_names_is_the_one_in_the_file() -> None:
    """`__all__` is sorted, and is the file's list: a new public name, or a lost one, shows in the diff."""
    assert rlm_obs.__all__ == sorted(rlm_obs.__all__)
    assert rlm_obs.__all__ == NAMES.read_text("utf-8").split()


@pytest.mark.parametrize("name", rlm_obs.__all__)
def test_a_name_loads(name: str) -> None:
    """Each public name can be had, and says what it is."""
    assert inspect.getdoc(getattr(rlm_obs, name))


@pytest.mark.parametrize("name", rlm_obs.testing.__all__)
def test_a_name_of_the_kit_loads(name: str) -> None:
    """Each public name of the testing kit can be had, and says what it is."""
    assert inspect.getdoc(getattr(rlm_obs.testing, name))


@pytest.mark.parametrize("path", ["rlm_obs/__init__.py", "rlm_obs/testing/__init__.py"])
def test_a_type_checker_sees_the_same_names(path: str) -> None:
    """The table of the lazy names and the imports under TYPE_CHECKING are the same."""
    package = sys.modules[path.removesuffix("/__init__.py").replace("/", ".")]
    checked = {}
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.If):
            for one in node.body:
                assert isinstance(one, ast.ImportFrom)
                for alias in one.names:
                    assert alias.asname == alias.name, "write `import name as name`, so that it is public"
                    checked[alias.name] = one.module
    assert checked == package._HOMES


@pytest.mark.parametrize("package", [rlm_obs, rlm_obs.testing], ids=lambda package: package.__name__)
def test_dir_shows_every_public_name(package: Any) -> None:
    """`dir()` and so completion know each public name, also before it was used."""
    assert set(package.__all__) <= set(dir(package))


def test_a_wrong_name_is_an_attribute_error() -> None:
    """A name that is not there raises as any module does."""
    with pytest.raises(AttributeError, match="no attribute 'instrumnet'"):
        _lazy.lazily("rlm_obs", {})[0]("instrumnet")


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_stay(name: str) -> None:
    """No parameter that others rely on is renamed or lost."""
    have = inspect.signature(find(name)).parameters
    loose = name == "create_tracer" and any(p.kind is p.VAR_KEYWORD for p in have.values())
    assert [one for one in PARAMETERS[name].split() if one not in have and not loose] == []


@pytest.mark.parametrize("name", MEMBERS)
def test_the_members_stay(name: str) -> None:
    """No attribute, field or method that others rely on is renamed or lost."""
    owner = find(name)
    fields = {f.name for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    assert [one for one in MEMBERS[name].split() if one not in fields and not hasattr(owner, one)] == []


def test_the_errors_stay_in_their_tree() -> None:
    """`except` clauses of others go on catching what they caught."""
    assert set(TREE) == set(errors.__all__)
    for child, parent in TREE.items():
        assert issubclass(find(child), Exception if parent == "Exception" else find(parent))
    assert list(inspect.signature(errors.BudgetExceeded).parameters)[:5] == list(REFUSAL)


def test_the_kit_is_found_by_pytest() -> None:
    """`fake_openai` and `collect` are fixtures wherever the package is installed."""
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-q", "--rootdir", str(ROOT / "docs"), str(ROOT / "docs")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT / "docs",
    ).stdout
    assert "fake_openai" in shown
    assert "collect" in shown
