"""`rlm_obs.context`: what it says stands on every span and every record below it, and nowhere else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs._attributes import record_of
from rlm_obs.testing import SpanList, fake_openai

WHO = {"user.id": "u-17", "session.id": "s-4", "tenant.id": "acme"}


class Seen:
    """What the hooks got: the requests before, and the records after."""

    def __init__(self) -> None:
        self.requests: list[rlm_obs.Request] = []
        self.records: list[rlm_obs.Record] = []

    @rlm_obs.hookimpl
    def call_starting(self, request: rlm_obs.Request) -> None:
        self.requests.append(request)

    @rlm_obs.hookimpl
    def call_finished(self, record: rlm_obs.Record) -> None:
        self.records.append(record)


@pytest.fixture
def seen() -> Iterator[Seen]:
    plugin = Seen()
    rlm_obs.register_plugin(plugin)
    yield plugin
    rlm_obs.unregister_plugin(plugin)


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with fake_openai() as server, openai.OpenAI(api_key="k", base_url=server.base_url) as made:
        yield made


@pytest.fixture
def spans() -> Iterator[SpanList]:
    kept = SpanList()
    with rlm_obs.instrument(exporters=[kept]):
        yield kept


def ask(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])


def users(spans: SpanList) -> list[Any]:
    assert rlm_obs.flush()
    return [(span.attributes or {}).get("user.id") for span in spans.spans]


def test_everything_below_has_it(client: openai.OpenAI, spans: SpanList, seen: Seen) -> None:
    """User, session, tenant, tags, metadata and free attributes: on spans of ours, requests, records and calls' spans."""
    said = rlm_obs.context(
        user_id="u-17",
        session_id="s-4",
        tags=["beta", "eu"],
        metadata={"build": 7},
        tenant_id="acme",
        attributes={"order.id": 9, "left.out": None},
        team="search",
    )
    whole = {**WHO, "tags": ("beta", "eu"), "metadata.build": 7, "order.id": 9, "team": "search"}
    tracer = rlm_obs.Tracer("t", exporter=spans)
    with said, tracer.span("mine"):
        ask(client)
    tracer.shutdown()
    ask(client)
    assert rlm_obs.flush()
    inside, outside = seen.records
    for attributes in (seen.requests[0].attributes, inside.attributes, *(s.attributes for s in spans.spans[:2])):
        assert whole.items() <= dict(attributes or {}).items()
        assert "left.out" not in (attributes or {})
    assert not whole.keys() & outside.attributes.keys()
    assert not whole.keys() & dict(spans.spans[2].attributes or {}).keys()


def test_blocks_nest(client: openai.OpenAI, spans: SpanList, seen: Seen) -> None:
    """The inner block wins, its tags are added, and it ends where it ends."""
    with rlm_obs.context(user_id=1, tags=["a"], metadata={"x": 1}):
        with rlm_obs.context(user_id=2, tags=["b", "a"], metadata={"y": 2}):
            ask(client)
        ask(client)
    inner, outer = (dict(record.attributes) for record in seen.records)
    assert (inner["user.id"], inner["tags"], inner["metadata.x"], inner["metadata.y"]) == ("2", ("a", "b"), 1, 2)
    assert (outer["user.id"], outer["tags"]) == ("1", ("a",))
    assert "metadata.y" not in outer


def test_a_span_s_own_attribute_wins(spans: SpanList) -> None:
    """What is said of one span is truer of it than what is said of all."""
    tracer = rlm_obs.Tracer("t", exporter=spans)
    with rlm_obs.context(team="all"), tracer.span("mine", {"team": "mine"}):
        pass
    tracer.shutdown()
    assert (spans.spans[0].attributes or {})["team"] == "mine"


@pytest.mark.parametrize("name", ["gen_ai.request.model", "gen_ai.usage.cost", "rlm_obs.status", "error.type"])
def test_no_fact_about_a_call_can_be_said(name: str) -> None:
    """A free attribute with the name of such a fact would change what a trace or a file says it cost."""
    with pytest.raises(rlm_obs.ConfigError, match=name):
        rlm_obs.context(attributes={name: 1})


def test_the_words_of_the_conventions(client: openai.OpenAI, spans: SpanList, seen: Seen) -> None:
    """Conversation, agent and prompt have names in OpenTelemetry's conventions, and stay in the record read back."""
    said = {"gen_ai.conversation.id": "c", "gen_ai.agent.name": "planner", "gen_ai.prompt.name": "greet"}
    with rlm_obs.context(attributes=said):
        ask(client)
    assert rlm_obs.flush()
    read = record_of(spans.spans[0])
    assert read is not None
    assert said.items() <= read.attributes.items()
    assert said.items() <= seen.records[0].attributes.items()


