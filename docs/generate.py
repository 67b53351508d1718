"""Writes the reference pages that the code can tell: settings, hooks, API, errors, commands. A test compares them.

python docs/generate.py
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import AliasChoices, SecretStr
from pydantic_core import PydanticUndefined

import rlm_obs
import rlm_obs.stores
import rlm_obs.testing
from rlm_obs import _cli, _hookspecs, errors
from rlm_obs._cli import commands
from rlm_obs._instrument import free

REFERENCE = Path(__file__).parent / "reference"
MADE = "<!-- Made by docs/generate.py: change the code, then run it. -->\n"
SECTIONS = ("Return", "Raises", "Speed", "Since", "Example")
LONGEST_LINE = 88

#: The public names in the order in which somebody meets them.
GROUPS = {
    "Switch it on": ("instrument", "uninstrument", "Instrumentation", "flush", "report", "stats"),
    "Your own code": (
        "traced",
        "cost_tracked",
        "context",
        "inject",
        "extract",
        "AsgiMiddleware",
        "score",
        "Tracer",
        "create_tracer",
    ),
    "Money": ("CostTracker", "CostReport", "Balance", "Alert", "price", "price_answer", "estimate", "Estimate"),
    "Shared budgets": ("open_budgets", "Budgets", "BudgetRow"),
    "Exporters": ("ConsoleExporter", "FileExporter", "read_records", "LangfuseExporter", "CallExporter"),
    "Facts about a call": ("Request", "Usage", "Cost", "Record"),
    "Plugins and settings": ("hookimpl", "register_plugin", "unregister_plugin", "Settings"),
    "Asking about a text": ("RLM", "RLMResult"),
}
ERRORS = tuple(sorted(errors.__all__))
#: Nobody makes these: `instrument`, `fake_openai` and `collect` return them.
RETURNED = ("Collected", "FakeOpenAI", "Instrumentation")
#: What our own modules say to each other, without an underscore since they are not of one file.
INTERNAL = {
    "Balance": ("of",),
    "CostTracker": ("accounts", "admit", "book", "cheaper", "out_of_room", "raised"),
    "Instrumentation": ("watch_sigterm",),
    "Tracer": ("context_of", "score", "start", "start_call"),
}

#: How a setting's type reads to a person.
TYPES = {
    "exporters": "names, comma-separated",
    "block": "names, comma-separated",
    "baggage": "names, comma-separated",
    "redact": "`keys`, `email`, `card`, `phone`, comma-separated",
    "redact_patterns": "a list (JSON in the environment)",
    "budget_store": "a URL, never shown",
    "unknown_price": '"block", "warn" or an amount',
    "prices": "a file's name, or a mapping",
    "hosts": "a mapping (JSON in the environment)",
    "azure_deployments": "a mapping (JSON in the environment)",
    "file_path": "a file's name",
    "price_data": "a file's name",
    "spool": "a folder's name",
}

SETTINGS = """\
# Settings

A setting is given in one of four ways. The first that says something wins.

1. An argument of `instrument()`: `instrument(budget_usd="10.00")`.
2. `instrument(settings={...})`, for what has no argument of its own: `instrument(settings={"hosts": {...}})`.
3. An environment variable: `RLM_OBS_BUDGET_USD=10.00`.
4. A key of `[tool.rlm_obs]` in `pyproject.toml`, in the current folder or one above it.

```toml
[tool.rlm_obs]
exporters = ["console", "file"]
budget_usd = "10.00"

[tool.rlm_obs.hosts]
"localhost:11434" = "free"
```

An empty variable counts as not set, but for `RLM_OBS_EXPORTERS`, where it means "no exporter".
A wrong value is a [`ConfigError`](errors.md) that names the variable and the value. A misspelt `RLM_OBS_…` variable
is one warning in the log, with the nearest name that exists.

