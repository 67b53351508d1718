"""Messages of real calls and real budgets, POSTed to a real server on loopback; its address and the prompts are nowhere."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
import rlm_obs_webhook
from rlm_obs_webhook import Webhook, plugin

import rlm_obs
from rlm_obs.testing import Answer, FakeOpenAI, fake_openai

PATH = "/services/T0/B0/a-secret-path"
ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a secret prompt"}]}
LONGEST_S = 20


@dataclass
class Channel:
    """What was said there, and what to answer."""

    url: str = ""
    texts: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def wait(self, messages: int) -> list[str]:
        """Return the texts once there are so many."""
        until = time.monotonic() + LONGEST_S
        while len(self.texts) < messages and time.monotonic() < until:
            time.sleep(0.01)
        return list(self.texts)


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    """A running server in the place of Slack's, whose address is set."""
    state = Channel()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.asked.append((self.path, self.headers["content-type"]))
            state.texts.append(json.loads(body)["text"])
            self.send_response(state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            state.texts.append("a redirect was followed")

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    state.url = f"http://127.0.0.1:{server.server_port}{PATH}"
    monkeypatch.setenv("ALERT_WEBHOOK_URL", state.url)
    monkeypatch.setenv("NO_PROXY", "*")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    plugin.close()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model() -> Iterator[FakeOpenAI]:
    """A server of models: one of them is gone."""
    with fake_openai(lambda seen: Answer("a secret", status=404) if seen.json["model"] == "gone" else None) as server:
        yield server


@contextlib.contextmanager
def running(model: FakeOpenAI, **options: Any) -> Iterator[openai.OpenAI]:
    """Run an instrumented program."""
    settings = {"hosts": {"127.0.0.1": "openai"}, **options.pop("settings", {})}
    with (
        openai.OpenAI(api_key="sk-hidden", base_url=model.base_url, max_retries=0) as client,
        rlm_obs.instrument(exporters=[], service_name="a <shop> & more", settings=settings, **options),
    ):
        yield client


def test_alerts(channel: Channel, model: FakeOpenAI) -> None:
    """A threshold and a refusal are told, as Slack takes them, with the program's name."""
    with running(model, budget_usd="0.0001", settings={"alert_threshold": 0.01}) as client:
        client.chat.completions.create(**ASK, max_completion_tokens=20)
        with contextlib.suppress(rlm_obs.BudgetExceeded):
            client.chat.completions.create(**ASK, max_completion_tokens=100_000)
    first, second = channel.wait(2)
    assert first.startswith("[a &lt;shop&gt; &amp; more] budget 'program' has reached 1%: $")
    assert "has refused a call" in second
    assert channel.asked == [(PATH, "application/json")] * 2


def fail(client: openai.OpenAI) -> None:
    with contextlib.suppress(openai.NotFoundError):
        client.chat.completions.create(**ASK | {"model": "gone"})


def test_failed_calls(channel: Channel, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is told at once; those that follow are counted, and told as a number at the end."""
    monkeypatch.setattr(rlm_obs_webhook, "EACH_S", 3600.0)
    with running(model) as client:
        for _ in range(4):
            fail(client)
    plugin.close()
    first, second = channel.texts
    assert "] chat gone failed after " in first and " s: NotFoundError (trace " in first
    assert second.endswith("] 3 more failed calls")
    assert "secret" not in first + second and "hidden" not in first + second


def test_failed_calls_that_go_on(channel: Channel, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """While calls go on failing, their number is told each time that the time is over, and all are told or counted."""
    monkeypatch.setattr(rlm_obs_webhook, "EACH_S", 0.2)
    failed, until = 0, time.monotonic() + LONGEST_S
    with running(model) as client:
        while not any("more failed" in text for text in channel.texts) and time.monotonic() < until:
            fail(client)
            failed += 1
    plugin.close()
    numbers = [1 if "chat gone" in text else int(text.split("] ")[1].split()[0]) for text in channel.texts]
    assert sum(numbers) == failed
    assert len(numbers) < failed


def test_what_of(channel: Channel, model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALERT_WEBHOOK_ON chooses; a call that went well is never told."""
    monkeypatch.setenv("ALERT_WEBHOOK_ON", "alerts")
    with running(model) as client:
        client.chat.completions.create(**ASK)
        fail(client)
    plugin.close()
    assert channel.texts == []


def test_without_an_address(model: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Nothing is sent, and no thread is started; what is no address is said once, and not shown."""
    for address in ("", "ftp://hidden", "hidden"):
        monkeypatch.setenv("ALERT_WEBHOOK_URL", address)
        with running(model) as client:
            fail(client)
        assert plugin._thread is None or not plugin._thread.is_alive()
    assert [record.message for record in caplog.records] == [
        "ALERT_WEBHOOK_URL is no address of http or https: nothing is sent"
    ] * 2


@pytest.mark.parametrize(
    ("status", "headers"), [(404, {}), (500, {}), (302, {"Location": "/elsewhere"}), (307, {"Location": "/elsewhere"})]
)
def test_one_that_is_not_taken(
    channel: Channel, model: FakeOpenAI, caplog: Any, status: int, headers: dict[str, str]
) -> None:
    """A line in the log says so, without the address; the call is as it was; a redirect is not followed."""
    channel.status, channel.headers = status, headers
    with running(model) as client, pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**ASK | {"model": "gone"})
    plugin.close()
    assert f"a message was not taken: it answers {status}" in caplog.text
    assert "secret" not in caplog.text + repr(plugin)
    assert len(channel.texts) == 1
    assert rlm_obs.stats()["failures"] == {}


def test_the_check(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rlm-obs doctor webhook` sends a message, and says what to do where it is not taken."""
    (check,) = plugin.register_checks().values()
    assert check() == "127.0.0.1 has taken a message"
    assert channel.texts[0].endswith("this is rlm-obs doctor: alerts arrive here")
    channel.status = 403
    with pytest.raises(rlm_obs.ConfigError, match="it answers 403: look at ALERT_WEBHOOK_URL"):
        check()
    for address, why in (("http://127.0.0.1:9/secret", "does not answer"), ("secret", "no address")):
        monkeypatch.setenv("ALERT_WEBHOOK_URL", address)
        with pytest.raises(rlm_obs.ConfigError, match=why) as caught:
            check()
        assert "secret" not in str(caught.value)
    monkeypatch.delenv("ALERT_WEBHOOK_URL")
    assert check() == "ALERT_WEBHOOK_URL is not set: nothing is sent"


PROGRAM = """
import contextlib, os, openai, rlm_obs
rlm_obs.instrument(exporters=[])
def fail():
    with contextlib.suppress(openai.NotFoundError), openai.OpenAI(api_key="k", max_retries=0) as client:
        client.chat.completions.create(model="gone", messages=[{"role": "user", "content": "Hi"}])
fail()
child = hasattr(os, "fork") and os.fork()
if child == 0:
    fail()
fail()
if child:
    os.waitpid(child, 0)
"""


def test_a_program_that_ends_and_one_that_forks(channel: Channel, model: FakeOpenAI) -> None:
    """What waits when a program ends is sent, by a forked child too."""
    env = {**os.environ, "OPENAI_BASE_URL": model.base_url}
    subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True, timeout=60)
    texts = channel.wait(4 if hasattr(os, "fork") else 2)
    told = sum("chat gone failed" in text for text in texts)
    assert (told, len(texts) - told) == ((2, 2) if hasattr(os, "fork") else (1, 1))


def test_more_than_can_wait(channel: Channel, caplog: Any) -> None:
    """What is too much is dropped and logged; nobody waits."""
    webhook = Webhook()
    webhook._url, webhook._thread = channel.url, threading.main_thread()  # a thread that takes nothing
    for _ in range(rlm_obs_webhook.MOST_WAITING + 1):
        webhook._tell("alerts", "one")
    assert "a message was dropped: 100 wait already" in caplog.text
