"""RLM: ask a model about a text; every call below is traced, priced and held to the budget."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rlm_obs import _scope
from rlm_obs._plugins import gates
from rlm_obs._record import Record, Usage
from rlm_obs._tracker import Collector, CostTracker
from rlm_obs.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from rlm_obs._tracer import Tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class RLMResult:
    """What one run found, and what it took. `cost_usd` is None where the price of any of its calls is unknown."""

    final_answer: str
    cost_usd: Decimal | None
    usage: Usage
    trace_id: str | None

    @property
    def answer(self) -> str:
        """The same as `final_answer`."""
        return self.final_answer


class RLM:
    """A model to ask. Make one with `RLM.from_openai`."""

    def __init__(
        self,
        model: str,
        *,
        tracer: Tracer | None = None,
        cost_tracker: CostTracker | None = None,
        client: Any = None,
    ) -> None:
        if not isinstance(model, str) or not model:
            raise ConfigError(f"model={model!r}: give a model's name, such as 'gpt-4o'")
        if cost_tracker is not None and not isinstance(cost_tracker, CostTracker):
            raise ConfigError(f"cost_tracker={cost_tracker!r}: give a CostTracker")
        self.model, self.tracer, self.cost_tracker, self._client = model, tracer, cost_tracker, client

    @classmethod
    def from_openai(
        cls,
        model: str,
        tracer: Tracer | None = None,
        cost_tracker: CostTracker | None = None,
        client: Any = None,
    ) -> RLM:
        """Return an RLM on an OpenAI model. `client` is an `openai.OpenAI` (unset: made at the first run, from
        `OPENAI_API_KEY` and `OPENAI_BASE_URL`); `tracer` gets its spans, `cost_tracker` holds it to a budget."""
        return cls(model, tracer=tracer, cost_tracker=cost_tracker, client=client)

    def run(self, context: object, query: str | None = None) -> RLMResult:
        """Ask: `run(prompt)`, or `run(context, query)` about a text. Opens a span `rlm.run` with the calls below it.

        Raises what the client raises, and BudgetExceeded before a call that the budget has no room for.
        """
        told = Collector("rlm.run")
        own = (told,) if self.cost_tracker is None else (self.cost_tracker, told)
        with _scope.attached(_scope.with_scope(_scope.widened(trackers=own))), self._span() as span:
            said = [str(context)] if query is None else [str(context), query]
            completion = self._openai().chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": text} for text in said]
            )
            answer = completion.choices[0].message.content or ""
        trace = None if span is None else format(span.get_span_context().trace_id, "032x")
        return RLMResult(
            final_answer=answer, cost_usd=_cost_of(told.records), usage=_usage_of(told.records), trace_id=trace
        )

    @contextmanager
    def _span(self) -> Iterator[Span | None]:
        tracer = _scope.tracer_in_force(self.tracer)
        if tracer is not None:
            with tracer.span("rlm.run") as span:
                yield span
            return
        gates.hold()
        try:
            yield None
        finally:
            gates.release()

    def _openai(self) -> Any:
        if self._client is None:
            try:
                openai = importlib.import_module("openai")
            except ImportError:
                raise ConfigError("RLM.from_openai needs the openai package: pip install 'rlm-obs[openai]'") from None
            self._client = openai.OpenAI()
        return self._client


def _cost_of(records: list[Record]) -> Decimal | None:
    costs = [r.cost_usd for r in records]
    return None if None in costs else sum((c for c in costs if c is not None), Decimal(0))


def _usage_of(records: list[Record]) -> Usage:
    """Add up what the calls have used; a count that no answer said stays None."""
    return functools.reduce(Usage.plus, (r.usage for r in records if r.usage is not None), Usage())
