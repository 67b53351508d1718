"""What is recorded of content has passed every redactor whole, and only then was cut; a redactor that fails costs it all."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

import rlm_obs
from rlm_obs import _content, _guard, _parts, _plugins, _redact
from rlm_obs._plugins import Plugins
from rlm_obs._record import Request
from rlm_obs._settings import read_settings

REQUEST = Request(provider="openai", endpoint="/chat/completions", operation="chat", model="a")
KEY = "sk-proj-" + "k" * 156


@pytest.fixture
def plugins() -> Iterator[Callable[..., Plugins]]:
    """Return the plugins under given settings."""

    def made(**settings: Any) -> Plugins:
        chosen = read_settings(settings)
        loaded = Plugins(chosen)
        loaded.configured(chosen)
        return loaded

    yield made
    _redact._told = None


def messages(said: str) -> dict[str, Any]:
    return {"input": [_parts.message("user", [_parts.text(said)])]}


def recorded(plugins: Plugins, said: str) -> str:
    (attribute,) = _content.recorded(plugins, REQUEST, messages(said)).items()
    assert attribute[0] == "gen_ai.input.messages"
    ((part,),) = [message["parts"] for message in json.loads(attribute[1])]
    return str(part["content"])


@pytest.mark.parametrize("before", range(0, 120, 7))
def test_a_secret_that_the_cut_halves(before: int, plugins: Callable[..., Plugins]) -> None:
    """A key is redacted whole, though the limit falls into it: no half of it is left before the mark."""
    said = recorded(plugins(content_limit=100, redact=["keys"]), "a" * before + " " + KEY + " " + "b" * 2000)
    assert "kkkk" not in said
    assert said.endswith("… (cut)")
    assert len(said) <= 100 + len("… (cut)")


def test_many_secrets_before_the_cut(plugins: Callable[..., Plugins]) -> None:
    """Where redacted texts are shorter, nothing from behind the cut moves into what is recorded."""
    said = recorded(plugins(content_limit=1000, redact=["keys"]), f"{KEY} " * 40)
    assert "kkkk" not in said
    assert said.startswith("[key] [key]")


def test_a_short_text_is_whole(plugins: Callable[..., Plugins]) -> None:
    """A text of just the limit is not cut; one more character is."""
    assert recorded(plugins(content_limit=10), "a" * 10) == "a" * 10
    assert recorded(plugins(content_limit=10), "a" * 11) == "a" * 10 + "… (cut)"
    assert recorded(plugins(content_limit=0), "a") == "… (cut)"


def test_half_a_surrogate_pair(plugins: Callable[..., Plugins]) -> None:
    """Text that UTF-8 cannot say is recorded as well as it can be, so that no exporter fails on it."""
    assert recorded(plugins(), "a\ud83d") == "a?"
    assert recorded(plugins(), "привет 🙈") == "привет 🙈"


class Seen:
    """A redactor that keeps what it is shown, or fails as it is told."""

    def __init__(self, answer: Any = ..., error: Exception | None = None) -> None:
        self.answer, self.error, self.seen = answer, error, []  # type: ignore[var-annotated]

    @rlm_obs.hookimpl
    def redact(self, request: Any, content: Mapping[str, Any]) -> Any:
        self.seen.append((request, content))
        if self.error is not None:
            raise self.error
        return content if self.answer is ... else self.answer


def test_a_redactor_sees_all_of_it(plugins: Callable[..., Plugins]) -> None:
    """A redactor gets every name, None for what there is not, and the request; of a function's arguments no request."""
    loaded, redactor = plugins(), Seen()
    loaded.register(redactor)
    _content.recorded(loaded, REQUEST, {**messages("a"), "output": lambda: ["b"]})
    _content.recorded_arguments(loaded, {"a": "b"}, 256)
    (request, content), (none, arguments) = redactor.seen
    assert request is REQUEST
    assert content == {**messages("a"), "output": ["b"], "instructions": None, "tools": None, "arguments": None}
    assert none is None
    assert arguments == {**dict.fromkeys(content), "arguments": {"a": "b"}}


@pytest.mark.swallows
@pytest.mark.parametrize("answer", [None, "text", 3, []])
def test_an_answer_that_is_no_content(answer: Any, plugins: Callable[..., Plugins], caplog: Any) -> None:
    """A redactor that answers nonsense costs the content, with one line in the log."""
    loaded = plugins()
    loaded.register(Seen(answer), "odd")
    assert _content.recorded(loaded, REQUEST, messages("secret")) == {}
    assert _content.recorded_arguments(loaded, {"a": "secret"}, 256) == {}
    (line,) = caplog.records
    assert "odd.redact returned" in line.getMessage()


@pytest.mark.swallows
def test_a_failure_is_counted_and_quotes_nothing(plugins: Callable[..., Plugins], caplog: Any) -> None:
    """A redactor that raises is counted and logged once; not even at debug level does the log hold its message."""
    caplog.set_level(logging.DEBUG)
    loaded = plugins()
    loaded.register(Seen(error=ValueError("cannot read: secret")), "weak")
    for _ in range(3):
        assert _content.recorded(loaded, REQUEST, messages("secret")) == {}
    assert _guard.failures["weak.redact"] == 3
    (line,) = caplog.records
    assert "weak.redact" in line.getMessage()
    assert "secret" not in caplog.text


def test_arguments_of_functions(plugins: Callable[..., Plugins]) -> None:
    """Arguments are redacted before they are cut; numbers stay numbers."""
    loaded = plugins(redact=["keys", "email"])
    shown = _content.recorded_arguments(loaded, {"who": "ann@example.com", "n": 3, "long": "x" * 200 + " " + KEY}, 256)
    assert shown == {"who": "[email]", "n": 3, "long": "x" * 200 + " [key]"}


def test_without_instrument_it_is_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer alone, before any call, redacts captured arguments as the environment says."""
    monkeypatch.setenv("RLM_OBS_REDACT", "email")
    monkeypatch.setattr(_plugins, "_loaded", None)

    @rlm_obs.traced(capture_args=True)
    def ask(who: str) -> None: ...

    from rlm_obs.testing import collect

    with collect() as found:
        ask("ann@example.com")
        (span,) = found.spans
    assert (span.attributes or {})["rlm_obs.args.who"] == "[email]"