Some variables of OpenTelemetry are honoured too: `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and
`OTEL_TRACES_SAMPLER_ARG`, `OTEL_SDK_DISABLED`, and `OTEL_BSP_…` for the queue in front of each exporter.
"""

HOOKS = """\
# Hooks

A plugin is a module, or any object, with functions that are marked `@rlm_obs.hookimpl` and named like a hook.
[Write a plugin in ten minutes](../how-to/write-a-plugin.md) shows how, and [what plugins can do](../how-to/plugins.md) shows each kind.

A hook takes the arguments that it names: leave out those you do not need. Arguments may be added to a hook in later
versions; none will be renamed. Every call of a hook is guarded: an exception is logged once and counted in
`rlm_obs.stats()["failures"]`, and the user's call goes on. Only `CallRefused` (and kin) gets through.

Set `RLM_OBS_DEBUG_PLUGINS=1` to see each plugin and each hook call on stderr.
"""

API = """\
# Public names

Everything here is imported from `rlm_obs`, from `rlm_obs.testing`, or from `rlm_obs.stores`. All else is private and may change.
Amounts are `decimal.Decimal` in US dollars. `None` means "nobody knows", never 0.
Errors have [a page of their own](errors.md).
"""

TESTING = """\
## rlm_obs.testing

The kit for your own tests, and for a plugin's. `fake_openai` and `collect` are pytest fixtures of the same names too:
pytest finds them as soon as `rlm_obs` is installed.
"""

STORES = """\
## rlm_obs.stores

What a budget store is made of, for [those who write one](../how-to/plugins.md#a-budget-store).
"""

ERROR_PAGE = """\
# Errors

All errors that `rlm_obs` raises on purpose are in one tree. They are imported from `rlm_obs`.

```text
{tree}
```

Errors of your own calls are never replaced or wrapped: an `openai.RateLimitError` reaches you as it is.
An error carries its facts as attributes, says what to do next, and survives `pickle`.
No message holds a prompt, an answer or a key.
"""

CLI = """\
# Commands

`rlm-obs` is installed with the package. A command prints what the library says. It exits with 0, or with 2 and one
line on stderr where something is wrong. Plugins can [add commands](hooks.md#register_commands).
"""


ENDPOINT_PAGE = """\
# Endpoints

What each endpoint of OpenAI costs, and when the library counts it. A test reads the installed client and fails when it
has an endpoint that is not here.

- **Its answer says**: priced when the call ends, streamed or not. Before it, a budget holds the most that it can cost
  where that has a bound (chat, responses, completions, embeddings).
- **A later answer says**: the call that begins it is of unknown cost or none; what it used is read from the answer that
  tells it, and counted once, however often that is read. What another process reads is counted there.
- **Unknown**: no answer says what it cost. Such a call is a record without a cost, and counts in `unpriced_calls`.
- **Free**: it passes untouched, and makes no record.

Answers over a WebSocket (`client.realtime.connect`, `client.responses.connect`) are calls too: each `response.done` or
`response.completed` event is priced, and so is what was heard, at the price of the model that hears it. Nothing is held
for them before. Live sessions and spoken translations (`client.live`, `client.realtime.translations`) are billed by the time
of their session, which is not counted. Assistants' runs, realtime sessions by phone or browser, and jobs are billed as the table says.
`client.webhooks.unwrap` calls nobody.
"""
BILLS = {
    "answer": ("Its answer says", "| endpoint | what is counted |\n| --- | --- |"),
    "later": ("A later answer says", "| endpoint | what is counted, and when |\n| --- | --- |"),
    "unknown": ("Unknown", "| endpoint | why |\n| --- | --- |"),
    "free": ("Free", "| endpoint | note |\n| --- | --- |"),
}


def endpoints() -> str:
    """Return the page of the endpoints."""
    rows = [ENDPOINT_PAGE]
    every = list(free.table())
    for bill, (title, head) in BILLS.items():
        rows.append(f"\n## {title}\n\n{head}")
        rows += [f"| `{row.verb.upper()} {row.path}` | {row.note} |" for row in every if row.bill == bill]
        if bill == "free":
            rows += [f"| everything below `{path}` | {note} |" for path, note in free.WHOLE.items()]
    return "\n".join(rows) + "\n"


def settings() -> str:
    """Return the page of the settings."""
    rows = [SETTINGS]
    for name, field in rlm_obs.Settings.model_fields.items():
        variables = alias_names(field.validation_alias) or (f"RLM_OBS_{name.upper()}",)
        rows.append(f"\n## {name}\n")
        rows.append(f"{field.description}\n")
        rows.append(f"- Type: {TYPES.get(name) or type_name(field.annotation)}")
        rows.append(f"- Default: {default_of(field)}")
        rows.append(f"- Environment: {', then '.join(f'`{v}`' for v in variables)}")
    return "\n".join(rows) + "\n"


def alias_names(alias: object) -> tuple[str, ...]:
    return tuple(str(a) for a in alias.choices if str(a).isupper()) if isinstance(alias, AliasChoices) else ()


def default_of(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    if value is None:
        return "not set"
    if isinstance(value, tuple | dict):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def type_name(hint: Any) -> str:
    names = {
        "Decimal": "an amount of US dollars, written `10` or `0.50`",
        "float": "a number",
        "int": "a whole number",
        "bool": "true or false",
        "str": "text",
        SecretStr.__name__: "text, never shown",
    }
    said = str(hint)
    if "Literal" in said:
        return ", ".join(f"`{one}`" for one in re.findall(r"'([^']+)'", said))
    return next(text for name, text in names.items() if name in said or getattr(hint, "__name__", "") == name)


def hooks() -> str:
    """Return the page of the hooks."""
    rows = [HOOKS]
    for name, spec in specs().items():
        first, sections = parted(spec)
        rows.append(f"\n## {name}\n\n```text\n{name}{signature_of(spec)}\n```\n\n{first}\n")
        rows += [f"- **{title}**: {sections[title]}" for title in SECTIONS]
        rows.append(f"- **Kind**: {kind_of(spec)}")
    return "\n".join(rows) + "\n"


def specs() -> dict[str, Any]:
    """Return the hook specifications, in the order of the file."""
    return {name: f for name, f in vars(_hookspecs).items() if hasattr(f, "rlm_obs_spec")}


def parted(spec: Any) -> tuple[str, dict[str, str]]:
    """Return what a spec's docstring says first, and its sections. Raises KeyError where one is missing."""
    text = " ".join((inspect.getdoc(spec) or "").split())
    pieces = re.split(rf"(?:^|(?<=[.\s]))({'|'.join(SECTIONS)}): ", text)
    sections = {title: said.strip() for title, said in zip(pieces[1::2], pieces[2::2], strict=True)}
    return pieces[0].strip(), {title: sections[title] for title in SECTIONS}


def kind_of(spec: Any) -> str:
    options = spec.rlm_obs_spec
    if options["firstresult"]:
        return "the first answer that is not `None` is taken; the others are not asked."
    if options["historic"]:
        return "every implementation is called, also of a plugin that is registered later."
    if spec.__name__.startswith("register_"):
        return "every implementation is called, and the answers are joined."
    if spec.__name__ == "redact":
        return "a chain: each implementation gets the answer of the one before it."
    return "every implementation is called."


def api() -> str:
    """Return the page of the public names."""
    rows = [API]
    for title, names in GROUPS.items():
        rows.append(f"\n## {title}\n")
        for name in names:
            rows += entry(name, getattr(rlm_obs, name))
    rows.append("\n" + TESTING)
    for name in rlm_obs.testing.__all__:
        rows += entry(name, getattr(rlm_obs.testing, name))
    rows.append("\n" + STORES)
    for name in rlm_obs.stores.__all__:
        rows += entry(name, getattr(rlm_obs.stores, name))
    return "\n".join(rows).rstrip() + "\n"


def entry(name: str, thing: Any) -> Iterator[str]:
    """Write a public name: its signature, its docstring, and its members."""
    yield f"### {name}\n"
    if name == "hookimpl":
        yield "Mark a function of a plugin as the implementation of the hook of its name.\n"
        return
    if name not in ("Settings", "Store", "StoreLost", *RETURNED):
        yield f"```text\n{name}{signature_of(thing)}\n```\n"
    yield prose(thing) + "\n"
    if inspect.isclass(thing) and name != "Settings":
        members = list(members_of(thing))
        if members:
            yield "\n".join(members) + "\n"


def members_of(cls: type) -> Iterator[str]:
    for name, member in vars(cls).items():
        own = getattr(member, "__func__", member).__doc__
        if name.startswith("_") or not own or not is_told(member) or name in INTERNAL.get(cls.__name__, ()):
            continue
        text = " ".join(inspect.cleandoc(own).split())
        shown = name if isinstance(member, property) else f"{name}{signature_of(getattr(cls, name), wrap=False)}"
        yield f"- `{shown}`: {text}"


def is_told(member: Any) -> bool:
    return isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)


def prose(thing: Any) -> str:
    """Return a docstring as Markdown: a line that begins with a parameter's name becomes an item of a list."""
    text = inspect.getdoc(thing) or ""
    try:
        known = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        known = set()
    lines = []
    for line in text.splitlines():
        start, colon, rest = line.partition(":")
        names = [one.strip() for one in start.split(",")]
        if colon and known.issuperset(names):
            lines.append(f"- {', '.join(f'`{one}`' for one in names)}: {rest.strip()}")
        else:
            lines.append("  " + line.strip() if line.startswith(" ") else line)
    return re.sub(r"(\n)(- `)", r"\n\n\2", "\n".join(lines), count=1)


