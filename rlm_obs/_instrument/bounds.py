"""The most that a request to OpenAI can use: what each endpoint counts as input, and how much it may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rlm_obs._budgets.bound import (
    BYTES_PER_TOKEN,
    CUSTOM,
    MARKS,
    STORED,
    UNREAD,
    Bound,
    Count,
    is_long,
    most_json_tokens,
    most_text_tokens,
    plain_text_tokens,
)
from rlm_obs._budgets.counting import text_counter
from rlm_obs._pricing import context_window, model_limits
from rlm_obs._record import Request

if TYPE_CHECKING:
    from rlm_obs._instrument.endpoints import Endpoint

DRAWN = "how many tokens the images will be"
SPOKEN = "how long the speech will be"
HEARD = "how long the sound is"
#: Parameters that no model reads. What is not here counts as input: hosts add some of their own.
NOT_INPUT = frozenset(
    {
        *("audio", "background", "background_options", "best_of", "conversation", "dimensions", "encoding_format"),
        *(
            "frequency_penalty",
            "include",
            "input",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_output_tokens",
        ),
        *("max_tokens", "max_tool_calls", "messages", "metadata", "modalities", "model", "moderation", "n"),
        *(
            "parallel_tool_calls",
            "prediction",
            "presence_penalty",
            "previous_response_id",
            "prompt",
            "prompt_cache_key",
        ),
        *("prompt_cache_options", "prompt_cache_retention", "quality", "reasoning_effort", "safety_identifier", "seed"),
        *("service_tier", "size", "stop", "store", "stream", "stream_options", "temperature", "tools", "top_logprobs"),
        *("top_p", "truncation", "user", "verbosity", "web_search_options"),
    }
)
#: Those of them that may bring input of another kind, or say what else is billed.
TELLING = frozenset(
    ("conversation", "input", "previous_response_id", "prompt", "prompt_cache_options", "tools", "web_search_options")
)
SILENT = NOT_INPUT - TELLING
#: A request that has no other beside its messages costs their text and its output.
PLAIN = SILENT - {"prediction", "modalities"}
Limits = tuple[int, bool, int, int | None, bool, Callable[[str], int]]
#: Tools that run at the host: each adds input that the request does not show, in turns of its own, and may cost apart.
HOSTED = {
    "apply_patch": "the instructions of the patch tool",
    "code_interpreter": "code interpreter: what it prints, and the time of its container",
    "computer": "the instructions of the computer tool",
    "computer_use_preview": "the instructions of the computer tool",
    "file_search": "file search: what it finds, and its calls",
    "image_generation": "image generation: the tokens of its images",
    "local_shell": "the instructions of the shell tool",
    "mcp": "MCP servers: their tools and results",
    "shell": "the shell: what it prints, and the time of its container",
    "tool_search": "tool search: what it loads",
}
WEB_SEARCH = "web search: what it finds, and its calls"
OWN_TOOLS = frozenset({"function", "custom", "namespace", None})
#: Models that search the web whether they are asked to or not.
SEARCHES, RESEARCHES = "-search-", "-deep-research"
#: OpenAI refuses embeddings of more tokens than these in one request, and completes 16 where nothing else is asked.
MOST_EMBEDDED, LEAST_COMPLETED = 300_000, 16


def has_bound(endpoint: Endpoint, request: Request) -> bool:
    """Tell whether a call's cost has a bound before it; speech has one where it is priced by the character."""
    if endpoint.unbounded is None:
        return True
    return endpoint.unbounded is SPOKEN and request.model in ("tts-1", "tts-1-hd")


def bound_of(body: Mapping[str, Any], endpoint: Endpoint, request: Request) -> Bound:
    """Return the most that a request can use: its text by its bytes, its output by its limit or the model's own.

    Never raises, whatever the body holds: what cannot be read is named in `unknown`.
    """
    try:
        return BOUNDS.get(request.endpoint, _chat)(body, endpoint, request)
    except RecursionError:
        window, _ = limits_of(request.model or "", request.provider)
        return Bound(window or 0, 0, unknown=(UNREAD,), holds=False)


