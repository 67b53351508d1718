"""Commands are made of plain functions: what a signature says is what the command line takes."""

from __future__ import annotations

import enum
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner, Result

import rlm_obs
from rlm_obs import ConfigError
from rlm_obs._cli import Commands, command, main


class Order(enum.Enum):
    DEAR = "dearest first"
    NEW = "newest-first"


def every(
    file: Path,
    count: Annotated[int, "How many."] = 3,
    share: float = 0.5,
    user_name: str | None = None,
    loud: bool = False,
    colour: bool = True,
    by: Literal["model", "day"] = "model",
    order: Order = Order.NEW,
) -> None:
    """Do everything.

    And say so.
    """
    print([file, count, share, user_name, loud, colour, by, order])


def run(function: Callable[..., Any], *arguments: str) -> Result:
    return CliRunner().invoke(command("some", function), arguments)


def test_defaults() -> None:
    """What is not given is the function's own default, not a text of it."""
    given = [Path("a.csv"), 3, 0.5, None, False, True, "model", Order.NEW]
    assert run(every, "a.csv").output == f"{given}\n"


def several(
    files: tuple[Path, ...],
    *,
    to: str,
    by: Annotated[Literal["a", "b"] | None, "-b", "How."],
    all_of: Annotated[bool, "-a"] = False,
) -> None:
    """Do much."""
    print([files, to, by, all_of])


def test_several_arguments_and_options_that_must_be_given() -> None:
    """A tuple takes several arguments, at least one; a keyword-only parameter without a default is an option that must be given."""
    assert (
        run(several, "x", "y", "-b", "a", "--to", "z", "-a").output == f"{[(Path('x'), Path('y')), 'z', 'a', True]}\n"
    )
    assert "Missing argument 'FILES...'" in run(several, "--to", "z", "-b", "a").output
    assert "Missing option '--to'" in run(several, "x", "-b", "a").output
    assert "How." in run(several, "--help").output and "-a, --all-of" in run(several, "--help").output


def test_every_kind_of_parameter() -> None:
    """Numbers, paths, flags, choices and enums arrive as what the signature says."""
    options = "--count 4 --share 1 --user-name ann --loud --no-colour --by day --order newest-first"
    given = [Path("b"), 4, 1.0, "ann", True, False, "day", Order.NEW]
    assert run(every, "b", *options.split()).output == f"{given}\n"
    assert "Order.DEAR" in run(every, "b", "--order", "dearest first").output


def test_help() -> None:
    """The docstring is the help, `Annotated` an option's; defaults and choices are shown."""
    said = run(every, "--help").output
    for text in ("Do everything.", "And say so.", "How many.", "[default: 3]", "[model|day]", "--no-colour", "FILE"):
        assert text in said


@pytest.mark.parametrize("wrong", [["--count", "x"], ["--by", "year"], ["--order", "NEW"], ["--nothing"], []])
def test_wrong_use(wrong: list[str]) -> None:
    """A value that does not fit is click's usage error, and code 2."""
    result = run(every, *(["a.csv"] if wrong else []), *wrong)
    assert (result.exit_code, "Usage:" in result.output) == (2, True)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code(returned: int | None, code: int) -> None:
    """What the function returns is the exit code; None is 0."""
    assert run(lambda: returned).exit_code == code


def test_unknown_type() -> None:
    """A type that no text can become is a ConfigError that names the parameter and what there is instead."""

    def wrong(amount: Decimal) -> None: ...

    with pytest.raises(ConfigError, match=r"'amount'.*str, int, float, Path"):
        command("wrong", wrong)


class Offering:
    """A plugin of one good command and two that cannot be used."""

    @rlm_obs.hookimpl
    def register_commands(self) -> dict[str, Callable[..., Any]]:
        def wrong(amount: Decimal) -> None: ...

        def refused() -> None:
            raise rlm_obs.BudgetExceeded("day", Decimal(1), Decimal(0), Decimal(1), Decimal(2))

        return {
            "good": lambda: print("done"),
            "wrong": wrong,
            "refused": refused,
            "stock list": lambda: print("listed"),
            "stock wrong": wrong,
            "both": refused,
            "both ways": refused,
        }


@pytest.fixture
def _offered() -> Any:
    plugin = Offering()
    rlm_obs.register_plugin(plugin)
    yield
    rlm_obs.unregister_plugin(plugin)


@pytest.mark.usefixtures("_offered")
def test_a_plugins_commands() -> None:
    """A plugin's commands stand beside ours; one that cannot be made is shown as such and takes no other along."""
    said = CliRunner().invoke(Commands(), ["--help"])
    assert said.exit_code == 0
    names = [line.split()[0] for line in said.output.partition("Commands:\n")[2].splitlines() if line.strip()]
    assert names == sorted(names)
    assert {"both", "demo", "good", "plugins", "refused", "stock", "wrong"} <= set(names)
    assert "cannot be used" in said.output
    assert CliRunner().invoke(Commands(), ["good"]).output == "done\n"


@pytest.mark.usefixtures("_offered")
def test_a_group_of_commands() -> None:
    """A name of two words is a command of a group, which lists its own; one that cannot be made takes no other along."""
    assert CliRunner().invoke(Commands(), ["stock", "list"]).output == "listed\n"
    said = CliRunner().invoke(Commands(), ["stock", "--help"]).output
    assert "stock [OPTIONS] COMMAND" in said
    assert [line.split()[0] for line in said.partition("Commands:\n")[2].splitlines() if line.strip()] == [
        "list",
        "wrong",
    ]
    assert "Commands: list, wrong." in CliRunner().invoke(Commands(), ["--help"]).output
    unknown = CliRunner().invoke(Commands(), ["stock", "nothing"])
    assert (unknown.exit_code, "No such command 'nothing'" in unknown.output) == (2, True)


@pytest.mark.usefixtures("_offered")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", "'amount'"),
        ("refused", "budget 'day'"),
        ("stock wrong", "command 'stock wrong' cannot be used"),
        ("both", "a command and as a group (ways)"),
    ],
)
def test_an_error_of_ours_is_one_line(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What rlm_obs raises on purpose is one line on stderr and code 2, never a traceback."""
    assert main(name.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("rlm-obs: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_version(rlm_obs_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """`--version` answers whatever the settings are: no plugin is loaded for it."""
    done = rlm_obs_script("--version", RLM_OBS_SAMPLE_RATE="7")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"rlm-obs, version {rlm_obs.__version__}", "")


def test_wrong_settings(rlm_obs_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A wrong setting is one line that names the variable, and code 2."""
    done = rlm_obs_script("plugins", RLM_OBS_SAMPLE_RATE="7")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rlm-obs: RLM_OBS_SAMPLE_RATE='7'")
    assert done.stderr.count("\n") == 1


def test_no_command(rlm_obs_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A command that nobody offers is a usage error."""
    done = rlm_obs_script("nothing")
    assert done.returncode == 2
    assert "No such command 'nothing'" in done.stderr


def test_an_enum_is_told_by_its_value() -> None:
    """An Enum's choices are its values."""
    made = command("some", every)
    (order,) = [one for one in made.params if one.name == "order"]
    assert isinstance(order.type, click.Choice)
    assert list(order.type.choices) == ["dearest first", "newest-first"]


def test_any_number_of_arguments() -> None:
    """A tuple that may be None takes as many as are given, none too."""

    def many(names: Annotated[tuple[str, ...] | None, "Some names."], loud: bool = False) -> None:
        print(names, loud)

    assert run(many).output == "() False\n"
    assert run(many, "a", "--loud", "b").output == "('a', 'b') True\n"