def signature_of(thing: Any, *, wrap: bool = True) -> str:
    """Return a signature as it is written in the source, a parameter a line where it is long."""
    signature = inspect.signature(thing)
    parameters = [plain(p) for p in signature.parameters.values() if p.name != "self"]
    parts = [re.sub(r"<factory>", "{}", str(p)).replace("'", '"') for p in parameters]
    slash = sum(p.kind is p.POSITIONAL_ONLY for p in parameters)
    star = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if star is not None and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        parts.insert(star, "*")
    if slash:
        parts.insert(slash, "/")
    answer = signature.return_annotation
    back = "" if answer is signature.empty or inspect.isclass(thing) else f" -> {said(answer)}"
    if hasattr(thing, "__wrapped__") and back.startswith(" -> Iterator["):
        back = f" -> a context manager of {back.removeprefix(' -> Iterator[').removesuffix(']')}"
    whole = f"({', '.join(parts)}){back}"
    if not wrap or len(whole) < LONGEST_LINE:
        return whole
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){back}"


def plain(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(annotation=Written(parameter.annotation)) if parameter.annotation else parameter


class Written:
    """An annotation that shows itself as it is written in the source."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    def __repr__(self) -> str:
        return said(self.hint)


def said(hint: Any) -> str:
    """Return a hint as it is written; what a `@contextmanager` gives is its block's."""
    return (hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))).replace("'", '"')


