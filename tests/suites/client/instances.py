"""A valid JSON value of a type, as small as one that says everything once can be: what the route of that type answers."""

from __future__ import annotations

import types
from datetime import date, datetime
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from openai import BaseModel

SCALARS: dict[Any, Any] = {str: "string", int: 1, float: 1.5, bool: False, bytes: "AA==", object: {}, Any: {}}
SCALARS |= {datetime: "2026-11-25T12:00:00Z", date: "2026-11-25", type(None): None}


def instance(kind: Any, inside: tuple[Any, ...] = ()) -> Any:
    """Return a value of `kind`: each field filled, one item in each list, the first way where there are several.

    What a type holds of itself further down is left out, or null, or empty.
    """
    origin, given = get_origin(kind), get_args(kind)
    if hasattr(kind, "__value__"):
        return instance(kind.__value__, inside)
    if origin is Annotated:
        return instance(given[0], inside)
    if origin is Literal:
        return given[0]
    if origin in (Union, types.UnionType):
        return _first([one for one in given if one is not type(None)], inside, optional=type(None) in given)
    if origin in (list, tuple) or getattr(origin, "__name__", "") in ("Iterable", "Sequence"):
        return [] if _holds_itself(given[0], inside) else [instance(given[0], inside)]
    if origin is dict or kind is dict:
        return {"key": instance(given[1], inside)} if given else {}
    cls = origin or kind
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return _model(kind, inside)
    if isinstance(kind, TypeVar):
        return {}
    return SCALARS[kind]


def events(kind: Any) -> list[Any]:
    """Return one value of each way that an event of a stream can be."""
    while get_origin(kind) is Annotated or hasattr(kind, "__value__"):
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind.__value__
    ways = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return [instance(way) for way in ways]


def _first(ways: list[Any], inside: tuple[Any, ...], *, optional: bool) -> Any:
    free = [way for way in ways if not _holds_itself(way, inside)]
    if optional and not free:
        return None
    return instance((free or ways)[0], inside)


def _model(kind: Any, inside: tuple[Any, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if not field.is_required() and _holds_itself(field.annotation, (*inside, kind)):
            continue
        made[field.alias or name] = instance(field.annotation, (*inside, kind))
    return made


def _holds_itself(kind: Any, inside: tuple[Any, ...]) -> bool:
    return kind in inside
