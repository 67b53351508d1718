"""Instrumentors that each break one promise of the contract, and one that keeps them all; `breaks` says which tests must fail."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import openai
import pytest

import rlm_obs
from rlm_obs import Request
from rlm_obs import instrumentation as sdk
from rlm_obs.testing import Answer, FakeOpenAI, InstrumentorContract, Seen, fake_openai

USAGE = {"input_tokens": 10, "output_tokens": 2}
EVENTS = b'data: {"piece": "Hel"}\n\ndata: {"piece": "lo", "done": true, "usage": {"input_tokens": 10, "output_tokens": 2}}\n\n'


class Acme(openai.OpenAI):
    """The SDK: one endpoint, on the base that such SDKs have."""

    def talk(self, text: str, *, model: str = "acme-1", stream: bool = False) -> Any:
        body = {"model": model, "text": text, "stream": stream}
        return self.post("/v2/talk", body=body, cast_to=object, stream=stream, stream_cls=openai.Stream[object])


class AsyncAcme(openai.AsyncOpenAI):
    """The same for asyncio."""

    async def talk(self, text: str) -> Any:
        return await self.post("/v2/talk", body={"model": "acme-1", "text": text}, cast_to=object)


acme: Any = ModuleType("acme")
acme.Acme, acme.AsyncAcme = Acme, AsyncAcme
Acme.__module__ = AsyncAcme.__module__ = "acme"
sys.modules["acme"] = acme


class Reader(sdk.Reader):
    """Keeps every promise."""

    signs = (b'"usage"',)

    def read(self, client: Any, options: Any, stream: bool, awaits: bool, holds: sdk.InForce) -> sdk.Asked | None:
        if options.url != "/v2/talk":
            return None
        body = sdk.body_of(options)
        request = Request(
            provider="acme",
            endpoint="/v2/talk",
            operation="chat",
            model=body["model"],
            streamed=stream,
            attributes=self.attributes(body, holds),
        )

        def bound(request: Request) -> sdk.Bound:
            return sdk.Bound(sdk.most_input_tokens(body["text"]), 100, limit_is_users=True)

        return sdk.Asked(request, sdk.Needs(bound, lambda: sdk.timeout_s(client, options), awaits))

    def attributes(self, body: Any, holds: sdk.InForce) -> Any:
        return holds.attributes

    def answered(self, answer: Any, into: sdk.Answer) -> None:
        into.usage = sdk.read_usage(sdk.fields_of(answer)["usage"], "acme")

    def event(self, event: Any, into: sdk.Answer) -> bool:
        if "usage" in event:
            self.answered(event, into)
        return bool(event.get("done"))


class Instrumentor(sdk.SdkInstrumentor):
    """Keeps every promise."""

    reader: Callable[[], sdk.Reader] = Reader

    def __init__(self) -> None:
        super().__init__("acme", {"Acme": False, "AsyncAcme": True}, self.reader())


def answer(seen: Seen) -> Answer:
    if seen.json["model"] == "gone":
        return Answer("there is none", status=404)
    return Answer(body=EVENTS, content_type="text/event-stream") if seen.json.get("stream") else Answer(json=SAID)


TALK = Acme.talk
NEVER_GONE: list[Instrumentor] = []
SAID = {"text": "Hello", "usage": USAGE}


class Kept(InstrumentorContract):
    """The contract, against a server of the test's own."""

    module = "acme"
    made: type[Any] = Instrumentor
    breaks: str = ""
    server: FakeOpenAI
    client: Acme

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        with fake_openai(answer) as self.server:
            self.url = self.server.base_url.removesuffix("/v1")
            with Acme(api_key="k", base_url=self.url, max_retries=0) as self.client:
                yield
        Acme.talk = TALK  # type: ignore[method-assign]  # what is broken stays where it is
        while NEVER_GONE:
            Instrumentor.uninstrument(NEVER_GONE.pop())

    def make_instrumentor(self) -> Any:
        return self.made()

    def call(self) -> object:
        return self.client.talk(self.prompt)

    def fail(self) -> object:
        return self.client.talk(self.prompt, model="gone")

    def stream(self) -> Iterable[Any]:
        stream: Iterable[Any] = self.client.talk(self.prompt, stream=True)
        return stream

    async def async_call(self) -> object:
        async with AsyncAcme(api_key="k", base_url=self.url, max_retries=0) as client:
            return await client.talk(self.prompt)

    def sent(self) -> int:
        return len(self.server.requests)


class TestNothing(Kept):
    """Nothing is broken."""


