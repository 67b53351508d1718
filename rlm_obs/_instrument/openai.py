"""The reader of OpenAI's shapes: which endpoints are paid, what a request asks and an answer says. Pure, but for the patch."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt

from rlm_obs import _guard
from rlm_obs._budgets.bound import Bound, most_input_tokens
from rlm_obs._call import Answer, Needs
from rlm_obs._hookspecs import hookimpl
from rlm_obs._instrument import content
from rlm_obs._instrument.gate import Asked, Gate
from rlm_obs._pricing import Host, context_window, model_limits, provider_of, read_usage
from rlm_obs._record import Request
from rlm_obs._runtime import InForce


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A paid endpoint: its operation, where its text stands, and how it spells an output limit (None: it has no bound)."""

    operation: str
    api_type: str | None = None
    limits: tuple[str, ...] = ()
    bounded: bool = False
    asks_usage: bool = False


CHAT_LIMITS = ("max_completion_tokens", "max_tokens")
ENDPOINTS: Mapping[str, Endpoint] = {
    "/chat/completions": Endpoint("chat", "chat_completions", CHAT_LIMITS, bounded=True, asks_usage=True),
    "/responses": Endpoint("chat", "responses", ("max_output_tokens",), bounded=True),
    "/completions": Endpoint("text_completion", None, ("max_tokens",), bounded=True, asks_usage=True),
    "/embeddings": Endpoint("embeddings", bounded=True),
    "/images/generations": Endpoint("generate_content"),
    "/images/edits": Endpoint("generate_content"),
    "/images/variations": Endpoint("generate_content"),
    "/audio/speech": Endpoint("generate_content"),
    "/audio/transcriptions": Endpoint("generate_content"),
    "/audio/translations": Endpoint("generate_content"),
}
#: Scalar parameters that a record and its span carry, as sent.
PARAMS = (
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "temperature",
    "top_p",
    "seed",
    "n",
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "service_tier",
    "dimensions",
    "reasoning_effort",
    "verbosity",
    "store",
    "background",
    "quality",
    "size",
)
SCALARS = (str, int, float, bool)
LAST_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete"})


class OpenAIReader:
    """OpenAI's requests and answers, and those of every host that speaks like it."""

    signs = (
        b'"usage":{',
        b'"usage": {',
        b"[DONE]",
        b'"finish_reason":"',
        b'"finish_reason": "',
        b'"error"',
        b'"response.c',
        b'"response.failed',
        b'"response.incomplete',
    )

    def __init__(self) -> None:
        self._hosts: weakref.WeakKeyDictionary[Any, tuple[Any, str, Host]] = weakref.WeakKeyDictionary()

    def read(self, client: Any, options: Any, stream: bool, awaits: bool, holds: InForce) -> Asked | None:
        path = _path(options.url)
        endpoint = ENDPOINTS.get(path)
        if endpoint is None or options.method.lower() != "post":
            return None
        body = _body(options)
        base_url, host = self._host(client, holds)
        provider = "azure.ai.openai" if _is_azure(client) else host.provider
        model = body.get("model")
        request = Request(
            provider=provider,
            endpoint=path,
            operation=endpoint.operation,
            model=model if isinstance(model, str) else None,
            params={name: value for name in PARAMS if isinstance(value := body.get(name), SCALARS)},
            streamed=stream,
            base_url=base_url,
            attributes=holds.attributes,
        )
        bound: Callable[[], Bound] | None = None
        if endpoint.bounded:
            bound = functools.partial(bound_of, body, endpoint, request.model or "")
        settings = holds.runtime.settings
        asks = stream and endpoint.asks_usage and settings.stream_usage != "never"
        if asks and (settings.stream_usage == "auto" and not (_is_azure(client) or _takes_stream_usage(host))):
            asks = False
        if asks and _asked_already(body.get("stream_options")):
            asks = False
        shown = content.of_request(body) if settings.capture_content else None
        return Asked(request, Needs(bound, _timeout_s(client, options), awaits), shown, asks)

    def _host(self, client: Any, holds: InForce) -> tuple[str, Host]:
        url = client.base_url
        known = self._hosts.get(client)
        if known is not None and known[0] == (url, id(holds.runtime)):
            return known[1], known[2]
        text = str(url)
        host = provider_of(text, holds.runtime.settings.hosts)
        self._hosts[client] = ((url, id(holds.runtime)), text, host)
        return text, host

    def change(self, options: Any, asked: Asked, output_limit: int | None) -> Any:
        body = _body(options)
        changes: dict[str, Any] = {}
        if asked.ask_usage:
            given = body.get("stream_options")
            changes["stream_options"] = {**(given if isinstance(given, Mapping) else {}), "include_usage": True}
        if output_limit is not None:
            changes[self._limit_name(asked.request)] = output_limit
        json_data = options.json_data if isinstance(options.json_data, Mapping) else {}
        update: dict[str, Any] = {"json_data": {**json_data, **changes}}
        extra = options.extra_json
        if isinstance(extra, Mapping) and not changes.keys().isdisjoint(extra):
            update["extra_json"] = {**extra, **{k: v for k, v in changes.items() if k in extra}}
        return options.model_copy(update=update)

    @staticmethod
    def _limit_name(request: Request) -> str:
        spelled = ENDPOINTS[request.endpoint].limits
        if request.endpoint == "/chat/completions" and request.provider not in ("openai", "azure.ai.openai"):
            return "max_tokens"  # most compatible hosts know only the older name
        return spelled[0]

    def answered(self, answer: Any, into: Answer) -> None:
        get = _getter(answer)
        if get is None:
            return
        self._facts(get, into)
        into.usage = read_usage(get("usage"), into.provider, get("tool_usage")) or into.usage
        choices = get("choices")
        if isinstance(choices, list):
            into.finish_reasons = tuple(r for c in choices if isinstance(r := _get(c, "finish_reason"), str))
        elif isinstance(get("status"), str):
            into.finish_reasons = (get("status"),)
        if into.captures:
            into.content = content.of_answer(answer)

    def event(self, event: Any, into: Answer) -> bool:
        get = _getter(event)
        if get is None:
            return False
        kind = get("type")
        whole = get("response")
        if kind in LAST_EVENTS or (isinstance(kind, str) and isinstance(whole, Mapping)):
            self.answered(whole, into)
        else:
            self._facts(get, into)
            into.usage = read_usage(get("usage"), into.provider) or into.usage
            choices = get("choices")
            if isinstance(choices, list):
                found = tuple(r for c in choices if isinstance(r := _get(c, "finish_reason"), str))
                into.finish_reasons += found
        if into.captures:
            into.content = content.of_chunk(event, into.content or [])
        if kind == "error" or get("error"):
            into.error = "APIError"
        if kind == "response.failed":
            into.error = "ResponseFailed"
        return kind in LAST_EVENTS

    @staticmethod
    def _facts(get: Callable[[str], Any], into: Answer) -> None:
        for name, attribute in FACTS:
            value = get(name)
            if isinstance(value, str) and value:
                setattr(into, attribute, value)

    def only_usage(self, event: Any) -> bool:
        return isinstance(event, Mapping) and event.get("choices") == [] and isinstance(event.get("usage"), Mapping)


