"""The gate: one wrapt patch on an SDK's `request`, which every call passes. It knows no provider; a reader does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import wrapt
from opentelemetry import context as otel

from rlm_obs import _guard, _runtime, _scope
from rlm_obs._attributes import rate_limits
from rlm_obs._call import Answer, Call, Needs
from rlm_obs._instrument.heard import leaving
from rlm_obs._instrument.reader import Asked, Changes, Reader, Unbilled
from rlm_obs._instrument.watch import Watch
from rlm_obs._runtime import InForce
from rlm_obs.errors import BudgetExceeded

#: Where a context keeps the call whose request is just being made in it: its response is seen before the SDK parses it.
PASSING = "rlm_obs.passing"
#: Where the SDK makes its object of a response, which tells more than that object: patched once a call needs it.
HANDS_OVER = "_process_response"
#: What the SDK does before it tries again: `request` itself does not say how often it did.
TRIES_AGAIN = "_sleep_for_retry"
#: What the SDK's own models have: they tell the id of their response, and hold no response.
MODEL = "__pydantic_fields__"


class Patch:
    """One patched method: what stood there before us (None: nothing of the class's own), our wrapper, whether it is on.

    Its methods are what wrapt calls in place of the SDK's; once it is off, they do nothing but hand on.
    """

    def __init__(self, gate: Gate, cls: type, name: str) -> None:
        self.gate, self.cls, self.name, self.on = gate, cls, name, True
        self.own = cls.__dict__.get(name)
        self.wrapper: Any = None

    def put(self, through: Callable[..., Any]) -> None:
        """Put `through` in the method's place."""
        self.wrapper = wrapt.FunctionWrapper(getattr(self.cls, self.name), through)
        setattr(self.cls, self.name, self.wrapper)

    def request(self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand for a client's `request`."""
        holds = _runtime.in_force() if self.on else None
        if holds is None:
            return wrapped(*args, **kwargs)
        passing = self.gate.begin(client, args, kwargs, holds, False)
        if passing is None:
            return wrapped(*args, **kwargs)
        if passing.asked.later is not None:
            result = wrapped(*args, **kwargs)
            _guard.guarded("gate", passing.told, result)
            return result
        call = passing.call
        try:
            waiting = call.admit()
            while waiting is not None:
                try:
                    call.granted(waiting.wait(call.wait_s))
                    waiting = None
                except BudgetExceeded as refusal:
                    waiting = call.appeal(refusal)
            context = call.start({PASSING: passing})
            args, kwargs = passing.sent(args, kwargs, context)
            token = _scope.attach(context)
            try:
                result = wrapped(*args, **kwargs)
            finally:
                _scope.detach(token)
            passing.answered(result)
        except BaseException as error:
            _guard.guarded("gate", passing.failed, error)
            call.fail(error)
            raise
        return result

    async def request_async(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Stand for an asynchronous client's `request`: the same, but for `await`."""
        holds = _runtime.in_force() if self.on else None
        if holds is None:
            return await wrapped(*args, **kwargs)
        passing = self.gate.begin(client, args, kwargs, holds, True)
        if passing is None:
            return await wrapped(*args, **kwargs)
        if passing.asked.later is not None:
            result = await wrapped(*args, **kwargs)
            _guard.guarded("gate", passing.told, result)
            return result
        call = passing.call
        try:
            waiting = call.admit()
            while waiting is not None:
                try:
                    call.granted(await waiting.wait_async(call.wait_s))
                    waiting = None
                except BudgetExceeded as refusal:
                    waiting = call.appeal(refusal)
            context = call.start({PASSING: passing})
            args, kwargs = passing.sent(args, kwargs, context)
            token = _scope.attach(context)
            try:
                result = await wrapped(*args, **kwargs)
            finally:
                _scope.detach(token)
            passing.answered(result)
        except BaseException as error:
            _guard.guarded("gate", passing.failed, error)
            call.fail(error)
            raise
        return result

    def handed_over(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Stand for what makes the user's object of a response: keep the response, whose head is read with the answer."""
        passing = _passing()
        if passing is not None and self.on:
            passing.response = kwargs.get("response")
            if passing.asked.lines:
                _guard.guarded("gate", passing.begun)
        return wrapped(*args, **kwargs)

    def tries_again(
        self, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Stand for what a client does before it tries again: count it."""
        passing = _passing()
        if passing is not None and self.on:
            passing.retries = (passing.retries or 0) + 1
        return wrapped(*args, **kwargs)


class Gate:
    """Patches `request` of the classes of one SDK; `uninstall` leaves each class exactly as it was.

    Where the SDK has them, `_sleep_for_retry` too, to count its retries, and `_process_response` from the first call on
    whose answer does not tell what its head does: which costs every call a little.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._patches: list[Patch] = []
        self._sees_heads = False
        self._tries: int | None = None  # how often a call has tried again as it begins; None: it cannot be counted

    def install(self, cls: type, *, awaits: bool) -> None:
        """Wrap `cls.request`; a second time it does nothing."""
        if any(patch.cls is cls for patch in self._patches):
            return
        self._put(Patch(self, cls, "request"), Patch.request_async if awaits else Patch.request)
        if hasattr(cls, TRIES_AGAIN):
            self._put(Patch(self, cls, TRIES_AGAIN), Patch.tries_again)
            self._tries = 0

    def see_heads(self) -> None:
        """Have the responses of calls kept until their answers are read, from this call on."""
        if not self._sees_heads:
            self._sees_heads = True
            for cls in [patch.cls for patch in self._patches if patch.name == "request"]:
                if hasattr(cls, HANDS_OVER):
                    self._put(Patch(self, cls, HANDS_OVER), Patch.handed_over)

    def _put(self, patch: Patch, through: Callable[..., Any]) -> None:
        patch.put(through.__get__(patch))
        self._patches.append(patch)

    def uninstall(self) -> None:
        """Take our wrapper away, and only ours: what somebody put over it stays, and loses ours from under it.

        Where that cannot be done (a plain function calls ours), ours stays and does nothing any more.
        """
        self._sees_heads = False
        while self._patches:
            patch = self._patches.pop()
            patch.on = False
            outer = patch.cls.__dict__.get(patch.name)
            if outer is not patch.wrapper:
                _take_from_under(outer, patch.wrapper)
            elif patch.own is None:
                delattr(patch.cls, patch.name)
            else:
                setattr(patch.cls, patch.name, patch.own)

    def begin(
        self, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], holds: InForce, awaits: bool
    ) -> Passing | None:
        """Read a request; None for one that passes straight through, and for one that cannot be read."""
        try:
            cast_to = args[0] if args else kwargs.get("cast_to")
            options = args[1] if len(args) > 1 else kwargs["options"]
            stream = bool(kwargs.get("stream", False))
            asked = self.reader.read(client, options, stream, awaits, holds)
            if asked is None:
                return None
            if asked.lines or holds.runtime.keeps_limits or not hasattr(cast_to, MODEL):
                self.see_heads()
            said: Mapping[str, Any] | None = None
            if holds.runtime.captures and asked.content is not None:
                said = _guard.guarded("content", asked.content) or {}
            call: Any = Unbilled() if asked.lines else holds.call(asked.request, asked.needs, said)
            return Passing(self, holds, call, asked, options, stream, awaits, self._tries)
        except Exception as error:
            _guard.caught("gate", error)
            return None


class Passing:
    """One call on its way through the gate: what was asked, and what becomes of its answer."""

    #: What `_process_response` was given, where it is patched.
    response: Any = None
    #: Whether a stream's bytes are kept, and its events read later; and whether no watch hears each of its events.
    keeps = quiet = False

    def __init__(
        self,
        gate: Gate,
        holds: InForce,
        call: Call,
        asked: Asked,
        options: Any,
        stream: bool,
        awaits: bool,
        retries: int | None,
    ) -> None:
        self.gate, self.reader, self.holds = gate, gate.reader, holds
        self.call, self.asked, self.options, self.stream, self.awaits = call, asked, options, stream, awaits
        self.retries = retries

    def line(self, said: Any, number: int) -> None:
        """Record the call that one line of the answer is about."""
        found = self.reader.line(said, number, self.asked)
        if found is None:
            return
        request, answer = found
        call = self.holds.call(request, Needs(None), {} if self.holds.runtime.captures else None)
        call.start()
        call.answer.http_status = 200
        _guard.guarded("gate", self.reader.answered, answer, call.answer)
        call.finish()

    def sent(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], context: otel.Context
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments to go on with; the user's own unless the call has to be changed."""
        call, asked = self.call, self.asked
        limit, tells = call.output_limit, self.holds.runtime.tells_provider and self.holds.tracer is not None
        if tells or limit is not None or asked.ask_usage or call.switched_from is not None:
            headers = _guard.guarded("propagate", _traceparent, context) if tells else None
            wanted = Changes(limit, None if call.switched_from is None else call.request.model, headers or None)
            if asked.ask_usage or wanted != Changes():
                changed = _guard.guarded("gate", self.reader.change, self.options, asked, wanted)
                if changed is not None:
                    args, kwargs = _with_options(args, kwargs, changed)
        if asked.parses:
            options = args[1] if len(args) > 1 else kwargs["options"]
            heard = _guard.guarded("gate", self.reader.overhear, options, self.call.answer)
            if heard is not None:
                self.gate.see_heads()  # if its parser fails, nothing else tells what was answered
                args, kwargs = _with_options(args, kwargs, heard)
        elif self.stream and kwargs.get("stream_cls") is not None:
            self.keeps = not call.answer.captures and asked.request.endpoint in self.reader.patient
            self.quiet = self.keeps and not (asked.ask_usage and self.awaits)
            hides = self.reader.only_usage if asked.ask_usage else None
            watched = _guard.guarded("gate", leaving, kwargs["stream_cls"], self.quiet, hides)
            if watched is not None:
                kwargs = {**kwargs, "stream_cls": watched}
        return args, kwargs

    def begun(self) -> None:
        """Watch an answer of lines before the SDK makes its object, since it begins to read it then."""
        if self.response is not None and self.response.status_code < 400:
            Watch.over(self.response, self)

    def _read_head(self, response: Any) -> None:
        """Take from a response what only its head says."""
        answer = self.call.answer
        answer.http_status = getattr(response, "status_code", None)
        answer.request_id = self._request_id(response.headers)
        if self.holds.runtime.keeps_limits:
            answer.limits = rate_limits(response.headers)

    def failed(self, error: BaseException) -> None:
        """Take from an exception of the SDK's what its response and its last request say."""
        said = error.__dict__
        sent = getattr(said.get("request"), "headers", {}).get("x-stainless-retry-count")
        self.call.answer.retries = int(sent) if isinstance(sent, str) and sent.isdecimal() else self.retries
        response, self.response = said.get("response", self.response), None
        if hasattr(response, "status_code"):
            self._read_head(response)

    @staticmethod
    def _request_id(headers: Any) -> str | None:
        found = headers.get("x-request-id") or headers.get("request-id")
        return found if isinstance(found, str) else None

    def answered(self, result: Any) -> None:
        """End the call, or watch its answer until it ends; the user's object is handed on as it is."""
        answer, seen = self.call.answer, self.response
        self.response = None  # what runs on in a copy of this context shall not keep it
        try:
            if self.asked.known is not None:
                answer.usage = self.asked.known
            answer.retries = self.retries
            response = None if hasattr(type(result), MODEL) else _response_of(result)
            if response is not None:
                if self._watches(response, answer):
                    return
            else:
                answer.request_id = getattr(result, "_request_id", None)
                if seen is None:
                    answer.http_status = 200
                elif answer.request_id is None or self.holds.runtime.keeps_limits:
                    self._read_head(seen)
                else:
                    answer.http_status = seen.status_code
                self.reader.answered(result, answer)
            if self.asked.begun is not None:
                self.asked.begun(answer)
        except Exception as error:
            _guard.caught("gate", error)
        self.call.finish()  # what could not be read is a call all the same

    def told(self, result: Any) -> None:
        """Make a call of an answer that tells what something cost; of one that tells nothing make none."""
        call, answer, response = self.call, self.call.answer, _response_of(result)
        if response is None:
            said, answer.request_id = result, getattr(result, "_request_id", None)
        elif self.stream or not response.is_closed:
            return  # the user reads it piece by piece, or not at all
        else:
            answer.request_id = self._request_id(response.headers)
            lines = b"\n" in response.content.rstrip()  # of JSON: a file's content, whatever it is called
            json = "json" in response.headers.get("content-type", "") and not lines
            said = response.json() if json else response.content
        answer.http_status = 200
        if self.asked.later is not None and self.asked.later(said, answer):
            call.start()
            call.finish()

    def _watches(self, response: Any, answer: Answer) -> bool:
        """Put a response under watch whose body is still to come, and read any other; tell which."""
        self._read_head(response)
        if self.asked.lines:
            return True  # it is watched already
        if self.stream or not response.is_closed:
            Watch.over(response, self)
            return True
        if "json" in response.headers.get("content-type", ""):
            self.reader.answered(response.json(), answer)
        return False


def _passing() -> Passing | None:
    """Return the call whose request is being made here."""
    found: Passing | None = _scope.get_current().get(PASSING)  # type: ignore[assignment]  # nobody else writes there
    return found


def _traceparent(context: otel.Context) -> Mapping[str, str]:
    """Return the trace alone as headers: whom it is for is in the baggage, which goes to no provider."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, context)
    return headers


def _with_options(
    args: tuple[Any, ...], kwargs: dict[str, Any], options: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((args[0], options, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "options": options})


def _take_from_under(outer: Any, wrapper: Any) -> None:
    """Remove `wrapper` from a chain, if the one right above it is wrapt's: that calls what its attribute says."""
    while outer is not None and getattr(outer, "__wrapped__", None) is not wrapper:
        outer = getattr(outer, "__wrapped__", None)
    if isinstance(outer, wrapt.FunctionWrapper):
        outer.__wrapped__ = wrapper.__wrapped__


def _response_of(result: Any) -> Any:
    """Return the HTTP response behind a result: a stream's, a raw or binary answer's, itself; None for parsed data."""
    if hasattr(type(result), MODEL) or isinstance(result, dict | list | str | bytes):
        return None
    for found in (getattr(result, "http_response", None), getattr(result, "response", None), result):
        if hasattr(found, "is_closed") and hasattr(found, "iter_bytes"):
            return found
    return None