def errors_page() -> str:
    """Return the page of the errors."""
    tree = textwrap.dedent("\n".join((errors.__doc__ or "").splitlines()[2:])).strip()
    rows = [ERROR_PAGE.format(tree=tree)]
    for name in ERRORS:
        cls = getattr(errors, name)
        facts = [p for p in inspect.signature(cls.__init__).parameters if p not in ("self", "args", "kwargs")]
        rows.append(f"\n## {name}\n\n{prose(cls)}\n")
        if facts:
            rows.append(f"Attributes: {', '.join(f'`{fact}`' for fact in facts)}.\n")
    return "\n".join(rows).rstrip() + "\n"


def cli() -> str:
    """Return the page of the commands that come with the package."""
    rows = [CLI]
    for name, function in sorted(commands.register_commands().items()):
        made = _cli.command(name, function)
        context = click.Context(made, info_name=f"rlm-obs {name}", max_content_width=80, terminal_width=80)
        rows.append(f"\n## rlm-obs {name}\n\n```text\n{made.get_help(context)}\n```\n")
    return "\n".join(rows).rstrip() + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings,
    "hooks.md": hooks,
    "api.md": api,
    "errors.md": errors_page,
    "cli.md": cli,
    "endpoints.md": endpoints,
}


def page(name: str) -> str:
    """Return a page as it has to be."""
    return MADE + PAGES[name]()


def main() -> None:
    """Write all pages."""
    REFERENCE.mkdir(exist_ok=True)
    for name in PAGES:
        (REFERENCE / name).write_text(page(name), "utf-8")


if __name__ == "__main__":
    main()
