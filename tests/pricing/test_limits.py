"""The most that a model can answer."""

from __future__ import annotations

import pytest

from rlm_obs._pricing import context_window, model_limits


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("gpt-4o", 16_384),
        ("gpt-4o-mini-2024-07-18", 16_384),
        ("gpt-4o-2024-05-13", 4_096),
        ("gpt-4.1-nano", 32_768),
        ("gpt-4-turbo-2024-04-09", 4_096),
        ("gpt-4", 8_192),
        ("gpt-4-0613", 8_192),
        ("gpt-3.5-turbo", 4_096),
        ("o1", 100_000),
        ("o1-mini", 65_536),
        ("o3-mini", 100_000),
        ("o4-mini", 100_000),
        ("gpt-5-nano", 128_000),
        ("gpt-5-pro", 272_000),
        ("gpt-6-sol", 128_000),
        ("ft:gpt-4o-mini-2024-07-18:acme::id", 16_384),
        ("openai/gpt-4o", 16_384),
        ("text-embedding-3-small", 0),
        ("gpt-oss-20b", 128_000),
        ("no-such-model", 128_000),
        ("", 128_000),
    ],
)
def test_the_most_output(model: str, most: int) -> None:
    """The longest prefix of the name in the table tells; a fine-tune has its base's; 128,000 where nobody knows."""
    assert model_limits(model) == most


def test_the_context_window() -> None:
    """The window is that of the provider's list, never less than the model's own; None where nobody knows."""
    assert context_window("gpt-4o") == 128_000
    assert context_window("gpt-4.1") == 1_047_576
    assert context_window("deepseek-v4-pro", "deepseek") == 1_000_000
    assert context_window("no-such-model") is None
