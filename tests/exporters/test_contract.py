"""Each exporter of ours keeps the contract that any stranger's is held to, with its other end on a real socket or disk."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExporter

import rlm_obs
from rlm_obs._exporters.otlp import OtlpExporter
from rlm_obs.testing import ExporterContract
from tests.exporters.receiver import Receiver, receiving

NOWHERE = "http://127.0.0.1:9"


class TestFile(ExporterContract):
    """JSON lines in a file."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "calls.jsonl"

    def make_exporter(self) -> SpanExporter:
        return rlm_obs.FileExporter(self.path)

    def make_failing_exporter(self) -> SpanExporter:
        exporter = rlm_obs.FileExporter(self.path)
        self.path.unlink()
        self.path.mkdir()
        return exporter

    def arrived(self) -> int:
        return sum(1 for _ in rlm_obs.read_records(self.path)) if self.path.exists() else 0


class TestOtlpFile(TestFile):
    """OTLP-JSON in a file that is gzipped, and begun anew for each batch."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "calls.jsonl.gz"

    def make_exporter(self) -> SpanExporter:
        return rlm_obs.FileExporter(self.path, format="otlp", max_bytes=1, fsync=True)

    def arrived(self) -> int:
        return sum(1 for path in self.path.parent.glob("calls*.gz") for _ in rlm_obs.read_records(path))


class TestConsole(ExporterContract):
    """The tree on a console."""

    @pytest.fixture(autouse=True)
    def _screen(self) -> None:
        self.screen = io.StringIO()

    def make_exporter(self) -> SpanExporter:
        return rlm_obs.ConsoleExporter(file=self.screen)

    def make_failing_exporter(self) -> SpanExporter:
        self.screen.close()
        return rlm_obs.ConsoleExporter(file=self.screen)

    def arrived(self) -> int:
        return self.screen.getvalue().count("] chat gpt-4o")


class Received(ExporterContract):
    """What is sent to a receiver, which counts the calls of the requests that it took."""

    receiver: Receiver

    @pytest.fixture(autouse=True)
    def _receiver(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("NO_PROXY", "*")
        with receiving() as self.receiver:
            yield

    def arrived(self) -> int:
        return sum("gen_ai.operation.name" in span.said for span in self.receiver.spans)


class TestLangfuse(Received):
    """Langfuse, whose secret key is nowhere to be seen."""

    secret = "sk-lf-a-secret-of-the-contract"

    def made(self, host: str) -> SpanExporter:
        return rlm_obs.LangfuseExporter("pk-lf-public", self.secret, host)

    def make_exporter(self) -> SpanExporter:
        return self.made(self.receiver.url)

    def make_failing_exporter(self) -> SpanExporter:
        return self.made(NOWHERE)


class TestOtlp(Received):
    """OTLP, whose header with a key is nowhere to be seen."""

    secret = "a-secret-header-of-the-contract"

    @pytest.fixture(autouse=True)
    def _headers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={self.secret}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE)

    def made(self, url: str) -> SpanExporter:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url  # read when it first sends, and taken away after the test
        return OtlpExporter("otlp")

    def make_exporter(self) -> SpanExporter:
        return self.made(self.receiver.url)

    def make_failing_exporter(self) -> SpanExporter:
        return self.made(NOWHERE)
