"""What every test starts from: no settings of the machine's, a guard that re-raises, and nothing of ours left behind."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

from rlm_obs import _guard

settings.register_profile("ours", deadline=None)  # a busy machine breaks no promise
settings.load_profile("ours")
#: What pytest-asyncio below 1.4, which old pytest takes, leaves open where a test calls asyncio.run: its loop, and that one's pipes.
LEFT_OPEN = ("unclosed event loop", r"unclosed <socket.socket fd=\d+, family=1, type=1, proto=0>")


def pytest_configure(config: pytest.Config) -> None:
    """Pass over what an old test tool leaves open; newer ones leave nothing, and there it is an error."""
    if tuple(map(int, version("pytest-asyncio").split(".")[:2])) < (1, 4):
        for message in LEFT_OPEN:
            config.addinivalue_line("filterwarnings", f"ignore:{message}:ResourceWarning")


@pytest.fixture(autouse=True, scope="module")
def nothing_left() -> Iterator[None]:
    """End the calls that a file's tests have dropped, and close its tracers, before another file's tests see any of them."""
    yield
    from rlm_obs import _ending, _lost

    with warnings.catch_warnings():
        # A client that a test has left open is closed by its finaliser, unless that of its socket is called before.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    _lost.lost.end_all()
    _ending.close_all(_ending.every(), timeout_s=1.0)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test without variables that speak to us, in its own folder; a failure of ours is a failure of the test.

    A test that wants the guard to swallow says so: `@pytest.mark.swallows`.
    """
    for name in list(os.environ):
        if name.startswith(("RLM_OBS_", "OTEL_", "LANGFUSE_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_guard, "reraise", request.node.get_closest_marker("swallows") is None)
    _guard.forget()
    yield
    import rlm_obs

    rlm_obs.uninstrument()
