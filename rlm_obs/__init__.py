"""Trace, price and cap every OpenAI call of a Python program. The public names, loaded when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_obs._lazy import lazily

__version__ = "0.1.0"

#: Each public name -> the module that has it. Nothing heavy is imported before a name is used.
_HOMES = {
    "Alert": "rlm_obs._tracker",
    "AsgiMiddleware": "rlm_obs._asgi",
    "Balance": "rlm_obs._tracker",
    "BudgetExceeded": "rlm_obs.errors",
    "BudgetRow": "rlm_obs._budgets.steering",
    "BudgetUnavailable": "rlm_obs.errors",
    "Budgets": "rlm_obs._budgets.steering",
    "CallExporter": "rlm_obs._exporters.base",
    "CallRefused": "rlm_obs.errors",
    "ConfigError": "rlm_obs.errors",
    "ConsoleExporter": "rlm_obs._exporters.console",
    "Cost": "rlm_obs._record",
    "CostReport": "rlm_obs._tracker",
    "CostTracker": "rlm_obs._tracker",
    "Estimate": "rlm_obs._estimate",
    "FileExporter": "rlm_obs._exporters.file",
    "Instrumentation": "rlm_obs._runtime",
    "LangfuseExporter": "rlm_obs._exporters.langfuse",
    "RLM": "rlm_obs.rlm",
    "RLMResult": "rlm_obs.rlm",
    "Record": "rlm_obs._record",
    "Request": "rlm_obs._record",
    "RlmObsError": "rlm_obs.errors",
    "Runaway": "rlm_obs.errors",
    "Settings": "rlm_obs._settings",
    "StoreError": "rlm_obs.errors",
    "Tracer": "rlm_obs._tracer",
    "UnknownPrice": "rlm_obs.errors",
    "Usage": "rlm_obs._record",
    "context": "rlm_obs._context",
    "cost_tracked": "rlm_obs._decorators",
    "create_tracer": "rlm_obs._tracer",
    "estimate": "rlm_obs._estimate",
    "extract": "rlm_obs._propagation",
    "flush": "rlm_obs._runtime",
    "hookimpl": "rlm_obs._hookspecs",
    "inject": "rlm_obs._propagation",
    "instrument": "rlm_obs._runtime",
    "open_budgets": "rlm_obs._budgets.steering",
    "price": "rlm_obs._pricing",
    "price_answer": "rlm_obs._pricing",
    "read_records": "rlm_obs._exporters._reading",
    "register_plugin": "rlm_obs._runtime",
    "report": "rlm_obs._runtime",
    "score": "rlm_obs._score",
    "stats": "rlm_obs._runtime",
    "traced": "rlm_obs._decorators",
    "uninstrument": "rlm_obs._runtime",
    "unregister_plugin": "rlm_obs._runtime",
}

__all__ = sorted(_HOMES)


__getattr__, __dir__ = lazily(__name__, _HOMES)

if TYPE_CHECKING:
    from rlm_obs._asgi import AsgiMiddleware as AsgiMiddleware
    from rlm_obs._budgets.steering import BudgetRow as BudgetRow
    from rlm_obs._budgets.steering import Budgets as Budgets
    from rlm_obs._budgets.steering import open_budgets as open_budgets
    from rlm_obs._context import context as context
    from rlm_obs._decorators import cost_tracked as cost_tracked
    from rlm_obs._decorators import traced as traced
    from rlm_obs._estimate import Estimate as Estimate
    from rlm_obs._estimate import estimate as estimate
    from rlm_obs._exporters._reading import read_records as read_records
    from rlm_obs._exporters.base import CallExporter as CallExporter
    from rlm_obs._exporters.console import ConsoleExporter as ConsoleExporter
    from rlm_obs._exporters.file import FileExporter as FileExporter
    from rlm_obs._exporters.langfuse import LangfuseExporter as LangfuseExporter
    from rlm_obs._hookspecs import hookimpl as hookimpl
    from rlm_obs._pricing import price as price
    from rlm_obs._pricing import price_answer as price_answer
    from rlm_obs._propagation import extract as extract
    from rlm_obs._propagation import inject as inject
    from rlm_obs._record import Cost as Cost
    from rlm_obs._record import Record as Record
    from rlm_obs._record import Request as Request
    from rlm_obs._record import Usage as Usage
    from rlm_obs._runtime import Instrumentation as Instrumentation
    from rlm_obs._runtime import flush as flush
    from rlm_obs._runtime import instrument as instrument
    from rlm_obs._runtime import register_plugin as register_plugin
    from rlm_obs._runtime import report as report
    from rlm_obs._runtime import stats as stats
    from rlm_obs._runtime import uninstrument as uninstrument
    from rlm_obs._runtime import unregister_plugin as unregister_plugin
    from rlm_obs._score import score as score
    from rlm_obs._settings import Settings as Settings
    from rlm_obs._tracer import Tracer as Tracer
    from rlm_obs._tracer import create_tracer as create_tracer
    from rlm_obs._tracker import Alert as Alert
    from rlm_obs._tracker import Balance as Balance
    from rlm_obs._tracker import CostReport as CostReport
    from rlm_obs._tracker import CostTracker as CostTracker
    from rlm_obs.errors import BudgetExceeded as BudgetExceeded
    from rlm_obs.errors import BudgetUnavailable as BudgetUnavailable
    from rlm_obs.errors import CallRefused as CallRefused
    from rlm_obs.errors import ConfigError as ConfigError
    from rlm_obs.errors import RlmObsError as RlmObsError
    from rlm_obs.errors import Runaway as Runaway
    from rlm_obs.errors import StoreError as StoreError
    from rlm_obs.errors import UnknownPrice as UnknownPrice
    from rlm_obs.rlm import RLM as RLM
    from rlm_obs.rlm import RLMResult as RLMResult
