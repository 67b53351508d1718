"""The reader of OpenAI's shapes: which endpoints are paid, what a request asks and an answer says."""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlm_obs import _guard
from rlm_obs._attributes import CONVERSATION
from rlm_obs._call import Answer
from rlm_obs._hookspecs import hookimpl
from rlm_obs._instrument import content
from rlm_obs._instrument.bounds import has_bound
from rlm_obs._instrument.endpoints import ENDPOINTS, USUAL, Asks, asked
from rlm_obs._instrument.joined import Joined
from rlm_obs._instrument.last_words import NAMES, REASONS, USAGES, last_words
from rlm_obs._instrument.later import Later, Price
from rlm_obs._instrument.needs import Bounded, Unbounded
from rlm_obs._instrument.options import body_of, changed, fields_of
from rlm_obs._instrument.reader import Asked, Changes, Reader
from rlm_obs._instrument.realtime import Lines
from rlm_obs._instrument.sdk import SdkInstrumentor
from rlm_obs._pricing import provider_of, read_answer, text_counts
from rlm_obs._record import Request, Usage
from rlm_obs._runtime import InForce
from rlm_obs._settings import Settings

#: Scalar parameters that a record and its span carry, as sent.
PARAMS = frozenset(
    {
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
    }
)
SCALARS = (str, int, float, bool)
#: What a few requests have beside their content and such scalars.
RARE = frozenset(
    {"stop", "encoding_format", "response_format", "text", "background", "background_options", "conversation"}
)
MOST_REQUESTS = 256
TOOL_ITEMS = frozenset({"function_call", "custom_tool_call"})
#: Events of which each brings the usage of one image.
IMAGES = frozenset({"image_generation.completed", "image_edit.completed"})
#: The event of most of a response's, which brings a piece of its text.
TEXT = "response.output_text.delta"
NONE: Mapping[str, Any] = {}
LAST_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete"})


@dataclass(frozen=True, slots=True)
class Client:
    """What is known of one client: who answers at its base URL, whether streams there are asked for usage."""

    #: Whose it is, alive or not: another may come to lie at its address.
    owner: weakref.ref[Any]
    url: Any
    settings: Settings
    base_url: str
    provider: str
    asks_usage: bool
    deployment: str | None = None
    #: What it has asked, but for the content: programs ask the same again and again.
    requests: dict[tuple[Any, ...], Request] = field(default_factory=dict)


