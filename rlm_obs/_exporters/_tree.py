"""How a trace looks to a person: one `[SPAN]` line per span, its facts under short names, children indented."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rlm_obs import _attributes
from rlm_obs._exporters.base import error_type, is_root

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._record import Record

LONGEST_VALUE = 160
DEEPEST_INDENT = 40
SHORT = {
    _attributes.USAGE["input_tokens"]: "prompt_tokens",
    _attributes.USAGE["output_tokens"]: "completion_tokens",
    _attributes.USAGE["cached_input_tokens"]: "cached_tokens",
    _attributes.USAGE["reasoning_tokens"]: "reasoning_tokens",
}


@dataclass(slots=True)
class Sum:
    """What the calls of a tree come to; `unpriced` are those sent whose cost nobody knows."""

    calls: int = 0
    refused: int = 0
    unpriced: int = 0
    cost: Decimal | None = None
    rough: bool = False
    prompt: int | None = None
    completion: int | None = None
    models: dict[str, None] = field(default_factory=dict)

    def add(self, other: Sum) -> None:
        self.calls += other.calls
        self.refused += other.refused
        self.unpriced += other.unpriced
        self.cost = other.cost if self.cost is None else self.cost + (other.cost or 0)
        self.rough = self.rough or other.rough
        self.prompt = other.prompt if self.prompt is None else self.prompt + (other.prompt or 0)
        self.completion = other.completion if self.completion is None else self.completion + (other.completion or 0)
        self.models.update(other.models)

    def price(self) -> str:
        """Return "$0.000123", "~$0.000123" (there are caveats), "$0.000123 + 2 unpriced" or "unknown"."""
        if self.cost is None:
            return "unknown"
        return ("~" if self.rough else "") + usd(self.cost) + (f" + {self.unpriced} unpriced" if self.unpriced else "")

    def count(self) -> str:
        """Return "1 call", "3 calls" or "3 calls, 1 refused"."""
        refused = f", {self.refused} refused" if self.refused else ""
        return f"{self.calls} call{'' if self.calls == 1 else 's'}{refused}"


@dataclass(slots=True)
class Node:
    """What is kept of a span until its tree is printed: the text of it, never the span with its prompts."""

    trace_id: int
    span_id: int
    parent_id: int | None
    root: bool
    start: int
    name: str
    seconds: str
    trouble: str
    facts: list[tuple[str, str]]
    own: dict[str, str]
    sum: Sum
    is_call: bool


def node_of(span: ReadableSpan) -> Node:
    """Read what the tree shows of a span."""
    record = _attributes.record_of(span)
    said: Mapping[str, Any] = span.attributes or {}
    root, error, start = is_root(span), error_type(span), span.start_time or 0
    status = "error" if error else "ok"
    if record is not None:
        status, error = record.status, record.error
    embedding = record is not None and record.operation == "embeddings"
    return Node(
        trace_id=span.context.trace_id,
        span_id=span.context.span_id,
        parent_id=None if root or span.parent is None else span.parent.span_id,
        root=root,
        start=start,
        name="embedding.create" if embedding else _plain(span.name),
        seconds=_seconds(((span.end_time or start) - start) / 1e9),
        trouble="" if status == "ok" else _plain(f"{status.upper()} {error or ''}".rstrip()),
        facts=list(_of_call(record, said)) if record is not None else _of_conventions(said),
        own={_plain(k): _plain(v) for k, v in _attributes.users_own(said).items() if k not in _attributes.KEPT},
        sum=_sum_of(record) if record is not None else Sum(),
        is_call=record is not None,
    )


def _of_call(record: Record, said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    spent = _sum_of(record)
    for attribute, name in SHORT.items():
        if said.get(attribute) or (attribute in said and name in ("prompt_tokens", "completion_tokens")):
            yield name, str(said[attribute])
    if record.model is not None:
        yield "model", _plain(record.model)
    if _attributes.DIMENSIONS in said:
        yield "dimensions", str(said[_attributes.DIMENSIONS])
    if record.time_to_first_chunk_s is not None:
        yield "first_chunk", _seconds(record.time_to_first_chunk_s)
    if record.status != "refused":
        yield "cost", spent.price()
    if _attributes.CLAMPED in said:
        yield "clamped_output_tokens", str(said[_attributes.CLAMPED])
    if _attributes.WAITED in said:
        yield "waited_for_budget", _seconds(float(said[_attributes.WAITED]))
    if record.status != "ok":
        yield "status", record.status
    if record.error is not None:
        yield "error", _plain(record.error)


def _of_conventions(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return `gen_ai.*` of a span that is no call of ours: its own claims, which no sum counts."""
    return [
        (SHORT.get(k, _plain(k.removeprefix("gen_ai."))), _plain(v)) for k, v in said.items() if k.startswith("gen_ai.")
    ]


