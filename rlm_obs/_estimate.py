"""What a call will cost, before it is made: the most, what of it nobody can know, and what such calls cost so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rlm_obs._budgets.bound import Bound
from rlm_obs._budgets.seen import seen
from rlm_obs._instrument.bounds import bound_of, has_bound, limits_of
from rlm_obs._instrument.endpoints import ENDPOINTS, Endpoint
from rlm_obs._instrument.openai import PARAMS, SCALARS
from rlm_obs._pricing import provider_of
from rlm_obs._record import EXACT, Request
from rlm_obs._runtime import runtime
from rlm_obs._settings import near
from rlm_obs.errors import ConfigError

OPENAI = "https://api.openai.com/v1"
NO_PROMPT = "the prompt: a Request does not hold it"
#: What the client leaves out of the body where it stands for an argument: `openai.NOT_GIVEN`, `openai.omit`.
LEFT_OUT = frozenset({"NotGiven", "Omit"})
#: Arguments of `create` that say how to send, and are not sent.
OPTIONS = frozenset({"extra_body", "extra_headers", "extra_query", "timeout"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call may cost, in US dollars: what a budget would hold for it, and what such calls have cost so far.

    `most_usd` is the most that it can cost, `input_usd` and `output_usd` its two parts, by the bounds `input_tokens` and
    `output_tokens` (of all choices); None where nobody knows. `source` names who priced it. `unknown` says in words what
    cannot be known before the call. `holds` is True if `most_usd` is a bound all the same, and False if what is named
    there can pass it. `median_usd` and `p95_usd` are of the calls with this model and operation that have ended in this
    process, of the last 128 at most; `seen` is their number, and None stands where there were none.
    """

    most_usd: Decimal | None
    input_tokens: int | None
    output_tokens: int | None
    input_usd: Decimal | None
    output_usd: Decimal | None
    source: str | None
    unknown: tuple[str, ...] = ()
    holds: bool = True
    median_usd: Decimal | None = None
    p95_usd: Decimal | None = None
    seen: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; amounts are strings, so that no digit is lost."""
        said = {name: getattr(self, name) for name in self.__slots__}
        written = {name: format(value, "f") for name, value in said.items() if isinstance(value, Decimal)}
        return {**said, **written, "unknown": list(self.unknown)}


def estimate(
    request: Mapping[str, Any] | Request,
    endpoint: str | None = None,
    base_url: str = OPENAI,
) -> Estimate:
    """Return what a call would cost at most, without making it: nothing is sent, held or counted.

    request: the arguments of `create(...)` as a mapping, which is the JSON of the request; or an `rlm_obs.Request`,
    whose prompt is not known, so that its input is bounded by the model's context window.
    endpoint: the path below the version, such as "/chat/completions". Left out, it is told by the arguments.
    base_url: who answers, and so whose prices hold.

    Raises ConfigError where the endpoint cannot be told, or is none that costs money.
    """
    if isinstance(request, Request):
        asked, body = request, None
        where = endpoint or request.endpoint or _told(request.params)
    else:
        if not isinstance(request, Mapping):
            raise ConfigError(
                f"estimate({type(request).__name__}): give the arguments of create(...) as a mapping, such as "
                '{"model": "gpt-4o-mini", "messages": [...]}'
            )
        body = _sent(request)
        where = endpoint or _told(body)
    path = "/" + where.partition("?")[0].strip("/").removeprefix("v1/")
    paid = ENDPOINTS.get(path)
    if paid is None:
        raise ConfigError(f"endpoint={endpoint!r}: no paid endpoint has this path{near(path, ENDPOINTS)}")
    now = runtime()
    if body is not None:
        asked = _request(body, path, paid.operation, provider_of(base_url, now.settings.hosts).provider, base_url)
    bound = _bound(asked, body, paid)
    costs = seen.of(asked.model, asked.operation)
    median, p95, count = (None, None, 0) if costs is None else (costs.median, costs.p95, costs.count)
    if bound is None:
        reason = (str(paid.unbounded),)
        return Estimate(
            most_usd=None,
            input_tokens=None,
            output_tokens=None,
            input_usd=None,
            output_usd=None,
            source=None,
            unknown=reason,
            holds=False,
            median_usd=median,
            p95_usd=p95,
            seen=count,
        )
    most = now.prices.most(asked, bound)
    least = None if most is None else now.prices.most(asked, bound, 0)
    known = most is not None and least is not None and (bound.holds or NO_PROMPT not in bound.unknown)
    return Estimate(
        most_usd=most.total if known and most else None,
        input_tokens=bound.input_tokens if bound.holds or body is not None else None,
        output_tokens=bound.output_tokens,
        input_usd=least.total if known and least else None,
        output_usd=EXACT.subtract(most.total, least.total) if most and least else None,
        source=None if most is None else most.source,
        unknown=bound.unknown,
        holds=bound.holds,
        median_usd=median,
        p95_usd=p95,
        seen=count,
    )


def _bound(asked: Request, body: Mapping[str, Any] | None, paid: Endpoint) -> Bound | None:
    if not has_bound(paid, asked):
        return None
    if body is not None:
        return bound_of(body, paid, asked)
    window, _ = limits_of(asked.model or "", asked.provider)
    alone = bound_of({}, paid, asked)
    return Bound(
        window or 0,
        alone.output_tokens,
        alone.choices,
        alone.limit_is_users,
        unknown=(NO_PROMPT, *alone.unknown),
        holds=window is not None and alone.holds,
    )


def _request(body: Mapping[str, Any], path: str, operation: str, provider: str, base_url: str) -> Request:
    model = body.get("model")
    return Request(
        provider=provider,
        endpoint=path,
        operation=operation,
        model=model if isinstance(model, str) else None,
        params={name: value for name, value in body.items() if name in PARAMS and isinstance(value, SCALARS)},
        streamed=body.get("stream") is True,
        base_url=base_url,
    )


def _sent(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON that the client makes of the arguments: without what is left out, with a model class's schema."""
    extra = given.get("extra_body")
    merged = {**given, **extra} if isinstance(extra, Mapping) else given
    sent = {}
    for name, value in merged.items():
        if name in OPTIONS or type(value).__name__ in LEFT_OUT:
            continue
        schema = getattr(value, "model_json_schema", None) if isinstance(value, type) else None
        sent[name] = value if schema is None else schema()
    return sent


def _told(body: Mapping[str, Any]) -> str:
    """Return the endpoint of a body. Raises ConfigError where more than one takes such a body, or none."""
    model = body.get("model")
    name = model.lower() if isinstance(model, str) else ""
    if "messages" in body:
        return "/chat/completions"
    if "file" not in body and "image" not in body and "voice" not in body:
        if "input" in body:
            return "/embeddings" if "embed" in name else "/responses"
        if "prompt" in body and not isinstance(body["prompt"], Mapping):
            drawn = name.startswith(("gpt-image", "chatgpt-image", "dall-e"))
            return "/images/generations" if drawn else "/completions"
        if "previous_response_id" in body or "conversation" in body or "prompt" in body:
            return "/responses"
    raise ConfigError(
        "estimate: the arguments do not tell their endpoint. Name it, such as "
        f'estimate(request, endpoint="/chat/completions"); there are: {", ".join(sorted(ENDPOINTS))}'
    )