def _chat(body: Mapping[str, Any], endpoint: Endpoint, request: Request) -> Bound:
    limits: Limits | None = request.found.get("limits")
    if limits is None:
        limits = request.found["limits"] = _limits(endpoint, request)
    each, users, choices, window, searches, text_tokens = limits
    if text_tokens is most_text_tokens and not searches and PLAIN.issuperset(body):
        text = plain_text_tokens(body.get("messages"))
        if text is not None:  # as of most calls
            likely = -(-text // BYTES_PER_TOKEN)
            if window is not None and text > window:
                text = window  # no input is ever longer
            likely = likely if likely < text else text
            return Bound(text, each * choices, choices, users, likely_tokens=likely, plain=True)
    model = request.model or ""
    count = Count(model, text_tokens)
    text = count.content(body.get("messages")) if "messages" in body else 0
    more, open_ended = _beside_messages(body, count)
    text += more
    if users and body.get("prediction") is not None:  # not used, it is billed as output: within a limit, by the
        _, own = limits_of(model, request.provider)  # reference; beyond it, to be sure
        each = min(own, each + most_json_tokens(body["prediction"]))
    modalities = body.get("modalities")
    if searches:
        open_ended = _open(count, WEB_SEARCH)
    likely = _likely(text, count, text_tokens)
    if window is not None and not open_ended and (text > window or count.stored):
        text = window
    return Bound(
        input_tokens=text,
        output_tokens=each * choices,
        choices=choices,
        limit_is_users=users,
        audio_tokens=count.sounds,
        image_tokens=count.images,
        likely_tokens=min(likely, text),
        unknown=tuple(count.unknown),
        holds=not count.unknown or (window is not None and not open_ended),
        speaks=isinstance(modalities, list | tuple) and "audio" in modalities,
        long_cache=count.long_cache,
    )


def _limits(endpoint: Endpoint, request: Request) -> Limits:
    """Return what a request's parameters say of its bound: output a choice, whether that is the user's limit, choices, the
    context window, whether its model searches the web by itself, and what counts its text."""
    model = request.model or ""
    window, own = limits_of(model, request.provider)
    searches = SEARCHES in model or RESEARCHES in model
    return *_output_limit(endpoint, request, own), _choices(request.params), window, searches, text_counter(model)


def _beside_messages(body: Mapping[str, Any], count: Count) -> tuple[int, bool]:
    """Return how many tokens the rest of a request may be, and whether its input has no end that is known."""
    text, open_ended, text_tokens = 0, False, count.text_tokens
    for name, value in body.items():
        if name in SILENT:
            continue
        if name not in TELLING:
            text += len(name) + MARKS + (text_tokens(value) if type(value) is str else most_json_tokens(value))
        elif name == "input":
            text += count.content(value)
        elif name == "tools":
            text += most_json_tokens(value)
            open_ended = _tools(value, count) or open_ended
        elif name == "web_search_options" and value is not None:
            open_ended = _open(count, WEB_SEARCH)
        elif name in ("previous_response_id", "conversation") and value is not None:
            count.leave_open(STORED)
        elif name == "prompt" and value is not None:
            text += count.content(value)
            count.leave_open(STORED)
        elif name == "prompt_cache_options" and is_long(value):
            count.long_cache = True
    return text, open_ended


def _completion(body: Mapping[str, Any], endpoint: Endpoint, request: Request) -> Bound:
    """Bound the older completions: each prompt of a list is a request of its own, with `n` or `best_of` answers."""
    model, prompt = request.model or "", body.get("prompt")
    window, own = limits_of(model, request.provider)
    texts = text_counter(model)
    prompts: list[Any] = _each(prompt)
    more = texts(body["suffix"]) + 3 if isinstance(body.get("suffix"), str) else 0
    count = Count(model, texts)
    sizes = [_least(_one(one, count) + more, window) for one in prompts]
    if "max_tokens" not in request.params and request.provider in ("openai", "azure.ai.openai"):
        each, users = min(own, LEAST_COMPLETED), True
    else:
        each, users = _output_limit(endpoint, request, own)
    choices = _choices(request.params) * len(prompts)
    text = sum(sizes)
    likely = min(text, _likely(text, count, texts))
    unknown = tuple(count.unknown)
    return Bound(text, each * choices, choices, users, likely_tokens=likely, unknown=unknown, holds=not unknown)


def _embedding(body: Mapping[str, Any], endpoint: Endpoint, request: Request) -> Bound:
    """Bound embeddings: a text, tokens, or a list of either, none of which may be longer than the model's window."""
    model, given = request.model or "", body.get("input")
    window, _ = limits_of(model, request.provider)
    count = Count(model, text_counter(model))
    text = sum([_least(_one(one, count), window) for one in _each(given)])
    if request.provider == "openai" and model.startswith("text-embedding-"):
        text = min(text, MOST_EMBEDDED)
    unknown = tuple(count.unknown)
    return Bound(text, 0, likely_tokens=_likely(text, count, count.text_tokens), unknown=unknown, holds=not unknown)


def _speech(body: Mapping[str, Any], endpoint: Endpoint, request: Request) -> Bound:
    text = body.get("input")
    return Bound(0, 0, characters=len(text) if isinstance(text, str) else 0)


#: What counts an endpoint's request; any other is like a chat.
BOUNDS: Mapping[str, Callable[[Mapping[str, Any], Endpoint, Request], Bound]] = {
    "/completions": _completion,
    "/embeddings": _embedding,
    "/audio/speech": _speech,
}


def _tools(tools: Any, count: Count) -> bool:
    """Name the tools that run at the host, and tell whether there is one."""
    if not isinstance(tools, list | tuple):
        return _open(count, UNREAD) if tools is not None else False
    found = False
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", CUSTOM)
        if kind in OWN_TOOLS:
            continue
        if isinstance(kind, str) and kind.startswith("web_search"):
            found = _open(count, WEB_SEARCH)
        else:
            found = _open(count, HOSTED.get(kind, CUSTOM) if isinstance(kind, str) else CUSTOM)
    return found


def _open(count: Count, reason: str) -> bool:
    count.leave_open(reason, stored=False)
    return True


def _output_limit(endpoint: Endpoint, request: Request, own: int) -> tuple[int, bool]:
    """Return the most output tokens of one choice, and whether the user has limited them."""
    each, users = own, False
    params = request.params
    for name in endpoint.limits:
        limit = params.get(name)
        if type(limit) is int and limit >= 0:
            each, users = min(each, limit), True
    return each, users


def _choices(params: Mapping[str, Any]) -> int:
    if "n" not in params and "best_of" not in params:
        return 1
    return max(_count(params.get("n")) or 1, _count(params.get("best_of")) or 1)


def _each(given: Any) -> list[Any]:
    """Return the texts or the lists of tokens of a list; one text, or the tokens of one, is a list of itself."""
    many = isinstance(given, list | tuple) and given and type(given[0]) is not int
    return list(given) if many else [given]


def _one(given: Any, count: Count) -> int:
    if isinstance(given, list | tuple) and given and type(given[0]) is int:
        return len(given)
    if given is None:
        return 1
    return count.content(given)


def _least(tokens: int, window: int | None) -> int:
    return tokens if window is None else min(tokens, window)


def _likely(most: int, count: Count, text_tokens: Callable[[str], int]) -> int:
    media = count.images + count.sounds
    return most if text_tokens is not most_text_tokens else media + -(-max(0, most - media) // BYTES_PER_TOKEN)


@lru_cache(maxsize=1024)
def limits_of(model: str, provider: str) -> tuple[int | None, int]:
    """Return a model's context window (None: not known), and the most that it answers at once.

    The name of a deployment at Azure need not be that of its model, so no window bounds it.
    """
    return None if provider.startswith("azure") else context_window(model, provider), model_limits(model)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
