"""Whatever a receiver does, the program sees no exception, ends in time, and every span is sent or counted as lost."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import certifi
import openai
import pytest
import trustme

import rlm_obs
from rlm_obs._exporters import langfuse
from rlm_obs.testing import fake_openai
from tests.exporters.receiver import Receiver, drip, hang, in_turn, receiving, rejecting, reply, reset, too_big_above

SECRET = "sk-lf-33334444"
EXPORTERS = ["langfuse", "otlp"]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out that a test can wait for."""
    monkeypatch.setattr(langfuse, "TIMEOUT_S", 1.0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("NO_PROXY", "*")


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-11112222")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", SECRET)
    monkeypatch.setenv("LANGFUSE_HOST", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET}")


def program(exporter: str, calls: int = 3) -> dict[str, Any]:
    """Run what a user runs: some calls, and an end that is bounded; return what became of the spans."""
    with fake_openai() as model, openai.OpenAI(api_key="k", base_url=model.base_url) as client:
        running = rlm_obs.instrument(exporters=[exporter], settings={"exit_timeout_s": 1.0})
        for _ in range(calls):
            answer = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
            assert answer.choices[0].message.content == "You said: hello"
        began = time.monotonic()
        running.uninstrument()
        assert time.monotonic() - began < 10  # a second, and what a busy machine adds
        assert running.tracer is not None
        (about,) = running.tracer.stats()
    assert about["queued"] == 0
    assert about["sent"] + sum(about["dropped"].values()) == calls
    assert isinstance(about, dict)
    return about


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
def test_a_refusal(
    exporter: str, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every span is counted as lost, the log says why, and no key is in it; what may have been stored is sent once."""
    caplog.set_level(logging.DEBUG)
    with receiving(reply(status)) as server:
        point_to(server.url, monkeypatch)
        about = program(exporter)
    assert about["sent"] == 0
    assert str(status) in caplog.text
    assert len({record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING}) <= 3
    assert "Transient" not in caplog.text  # each try is nobody's business
    assert SECRET not in caplog.text
    if status != 503:
        assert len(server.requests) == 1


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_good_one(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are sent."""
    with receiving() as server:
        point_to(server.url, monkeypatch)
        assert program(exporter) == {
            "exporter": exporter,
            "made": 3,
            "sampled_out": 0,
            "queued": 0,
            "sent": 3,
            "dropped": {},
            "spooled": 0,
            "retried": 0,
        }
    assert len(server.spans) == 3


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_too_much_at_once(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """413 is answered with halves, until they are small enough."""
    with receiving(too_big_above(1)) as server:
        point_to(server.url, monkeypatch)
        assert program(exporter)["sent"] == 3
    assert len({span.span_id for span in server.spans}) == 3
    with receiving(reply(413)) as server:
        point_to(server.url, monkeypatch)
        assert program(exporter)["dropped"] == {"failed": 3}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_half_of_a_batch(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a receiver says that it has not taken is lost, the rest of the batch is not."""
    with receiving(rejecting(2)) as server:
        point_to(server.url, monkeypatch)
        about = program(exporter)
    assert (about["sent"], about["dropped"]) == (1, {"failed": 2})


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.skipif(
    find_spec("opentelemetry.exporter.otlp.common") is None, reason="the oldest OTLP exporters give up at 429"
)
def test_too_often(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 is asked again when it says, and not waited for where it says minutes."""
    with receiving(in_turn(reply(429, Retry_After="0"), reply())) as server:
        point_to(server.url, monkeypatch)
        about = program(exporter)
        assert (about["sent"], about["retried"]) == (3, 1)
    with receiving(reply(429, Retry_After="600")) as server:
        point_to(server.url, monkeypatch)
        about = program(exporter)
        assert (about["sent"], about["retried"]) == (0, 0)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("fault", [reset, hang], ids=["reset", "hang"])
def test_a_line_that_breaks(
    exporter: str, fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cut half-way and a hang may have stored the spans: they are lost, and were sent once."""
    with receiving(fault) as server:
        point_to(server.url, monkeypatch)
        assert program(exporter)["sent"] == 0
        assert len(server.requests) == 1
    assert SECRET not in caplog.text


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_answer_that_drips(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is all that is waited for."""
    with receiving(drip) as server:
        point_to(server.url, monkeypatch)
        program(exporter)
    assert len(server.requests) == 1


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect(exporter: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not followed: neither spans nor the key reach another host, and nothing counts as sent."""
    with receiving() as elsewhere, receiving(reply(status, Location=f"{elsewhere.url}/steal")) as server:
        point_to(server.url, monkeypatch)
        assert program(exporter)["sent"] == 0
        assert elsewhere.requests == []


@pytest.fixture(scope="module")
def certified() -> tuple[ssl.SSLContext, trustme.CA]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context, authority


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_wrong_certificate(
    exporter: str, certified: tuple[ssl.SSLContext, trustme.CA], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that cannot prove its name gets nothing."""
    with receiving(tls=certified[0]) as server:
        point_to(server.url, monkeypatch)
        assert program(exporter)["sent"] == 0
    assert server.requests == []


def test_a_certificate_of_ones_own(
    certified: tuple[ssl.SSLContext, trustme.CA], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_CERTIFICATE names the authority of a company's own, whatever else the machine has set."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with receiving(tls=certified[0]) as server, certified[1].cert_pem.tempfile() as file:
        point_to(server.url, monkeypatch)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", file)
        assert program("otlp")["sent"] == 3


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("url", ["http://no-such-host.invalid", "http://127.0.0.1:9"], ids=["no name", "no listener"])
def test_nobody_there(exporter: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is gone, a port where nobody listens."""
    point_to(url, monkeypatch)
    assert program(exporter)["sent"] == 0


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_proxy(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is gone through; one that is down costs the spans, not the program."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # where the model is
    with receiving() as proxy:
        point_to("http://receiver.example", monkeypatch)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        assert program(exporter)["sent"] == 3
        assert proxy.requests[0].path.startswith("http://receiver.example/")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://localhost:{port}")
    monkeypatch.setenv("http_proxy", f"http://localhost:{port}")
    assert program(exporter)["sent"] == 0


def test_one_that_hangs_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exporter has a queue and a thread of its own."""
    with ExitStack() as stack:
        good: Receiver = stack.enter_context(receiving())
        bad = stack.enter_context(receiving(hang))
        point_to(bad.url, monkeypatch)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", good.url)
        with rlm_obs.instrument(exporters=["langfuse", "otlp"], settings={"exit_timeout_s": 1.0}) as running:
            assert running.tracer is not None
            with running.tracer.span("x"):
                pass
            rlm_obs.flush(timeout_s=0.5)
            for _ in range(200):
                if good.spans:
                    break
                time.sleep(0.05)
            assert [span.name for span in good.spans] == ["x"]