def _sum_of(record: Record) -> Sum:
    sent, usage = record.status != "refused", record.usage
    return Sum(
        calls=int(sent),
        refused=int(not sent),
        unpriced=int(sent and record.cost is None),
        cost=record.cost_usd,
        rough=record.cost is not None and not record.cost.exact,
        prompt=None if usage is None else usage.input_tokens,
        completion=None if usage is None else usage.output_tokens,
        models={} if record.model is None else {_plain(record.model): None},
    )


@dataclass(frozen=True, slots=True)
class Style:
    """How to write a tree: with the facts or only its `[SPAN]` lines, with colour or without."""

    facts: bool
    colour: bool

    def paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text


def lines_of(top: Node, children: Mapping[int, Sequence[Node]], total: Sum, mark: str, style: Style) -> Iterator[str]:
    """Write the tree below `top`, children by their start; `total` is what all its calls come to."""
    waiting: list[tuple[Node, int, dict[str, str]]] = [(top, 0, {})]
    while waiting:
        node, depth, above = waiting.pop()
        indent = "  " * min(depth, DEEPEST_INDENT)
        summed = total if node is top and not node.is_call else node.sum
        head = f"{indent}[SPAN] {style.paint('1', node.name)} ({node.seconds})"
        parts = (style.paint("31", node.trouble), mark if node is top else "")
        brief = () if style.facts else (_tokens(node.sum), style.paint("32", _brief(summed, node)))
        yield " ".join(part for part in (head, *parts, *brief) if part)
        if style.facts:
            own = [(k, v) for k, v in node.own.items() if above.get(k) != v]
            facts = [*(_of_total(total) if summed is total else ()), *node.facts, *own]
            for number, (name, value) in enumerate(facts, 1):
                branch = style.paint("2", "└─" if number == len(facts) else "├─")
                yield f"{indent}  {branch} {name}: {style.paint('32', value) if name == 'cost' else value}"
        below = sorted(children.get(node.span_id, ()), key=lambda child: child.start, reverse=True)
        waiting.extend((child, depth + 1, {**above, **node.own}) for child in below)


def _of_total(total: Sum) -> Iterator[tuple[str, str]]:
    if total.prompt is not None:
        yield "prompt_tokens", str(total.prompt)
    if total.completion is not None:
        yield "completion_tokens", str(total.completion)
    if total.models:
        yield "model", ", ".join(total.models)
    if total.calls or total.refused:
        yield "cost", f"{total.price() if total.calls else usd(Decimal(0))} ({total.count()})"


def _tokens(call: Sum) -> str:
    if call.prompt is None and call.completion is None:
        return ""
    return f"{call.prompt or 0}+{call.completion or 0} tokens"


def _brief(spent: Sum, node: Node) -> str:
    if not spent.calls:
        return ""
    price = spent.price() if spent.cost is not None else "cost unknown"
    return price if node.is_call else f"{price} ({spent.count()})"


def usd(amount: Decimal) -> str:
    """Write dollars so that columns compare: cents from a dollar on, six digits below, three that count where tiny."""
    if amount >= 1 or not amount:
        return f"${amount:.2f}"
    if amount >= Decimal("0.0001"):
        return f"${amount:.6f}"
    digits = 2 - amount.adjusted()
    return f"${amount:.{digits}f}".rstrip("0")


def _seconds(duration: float) -> str:
    return f"{duration:.2f}s" if duration >= 0.01 or not duration else f"{duration:.4f}s"


def _plain(value: object) -> str:
    """Return text that stays on its line and cannot steer the terminal."""
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    if len(text) > LONGEST_VALUE:
        text = text[: LONGEST_VALUE - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
