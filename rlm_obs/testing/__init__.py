"""The kit for your tests and your plugins: a server to call, what the calls left behind, and contracts to keep."""

from __future__ import annotations

from rlm_obs.testing._answers import Answer, Seen
from rlm_obs.testing._collect import Collected, SpanList, collect
from rlm_obs.testing._contracts import ExporterContract
from rlm_obs.testing._server import FakeOpenAI, fake_openai

__all__ = ["Answer", "Collected", "ExporterContract", "FakeOpenAI", "Seen", "SpanList", "collect", "fake_openai"]