def test_threads_and_tasks(client: openai.OpenAI, spans: SpanList, seen: Seen) -> None:
    """It goes into threads, pools and tasks; two at a time do not see each other's."""

    async def one(user: str) -> None:
        with rlm_obs.context(user_id=user):
            await asyncio.sleep(0)
            await asyncio.to_thread(ask, client)

    async def both() -> None:
        await asyncio.gather(one("a"), one("b"))

    with rlm_obs.context(user_id="t"):
        thread = threading.Thread(target=ask, args=(client,))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask, client).result()
    asyncio.run(both())
    assert [r.attributes["user.id"] for r in seen.records[:2]] == ["t", "t"]
    assert {r.attributes["user.id"] for r in seen.records[2:]} == {"a", "b"}


@rlm_obs.context(user_id="u")
def plain(client: openai.OpenAI) -> str:
    ask(client)
    return "done"


@rlm_obs.context(user_id="u")
async def coroutine(client: openai.OpenAI) -> str:
    await asyncio.sleep(0)
    ask(client)
    return "done"


@rlm_obs.context(user_id="u")
def generator(client: openai.OpenAI) -> Iterator[str]:
    yield "first"
    ask(client)


@rlm_obs.context(user_id="u")
async def async_generator(client: openai.OpenAI) -> AsyncIterator[str]:
    yield "first"
    ask(client)


@rlm_obs.context(user_id="u")
class Service:
    def answer(self, client: openai.OpenAI) -> str:
        ask(client)
        return "done"


def test_as_a_decorator(client: openai.OpenAI, spans: SpanList, seen: Seen) -> None:
    """It decorates functions of every kind and classes; between the steps of a generator its consumer is not in it."""

    async def consume() -> None:
        assert await coroutine(client) == "done"
        async for _ in async_generator(client):
            ask(client)

    assert plain(client) == Service().answer(client) == "done"
    for _ in generator(client):
        ask(client)
    asyncio.run(consume())
    assert [r.attributes.get("user.id") for r in seen.records] == ["u", "u", None, "u", "u", None, "u"]


def test_a_decorated_function_without_a_tracer_patches_nothing() -> None:
    """Nothing is switched on by saying for whom the work is."""
    before = openai.OpenAI.request

    @rlm_obs.context(user_id="u")
    def work() -> None:
        assert openai.OpenAI.request is before

    work()
    with rlm_obs.context(user_id="u"):
        assert openai.OpenAI.request is before


def test_one_object_many_times(client: openai.OpenAI, spans: SpanList, seen: Seen) -> None:
    """One object can be entered again, inside itself and by several threads."""
    said = rlm_obs.context(user_id="u", tags=["a"])
    with said, said, ThreadPoolExecutor(2) as pool:

        def inside() -> None:
            with said:
                ask(client)

        for done in [pool.submit(inside), pool.submit(inside)]:
            done.result()
    ask(client)
    assert [r.attributes.get("user.id") for r in seen.records] == ["u", "u", None]
    assert seen.records[0].attributes["tags"] == ("a",)


def test_any_value_becomes_an_attribute(client: openai.OpenAI, spans: SpanList) -> None:
    """Ids of any type become text, and so does what no attribute can be; nothing is lost or warned of."""
    with rlm_obs.context(user_id=17, metadata={"price": Decimal("1.50"), "parts": [1, None], "deep": {"a": 1}}):
        ask(client)
    assert rlm_obs.flush()
    said = spans.spans[0].attributes or {}
    assert (said["user.id"], said["metadata.price"], said["metadata.parts"]) == ("17", "1.50", (1, "None"))
    assert said["metadata.deep"] == "{'a': 1}"


@pytest.mark.parametrize("wrong", [{"tags": "beta"}, {"metadata": ["a"]}, {"attributes": "a"}, {"tags": 5}])
def test_a_wrong_argument_is_told_where_it_stands(wrong: dict[str, Any]) -> None:
    """A text for the tags would become a tag per letter."""
    with pytest.raises(rlm_obs.ConfigError, match=r"^context\((tags|metadata|attributes)="):
        rlm_obs.context(**wrong)


def test_its_repr_tells_no_values() -> None:
    """A user's id does not get into logs by printing the object."""
    assert repr(rlm_obs.context(user_id="private", tags=["a"])) == "context(user.id, tags)"


def test_what_it_says_is_read_back(client: openai.OpenAI, tmp_path: Any) -> None:
    """The record that a file gives back has what the context said."""
    with rlm_obs.instrument(exporters=[rlm_obs.FileExporter(tmp_path / "calls.jsonl")]):
        with rlm_obs.context(user_id="u", tags=["a"], metadata={"k": 1}):
            ask(client)
        assert rlm_obs.flush()
    (record,) = rlm_obs.read_records(tmp_path / "calls.jsonl")
    assert {"user.id": "u", "tags": ("a",), "metadata.k": 1}.items() <= record.attributes.items()
