"""The command line `rlm-obs`: makes a command of each plain function that a plugin offers, by its signature."""

from __future__ import annotations

import enum
import functools
import inspect
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from rlm_obs._plugins import loaded
from rlm_obs.errors import ConfigError, RlmObsError

KINDS: Mapping[Any, Any] = {
    str: str,
    int: int,
    float: float,
    pathlib.Path: click.Path(path_type=pathlib.Path),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (`arguments`, or the program's) and exit with its code; an RlmObsError is one line and code 2."""
    import rlm_obs

    group = Commands(help="See what a program's language model calls did, cost, and are allowed to cost.")
    group = click.version_option(rlm_obs.__version__, prog_name="rlm-obs")(group)
    try:
        group.main(args=arguments, prog_name="rlm-obs")
    except RlmObsError as error:
        click.echo(f"rlm-obs: {error}", err=True)
    return 2


class Commands(click.Group):
    """The commands of all plugins, asked for when a command is looked up: `--version` loads none of them.

    A name of two words is a command of a group: "prices show" is `rlm-obs prices show`, beside those of other plugins.
    """

    words: str = ""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({name.partition(" ")[0] for name in self._offered()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        offered = self._offered()
        name, function = f"{self.words}{cmd_name}", offered.get(cmd_name)
        within = sorted(one.partition(" ")[2] for one in offered if one.startswith(f"{cmd_name} "))
        try:
            if function is not None and within:
                raise ConfigError(f"it is offered as a command and as a group ({', '.join(within)})")
            if within:
                return group(name, within)
            return None if function is None else command(cmd_name, function)
        except Exception as error:  # a plugin's command that cannot be made must not take the others along
            broken = f"command {name!r} cannot be used: {error}"
            return click.Command(cmd_name, callback=functools.partial(refuse, broken), short_help="(cannot be used)")

    def _offered(self) -> dict[str, Callable[..., Any]]:
        """Return the commands of this group, by what follows its own words in their names."""
        every: Mapping[str, Callable[..., Any]] = loaded().collect("register_commands")
        return {name.removeprefix(self.words): one for name, one in every.items() if name.startswith(self.words)}


def group(name: str, commands: Sequence[str]) -> Commands:
    """Return the group `name`, whose help is the names of its commands."""
    made = Commands(name.rpartition(" ")[2], help=f"Commands: {', '.join(commands)}.")
    made.words = f"{name} "
    return made


def refuse(why: str) -> None:
    raise ConfigError(why)


def command(name: str, function: Callable[..., Any]) -> click.Command:
    """Make a click command of a plain function; its docstring is the help, what it returns is the exit code (None: 0).

    A parameter without a default is an argument (one that may be None can be left out, a `tuple[…, ...]` takes several,
    a keyword-only one is an option that must be given), any other an option, a bool a flag. Types: str, int, float, Path,
    a Literal of strings, an Enum, each also `| None`; `Annotated[…, "text", "-f"]` gives help and a short name. Raises
    ConfigError for others.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = [parameter(one, hints.get(one.name, str)) for one in inspect.signature(function).parameters.values()]

    def run(**given: Any) -> None:
        click.get_current_context().exit(function(**given) or 0)

    return click.Command(name, params=parameters, callback=run, help=inspect.getdoc(function))


def parameter(one: inspect.Parameter, hint: Any) -> click.Parameter:
    """Make a click parameter of one of a function's."""
    said = [text for text in getattr(hint, "__metadata__", ()) if isinstance(text, str)]
    text = next((text for text in said if not text.startswith("-")), None)
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    several = next((some for some in (bare, *get_args(bare)) if get_origin(some) is tuple), None)
    many = several is not None and get_args(several)[1:] == (...,)
    kind, read = kind_of(get_args(several)[0] if many else hint, one.name)
    if one.default is one.empty and kind is not bool and one.kind is not one.KEYWORD_ONLY:
        required = types.NoneType not in get_args(bare)
        return click.Argument([one.name], type=kind, callback=read, required=required, nargs=-1 if many else 1)
    flag = "--" + one.name.replace("_", "-")
    names = [flag, *(text for text in said if text.startswith("-")), one.name]
    given = None if one.default is one.empty else one.default
    if kind is bool:
        names[0] = f"{flag}/--no-{flag[2:]}" if given else flag
        return click.Option(names, is_flag=True, default=bool(given), help=text)
    shown = given.value if isinstance(given, enum.Enum) else given
    more: dict[str, Any] = {"required": True} if one.default is one.empty else {"default": shown}
    return click.Option(names, type=kind, help=text, show_default=shown not in (None, ""), callback=read, **more)


def kind_of(hint: Any, name: str) -> tuple[Any, Callable[[Any, Any, Any], Any] | None]:
    """Return click's type for a hint, and what turns click's text into the hint's own value."""
    if get_origin(hint) is Annotated:
        return kind_of(get_args(hint)[0], name)
    if get_origin(hint) in (Union, types.UnionType):
        some = [one for one in get_args(hint) if one is not types.NoneType]
        if len(some) == 1:
            return kind_of(some[0], name)
    if get_origin(hint) is Literal and all(isinstance(one, str) for one in get_args(hint)):
        return click.Choice(get_args(hint)), None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        members = {str(member.value): member for member in hint}
        return click.Choice(list(members)), lambda ctx, param, value: members.get(value)
    if hint is bool:
        return bool, None
    if hint in KINDS:
        return KINDS[hint], None
    raise ConfigError(
        f"parameter {name!r} is a {hint}: use bool, str, int, float, Path, a Literal of strings or an Enum"
    )
