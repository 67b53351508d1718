"""How a record is spelled on a span, and read back from it: every attribute name of ours stands here and nowhere else.

Names are OpenTelemetry's GenAI semantic conventions (November 2026) where they have a word, `rlm_obs.*` elsewhere.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlm_obs._record import Cost, Record, Request, Usage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
STREAM = "gen_ai.request.stream"
OUTPUT_TYPE = "gen_ai.output.type"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
INSTRUCTIONS = "gen_ai.system_instructions"
TOOL_DEFINITIONS = "gen_ai.tool.definitions"
DIMENSIONS = "gen_ai.embeddings.dimension.count"
CONVERSATION = "gen_ai.conversation.id"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105
API_TYPE = "openai.api.type"
REQUEST_TIER = "openai.request.service_tier"
RESPONSE_TIER = "openai.response.service_tier"
FINGERPRINT = "openai.response.system_fingerprint"
ADDRESS = "server.address"
PORT = "server.port"
ERROR_TYPE = "error.type"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
URL_PATH = "url.path"
COST = "gen_ai.usage.cost"

USER = "user.id"
SESSION = "session.id"
TENANT = "tenant.id"
TAGS = "tags"
METADATA_PREFIX = "metadata."

EVALUATION_NAME = "gen_ai.evaluation.name"
EVALUATION_VALUE = "gen_ai.evaluation.score.value"
EVALUATION_LABEL = "gen_ai.evaluation.score.label"
EVALUATION_COMMENT = "gen_ai.evaluation.explanation"

RECORD_ID = "rlm_obs.record.id"
ENDPOINT = "rlm_obs.endpoint"
STATUS = "rlm_obs.status"
REQUEST_ID = "rlm_obs.request_id"
OPERATIONS = "rlm_obs.operations"
ROOT = "rlm_obs.root"
ABOVE = "rlm_obs.above"
TRACE_NAME = "rlm_obs.trace.name"
SCORE_ID = "rlm_obs.score.id"
SCORED_SPAN = "rlm_obs.score.span_id"
ARGUMENT_PREFIX = "rlm_obs.args."
COST_PREFIX = "rlm_obs.cost."
USAGE_PREFIX = "rlm_obs.usage."
TOOL_PREFIX = "rlm_obs.usage.tool_calls."
ALSO = "rlm_obs.usage.also"
CHARGED = "rlm_obs.usage.charged_usd"
RETRIES = "rlm_obs.retries"
CHUNKS = "rlm_obs.response.chunks"
TOOL_CALLS = "rlm_obs.response.tool_calls"
TOKENS_PER_S = "rlm_obs.response.tokens_per_second"
LIMIT_PREFIX = "rlm_obs.rate_limit."
CLAMPED = "rlm_obs.clamped_output_tokens"
SWITCHED_FROM = "rlm_obs.switched_from_model"
WAITED = "rlm_obs.budget.waited_s"

#: Scalar parameters of a request -> their attribute.
PARAMS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "n": "gen_ai.request.choice.count",
    "stop": "gen_ai.request.stop_sequences",
    "encoding_format": "gen_ai.request.encoding_formats",
    "service_tier": REQUEST_TIER,
    "dimensions": DIMENSIONS,
}
#: Endpoint -> which of OpenAI's APIs it is, and what it makes where no format was asked for.
API_TYPES = {"/chat/completions": "chat_completions", "/responses": "responses"}
OUTPUT_TYPES = {
    "/images/generations": "image",
    "/images/edits": "image",
    "/images/variations": "image",
    "/audio/speech": "speech",
}
#: The type of the format that was asked for -> what comes out.
FORMATS = {"text": "text", "json_object": "json", "json_schema": "json"}
#: Recorded content, by the names that redactors know -> its attribute.
CONTENT = {
    "input": INPUT_MESSAGES,
    "output": OUTPUT_MESSAGES,
    "instructions": INSTRUCTIONS,
    "tools": TOOL_DEFINITIONS,
}
USAGE = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    **{
        name: USAGE_PREFIX + name
        for name in (
            "cache_write_long_tokens",
            "accepted_prediction_tokens",
            "rejected_prediction_tokens",
            "input_audio_tokens",
            "cached_audio_tokens",
            "output_audio_tokens",
            "input_image_tokens",
            "cached_image_tokens",
            "output_image_tokens",
            "trained_tokens",
            "characters",
            "seconds",
            "images",
        )
    },
}
COST_PARTS = ("total", "input", "cached_input", "cache_write", "output", "tools")


def asked_by(request: Request) -> tuple[str, dict[str, Any]]:
    """Return the name of a request's span, and what it says from its start on, in a dict of the caller's own."""
    found: tuple[str, dict[str, Any]] | None = request.found.get("span")
    if found is None:
        said: dict[str, Any] = {}
        of_request(request, said)
        named = request.operation if request.model is None else f"{request.operation} {request.model}"
        found = request.found["span"] = named, said
    return found[0], found[1].copy()


def of_request(request: Request, into: dict[str, Any]) -> None:
    """Write what was asked into `into`: what a sampler may want to see, and the parameters as sent."""
    into[OPERATION] = request.operation
    into[PROVIDER] = request.provider
    into[ENDPOINT] = request.endpoint
    if request.model is not None:
        into[REQUEST_MODEL] = request.model
    if request.streamed:
        into[STREAM] = True
    endpoint = request.endpoint
    if endpoint in API_TYPES:
        into[API_TYPE] = API_TYPES[endpoint]
    elif endpoint in OUTPUT_TYPES:
        into[OUTPUT_TYPE] = OUTPUT_TYPES[endpoint]
    into.update(server_of(request.base_url))
    for name, value in request.params.items():
        attribute = PARAMS.get(name)
        if attribute is not None:
            into[attribute] = value
        elif name == "response_format" and value in FORMATS:
            into[OUTPUT_TYPE] = FORMATS[value]


@functools.lru_cache(maxsize=256)
def server_of(base_url: str) -> Mapping[str, Any]:
    """Return the host and the port of a base URL as attributes; none where it names no host."""
    try:
        parts = urlsplit(base_url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return {}
    known = {ADDRESS: parts.hostname, PORT: port}
    return {name: value for name, value in known.items() if value is not None} if parts.hostname else {}


def rate_limits(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return what an answer's headers say of rate limits: `x-ratelimit-remaining-tokens` is `….remaining_tokens`."""
    found: dict[str, Any] = {}
    for name, value in headers.items():
        _, sign, what = name.lower().partition("ratelimit-")
        if sign and what:
            found[LIMIT_PREFIX + what.replace("-", "_")] = int(value) if value.isdecimal() else value
    return found


