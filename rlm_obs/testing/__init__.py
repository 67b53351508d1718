"""The kit for your tests and your plugins: a server to call, what the calls left behind, and contracts to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_obs._lazy import lazily

_HOMES = {
    "Answer": "rlm_obs.testing._answers",
    "Collected": "rlm_obs.testing._collect",
    "ExporterContract": "rlm_obs.testing._exporter_contract",
    "FakeOpenAI": "rlm_obs.testing._server",
    "InstrumentorContract": "rlm_obs.testing._instrumentor_contract",
    "PriceCase": "rlm_obs.testing._prices_contract",
    "PricesContract": "rlm_obs.testing._prices_contract",
    "Seen": "rlm_obs.testing._answers",
    "SpanList": "rlm_obs.testing._collect",
    "StoreContract": "rlm_obs.testing._store_contract",
    "collect": "rlm_obs.testing._collect",
    "fake_openai": "rlm_obs.testing._server",
}
__all__ = sorted(_HOMES)
__getattr__, __dir__ = lazily(__name__, _HOMES)

if TYPE_CHECKING:
    from rlm_obs.testing._answers import Answer as Answer
    from rlm_obs.testing._answers import Seen as Seen
    from rlm_obs.testing._collect import Collected as Collected
    from rlm_obs.testing._collect import SpanList as SpanList
    from rlm_obs.testing._collect import collect as collect
    from rlm_obs.testing._exporter_contract import ExporterContract as ExporterContract
    from rlm_obs.testing._instrumentor_contract import InstrumentorContract as InstrumentorContract
    from rlm_obs.testing._prices_contract import PriceCase as PriceCase
    from rlm_obs.testing._prices_contract import PricesContract as PricesContract
    from rlm_obs.testing._server import FakeOpenAI as FakeOpenAI
    from rlm_obs.testing._server import fake_openai as fake_openai
    from rlm_obs.testing._store_contract import StoreContract as StoreContract