class OpenAIReader(Reader):
    """OpenAI's requests and answers, and those of every host that speaks like it."""

    signs: tuple[bytes, ...] = (
        *USAGES,
        b"[DONE]",
        *REASONS,
        b'"error"',
        *NAMES,
        b'"response.c',
        b'"response.failed',
        b'"response.incomplete',
        b'"thread.run"',
    )

    patient = frozenset({"/chat/completions", "/completions"})

    def __init__(self) -> None:
        self._clients: dict[int, Client] = {}  # by the id, which is quick to find: see `Client.owner`
        self._later = Later()

    def read(self, client: Any, options: Any, stream: bool, awaits: bool, holds: InForce) -> Asked | None:
        sent = options.__dict__  # a model of the SDK's takes its time to find an attribute
        asks = USUAL.get(sent["url"]) if sent["method"] == "post" else None
        if asks is None:
            asks = asked(options.method, options.url)
            if asks is None:
                return None
        endpoint, path = asks.endpoint, asks.path
        body = sent["json_data"]
        if body.__class__ is not dict or sent["extra_json"]:
            body = body_of(options)
        known = self._known(client, holds)
        model = body.get("model")
        params: dict[str, Any] = {}
        rare = False
        for name, value in body.items():
            if name in PARAMS and isinstance(value, SCALARS):
                params[name] = value
            if name in RARE:
                rare = True
        if known.provider == "azure.ai.openai":
            deployment = known.deployment or model
            if isinstance(deployment, str):
                params["deployment"] = deployment
        if not isinstance(model, str):
            model = None
        if rare:
            params |= _taken_apart(body)
        if asks.named is not None:
            params = {**self._later.params(asks.named), **params}
        kinds = map(type, params.values())  # 1, 1.0 and True are equal, and are not the same to say
        asked_before = (path, stream, model, *params.items(), *kinds)
        request = known.requests.get(asked_before)
        if request is None:
            if len(known.requests) >= MOST_REQUESTS:
                known.requests.clear()
            request = known.requests[asked_before] = Request(
                provider=known.provider,
                endpoint=path,
                operation=endpoint.operation,
                model=model,
                params=params,
                streamed=stream,
                base_url=known.base_url,
            )
        if holds.attributes or (rare and "conversation" in body):
            request = request.within(_with_conversation(holds.attributes, body))
        bounded = endpoint.unbounded is None or has_bound(endpoint, request)
        found = Asked(request, (Bounded if bounded else Unbounded)(client, options, body, asks, awaits))
        if holds.runtime.captures:
            found.content = functools.partial(content.of_request, body)
        if stream:
            found.one_text = _asks_one_text(body)
            found.ask_usage = known.asks_usage and endpoint.asks_usage and not _says_usage(body)
        elif callable(sent.get("post_parser")):
            found.parses = True
        if path == "/audio/speech":
            found.known = _known_before(body)
        if rare and body.get("background") is True:
            found.begun = functools.partial(self._later.begun, request)
        if endpoint.bill == "later" and not stream:
            found.later = functools.partial(self._told, asks, request, holds.runtime.prices.price)
        return found

    def _told(self, asks: Asks, request: Request, price: Price, answer: Any, into: Answer) -> bool:
        """Read an answer that may tell the bill of something that was asked before; False where it tells none."""
        if isinstance(answer, bytes):
            return asks.named is not None and self._later.read_file(asks.named, answer, request, into, price)
        return self._later.told(fields_of(answer), into)

    def place(self, client: Any, holds: InForce) -> tuple[str, str]:
        """Return where a client's calls go: its base URL, and who answers there."""
        if client is None:
            return "https://api.openai.com/v1", "openai"
        known = self._known(client, holds)
        return known.base_url, known.provider

    def _known(self, client: Any, holds: InForce) -> Client:
        """Return what stays between a client's calls, read once; its base URL and the settings may be set anew."""
        url, settings = client.__dict__.get("_base_url"), holds.runtime.settings
        known = self._clients.get(id(client))
        if known is not None and known.url is url and known.settings is settings and known.owner() is client:
            return known
        text = str(client.base_url)
        host, azure = provider_of(text, settings.hosts), _is_azure(client)
        takes = azure or (host.declared and not host.free and host.bills_like in ("openai", "azure"))
        asks = settings.stream_usage == "always" or (settings.stream_usage == "auto" and takes)
        key, clients = id(client), self._clients

        def gone(owner: weakref.ref[Any]) -> None:
            if (there := clients.get(key)) is not None and there.owner is owner:
                clients.pop(key, None)

        provider = "azure.ai.openai" if azure else host.provider
        known = Client(weakref.ref(client, gone), url, settings, text, provider, asks, _deployment(text))
        if type(client).__name__ != "_ModuleClient":  # which reads its base URL from a global each time
            clients[key] = known
        return known

    def change(self, options: Any, asked: Asked, changes: Changes) -> Any:
        fields: dict[str, Any] = {}
        if asked.ask_usage:
            given = body_of(options).get("stream_options")
            fields["stream_options"] = {**(given if isinstance(given, Mapping) else {}), "include_usage": True}
        if changes.output_limit is not None:
            fields[self._limit_name(asked.request)] = changes.output_limit
        if changes.model is not None:
            fields["model"] = changes.model
        return changed(options, fields, changes.headers)

    def overhear(self, options: Any, into: Answer) -> Any:
        parse = options.post_parser

        def parsed(answer: Any) -> Any:
            try:
                return parse(answer)
            except Exception:  # the answer was cut off, or is not what was asked for: it is paid for all the same
                _guard.guarded("gate", self.answered, answer, into)
                raise

        return options.model_copy(update={"post_parser": parsed})

    @staticmethod
    def _limit_name(request: Request) -> str:
        spelled = ENDPOINTS[request.endpoint].limits
        if request.endpoint == "/chat/completions" and request.provider not in ("openai", "azure.ai.openai"):
            return "max_tokens"  # most compatible hosts know only the older name
        return spelled[0]

    def answered(self, answer: Any, into: Answer) -> None:
        said = fields_of(answer)
        if not said:
            return
        self._facts(said, into)
        choices = said.get("choices")
        if isinstance(choices, list):
            into.finish_reasons = _reasons(choices)
            if "tool_calls" in into.finish_reasons or "function_call" in into.finish_reasons:
                into.tool_calls = _tools_asked(said)
        elif isinstance(said.get("status"), str):
            into.finish_reasons = (said["status"],)
            into.tool_calls = _tools_asked(said) or None
        if into.captures and not isinstance(into.content, Joined):
            into.content = _guard.guarded("content", content.of_answer, answer)

    def event(self, event: Any, into: Answer) -> bool:
        if into.captures:
            into.content = into.content or Joined()
            _guard.guarded("content", into.content.add, event)
        said = fields_of(event)
        if isinstance(told := said.get("event"), str) and told.startswith("thread."):
            said = fields_of(said.get("data"))  # an assistant's events, as the client makes objects of them
        kind, whole = said.get("type"), said.get("response")
        kind = kind if isinstance(kind, str) else None
        if kind is not None and fields_of(whole):
            self.answered(whole, into)
            self._later.streamed(fields_of(whole), into)
        elif said.get("object") != "thread.run.step":  # whose usage is part of its run's
            before = into.usage if kind in IMAGES else None
            self._chunk(said, into)
            if before is not None and into.usage is not None:
                into.usage = before.plus(into.usage)
            if said.get("object") == "thread.run":
                self._later.streamed(said, into)
        if kind == "error" or said.get("error"):
            into.error = "APIError"
        if kind == "response.failed":
            into.error = "ResponseFailed"
        return kind in LAST_EVENTS

    def _chunk(self, said: Mapping[str, Any], into: Answer) -> None:
        self._facts(said, into)
        choices = said.get("choices")
        if choices and isinstance(choices, list):
            into.finish_reasons += _reasons(choices)
            into.tool_calls = _tools_begun(choices, into.tool_calls)

    @staticmethod
    def _facts(said: Mapping[str, Any], into: Answer) -> None:
        get = said.get
        if (value := get("model")).__class__ is str and value:
            into.model = value
        if (value := get("id")).__class__ is str and value:
            into.response_id = value
        if (value := get("service_tier")).__class__ is str and value:
            into.service_tier = value
        if (value := get("system_fingerprint")).__class__ is str and value:
            into.fingerprint = value
        usage, counts = get("usage"), None
        if usage is None and "choices" in said:
            return  # which has nothing else that is billed
        if usage is not None and "output" not in said and "tool_usage" not in said and "svg_usage" not in said:
            counts = text_counts(usage, into.provider)
        if counts is not None:
            into.counts = counts
        elif (used := read_answer(said, into.provider, into.endpoint)) is not None:
            into.usage = used

    def written(self, event: Any) -> str | None:
        said = fields_of(event)
        kind, delta = said.get("type"), said.get("delta")
        if isinstance(kind, str):
            if not kind.endswith(".delta"):
                return None
            return delta if isinstance(delta, str) and "output_text" in kind else ""
        found = None
        for choice in said.get("choices") or ():
            part = fields_of(choice)
            inside = fields_of(part.get("delta"))
            text = part.get("text") or inside.get("content")
            if text or any(
                inside.get(name) for name in ("tool_calls", "refusal", "reasoning_content", "function_call")
            ):
                found = (found or "") + (text if isinstance(text, str) else "")
        return found

    def mere_text(self, event: Any) -> str | None:
        said = getattr(event, "__dict__", NONE)  # quicker than to ask a model of the SDK's for each field
        kind = said.get("type")
        if kind == TEXT and (delta := said.get("delta")).__class__ is str:
            return delta
        return self.written(event) if isinstance(kind, str) and kind.endswith(".delta") else None

    def at_once(self, data: bytes | bytearray, start: int, asked: Asked, into: Answer) -> bool:
        found = last_words(data, start, asked.one_text)
        if found is None:
            return False
        said, reason = found
        self._facts(said, into)
        into.finish_reasons = (reason,)
        return True

    def only_usage(self, event: Any) -> bool:
        said = fields_of(event)
        if said.get("choices") != [] or not fields_of(said.get("usage")):
            return False
        sent = getattr(event, "model_fields_set", said), getattr(event, "__pydantic_extra__", None) or ()
        return not any(["moderation" in names for names in sent])  # in a moderated stream it may say more