def of_usage(usage: Usage, into: dict[str, Any]) -> None:
    """Write what was used; what the answer does not say is absent, never 0."""
    for name, attribute in USAGE.items():
        value = getattr(usage, name)
        if value is not None:
            into[attribute] = value
    for tool, calls in usage.tool_calls.items():
        into[TOOL_PREFIX + tool] = calls
    if usage.also:
        into[ALSO] = json.dumps({model: used.to_dict() for model, used in usage.also.items()}, ensure_ascii=False)
    if usage.charged_usd is not None:
        into[CHARGED] = format(usage.charged_usd, "f")


def of_cost(cost: Cost, into: dict[str, Any]) -> None:
    """Write what it cost: `gen_ai.usage.cost` as a number for others, `rlm_obs.cost.*` as exact strings."""
    into[COST] = float(cost.total)
    for part in COST_PARTS:
        value = getattr(cost, part)
        if value is not None:
            into[COST_PREFIX + part] = format(value, "f")
    into[COST_PREFIX + "source"] = cost.source
    if cost.caveats:
        into[COST_PREFIX + "caveats"] = cost.caveats


def of_record(record: Record, into: dict[str, Any]) -> None:
    """Write a finished call, beside what `of_request` wrote at its start; `record_of` reads it back."""
    into.update(record.attributes)
    into[RECORD_ID] = record.id
    into[STATUS] = record.status
    for value, attribute in (
        (record.model, RESPONSE_MODEL),
        (record.service_tier, RESPONSE_TIER),
        (record.request_id, REQUEST_ID),
        (record.time_to_first_chunk_s, FIRST_CHUNK),
        (record.error, ERROR_TYPE),
    ):
        if value is not None:
            into[attribute] = value
    if record.usage is not None:
        of_usage(record.usage, into)
    if record.tokens_per_second is not None:
        into[TOKENS_PER_S] = record.tokens_per_second
    if record.cost is not None:
        of_cost(record.cost, into)


