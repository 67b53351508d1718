"""The patch goes on once and comes off without a trace, whoever else has patched the client meanwhile."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import wrapt

import rlm_obs
from rlm_obs import CostTracker
from rlm_obs.testing import FakeOpenAI, collect

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there"}]}
CLASSES = (openai.OpenAI, openai.AsyncOpenAI)


def untouched() -> bool:
    return all("request" not in cls.__dict__ for cls in CLASSES)


@pytest.fixture(autouse=True)
def clean_before_and_after() -> Iterator[None]:
    """Other people's patches of a test are gone after it."""
    assert untouched()
    yield
    rlm_obs.uninstrument()
    for cls in CLASSES:
        if "request" in cls.__dict__:
            delattr(cls, "request")


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(verify=False)
    with openai.OpenAI(api_key="test", base_url=server.base_url, http_client=http) as made:
        yield made


def records_of(call: Callable[[], Any]) -> int:
    """Return how many records a call leaves with `instrument()` alone in force."""
    with rlm_obs.instrument(exporters=[]) as made:
        call()
        return made.report().calls


def test_uninstrument_restores_the_classes_exactly() -> None:
    """Afterwards `request` is inherited again, and is the very function that it was."""
    before = [cls.request for cls in CLASSES]
    made = rlm_obs.instrument(exporters=[])
    assert not untouched()
    made.uninstrument()
    assert untouched()
    assert all(cls.request is function for cls, function in zip(CLASSES, before, strict=True))


def test_again_changes_nothing(client: openai.OpenAI) -> None:
    """Instrumented twice, a call is one record; uninstrumented twice, the classes are what they were."""
    rlm_obs.instrument(exporters=[])
    patched = openai.OpenAI.__dict__["request"]
    made = rlm_obs.instrument(exporters=[])
    client.chat.completions.create(**CHAT)
    assert made.report().calls == 1
    rlm_obs.uninstrument()
    rlm_obs.uninstrument()
    made.uninstrument()
    assert untouched()
    rlm_obs.instrument(exporters=[])
    assert openai.OpenAI.__dict__["request"] is not patched


def test_a_block_of_ours_needs_no_instrument(client: openai.OpenAI) -> None:
    """A budget or a collecting block puts the gate up; an `uninstrument()` inside takes it away at the block's end."""
    with CostTracker() as tracker:
        rlm_obs.instrument(exporters=[])
        rlm_obs.uninstrument()
        client.chat.completions.create(**CHAT)
        assert not untouched()
    assert tracker.get_report().calls == 1
    assert untouched()


def test_the_patched_method_looks_like_the_clients() -> None:
    """Name, signature and documentation are the client's own while we are there."""
    import inspect

    before = [(inspect.signature(cls.request), cls.request.__doc__) for cls in CLASSES]
    with rlm_obs.instrument(exporters=[]):
        assert [(inspect.signature(cls.request), cls.request.__doc__) for cls in CLASSES] == before
        assert openai.OpenAI.request.__qualname__ == "SyncAPIClient.request"
        assert inspect.iscoroutinefunction(openai.AsyncOpenAI.request)
        assert not inspect.iscoroutinefunction(openai.OpenAI.request)


def passes_on(seen: list[str]) -> Any:
    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append("theirs")
        return wrapped(*args, **kwargs)

    return wrapper


def with_wrapt(seen: list[str]) -> None:
    wrapt.wrap_function_wrapper(openai.OpenAI, "request", passes_on(seen))


def with_a_function(seen: list[str]) -> None:
    original = openai.OpenAI.request

    @functools.wraps(original)
    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append("theirs")
        return original(self, *args, **kwargs)

    openai.OpenAI.request = request  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("patch", [with_wrapt, with_a_function])
def test_a_patch_below_us_stays(patch: Any, client: openai.OpenAI) -> None:
    """What somebody patched before us is there again afterwards, the same object, and was called all the time."""
    seen: list[str] = []
    patch(seen)
    theirs = openai.OpenAI.__dict__["request"]
    assert records_of(lambda: client.chat.completions.create(**CHAT)) == 1
    assert openai.OpenAI.__dict__["request"] is theirs
    client.chat.completions.create(**CHAT)
    assert seen == ["theirs", "theirs"]


