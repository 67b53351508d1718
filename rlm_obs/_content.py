"""What may be recorded of what was said: through every `redact` hook, cut, and as the conventions' JSON; or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlm_obs import _guard
from rlm_obs._attributes import CONTENT

if TYPE_CHECKING:
    from rlm_obs._plugins import Plugins
    from rlm_obs._record import Request

CUT = "… (cut)"
#: So much more than the limit is shown to the redactors, and goes afterwards: a key that the cut would halve is seen whole.
MARGIN = 512
#: A redactor gets all of these; None is what there is not.
NOTHING: Mapping[str, Any] = dict.fromkeys((*CONTENT, "arguments"))


def recorded(plugins: Plugins, request: Request, content: Mapping[str, Any]) -> dict[str, str]:
    """Return the attributes that say what was asked and answered; none where a redactor failed.

    `output` may be a function, called only here: a stream's answer is joined when it is wanted.
    """
    output = content.get("output")
    whole = {**NOTHING, **content, "output": output() if callable(output) else output}
    limit = plugins.settings.content_limit
    cleaned = redacted(plugins, request, {name: _cut(value, limit + MARGIN) for name, value in whole.items()})
    if cleaned is None:
        return {}
    found = {attribute: cleaned.get(name) for name, attribute in CONTENT.items()}
    return {name: _json(_cut_again(value, limit)) for name, value in found.items() if value is not None}


def recorded_arguments(plugins: Plugins, arguments: Mapping[str, Any], limit: int) -> Mapping[str, Any]:
    """Return the arguments of a function as a span may say them, each text cut at `limit`; none where a redactor failed."""
    cleaned = redacted(plugins, None, {**NOTHING, "arguments": _cut(arguments, limit + MARGIN)})
    found = None if cleaned is None else cleaned.get("arguments")
    return _cut_again(found, limit) if isinstance(found, Mapping) else {}


def redacted(plugins: Plugins, request: Request | None, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what the `redact` hooks leave of `content`, or None: where one fails, nothing is recorded."""
    for name, function, wanted in plugins.callers("redact"):
        facts = {"request": request, "content": content}
        try:
            content = function(*[facts[w] for w in wanted])
        except Exception as error:
            error.args = ()  # its message may quote what was to be hidden
            _guard.failed(f"{name}.redact", error)
            return None
        if not isinstance(content, Mapping):
            kind = type(content).__name__
            _guard.say_once(f"{name}.redact", "%s.redact returned %s, so the content is dropped", name, kind)
            return None
    return content


def _cut(value: Any, most: int) -> Any:
    """Return a copy of JSON-like data, in which no text is longer than `most` and the mark of the cut."""
    if isinstance(value, str):
        return value if len(value) <= most else value[:most] + CUT
    if isinstance(value, Mapping):
        return {key: _cut(one, most) for key, one in value.items()}
    return [_cut(one, most) for one in value] if isinstance(value, list | tuple) else value


def _cut_again(value: Any, limit: int) -> Any:
    """Return the data without the margin. What follows a redacted text's cut may be half a secret: it goes too."""
    if isinstance(value, str):
        if value.endswith(CUT) and len(value) > MARGIN:
            return value[: -len(CUT) - MARGIN][:limit] + CUT
        return value if len(value) <= limit else value[:limit] + CUT
    if isinstance(value, Mapping):
        return {key: _cut_again(one, limit) for key, one in value.items()}
    return [_cut_again(one, limit) for one in value] if isinstance(value, list | tuple) else value


def _json(value: Any) -> str:
    said = json.dumps(value, ensure_ascii=False, default=str)
    return said if said.isascii() else said.encode("utf-8", "replace").decode()  # half a surrogate pair fails exporters