EVERY = (
    "test_a_call_is_seen_once test_instrumented_twice_it_is_seen_once test_an_async_call_is_seen_once "
    "test_an_error_is_passed_on_unchanged test_a_stream_is_handed_on test_a_stream_that_is_left_is_one_call "
    "test_a_refused_call_is_not_sent test_afterwards_nothing_is_seen "
)


class TestSeesNothing(Kept):
    """It patches what nobody calls."""

    breaks = EVERY

    class made(Instrumentor):  # noqa: N801
        def instrument(self) -> None:
            pass


class TestTwice(Kept):
    """It patches again where it is asked again."""

    breaks = "test_instrumented_twice_it_is_seen_once"

    class made(Instrumentor):  # noqa: N801
        def __init__(self) -> None:
            self.patches: list[Instrumentor] = []

        def instrument(self) -> None:
            self.patches.append(Instrumentor())
            self.patches[-1].instrument()

        def uninstrument(self) -> None:
            while self.patches:
                self.patches.pop().uninstrument()


class TestOneColour(Kept):
    """It has forgotten asyncio."""

    breaks = "test_an_async_call_is_seen_once"

    class made(sdk.SdkInstrumentor):  # noqa: N801
        def __init__(self) -> None:
            super().__init__("acme", {"Acme": False}, Reader())


class TestNoUsage(Kept):
    """It does not read what was used."""

    breaks = "test_a_call_is_seen_once test_a_stream_is_handed_on"

    class made(Instrumentor):  # noqa: N801
        class reader(Reader):  # noqa: N801
            def answered(self, answer: Any, into: sdk.Answer) -> None:
                pass


class TestTells(Kept):
    """It puts the prompt on the span."""

    breaks = "test_what_is_asked_stays_private"

    class made(Instrumentor):  # noqa: N801
        class reader(Reader):  # noqa: N801
            def attributes(self, body: Any, holds: sdk.InForce) -> Any:
                return {**holds.attributes, "text": body["text"]}


class Wrapped:
    """A base for those that patch `talk` itself, as instrumentations by hand do, over a sound one."""

    def __init__(self) -> None:
        self.sound, self.own = Instrumentor(), Acme.talk

    def instrument(self) -> None:
        self.sound.instrument()
        if Acme.talk is self.own:
            own, changed = self.own, self.changed
            Acme.talk = lambda *args, **kwargs: changed(own, *args, **kwargs)  # type: ignore[method-assign]

    def uninstrument(self) -> None:
        self.sound.uninstrument()
        Acme.talk = self.own  # type: ignore[method-assign]

    def changed(self, talk: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return talk(*args, **kwargs)


class TestHandsOnItsOwn(Kept):
    """It gives an object of its own in place of the answer, and an iterator in place of the stream."""

    breaks = "test_an_answer_is_handed_on test_a_stream_is_handed_on"

    class made(Wrapped):  # noqa: N801
        def changed(self, talk: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return iter(talk(*args, **kwargs))


class TestWrapsErrors(Kept):
    """It gives an error of its own."""

    breaks = "test_an_error_is_passed_on_unchanged"

    class made(Wrapped):  # noqa: N801
        def changed(self, talk: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            try:
                return talk(*args, **kwargs)
            except openai.APIError as error:
                raise RuntimeError("the call has failed") from error


class TestReadsAhead(Kept):
    """It reads a stream to its end before it gives it to the user."""

    breaks = "test_a_stream_is_handed_on test_a_stream_that_is_left_is_one_call"

    class made(Wrapped):  # noqa: N801
        def changed(self, talk: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            answer = talk(*args, **kwargs)
            return list(answer) if isinstance(answer, openai.Stream) else answer


class TestSendsFirst(Kept):
    """It sends the call, and asks the budget then."""

    breaks = "test_a_refused_call_is_not_sent"

    class made(Wrapped):  # noqa: N801
        def changed(self, talk: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            try:
                return talk(*args, **kwargs)
            except rlm_obs.CallRefused:
                self.sound.uninstrument()
                talk(*args, **kwargs)
                raise


class TestLeavesAWrapper(Kept):
    """It leaves a wrapper behind."""

    breaks = "test_uninstrument_leaves_everything_as_it_was"

    class made(Wrapped):  # noqa: N801
        def uninstrument(self) -> None:
            self.sound.uninstrument()


class TestNeverGoes(Kept):
    """It does not stop to look."""

    breaks = "test_afterwards_nothing_is_seen test_uninstrument_leaves_everything_as_it_was"

    class made(Instrumentor):  # noqa: N801
        def uninstrument(self) -> None:
            NEVER_GONE.append(self)