@pytest.mark.parametrize("patch", [with_wrapt, with_a_function])
def test_a_patch_above_us_stays(patch: Any, client: openai.OpenAI) -> None:
    """What somebody patched after us stays where it is; ours does nothing any more, and a new one counts once."""
    seen: list[str] = []
    rlm_obs.instrument(exporters=[])
    patch(seen)
    theirs = openai.OpenAI.__dict__["request"]
    rlm_obs.uninstrument()
    assert openai.OpenAI.__dict__["request"] is theirs
    with CostTracker() as tracker:  # anything in force would make a gate that is still there count twice
        client.chat.completions.create(**CHAT)
    assert tracker.get_report().calls == 1
    assert records_of(lambda: client.chat.completions.create(**CHAT)) == 1
    assert openai.OpenAI.__dict__["request"] is theirs
    client.chat.completions.create(**CHAT)
    assert seen == ["theirs"] * 3


def test_ours_is_gone_from_under_a_wrapt_patch(client: openai.OpenAI) -> None:
    """Under a patch made with wrapt nothing of ours is left at all."""
    own = openai.OpenAI.request
    rlm_obs.instrument(exporters=[])
    with_wrapt([])
    rlm_obs.uninstrument()
    assert openai.OpenAI.__dict__["request"].__wrapped__ is own


def test_somebody_who_replaced_us_is_left_alone(client: openai.OpenAI) -> None:
    """A replacement that calls nothing of ours stays, and nothing is raised."""
    own = openai.OpenAI.request
    rlm_obs.instrument(exporters=[])
    openai.OpenAI.request = own  # type: ignore[method-assign]
    rlm_obs.uninstrument()
    assert openai.OpenAI.__dict__["request"] is own


def test_a_patch_from_our_time_may_come_off_later(client: openai.OpenAI) -> None:
    """Whoever patched over us and puts back ours, puts back what does nothing; and a new one counts once."""
    rlm_obs.instrument(exporters=[])
    ours = openai.OpenAI.__dict__["request"]
    with_a_function([])
    rlm_obs.uninstrument()
    openai.OpenAI.request = ours  # type: ignore[method-assign]
    client.chat.completions.create(**CHAT)
    assert records_of(lambda: client.chat.completions.create(**CHAT)) == 1


def test_a_subclass_that_overrides_request_is_seen_once(server: FakeOpenAI) -> None:
    """A subclass with a `request` of its own, which calls the client's, is one record a call."""

    class Mine(openai.OpenAI):
        def request(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            return super().request(*args, **kwargs)

    with collect() as collected, openai.DefaultHttpxClient(verify=False) as http:
        Mine(api_key="test", base_url=server.base_url, http_client=http).chat.completions.create(**CHAT)
        assert len(collected.records) == 1


def test_instrument_before_openai_is_imported(server: FakeOpenAI) -> None:
    """`instrument()` does not import openai; once the program does, its calls are seen, and it can be undone."""
    code = f"""
import sys, rlm_obs
rlm_obs.instrument(exporters=[]); rlm_obs.uninstrument()
made = rlm_obs.instrument(exporters=[])
assert "openai" not in sys.modules
import openai
assert "request" in openai.OpenAI.__dict__ and "request" in openai.AsyncOpenAI.__dict__
with openai.OpenAI(api_key="test", base_url={server.base_url!r}) as client:
    client.chat.completions.create(**{CHAT!r})
assert made.report().calls == 1, made.report()
made.uninstrument()
assert "request" not in openai.OpenAI.__dict__ and "request" not in openai.AsyncOpenAI.__dict__
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_uninstrumented_before_openai_is_imported() -> None:
    """An `instrument()` that was undone before the import leaves the client alone."""
    code = """
import rlm_obs
rlm_obs.instrument(exporters=[]); rlm_obs.uninstrument()
import openai
assert "request" not in openai.OpenAI.__dict__
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
