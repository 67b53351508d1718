"""The answers that do not pass `request`: over a WebSocket, each told by the event that ends it.

The user's connection stays what it is: `recv_bytes`, by which it takes every event, is looked at as they pass.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import wrapt

from rlm_obs import _guard, _lost, _runtime
from rlm_obs._call import Answer, Call, Needs
from rlm_obs._record import Request
from rlm_obs._runtime import InForce

#: Module of the client -> the path of its endpoint, and the name of its connection's class.
MODULES = {
    "openai.resources.realtime.realtime": ("/realtime", "Realtime"),
    "openai.resources.beta.realtime.realtime": ("/realtime", "Realtime"),
    "openai.resources.responses.responses": ("/responses", "Responses"),
    "openai.resources.beta.responses.responses": ("/responses", "Responses"),
}
#: An event that holds none of these says nothing of models, usage or an end, and is not parsed.
SIGNS = (
    b'"response.created"',
    b'"response.done"',
    b'"response.completed"',
    b'"response.failed"',
    b'"response.incomplete"',
    b'"session.',
    b"input_audio_transcription.completed",
)
HEARD = "conversation.item.input_audio_transcription.completed"
BEGINS = "response.created"
ENDS = frozenset({"response.done", "response.completed", "response.failed", "response.incomplete"})
#: More answers than this are not in flight on one connection: the oldest has vanished.
MOST_OPEN = 64


class Reader(Protocol):
    """What is needed of the reader of the SDK's shapes."""

    def place(self, client: Any, holds: InForce) -> tuple[str, str]: ...

    def answered(self, answer: Any, into: Answer) -> None: ...


class Line:
    """One connection: whose it is, the models that speak and hear on it, and the answers that are being made."""

    def __init__(self, path: str, reader: Reader) -> None:
        self._path, self._reader = path, reader
        self.client: Any = None
        self._model: str | None = None
        self._hears: str | None = None
        self._open: dict[str, Call] = {}

    def see(self, data: bytes | str) -> None:
        """Take one event, as bytes or as the text that a transport of somebody's own gives."""
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogatepass")
        if not any([sign in data for sign in SIGNS]):
            return
        said = json.loads(data)
        kind, session, whole = said.get("type"), said.get("session"), said.get("response")
        if isinstance(session, Mapping):
            self._learn(session)
        if kind == HEARD:
            self._end(self._begin(self._hears), said)
        elif isinstance(whole, Mapping):
            named = str(whole.get("id"))
            if kind == BEGINS:
                while len(self._open) >= MOST_OPEN:
                    self._open.pop(next(iter(self._open))).abort()
                call = self._begin(whole.get("model") or self._model)
                if call is not None:
                    self._open[named] = call
            elif kind in ENDS:
                self._end(self._open.pop(named, None) or self._begin(whole.get("model") or self._model), whole)

    def drop(self) -> None:
        """The connection is gone: what was being made on it was left early."""
        while self._open:
            self._open.popitem()[1].abort()

    def _learn(self, session: Mapping[str, Any]) -> None:
        model, audio, heard = session.get("model"), session.get("audio"), session.get("input_audio_transcription")
        if isinstance(audio, Mapping) and isinstance(audio.get("input"), Mapping):
            heard = audio["input"].get("transcription") or heard
        if isinstance(model, str):
            self._model = model
        if isinstance(heard, Mapping) and isinstance(heard.get("model"), str):
            self._hears = heard["model"]

    def _begin(self, model: object) -> Call | None:
        holds = _runtime.in_force()
        if holds is None:
            return None
        base_url, provider = self._reader.place(self.client, holds)
        request = Request(
            provider=provider,
            endpoint=self._path,
            operation="chat",
            model=model if isinstance(model, str) else None,
            streamed=True,
            base_url=base_url,
            attributes=holds.attributes,
        )
        call = holds.call(request, Needs(None))
        call.start()
        return call

    def _end(self, call: Call | None, said: Mapping[str, Any]) -> None:
        if call is not None:
            call.answer.http_status = 200
            self._reader.answered(said, call.answer)
            call.finish()


@dataclass(slots=True)
class Patched:
    """One method of one class: what stood there, and what we put over it."""

    cls: type
    name: str
    own: Any
    wrapper: Any


class Lines:
    """Watches the connections of one SDK; `uninstall` leaves each class exactly as it was."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lines: weakref.WeakKeyDictionary[Any, Line] = weakref.WeakKeyDictionary()
        self._patched: list[Patched] = []
        self._on = self._waits = False

    def install(self) -> None:
        """Patch the connections: now, or when their module is imported."""
        self._on = True
        if not self._waits:
            self._waits = True
            for name in MODULES:
                wrapt.register_post_import_hook(self._imported, name)
        else:
            import sys

            for name in MODULES.keys() & sys.modules.keys():
                self._imported(sys.modules[name])

    def uninstall(self) -> None:
        """Take our wrappers away; where somebody put his own over one, ours stays and does nothing any more."""
        self._on = False
        while self._patched:
            one = self._patched.pop()
            if one.cls.__dict__.get(one.name) is one.wrapper:
                setattr(one.cls, one.name, one.own)

    def _imported(self, module: ModuleType) -> None:
        if self._on:
            _guard.guarded("instrumentor openai", self._patch, module)

    def _patch(self, module: ModuleType) -> None:
        path, name = MODULES[module.__name__]
        for prefix in ("", "Async"):
            connection = getattr(module, f"{prefix}{name}Connection", None)
            manager = getattr(module, f"{prefix}{name}ConnectionManager", None)
            if connection is None or manager is None or any(one.cls is connection for one in self._patched):
                continue
            self._wrap(connection, "recv_bytes", self._seen(path))
            for enter in ("__aenter__" if prefix else "__enter__", "enter"):
                self._wrap(manager, enter, self._entered(path))

    def _wrap(self, cls: type, name: str, then: Callable[[Any, Any], None]) -> None:
        own = cls.__dict__.get(name)
        if own is None:
            return

        def through(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            result = wrapped(*args, **kwargs)
            if hasattr(result, "__await__"):
                return awaited(result, instance)
            _guard.guarded("realtime", then, instance, result)
            return result

        async def awaited(result: Any, instance: Any) -> Any:
            got = await result
            _guard.guarded("realtime", then, instance, got)
            return got

        wrapper = wrapt.FunctionWrapper(own, through, enabled=lambda: self._on)
        setattr(cls, name, wrapper)
        self._patched.append(Patched(cls, name, own, wrapper))

    def _line(self, connection: Any, path: str) -> Line:
        line = self._lines.get(connection)
        if line is None:
            _lost.lost.start()
            line = self._lines[connection] = Line(path, self._reader)
            weakref.finalize(connection, _lost.lost.gone, line.drop).atexit = False
        return line

    def _seen(self, path: str) -> Callable[[Any, Any], None]:
        return lambda connection, data: self._line(connection, path).see(data)

    def _entered(self, path: str) -> Callable[[Any, Any], None]:
        def then(manager: Any, connection: Any) -> None:
            self._line(connection, path).client = getattr(manager, f"_{type(manager).__name__}__client", None)

        return then