def record_of(span: ReadableSpan) -> Record | None:
    """Read a call's record back from its span, digit for digit; None for a span that is no call of ours."""
    said: Mapping[str, Any] = span.attributes or {}
    if RECORD_ID not in said:
        return None
    context, parent = span.context, span.parent
    start, end = span.start_time or 0, span.end_time or span.start_time or 0
    return Record(
        id=said[RECORD_ID],
        provider=said.get(PROVIDER, ""),
        endpoint=said.get(ENDPOINT, ""),
        operation=said.get(OPERATION, ""),
        model=said.get(RESPONSE_MODEL) or said.get(REQUEST_MODEL),
        requested_model=said.get(REQUEST_MODEL),
        status=said.get(STATUS, "ok"),
        error=said.get(ERROR_TYPE),
        started_at=datetime.fromtimestamp(start / 1e9, UTC),
        duration_s=(end - start) / 1e9,
        time_to_first_chunk_s=said.get(FIRST_CHUNK),
        streamed=bool(said.get(STREAM, False)),
        service_tier=said.get(RESPONSE_TIER),
        usage=_usage_of(said),
        cost=_cost_of(said),
        trace_id=None if context is None else format(context.trace_id, "032x"),
        span_id=None if context is None else format(context.span_id, "016x"),
        parent_id=None if parent is None else format(parent.span_id, "016x"),
        request_id=said.get(REQUEST_ID),
        attributes=users_own(said),
    )


def _usage_of(said: Mapping[str, Any]) -> Usage | None:
    facts: dict[str, Any] = {name: said[attribute] for name, attribute in USAGE.items() if attribute in said}
    tools = {key.removeprefix(TOOL_PREFIX): n for key, n in said.items() if key.startswith(TOOL_PREFIX)}
    if tools:
        facts["tool_calls"] = tools
    if ALSO in said:
        facts["also"] = json.loads(said[ALSO])
    if CHARGED in said:
        facts["charged_usd"] = said[CHARGED]
    return Usage.from_dict(facts) if facts else None


def _cost_of(said: Mapping[str, Any]) -> Cost | None:
    if COST_PREFIX + "total" not in said:
        return None
    parts = {p: Decimal(said[COST_PREFIX + p]) for p in COST_PARTS if COST_PREFIX + p in said}
    return Cost(
        **parts, source=said.get(COST_PREFIX + "source", ""), caveats=tuple(said.get(COST_PREFIX + "caveats", ()))
    )


def users_own(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that are the user's: all that neither we nor the conventions spell for a call."""
    return {k: v for k, v in said.items() if is_users(k) or k in KEPT or k.startswith(LIMIT_PREFIX)}


def is_users(name: str) -> bool:
    """Tell whether an attribute is the user's to give: neither we nor the conventions spell a call's fact so."""
    return name in SAID_BY_USERS or not (name.startswith(_NOT_THE_USERS) or name in _CALLS_OWN)


#: What a span of another instrumentation says of the whole trace: the spans of ours right below it say it too.
INHERITED = (USER, SESSION, "langfuse.trace.", "langfuse.environment")
#: Words of the conventions that only the user can say.
SAID_BY_USERS = (
    CONVERSATION,
    "gen_ai.agent.id",
    "gen_ai.agent.name",
    "gen_ai.workflow.name",
    "gen_ai.prompt.name",
    "gen_ai.prompt.version",
)
#: Facts about a call that a record carries under `attributes`, since no field of it says them.
KEPT = frozenset(
    {
        RESPONSE_ID,
        FINISH_REASONS,
        HTTP_STATUS,
        CLAMPED,
        SWITCHED_FROM,
        WAITED,
        OPERATIONS,
        FINGERPRINT,
        ADDRESS,
        PORT,
        RETRIES,
        CHUNKS,
        TOOL_CALLS,
    }
)
_NOT_THE_USERS = ("gen_ai.", "rlm_obs.", "openai.")
_CALLS_OWN = frozenset({ADDRESS, PORT, ERROR_TYPE, HTTP_STATUS})
