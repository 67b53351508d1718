"""pytest fixtures of the same names as the kit's functions; pytest finds them through the installed entry point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # a plugin is imported by every pytest run of the environment: it stays light
    from rlm_obs.testing._collect import Collected
    from rlm_obs.testing._server import FakeOpenAI


@pytest.fixture
def fake_openai() -> Iterator[FakeOpenAI]:
    """A fresh OpenAI-compatible server on loopback; `.base_url` is for the client, `.requests` what arrived."""
    from rlm_obs.testing._server import fake_openai as serve

    with serve() as server:
        yield server


@pytest.fixture
def collect() -> Iterator[Collected]:
    """The records and spans of the test's calls."""
    from rlm_obs.testing._collect import collect as collecting

    with collecting() as collected:
        yield collected
