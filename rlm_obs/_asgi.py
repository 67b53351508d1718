"""ASGI middleware: each request is a span, in the trace and for the user that its headers name. Needs no framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry import context as otel
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from rlm_obs import _guard, _scope
from rlm_obs._attributes import HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS, URL_PATH
from rlm_obs._propagation import extracted
from rlm_obs._tracer import note_error

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class AsgiMiddleware:
    """Give each HTTP request of an ASGI application a span, and the calls in it the trace and the user it came with.

    `app.add_middleware(rlm_obs.AsgiMiddleware)` in Starlette and FastAPI, `AsgiMiddleware(app)` anywhere. The span is named
    `POST /answer`, by the route where the framework tells it, and ends with the last byte of the answer; one of 500 and
    above, or an exception, marks it as failed. Without a tracer in force there is no span. Query, body and headers are
    not recorded. A websocket gets the trace, but no span.

    `trusted=False`: do not take trace, user and tenant from the headers; for a service that strangers can reach.
    """

    def __init__(self, app: App, *, trusted: bool = True) -> None:
        self.app, self.trusted = app, trusted

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = _guard.guarded("asgi", extracted, scope["headers"]) if self.trusted else None
        token = otel.attach(otel.get_current() if context is None else context)
        try:
            request = _guard.guarded("asgi", _Request.begin, scope, send) if scope["type"] == "http" else None
            if request is None:
                await self.app(scope, receive, send)
            else:
                await self._inside(request, scope, receive)
        finally:
            _scope.detach(token)

    async def _inside(self, request: _Request, scope: Message, receive: Receive) -> None:
        token = otel.attach(request.context)
        try:
            await self.app(scope, receive, request.send)
        except BaseException as error:
            request.end(error)
            raise
        finally:
            _scope.detach(token)
            request.end()


class _Request:
    """One request on its way, and its span."""

    def __init__(self, scope: Message, send: Send, span: Span, context: otel.Context) -> None:
        self._scope, self._send, self._span, self.context = scope, send, span, context
        self._open = True

    @classmethod
    def begin(cls, scope: Message, send: Send) -> _Request | None:
        tracer = _scope.tracer_in_force()
        if tracer is None:
            return None
        said = {HTTP_METHOD: scope["method"], URL_PATH: scope["path"]}
        span = tracer.start(f"{scope['method']} {scope['path']}", said, kind=SpanKind.SERVER)
        return cls(scope, send, span, tracer.context_of(span))

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            _guard.guarded("asgi", self._started, message["status"])
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.end()

    def _started(self, status: int) -> None:
        self._span.set_attribute(HTTP_STATUS, status)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR, str(status)))
        route = getattr(self._scope.get("route"), "path", None)  # where Starlette and FastAPI leave it
        if isinstance(route, str):
            self._span.set_attribute(HTTP_ROUTE, route)
            self._span.update_name(f"{self._scope['method']} {route}")

    def end(self, error: BaseException | None = None) -> None:
        """End the span, once."""
        if self._open:
            self._open = False
            if error is not None:
                note_error(self._span, error)
            _guard.guarded("asgi", self._span.end)
