"""Which type each route of the installed client answers with, read from the code of its resources."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, get_args

import openai.resources

ANY = "[^/?]+"
VERBS = {"_get": "GET", "_post": "POST", "_put": "PUT", "_patch": "PATCH", "_delete": "DELETE"}


@dataclass(frozen=True, slots=True)
class Route:
    """One route: what a plain answer is an instance of, and each event of a stream (None: it has no stream)."""

    method: str
    path: re.Pattern[str]
    answer: Any
    event: Any = None
    only_streams: bool = False

    @property
    def said(self) -> int:
        """How much of the path is spelled out: of two routes that match, the one that says more is meant."""
        return len(self.path.pattern.replace(ANY, ""))


def read_routes() -> list[Route]:
    """Return the routes of every resource, those that say most first."""
    found: dict[tuple[str, str], Route] = {}
    for module in _modules(openai.resources):
        with open(str(module.__file__), encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    route = _route(node, node.func.attr, function.returns, module)
                    if route is not None:
                        found.setdefault((route.method, route.path.pattern), route)
    return sorted(found.values(), key=lambda route: -route.said)


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for one in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        yield importlib.import_module(one.name)


def _route(call: ast.Call, name: str, returns: ast.expr | None, module: ModuleType) -> Route | None:
    """Read `self._post("/path", cast_to=Type, stream_cls=Stream[Event])`; None for a call of another kind."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "_get_api_list":
        method, answer = str(_value(given["method"], module) if "method" in given else "get").upper(), given["page"]
    elif name in VERBS and "cast_to" in given:
        method, answer = VERBS[name], given["cast_to"]
    else:
        return None
    streams, event = given.get("stream"), None
    if "stream_cls" in given:
        event = _event(_value(given["stream_cls"], module))
    only = isinstance(streams, ast.Constant) and streams.value is True
    return Route(method, _path(call.args[0]), _type(answer, returns, module), event, only)


def _path(node: ast.expr) -> re.Pattern[str]:
    """Return a pattern for `"/a/b"`, or for `path_template("/a/{id}", id=id)`."""
    if isinstance(node, ast.Call):
        node = node.args[0]
    text = str(ast.literal_eval(node))
    return re.compile(re.sub(r"\\\{\w+\\\}", ANY, re.escape(text)))


def _type(node: ast.expr, returns: ast.expr | None, module: ModuleType) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id != "cast":
        said = _value(returns, module)  # chosen by an argument: the first model that the method may return
        return next(one for one in get_args(said) if hasattr(one, "model_fields"))
    return _value(node, module)


def _event(stream: Any) -> Any:
    """Return what a stream class is a stream of; a subclass says it one step up."""
    return get_args(stream)[0] if get_args(stream) else get_args(stream.__orig_bases__[0])[0]


def _value(node: ast.expr | None, module: ModuleType) -> Any:
    assert node is not None
    return eval(compile(ast.Expression(node), str(module.__file__), "eval"), vars(module))
