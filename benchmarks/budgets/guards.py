"""How each guard is put around calls, as its own documentation says: ours, none, and the peers'. Imports what it needs only.

A guard is a context manager that takes the budget in US dollars and the server's address, and gives a function that makes
a call and returns its usage. A call that is refused raises.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import openai

Make = Callable[..., Any]
Guard = Callable[[str, str], Any]


def client_of(url: str) -> openai.OpenAI:
    """Connect without retries."""
    return openai.OpenAI(base_url=url, api_key="benchmark", max_retries=0)


@contextmanager
def bare(usd: str, url: str) -> Iterator[Make]:
    """No guard."""
    yield client_of(url).chat.completions.create


def ours(enforcement: str) -> Guard:
    """rlm_obs, with one of its ways to enforce."""

    @contextmanager
    def guard(usd: str, url: str) -> Iterator[Make]:
        import rlm_obs

        hosts = {url.split("/")[2]: "openai"}
        with rlm_obs.instrument(exporters=[], settings={"hosts": hosts, "project_tier": "default"}):
            tracker = rlm_obs.CostTracker(usd, enforcement=enforcement)
            create = client_of(url).chat.completions.create

            def make(**asked: Any) -> Any:
                with tracker:
                    return create(**asked)

            yield make
            if tracker.held:
                raise AssertionError(f"{tracker.held} dollars are held for calls that have ended")

    return guard


@contextmanager
def backstop(usd: str, url: str) -> Iterator[Make]:
    """backstop-ai: a wrapped client, with a ceiling in dollars; no ceiling in tokens, and room for every thread."""
    from backstop import Backstop, BackstopConfig

    config = BackstopConfig(initial_concurrency=64, max_concurrency=64)
    client = Backstop.wrap(client_of(url), budget=None, config=config, budget_usd=Decimal(usd))
    yield client.chat.completions.create


@contextmanager
def agent_budget_guard(usd: str, url: str) -> Iterator[Make]:
    """agent-budget-guard: its own client."""
    from agent_budget_guard import BudgetedSession

    client = BudgetedSession.openai(budget_usd=float(usd), base_url=url, api_key="benchmark", max_retries=0)
    yield client.chat.completions.create


@contextmanager
def floe_guard(usd: str, url: str) -> Iterator[Make]:
    """floe-guard: a function around `create`."""
    from floe_guard import BudgetGuard
    from floe_guard.integrations.openai import guarded_completion

    guard, client = BudgetGuard(limit_usd=float(usd)), client_of(url)
    yield lambda **asked: guarded_completion(guard, client, **asked)


@contextmanager
def shekel(usd: str, url: str) -> Iterator[Make]:
    """shekel: a block; its context is copied into each thread."""
    from shekel import budget
    from shekel.exceptions import BudgetExceededError

    client = client_of(url)
    try:
        with budget(max_usd=float(usd)):
            here = contextvars.copy_context()
            yield lambda **asked: here.copy().run(client.chat.completions.create, **asked)
    except BudgetExceededError:  # the block says at its end again what the calls have said
        return


@contextmanager
def agentbudget(usd: str, url: str) -> Iterator[Make]:
    """agentbudget: a session around the client, the way it advises for threads."""
    from agentbudget import AgentBudget

    with AgentBudget(max_spend=f"${usd}").session() as session:
        client = client_of(url)
        yield lambda **asked: session.wrap(client.chat.completions.create(**asked))


@contextmanager
def litellm(usd: str, url: str) -> Iterator[Make]:
    """litellm.max_budget."""
    import litellm as library

    library.max_budget = float(usd)
    library.suppress_debug_info = True

    def make(**asked: Any) -> Any:
        model = f"openai/{asked.pop('model')}"
        return library.completion(model=model, api_base=url, api_key="benchmark", num_retries=0, **asked)

    yield make


OURS: dict[str, Guard] = {"rlm-obs, reserve": ours("reserve"), "rlm-obs, expected": ours("expected")}
PEERS: dict[str, Guard] = {
    "backstop-ai": backstop,
    "agent-budget-guard": agent_budget_guard,
    "floe-guard": floe_guard,
    "shekel": shekel,
    "agentbudget": agentbudget,
    "litellm": litellm,
}
GUARDS: dict[str, Guard] = {"no guard": bare, **OURS, **PEERS}
