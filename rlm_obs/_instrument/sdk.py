"""Makes the calls of one SDK pass a gate, as soon as the SDK is imported; for any SDK of the generator that made OpenAI's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType

import wrapt

from rlm_obs import _guard
from rlm_obs._instrument.gate import Gate
from rlm_obs._instrument.reader import Reader


class SdkInstrumentor:
    """Patch `request` of the clients of a module: now, or when it is imported; it is never imported by us.

    `classes` are the names of its clients, each with whether its `request` is awaited. `reader` knows what passes.
    """

    def __init__(self, module: str, classes: Mapping[str, bool], reader: Reader) -> None:
        self._module, self._classes, self._gate = module, classes, Gate(reader)
        self._on = self._waiting = False

    def instrument(self) -> None:
        """Make the calls pass the gate; a second time it does nothing."""
        self._on = True
        module = sys.modules.get(self._module)
        if module is not None and all([hasattr(module, name) for name in self._classes]):
            self._patch(module)
        elif not self._waiting:
            self._waiting = True
            wrapt.register_post_import_hook(self._imported, self._module)

    def _imported(self, module: ModuleType) -> None:
        self._waiting = False
        if self._on:
            _guard.guarded(f"instrumentor {self._module}", self._patch, module)

    def _patch(self, module: ModuleType) -> None:
        for name, awaits in self._classes.items():
            self._gate.install(getattr(module, name), awaits=awaits)

    def uninstrument(self) -> None:
        """Leave the classes as they were."""
        self._on = False
        self._gate.uninstall()
