"""How much a model can answer at most: for the hold before a call that sets no limit of its own."""

from __future__ import annotations

from functools import lru_cache

from rlm_obs._pricing import genai

#: What is assumed where neither this table nor the price data says anything.
ASSUMED = 128_000
#: The most output tokens by the longest prefix of the name. Source: OpenAI's model pages, read November 2026.
OUTPUT = {
    "chatgpt-4o": 16_384,
    "codex-mini": 100_000,
    "computer-use": 1_024,
    "gpt-3.5-turbo": 4_096,
    "gpt-4": 8_192,
    "gpt-4-0125": 4_096,
    "gpt-4-1106": 4_096,
    "gpt-4-32k": 32_768,
    "gpt-4-turbo": 4_096,
    "gpt-4-vision": 4_096,
    "gpt-4.1": 32_768,
    "gpt-4.5": 16_384,
    "gpt-4o": 16_384,
    "gpt-4o-2024-05-13": 4_096,
    "gpt-5": 128_000,
    "gpt-5-pro": 272_000,
    "gpt-6": 128_000,
    "gpt-audio": 16_384,
    "o1": 100_000,
    "o1-mini": 65_536,
    "o1-preview": 32_768,
    "o3": 100_000,
    "o4-mini": 100_000,
    "omni-moderation": 0,
    "text-embedding": 0,
    "text-moderation": 0,
}
#: Where the price data rounds a window down; a bound must not be below it.
WINDOWS = {"gpt-4-32k": 32_768, "gpt-4.1": 1_047_576, "gpt-5.5": 1_050_000}


@lru_cache(maxsize=1024)
def model_limits(model: str) -> int:
    """Return the most output tokens that one answer of `model` can have: a bound, never less where it is not known.

    From the table of OpenAI's families; else the model's context window; else 128,000. A fine-tune has its base's.
    """
    name = model.strip().lower().removeprefix("ft:").split(":")[0].rsplit("/")[-1]
    family = max((prefix for prefix in OUTPUT if name.startswith(prefix)), key=len, default=None)
    if family is not None:
        return OUTPUT[family]
    return context_window(model) or ASSUMED


@lru_cache(maxsize=1024)
def context_window(model: str, provider: str = "openai") -> int | None:
    """Return the most tokens of input and output together, by the price data, or None where it does not say."""
    window = genai.context_window(model, provider)
    least = max((size for name, size in WINDOWS.items() if model.startswith(name)), default=0)
    return None if window is None else max(window, least)
