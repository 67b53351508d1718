"""The table of endpoints knows every endpoint of the installed client."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from rlm_obs._instrument.endpoints import ENDPOINTS, OTHERS, asked
from rlm_obs._instrument.free import WHOLE, table

VERBS = {"_get": "get", "_get_api_list": "get", "_post": "post", "_put": "put", "_patch": "patch", "_delete": "delete"}


def endpoints_of_the_client() -> Iterator[tuple[str, str, str]]:
    """Give (verb, path, where) of every request that a method of the client's resources makes."""
    root = Path(openai.__file__).parent / "resources"
    for file in sorted(root.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
                continue
            verb, given = VERBS.get(call.func.attr), call.args[0]
            if verb is None:
                continue
            for keyword in call.keywords:
                if keyword.arg == "method" and isinstance(keyword.value, ast.Constant):
                    verb = keyword.value.value
            where = f"{file.relative_to(root)}:{call.lineno}"
            yield verb, path_of(given), where


def path_of(given: ast.expr) -> str:
    """Return a path as the table spells it: with a name in braces for each part that differs, without a query."""
    if isinstance(given, ast.Call):  # path_template("/files/{file_id}", file_id=file_id)
        given = given.args[0]
    if isinstance(given, ast.JoinedStr):  # f"/files/{file_id}", in older clients
        parts = [p.value if isinstance(p, ast.Constant) else f"{{{ast.unparse(p.value)}}}" for p in given.values]  # type: ignore[attr-defined]
        text = "".join(str(part) for part in parts)
    elif isinstance(given, ast.Constant):
        text = str(given.value)
    else:
        raise AssertionError(f"a path that cannot be read: {ast.unparse(given)}")
    return text.partition("?")[0]


def shape(path: str) -> str:
    """Return a path with the names of its parts left out: they differ between versions."""
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


def test_every_endpoint_of_the_client_is_named() -> None:
    """An endpoint that the installed client has and the table does not name fails here: say what it costs."""
    found = list(endpoints_of_the_client())
    assert len(found) > 200
    known = {(row.verb, shape(row.path)) for row in table()}
    missing = sorted(
        {
            f"{verb} {path} ({where})"
            for verb, path, where in found
            if (verb, shape(path)) not in known and "/" + path.split("/")[1] not in WHOLE
        }
    )
    assert missing == [], "add them to rlm_obs/_instrument/endpoints.py, or to free.py"


def test_no_endpoint_is_named_twice() -> None:
    """Each verb and path has one line."""
    named = [(row.verb, shape(row.path)) for row in table()]
    assert sorted(named) == sorted(set(named))


@pytest.mark.parametrize("prefix", ["", "/v1", "https://api.openai.com/v1", "https://gate.acme.example/openai/v1"])
def test_what_costs_something_is_found(prefix: str) -> None:
    """Every endpoint that costs something is found by its URL, relative or absolute, with a query and a last slash."""
    for (verb, path), endpoint in [*[(("post", p), e) for p, e in ENDPOINTS.items()], *OTHERS.items()]:
        url = path.replace("{", "id_").replace("}", "")
        for end in ("", "?beta=true", "/"):
            found = asked(verb, prefix + url + end)
            assert found is not None, (verb, prefix + url + end)
            assert (found.path, found.endpoint) == (path, endpoint)


@pytest.mark.parametrize(
    ("verb", "url"),
    [
        ("get", "/models"),
        ("get", "/responses"),
        ("delete", "/responses/resp_1"),
        ("get", "/responses/resp_1/input_items"),
        ("get", "/containers/c/files/f/content"),
        ("get", "/vector_stores/v/files/f/content"),
        ("get", "/chat/completions"),
        ("post", "/moderations"),
        ("post", "/conversations"),
        ("post", "/chat/completions/chatcmpl-1"),
        ("get", "/threads/t/runs"),
        ("get", ""),
        ("post", "/"),
    ],
)
def test_what_is_free_is_not(verb: str, url: str) -> None:
    """What costs nothing passes straight through."""
    assert asked(verb, url) is None


def test_azures_urls() -> None:
    """Azure's client puts the deployment before the path."""
    found = asked("post", "/deployments/prod/chat/completions")
    assert found is not None
    assert found.path == "/chat/completions"
    file = asked("get", "https://acme.openai.azure.com/openai/files/file-1/content?api-version=2025-04-01")
    assert file is not None
    assert (file.path, file.named) == ("/files/{file_id}/content", "file-1")
