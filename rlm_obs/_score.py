"""`rlm_obs.score`: how good an answer was, on its trace; it goes the way of spans, so it is queued, counted and flushed."""

from __future__ import annotations

import math
import re
import secrets

from opentelemetry import trace
from opentelemetry.trace import SpanContext

from rlm_obs import _attributes as names
from rlm_obs import _guard, _scope
from rlm_obs._callspan import SAMPLED
from rlm_obs.errors import ConfigError


def score(
    name: str,
    value: float | bool | str,
    comment: str | None = None,
    *,
    trace_id: str | None = None,
    span_id: str | None = None,
) -> bool:
    """Say how good a trace was: `rlm_obs.score("helpful", 0.9)`. It reaches Langfuse, the file, and other exporters as a span.

    `value`: a number, True or False, or a category as text. Without `trace_id` it is the current trace; with it (as a
    record or `RLMResult` gives it) any earlier one, such as when a user rates an answer later. `span_id`: of one call or
    span of it, instead of the whole trace. `comment` is sent as it is.

    Returns whether it was handed to a tracer's exporters: False without a tracer, outside of any trace (one line in the
    log says so), and for NaN or an infinity. Raises ConfigError for a value or an id that cannot be one.
    """
    if not (isinstance(name, str) and name):
        raise ConfigError(f"score(name={name!r}): give it a name, such as 'helpful'")
    if not isinstance(value, int | float | str):
        raise ConfigError(f"score({name!r}): {value!r} is no value: give a number, True or False, or a text")
    scored, apart = _id(span_id, 16, "span_id"), _id(trace_id, 32, "trace_id")
    tracer = _scope.tracer_in_force()
    if tracer is None:
        return False
    around = trace.get_current_span().get_span_context()
    of_trace = apart or around.trace_id
    if not of_trace or (isinstance(value, float) and not math.isfinite(value)):
        why = "no span is open, and no trace_id was given" if not of_trace else f"{value} is no number"
        _guard.say_once(f"score {why}", "score(%r) is left out: %s", name, why)
        return False
    parent = around if around.trace_id == of_trace else None
    if scored:
        parent = SpanContext(of_trace, scored, True, SAMPLED if parent is None else parent.trace_flags)
    said = {
        names.SCORE_ID: secrets.token_hex(16),
        names.SCORED_SPAN: span_id,
        names.EVALUATION_NAME: name,
        names.EVALUATION_VALUE: None if isinstance(value, str) else float(value),
        names.EVALUATION_LABEL: value
        if isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else None,
        names.EVALUATION_COMMENT: None if comment is None else str(comment),
    }
    attributes = {**_scope.current().attributes, **{k: v for k, v in said.items() if v is not None}}
    _guard.guarded("score", tracer.score, f"score {name}", attributes, of_trace, parent)
    return True


def _id(given: str | None, digits: int, name: str) -> int:
    if given is None:
        return 0
    if not isinstance(given, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", given) or not int(given, 16):
        raise ConfigError(f"score({name}={given!r}): give {digits} hexadecimal digits, as a record's {name} has them")
    return int(given, 16)
