"""A streamed answer put together again, in the shape of a plain one; only ever made when capture was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlm_obs._instrument.content import of_answer

MOST_CHARACTERS = 1_000_000  # of one text; what comes after it is not kept
MOST_PARTS = 1024  # choices, tools or items: an answer with more of them is none
#: Event of a response -> the field that its piece belongs to: of the item itself, or of a list of parts in it.
FIELDS = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
}
PARTS = {
    "response.output_text.delta": ("content", "output_text", "text"),
    "response.refusal.delta": ("content", "refusal", "refusal"),
    "response.reasoning_text.delta": ("content", "reasoning_text", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_text", "text"),
}
LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Text:
    """A text that grows by pieces, up to a bound."""

    __slots__ = ("_left", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._left = MOST_CHARACTERS

    def add(self, piece: Any) -> None:
        if isinstance(piece, str) and self._left > 0:
            self._pieces.append(piece[: self._left])
            self._left -= len(piece)

    def __str__(self) -> str:
        return "".join(self._pieces)


class Joined:
    """The events of one stream so far; calling it gives the messages of the answer, complete or not."""

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}
        self._items: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str, int], Text] = {}
        self._transcript = Text()
        self._whole: Any = None

    def add(self, event: Any) -> None:
        """Take in one event."""
        if not isinstance(event, Mapping):
            return
        kind = str(event.get("type"))
        if kind in LAST:
            self._whole = event.get("response")
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._place(event, done=kind.endswith("done"))
        elif kind in FIELDS or kind in PARTS:
            self._grow(kind, event)
        elif kind == "transcript.text.delta":
            self._transcript.add(event.get("delta"))
        for choice in _mappings(event.get("choices")):
            self._add_choice(choice)

    def __call__(self) -> list[dict[str, Any]] | None:
        """Return the messages of what has come."""
        if isinstance(self._whole, Mapping) and (self._whole.get("output") or not self._items):
            return of_answer(self._whole)
        if self._items:
            status = self._whole.get("status") if isinstance(self._whole, Mapping) else None
            return of_answer({"output": [self._item(at) for at in sorted(self._items)], "status": status})
        if self._choices:
            return of_answer({"choices": [_plain(self._choices[at]) for at in sorted(self._choices)]})
        said = str(self._transcript)
        return of_answer({"text": said}) if said else None

    # -- responses -------------------------------------------------------------------------------------------------

    def _place(self, event: Mapping[str, Any], *, done: bool) -> None:
        at, item = event.get("output_index"), event.get("item")
        if isinstance(at, int) and isinstance(item, Mapping) and len(self._items) < MOST_PARTS:
            self._items[at] = {**item, "": done}  # a finished item holds all of its pieces

    def _grow(self, kind: str, event: Mapping[str, Any]) -> None:
        index = event.get("content_index", event.get("summary_index", 0))
        key = (event.get("output_index"), kind, index)
        if (
            isinstance(key[0], int)
            and isinstance(index, int)
            and (key in self._pieces or len(self._pieces) < MOST_PARTS)
        ):
            self._pieces.setdefault((key[0], kind, index), Text()).add(event.get("delta"))

    def _item(self, at: int) -> dict[str, Any]:
        item = dict(self._items[at])
        if item.pop(""):
            return item
        for (place, kind, _), text in sorted(self._pieces.items(), key=lambda piece: piece[0][2]):
            if place == at and kind in FIELDS:
                item[FIELDS[kind]] = str(text)
            elif place == at:
                field, part, name = PARTS[kind]
                item[field] = [*(item.get(field) or []), {"type": part, name: str(text)}]
        return item

    # -- chats and completions -------------------------------------------------------------------------------------

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        at, delta = choice.get("index") or 0, choice.get("delta") or {"content": choice.get("text")}
        if (
            not isinstance(delta, Mapping)
            or not isinstance(at, int)
            or (at not in self._choices and len(self._choices) >= MOST_PARTS)
        ):
            return
        into = self._choices.setdefault(at, {"message": {}, "tool_calls": {}, "audio": {}})
        into["finish_reason"] = choice.get("finish_reason") or into.get("finish_reason")
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            if isinstance(delta.get(name), str):
                into["message"].setdefault(name, Text()).add(delta[name])
        audio = delta.get("audio")
        if isinstance(audio, Mapping):
            for name in ("data", "transcript"):
                into["audio"].setdefault(name, Text()).add(audio.get(name))
        calls = [*_mappings(delta.get("tool_calls"))]
        if isinstance(delta.get("function_call"), Mapping):
            calls.append({"function": delta["function_call"]})
        for call in calls:
            self._add_call(into["tool_calls"], call)

    @staticmethod
    def _add_call(calls: dict[Any, dict[str, Any]], piece: Mapping[str, Any]) -> None:
        at, said = piece.get("index") or 0, piece.get("function") or piece.get("custom") or {}
        if not isinstance(at, int) or not isinstance(said, Mapping) or (at not in calls and len(calls) >= MOST_PARTS):
            return
        call = calls.setdefault(at, {"id": None, "name": None, "arguments": Text()})
        call["id"], call["name"] = piece.get("id") or call["id"], said.get("name") or call["name"]
        call["arguments"].add(said.get("arguments", said.get("input")))


def _plain(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return a joined choice as a plain answer has it."""
    said: dict[str, Any] = {name: str(text) for name, text in choice["message"].items()}
    if choice["audio"]:
        said["audio"] = {name: str(text) for name, text in choice["audio"].items()}
    said["tool_calls"] = [
        {"id": call["id"], "function": {"name": call["name"], "arguments": str(call["arguments"])}}
        for _, call in sorted(choice["tool_calls"].items())
    ]
    return {"message": said, "finish_reason": choice["finish_reason"]}


def _mappings(thing: Any) -> list[Mapping[str, Any]]:
    return [one for one in thing if isinstance(one, Mapping)] if isinstance(thing, list) else []
