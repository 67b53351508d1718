"""`rlm-obs doctor` tries each part for real, says what to do where one fails, and shows no secret."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.exporters.receiver import receiving

Script = Callable[..., subprocess.CompletedProcess[str]]
HOOK = "import rlm_obs\n@rlm_obs.hookimpl\n"
SDK = f"""{HOOK}def register_instrumentors():
    from rlm_obs import instrumentation as sdk
    return {{"acme": lambda: sdk.SdkInstrumentor("acme", {{"Acme": False}}, None)}}
"""


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., None]:
    """Put a distribution into a folder, as pip would; with `code` it is a plugin."""

    def installed(
        name: str, version: str = "1.2", *, code: str = "", module: str = "", wants: Sequence[str] = ()
    ) -> None:
        information = tmp_path / "site" / f"{name}-{version}.dist-info"
        information.mkdir(parents=True)
        said = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {one}" for one in wants),
        ]
        (information / "METADATA").write_text("\n".join(said) + "\n")
        if code:
            (information / "entry_points.txt").write_text(f"[rlm_obs]\n{name} = {name}_code\n")
            (tmp_path / "site" / f"{name}_code.py").write_text(code)
        else:
            (information / "top_level.txt").write_text(f"{name}\n")
            (tmp_path / "site" / f"{name}.py").write_text(module)

    return installed


@pytest.fixture
def doctor(rlm_obs_script: Script, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command with what was installed."""
    return lambda *arguments, **variables: rlm_obs_script(
        "doctor", *arguments, PYTHONPATH=str(tmp_path / "site"), NO_PROXY="*", **variables
    )


def of(done: subprocess.CompletedProcess[str], name: str) -> Any:
    """Return what came of one part."""
    (found,) = [one for one in json.loads(done.stdout)["parts"] if one["name"] == name]
    return found["kind"], found["state"], found["says"]


def test_what_is_set_up(doctor: Script) -> None:
    """With nothing set the console, the prices and the SDK are tried, and all is well."""
    done = doctor()
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["exporter console"].startswith("ok, ")
    assert lines["prices"].startswith("ok, a million tokens in and out of gpt-4o-mini cost $0.75 by genai-prices ")
    assert lines["instrumentor openai"].endswith("OpenAI, AsyncOpenAI")
    assert not [line for line in lines if "langfuse" in line or "setting" in line]


def test_settings_are_shown_with_their_source_and_without_secrets(doctor: Script, tmp_path: Path) -> None:
    """Each setting that is set, where it comes from; keys, and passwords within addresses, are nowhere."""
    (tmp_path / "pyproject.toml").write_text("[tool.rlm_obs]\nsample_rate = 0.5\n")
    secrets = {
        "LANGFUSE_SECRET_KEY": "sk-lf-hidden",
        "LANGFUSE_PUBLIC_KEY": "pk-lf-hidden",
        "RLM_OBS_BUDGET_STORE": "redis://me:hidden@127.0.0.1:9/0",
        "LANGFUSE_HOST": "http://me:hidden@127.0.0.1:9",
    }
    plain, parsed = (doctor(*more, RLM_OBS_EXPORTERS="console,langfuse", **secrets) for more in ((), ("--json",)))
    assert "setting exporters: 'console,langfuse' (from RLM_OBS_EXPORTERS)\n" in plain.stdout
    assert "setting sample_rate: 0.5 (from [tool.rlm_obs] sample_rate)\n" in plain.stdout
    assert "setting langfuse_secret_key: set, not shown (from LANGFUSE_SECRET_KEY)\n" in plain.stdout
    assert {"name": "sample_rate", "value": "0.5", "from": "[tool.rlm_obs] sample_rate"} in json.loads(parsed.stdout)[
        "settings"
    ]
    assert plain.returncode == parsed.returncode == 1
    assert "hidden" not in plain.stdout + plain.stderr + parsed.stdout + parsed.stderr


def test_one_that_fails_keeps_nobody_from_being_tried(doctor: Script) -> None:
    """It is told with what to do, the others are tried all the same, and the exit code says it."""
    with receiving() as receiver:
        done = doctor(
            "--json",
            RLM_OBS_EXPORTERS="nobody,otlp,console",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            RLM_OBS_BUDGET_STORE="sqlite:///no/such/folder/x.db",
        )
        assert len(receiver.requests) == 1
    assert done.returncode == 1
    assert of(done, "nobody")[:2] == ("exporter", "failed")
    assert of(done, "otlp")[1:] == ("ok", f"{receiver.url}/v1/traces takes traces")
    assert of(done, "sqlite")[:2] == ("store", "failed")
    assert of(done, "prices")[1] == "ok"


