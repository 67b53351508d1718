"""Finds a model by its exact name in genai-prices' data, whose own matching also takes what is only near."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

#: What may follow a listed name without making it another model: a date, a snapshot number, "latest", a version.
SNAPSHOT = re.compile(
    r"(?:[-@:]?(?:20\d\d-\d\d-\d\d|20\d{6}|\d\d-20\d\d|\d\d-\d\d|\d{3,4}|latest))?(?:[-:]v\d+(?::\d+)?)?"
)
#: What may stand before one: where it is served ("us.anthropic.", "models/").
NAMESPACE = re.compile(r"(?:[a-z0-9-]+[./])*")
COMPACT_DATE = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
MODERATION = re.compile(r"(?:omni|text)-moderation(?:-(?:latest|stable|\d{3}|20\d\d-\d\d-\d\d))?")
#: Names under which a model is sold, where the list has another one of it.
ALIASES = {"computer-use-preview": "computer-use"}
#: Open weights on OpenAI's list "imported from OpenRouter": OpenAI does not sell them, whoever serves them bills them.
NOT_SOLD = ("gpt-oss",)


def find(provider: Provider, name: str, everyone: Iterable[Provider] = ()) -> ModelInfo | None:
    """Return the model that `name` names at `provider` (or where it buys from), or None: near is not enough.

    genai-prices matches by clauses. "Equals" (nine in ten) and anchored patterns are exact and taken as they are.
    "Starts with" and "contains" also take names that are not on any list: `gpt-5-nano-turbo` for gpt-5-nano,
    `o4-mini-deep-research` at Azure for o4-mini, tomorrow's model for today's. Those clauses count here only if what is
    left of the name is a date, a snapshot or a version; a compact date is tried in its dashed form too, as
    genai-prices does (`Provider.find_model`). A fine-tune (`ft:base:org:name:id`) needs an entry of fine-tunes of that
    base, never the base's own.
    """
    name = name.strip().lower().removeprefix("models/")
    alias = next((one for one in ALIASES if name.startswith(one) and SNAPSHOT.fullmatch(name[len(one) :])), None)
    name = name if alias is None else ALIASES[alias]
    for spelled in dict.fromkeys((name, COMPACT_DATE.sub(r"-\1-\2-\3", name))):
        for listed in (provider, *_fallbacks(provider, everyone)):
            if listed.id == "openai" and spelled.startswith(NOT_SOLD):
                continue
            for model in listed.models:
                if _names(model, spelled):
                    return model
    return None


def known_free(model: ModelInfo) -> bool:
    """Tell whether a model without any rate is free, and not one whose rates nobody wrote down."""
    return model.id.endswith(":free") or model.id == "moderation"


def _fallbacks(provider: Provider, everyone: Iterable[Provider]) -> list[Provider]:
    by_id = {p.id: p for p in everyone}
    return [by_id[name] for name in provider.fallback_model_providers or () if name in by_id]


def _names(model: ModelInfo, name: str) -> bool:
    if model.id == "moderation":
        return MODERATION.fullmatch(name) is not None
    if name.startswith("ft:"):
        return model.id.startswith("ft:") and _fits(model.match, ":".join(name.split(":")[:2]))
    if not model.match.is_match(name):
        return False
    listed = model.id.lower()
    return _fits(model.match, name) or (name.startswith(listed) and _is_snapshot(name[len(listed) :], listed))


def _fits(clause: Any, name: str) -> bool:
    """Tell whether a clause of `genai_prices.types.MatchLogic` names exactly this model."""
    match type(clause).__name__:
        case "ClauseEquals":
            return bool(clause.is_match(name))
        case "ClauseOr":
            return any(_fits(part, name) for part in clause.or_)
        case "ClauseAnd":
            return bool(clause.is_match(name)) and any(_fits(part, name) for part in clause.and_)
        case "ClauseRegex":
            return re.fullmatch(clause.regex, name) is not None
        case "ClauseStartsWith":
            text = clause.starts_with.lower()
            return name.startswith(text) and _is_snapshot(name[len(text) :], text)
        case "ClauseEndsWith":
            text = clause.ends_with.lower()
            return name.endswith(text) and NAMESPACE.fullmatch(name[: -len(text)]) is not None
        case "ClauseContains":
            text = clause.contains.lower()
            before, found, after = name.partition(text)
            return bool(found) and NAMESPACE.fullmatch(before) is not None and _is_snapshot(after, text)
    return False


def _is_snapshot(rest: str, text: str) -> bool:
    return text.endswith(".ft-") or SNAPSHOT.fullmatch(rest) is not None
