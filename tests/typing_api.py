"""Uses each public name as a user's typed program does; mypy reads it strictly, nobody runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, assert_type

from opentelemetry.sdk.trace.export import SpanExporter

import rlm_obs
from rlm_obs import (
    RLM,
    Alert,
    AsgiMiddleware,
    Balance,
    BudgetExceeded,
    BudgetRow,
    Budgets,
    BudgetUnavailable,
    CallExporter,
    CallRefused,
    ConfigError,
    ConsoleExporter,
    Cost,
    CostReport,
    CostTracker,
    Estimate,
    FileExporter,
    Instrumentation,
    LangfuseExporter,
    Record,
    Request,
    RlmObsError,
    RLMResult,
    Runaway,
    Settings,
    StoreError,
    Tracer,
    UnknownPrice,
    Usage,
    context,
    cost_tracked,
    create_tracer,
    estimate,
    extract,
    flush,
    hookimpl,
    inject,
    instrument,
    open_budgets,
    price,
    price_answer,
    read_records,
    register_plugin,
    report,
    score,
    stats,
    traced,
    uninstrument,
    unregister_plugin,
)
from rlm_obs.instrumentation import Instrumentor
from rlm_obs.stores import AccountId, Message, Store
from rlm_obs.testing import (
    Answer,
    Collected,
    ExporterContract,
    FakeOpenAI,
    InstrumentorContract,
    PriceCase,
    PricesContract,
    Seen,
    SpanList,
    StoreContract,
    collect,
    fake_openai,
)

# -- switching it on ---------------------------------------------------------------------------------------------------

with instrument(
    exporters=["console", ConsoleExporter(show_attributes=False), FileExporter("calls.jsonl")],
    budget_usd="10.00",
    service_name="shop",
    sample_rate=0.5,
    capture_content=False,
    settings={"hosts": {"localhost:11434": "free"}},
) as on:
    assert_type(on, Instrumentation)
    assert_type(on.report(), CostReport)
assert_type(flush(timeout_s=1.0), bool)
assert_type(report(), CostReport)
assert_type(stats(), dict[str, Any])
uninstrument()


def with_settings(settings: Settings) -> Instrumentation:
    assert_type(settings.budget_usd, Decimal | None)
    return instrument(settings=settings)


# -- functions ---------------------------------------------------------------------------------------------------------


@traced
def plain(a: int, b: str = "") -> list[int]:
    return [a, len(b)]


@traced(name="load", attributes={"team": "search"}, capture_args=True)
async def coroutine(a: int) -> str:
    return str(a)


@traced("steps")
def generator(a: int) -> Iterator[int]:
    yield a


@traced
async def async_generator(a: int) -> AsyncIterator[int]:
    yield a


@traced
class Service:
    def ask(self, question: str) -> int:
        return len(question)


@cost_tracked
def bare(a: int) -> str:
    return str(a)


@cost_tracked(operation="agent", budget_usd="0.50")
def agent(a: int) -> str:
    return str(a)


@cost_tracked(operation="later", tracker=CostTracker())
async def later(a: int) -> str:
    return str(a)


assert_type(plain(1, b="x"), list[int])
assert_type(generator(1), Iterator[int])
assert_type(async_generator(1), AsyncIterator[int])
assert_type(Service().ask("why"), int)
assert_type(bare(1), str)
assert_type(bare.cost(), Decimal)
assert_type(agent(1), str)
assert_type(agent.cost(), Decimal)


async def awaits() -> None:
    assert_type(await coroutine(1), str)
    assert_type(await later(1), str)


# -- tracers and trackers ----------------------------------------------------------------------------------------------

tracer = Tracer(
    "shop", exporter=LangfuseExporter(public_key="pk-lf-1", secret_key="sk-lf-1", host=...), sample_rate=1.0
)
with tracer.span("load", {"documents": 3}) as span:
    span.set_attribute("bytes", 17)
assert_type(tracer.flush(), bool)
assert_type(tracer.shutdown(), bool)
assert_type(create_tracer("shop", exporters=["console"]), Tracer)


def on_alert(alert: Alert) -> None:
    assert_type(alert.spent, Decimal)
    assert_type(alert.exhausted, bool)


def on_budget_exceeded(refusal: BudgetExceeded) -> None:
    assert_type(refusal.needed, Decimal)


tracker = CostTracker(
    budget_usd=10.0,
    alert_threshold=0.8,
    name="shop",
    enforcement="reserve",
    wait_s=1.0,
    clamp=True,
    min_output_tokens=64,
    unknown_price=Decimal(3),
    unseen_usage="hold",
    on_alert=on_alert,
    on_budget_exceeded=on_budget_exceeded,
    budget_tokens=1000,
    budget_calls=5,
    per="user.id",
    limits={"acme": "5.00"},
    window="day",
    time_zone="Europe/Berlin",
    store="sqlite:///budgets.db",
    fail="open",
    store_timeout_s=1.0,
    lease_s=30.0,
    lost_lease="free",
    on_limit_change="keep",
    on_low="gpt-5-mini",
    max_repeats=5,
    max_calls_per_minute=100,
    max_spend_rate=4.0,
)
CostTracker(budget="$10/day", alert_threshold=[0.5, 0.8], on_alert="https://chat.example/hook", window=None)
with tracker as same, tracker.track("analysis") as again:
    assert_type(same, CostTracker)
    assert_type(again, CostTracker)
assert_type(tracker.is_near_limit(), bool)
assert_type(tracker.spent, Decimal)
assert_type(tracker.held, Decimal)
assert_type(tracker.reset_at, datetime | None)
assert_type(tracker.balance("acme", unit="tokens"), Balance)
assert_type(tracker.remaining, Decimal | None)
assert_type(tracker.get_operation_cost("analysis"), Decimal)
spent = tracker.get_report()
assert_type(spent, CostReport)
assert_type(spent.total_cost, Decimal)
assert_type(spent.remaining_percent, float | None)
assert_type(spent.by_model, Mapping[str, Decimal])
assert_type(spent.to_dict(), dict[str, Any])

try:
    rlm = RLM.from_openai("gpt-4o", tracer=tracer, cost_tracker=tracker)
    found = rlm.run("a long text", "a question")
    assert_type(found, RLMResult)
    assert_type(found.final_answer, str)
    assert_type(found.cost_usd, Decimal | None)
except (
    BudgetExceeded,
    BudgetUnavailable,
    Runaway,
    UnknownPrice,
    CallRefused,
    ConfigError,
    StoreError,
    RlmObsError,
) as error:
    print(error)

# -- facts, prices, plugins --------------------------------------------------------------------------------------------

usage = Usage(input_tokens=10, cached_input_tokens=4, output_tokens=5)
assert_type(price("gpt-4o", usage, provider="openai", service_tier="flex", at=datetime.now(UTC)), Cost | None)
assert_type(price_answer({"model": "gpt-4o"}, endpoint="/v1/responses", status=200), Cost | None)
assert_type(estimate({"model": "gpt-4o", "input": "hi"}, endpoint="/responses"), Estimate)
assert_type(estimate({"model": "gpt-4o", "input": "hi"}).most_usd, Decimal | None)
for record in read_records("calls.jsonl"):
    assert_type(record, Record)
    assert_type(record.cost_usd, Decimal | None)
    if record.cost is not None:
        assert_type(record.cost.exact, bool)


class CsvExporter(CallExporter):
    def export_call(self, record: Record) -> None:
        print(record.model, record.cost_usd, sep=",")


class Plugin:
    @hookimpl
    def register_exporters(self) -> Mapping[str, Callable[[Settings], SpanExporter]]:
        return {"csv": lambda settings: CsvExporter()}

    @hookimpl
    def price(self, request: Request, usage: Usage) -> Cost | None:
        return Cost(total=Decimal(1), source="flat") if request.model == "mine" else None


plugin = Plugin()
register_plugin(plugin, name="mine")
unregister_plugin(plugin)

# -- for whom, and across services ------------------------------------------------------------------------------------


@context(user_id=7, session_id="s", tenant_id=None, tags=["a"], metadata={"k": 1}, attributes={"order.id": 9}, team="x")
async def for_somebody(number: int) -> str:
    return str(number)


with context(user_id="u") as entered, extract({"traceparent": "…"}):
    assert_type(entered, context)
    print(inject()["traceparent"], inject({"accept": "text/plain"}), for_somebody(1))


assert_type(score("helpful", 0.9, "short", trace_id="0" * 31 + "1", span_id=None), bool)


async def application(scope: Any, receive: Any, send: Any) -> None: ...


AsgiMiddleware(application, trusted=False)

# -- the kit -----------------------------------------------------------------------------------------------------------


def answer(seen: Seen) -> Answer:
    return Answer(str(seen.json), usage={"prompt_tokens": 3})


with fake_openai(answer, latency_s=0.01) as server, collect() as collected:
    assert_type(server, FakeOpenAI)
    assert_type(server.base_url, str)
    assert_type(server.requests, list[Seen])
    assert_type(collected, Collected)
    assert_type(collected.records, list[Record])


kept = SpanList()
print(len(kept.spans))


class TestCsvExporter(ExporterContract):
    def make_exporter(self) -> SpanExporter:
        return CsvExporter()


class TestPrices(PricesContract):
    def make_plugin(self) -> object:
        return Plugin()

    def cases(self) -> list[PriceCase]:
        return [
            PriceCase(model="acme-1", usage=Usage(input_tokens=1, output_tokens=2), usd="0.5", at=datetime.now(UTC))
        ]

    def move_clock(self, moment: datetime) -> None:
        assert moment


class Patch:
    def instrument(self) -> None: ...

    def uninstrument(self) -> None: ...


class TestInstrumentor(InstrumentorContract):
    module = "acme"

    def make_instrumentor(self) -> Instrumentor:
        return Patch()

    def call(self) -> object:
        return self.prompt

    def fail(self) -> object:
        raise LookupError

    def sent(self) -> int:
        return 0


with open_budgets("sqlite:///budgets.db") as budgets:
    assert_type(budgets, Budgets)
    assert_type(budgets.show("day"), list[BudgetRow])
    assert_type(budgets.set("day", "20.00", key="ann", who="me"), BudgetRow)
    assert_type(budgets.top_up("day", 5, window="day:2026-11-25").free, Decimal)
    assert_type(budgets.reset("day").to_dict(), dict[str, Any])
    assert_type(budgets.history("day")[0].before, Decimal | None)


class TestStore(StoreContract):
    def make_store(self) -> Store:
        raise AssertionError("only its types are looked at")

    def spend(self) -> Decimal:
        message = Message(lease="mine", number=1, limit=Decimal(10), spent=Decimal(1))
        return self.make_store().exchange(AccountId("day"), message).state.free


assert rlm_obs.__version__