def test_only_what_is_named(doctor: Script) -> None:
    """A name picks its parts, also those that are not set up; a wrong one is refused with the near ones."""
    done = doctor("file", "prices")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["exporter file", "prices"]
    done = doctor("phonix")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is nothing called 'phonix'; did you mean 'phoenix'" in done.stderr


def test_a_store_is_asked(doctor: Script) -> None:
    """A message goes there and back; what it has is not touched."""
    done = doctor("sqlite", RLM_OBS_BUDGET_STORE="sqlite:///budgets.db")
    assert done.returncode == 0
    assert "store sqlite: ok, a message there and back took " in done.stdout
    assert done.stdout.endswith("it has 0 budgets\n")
    done = doctor("redis", RLM_OBS_BUDGET_STORE="redis://h")
    assert (done.returncode, "pip install rlm-obs-redis" in done.stdout) == (1, True)


def test_prices_of_plugins(doctor: Script, install: Callable[..., None]) -> None:
    """Each plugin with prices is asked for a model: it answers, leaves it to others, or fails."""
    head = f"{HOOK}def price(request):\n    "
    install("pays", code=f"{head}return rlm_obs.Cost(total=3, source='our contract')")
    install("leaves", code=f"{head}return None")
    install("fails", code=f"{head}raise KeyError('sk-hidden')")
    done = doctor("--json")
    assert done.returncode == 1
    assert of(done, "pays")[1:] == ("ok", "it prices gpt-4o-mini, by our contract")
    assert of(done, "leaves")[1:] == ("ok", "it leaves gpt-4o-mini to others")
    assert of(done, "fails")[:2] == ("prices", "failed")
    assert "our contract" in of(done, "prices")[2]
    assert "hidden" not in done.stdout + done.stderr


def test_an_sdk_that_is_not_there(doctor: Script, install: Callable[..., None]) -> None:
    """It is no fault, unless somebody asks for it."""
    install("speech", code=SDK)
    done = doctor("--json")
    assert (done.returncode, of(done, "acme")) == (
        0,
        ("instrumentor", "unused", "the package acme is not installed: pip install acme"),
    )
    assert doctor("acme").returncode == 1


@pytest.mark.parametrize(
    ("version", "module", "state", "says"),
    [
        ("2.1", "class Acme:\n    def request(self): ...\n", "ok", "acme 2.1: Acme"),
        (
            "1.9",
            "class Acme:\n    def request(self): ...\n",
            "failed",
            "acme 1.9 is too old: pip install --upgrade 'acme>=2.0'",
        ),
        ("2.1", "class Acme: ...\n", "failed", "acme 2.1 has no Acme with a method `request`: its calls are not seen"),
    ],
)
def test_an_sdk(doctor: Script, install: Callable[..., None], version: str, module: str, state: str, says: str) -> None:
    """It is found, it is new enough for the plugin, and it has the clients that are patched."""
    install("speech", code=SDK, wants=["acme>=2.0"])
    install("acme", version, module=module)
    assert of(doctor("--json"), "acme") == ("instrumentor", state, says)


def test_checks_of_strangers(doctor: Script, install: Callable[..., None]) -> None:
    """`register_checks`: what a check returns, what it says to do, and that it is broken; an exporter has `check()`."""
    install(
        "strange",
        code=f"""{HOOK}def register_checks():
    def well(): return "a message went there"
    def wrong(): raise rlm_obs.ConfigError("set STRANGE_URL")
    def broken(): raise RuntimeError("at https://hidden")
    return {{"well": well, "wrong": wrong, "broken": broken}}
@rlm_obs.hookimpl
def register_exporters():
    class Own(rlm_obs.CallExporter):
        def export_call(self, record): ...
        def check(self): return "all drawers are open"
    return {{"drawers": lambda settings: Own()}}
""",
    )
    done = doctor("--json")
    assert done.returncode == 1
    assert of(done, "well") == ("check", "ok", "a message went there")
    assert of(done, "wrong") == ("check", "failed", "set STRANGE_URL")
    assert of(done, "broken") == ("check", "failed", "RuntimeError, which is a fault in it: tell its authors")
    assert "hidden" not in done.stdout + done.stderr
    assert of(doctor("drawers", "--json"), "drawers") == ("exporter", "ok", "all drawers are open")


def test_a_plugin_that_is_left_out(doctor: Script, install: Callable[..., None]) -> None:
    """One that cannot be loaded is a failure, with what to do; a blocked one is not."""
    install("shaky", code="import no_such_module_anywhere")
    done = doctor("--json")
    kind, state, says = of(done, "shaky")
    assert (done.returncode, kind, state) == (1, "plugin", "failed")
    assert "No module named 'no_such_module_anywhere'" in says and "RLM_OBS_BLOCK=shaky" in says
    assert doctor(RLM_OBS_BLOCK="shaky").returncode == 0
