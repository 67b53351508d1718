"""Prices: what a call cost, exactly, from the user's own prices, the plugins, or the built-in list."""

from __future__ import annotations

from rlm_obs._pricing.answers import price, price_answer
from rlm_obs._pricing.chain import Chain
from rlm_obs._pricing.hosts import Host, provider_of
from rlm_obs._pricing.limits import context_window, model_limits
from rlm_obs._pricing.overrides import Overrides
from rlm_obs._pricing.rates import Rates
from rlm_obs._pricing.usage import fields_of, read_tools, read_usage, text_counts
from rlm_obs._pricing.whole import read_answer

__all__ = [
    "Chain",
    "Host",
    "Overrides",
    "Rates",
    "context_window",
    "fields_of",
    "model_limits",
    "price",
    "price_answer",
    "provider_of",
    "read_answer",
    "read_tools",
    "read_usage",
    "text_counts",
]