def _deployment(base_url: str) -> str | None:
    """Return Azure's deployment, where the client has one for all of its calls."""
    found = re.search(r"/deployments/([^/]+)", base_url)
    return found[1] if found else None


def _asks_one_text(body: Mapping[str, Any]) -> bool:
    """Tell whether the answer is to be a single text, of which no part calls a tool."""
    return (
        body.get("n") in (None, 1)
        and "tools" not in body
        and "functions" not in body
        and isinstance(body.get("prompt", ""), str)  # several prompts have an answer each
    )


def _known_before(body: Mapping[str, Any]) -> Usage | None:
    """Return what is used whatever is answered: the characters of what is to be spoken."""
    text = body.get("input")
    return Usage(characters=len(text)) if isinstance(text, str) else None


def _taken_apart(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are no scalars and yet no content: when to stop, and the kinds of what is to come."""
    found: dict[str, Any] = {}
    stop, encoding = body.get("stop"), body.get("encoding_format")
    if isinstance(stop, str):
        found["stop"] = (stop,)
    elif isinstance(stop, list | tuple) and all(isinstance(one, str) for one in stop):
        found["stop"] = tuple(stop)
    if isinstance(encoding, str):
        found["encoding_format"] = (encoding,)
    text = body.get("text")
    asked = body.get("response_format") or (text.get("format") if isinstance(text, Mapping) else None)
    if isinstance(asked, Mapping) and isinstance(asked.get("type"), str):
        found["response_format"] = asked["type"]
    window = fields_of(body.get("background_options")).get("completion_window")
    if isinstance(window, str):
        found["completion_window"] = window
    return found


def _with_conversation(attributes: Mapping[str, Any], body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the user's attributes, and the conversation that the request names, if they name none."""
    named = body.get("conversation")
    id_ = named.get("id") if isinstance(named, Mapping) else named
    return {CONVERSATION: id_, **attributes} if isinstance(id_, str) else attributes


def _tools_asked(said: Mapping[str, Any]) -> int:
    """Return how many tools of the program's own an answer wants called."""
    count = 0
    for choice in _listed(said.get("choices")):
        message = fields_of(fields_of(choice).get("message"))
        count += len(_listed(message.get("tool_calls"))) + (message.get("function_call") is not None)
    return count + sum(fields_of(item).get("type") in TOOL_ITEMS for item in _listed(said.get("output")))


def _tools_begun(choices: list[Any], so_far: int | None) -> int | None:
    """Return the count with the calls that a chunk begins: their first piece has the tool's name."""
    count = 0
    for choice in choices:
        for piece in _listed(fields_of(fields_of(choice).get("delta")).get("tool_calls")):
            called = fields_of(piece)
            count += bool(fields_of(called.get("function") or called.get("custom")).get("name"))
    return (so_far or 0) + count if count else so_far


def _listed(thing: Any) -> list[Any]:
    return thing if isinstance(thing, list) else []


def _says_usage(body: Mapping[str, Any]) -> bool:
    """Tell whether the user has said if a stream is to bring its usage."""
    options = body.get("stream_options")
    return isinstance(options, Mapping) and "include_usage" in options


def _is_azure(client: Any) -> bool:
    return any(c.__name__ == "BaseAzureClient" for c in type(client).__mro__)


def _reasons(choices: list[Any]) -> tuple[str, ...]:
    if len(choices) == 1:
        reason = fields_of(choices[0]).get("finish_reason")
        return (reason,) if isinstance(reason, str) else ()
    return tuple([reason for c in choices if isinstance(reason := fields_of(c).get("finish_reason"), str)])


class OpenAIInstrumentor(SdkInstrumentor):
    """Makes the calls of the openai package pass: those by HTTP through the gate, those by WebSocket by their events."""

    def __init__(self, reader: OpenAIReader) -> None:
        super().__init__("openai", {"OpenAI": False, "AsyncOpenAI": True}, reader)
        self._lines = Lines(reader)

    def instrument(self) -> None:
        super().instrument()
        self._lines.install()

    def uninstrument(self) -> None:
        super().uninstrument()
        self._lines.uninstall()


_instrumentor = OpenAIInstrumentor(OpenAIReader())


@hookimpl
def register_instrumentors() -> Mapping[str, Callable[[], SdkInstrumentor]]:
    """Offer the instrumentor of the openai package."""
    return {"openai": lambda: _instrumentor}