FACTS = (
    ("model", "model"),
    ("id", "response_id"),
    ("service_tier", "service_tier"),
    ("system_fingerprint", "fingerprint"),
)


def bound_of(body: Mapping[str, Any], endpoint: Endpoint, model: str) -> Bound:
    """Return the most that a request can use: its text by its bytes, its output by its limit or the model's own."""
    given = most_input_tokens({k: v for k, v in body.items() if k not in PARAMS})
    window = context_window(model)
    if window is not None:
        given = min(given, window)
    if not endpoint.limits:
        return Bound(given, 0)
    choices = max((c for n in ("n", "best_of") if isinstance(c := body.get(n), int)), default=1)
    users = [v for name in endpoint.limits if isinstance(v := body.get(name), int) and not isinstance(v, bool)]
    own = model_limits(model)
    each = max(0, min(*users, own)) if users else own
    return Bound(given, each * max(1, choices), max(1, choices), limit_is_users=bool(users))


def _path(url: str) -> str:
    """Return the endpoint behind a URL: absolute or relative, with a version, a deployment or a query."""
    parts = url.partition("?")[0].rstrip("/").split("/")
    two, one = "/" + "/".join(parts[-2:]), "/" + parts[-1]
    return two if two in ENDPOINTS else one


def _body(options: Any) -> Mapping[str, Any]:
    """Return the JSON as it will be sent: the client merges `extra_body` over the arguments."""
    json_data, extra = options.json_data, options.extra_json
    body = json_data if isinstance(json_data, Mapping) else {}
    return {**body, **extra} if isinstance(extra, Mapping) else body


def _asked_already(stream_options: Any) -> bool:
    return isinstance(stream_options, Mapping) and "include_usage" in stream_options


def _takes_stream_usage(host: Host) -> bool:
    """Tell whether a host is known to take `stream_options`: OpenAI, Azure, and what the user declared as either."""
    return host.declared and not host.free and host.bills_like in ("openai", "azure")


def _is_azure(client: Any) -> bool:
    return any(c.__name__ == "BaseAzureClient" for c in type(client).__mro__)


def _timeout_s(client: Any, options: Any) -> float:
    """Return how long the client itself would wait for this answer, in seconds."""
    for given in (options.timeout, client.timeout):
        if isinstance(given, int | float):
            return float(given)
        read = getattr(given, "read", None)
        if isinstance(read, int | float):
            return float(read)
    return 600.0


def _getter(answer: Any) -> Callable[[str], Any] | None:
    if isinstance(answer, Mapping):
        return answer.get
    if isinstance(answer, str | bytes | int | float | list | None):
        return None
    return functools.partial(_get, answer)


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


class OpenAIInstrumentor:
    """Patches `OpenAI.request` and `AsyncOpenAI.request`: now, or when `openai` is imported."""

    def __init__(self) -> None:
        self._gate = Gate(OpenAIReader())
        self._on = False
        self._waiting = False

    def instrument(self) -> None:
        self._on = True
        module = sys.modules.get("openai")
        if module is not None and hasattr(module, "AsyncOpenAI"):
            self._patch(module)
        elif not self._waiting:
            self._waiting = True
            wrapt.register_post_import_hook(self._imported, "openai")

    def _imported(self, module: ModuleType) -> None:
        self._waiting = False
        if self._on:
            _guard.guarded("instrumentor openai", self._patch, module)

    def _patch(self, module: ModuleType) -> None:
        self._gate.install(module.OpenAI, awaits=False)
        self._gate.install(module.AsyncOpenAI, awaits=True)

    def uninstrument(self) -> None:
        self._on = False
        self._gate.uninstall()


_instrumentor = OpenAIInstrumentor()


@hookimpl
def register_instrumentors() -> Mapping[str, Callable[[], OpenAIInstrumentor]]:
    """Offer the instrumentor of the openai package."""
    return {"openai": lambda: _instrumentor}
