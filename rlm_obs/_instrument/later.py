"""Bills that a later answer tells: a response in the background, a batch's output, a job. Each is counted once."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import reduce
from typing import Any

from rlm_obs._call import Answer
from rlm_obs._guard import say_once
from rlm_obs._pricing import read_answer
from rlm_obs._record import Cost, Request, Usage

Price = Callable[[Request, Usage], Cost | None]
#: So many bills are remembered, and so many calls whose bill is still to come.
MOST = 65_536
#: A file past this is not read for its bill: it would hold up the program.
MOST_BYTES = 64_000_000
#: How a line of a batch's output begins.
BATCH = (b'{"id": "batch_req', b'{"id":"batch_req')
ENDED = frozenset({"completed", "succeeded", "failed", "incomplete", "cancelled", "expired"})
BILLED_BEFORE = Cost(total=Decimal(0), source="billed before")
UNKNOWN_LINES = "{0} of {1} lines have no known price"


class Later:
    """What this process has seen begin and seen billed, by id; bounded, so that a long life costs no memory."""

    def __init__(self) -> None:
        self._billed: OrderedDict[str, None] = OrderedDict()
        self._begun: OrderedDict[str, tuple[Request, Answer]] = OrderedDict()
        self._lock = threading.Lock()

    def begun(self, request: Request, answer: Answer) -> None:
        """Keep a call that goes on in the background: its price depends on its parameters, and money is held for it."""
        if answer.response_id is not None and answer.usage is None and (answer.http_status or 0) < 400:
            answer.goes_on, forgotten = True, None
            with self._lock:
                self._begun[answer.response_id] = request, answer
                if len(self._begun) > MOST:
                    _, (_, forgotten) = self._begun.popitem(last=False)
            if forgotten is not None and forgotten.open is not None:
                forgotten.open.close()

    def params(self, named: str | None) -> Mapping[str, Any]:
        """Return the parameters of the call whose answer is read, if it was made here."""
        begun = self._begun.get(named or "")
        return {} if begun is None else begun[0].params

    def _take_over(self, named: str, into: Answer) -> bool:
        """Give an answer that ends a call what is held for it; True if the call was begun here."""
        with self._lock:
            begun = self._begun.pop(named, None)
        if begun is not None:
            into.open = begun[1].open
        return begun is not None

    def first(self, named: str) -> bool:
        """Tell whether this bill is new, and take it for counted."""
        with self._lock:
            if named in self._billed:
                return False
            self._billed[named] = None
            if len(self._billed) > MOST:
                self._billed.popitem(last=False)
            return True

    def streamed(self, said: Mapping[str, Any], into: Answer) -> None:
        """Count what a stream has told in its end; one that was resumed when it had been billed costs nothing more."""
        named, retrieved = said.get("id"), into.endpoint.startswith("/responses/{")
        if into.usage is None or not isinstance(named, str) or said.get("status") not in ENDED:
            return
        goes_on = said.get("background") is True or said.get("object") == "thread.run"
        if retrieved and not (goes_on and self.first(named)):
            into.usage, into.cost = None, BILLED_BEFORE
        elif goes_on:
            self.first(named)
            self._take_over(named, into)

    def told(self, said: Mapping[str, Any], into: Answer) -> bool:
        """Read an object that was retrieved; False where it has not ended, says no usage, or was counted before."""
        named, status = said.get("id"), said.get("status")
        if not isinstance(named, str) or status not in ENDED:
            return False
        if said.get("object") == "response" and said.get("background") is not True:
            return False  # billed when it was made
        used = read_answer(said, into.provider, into.endpoint)
        if (used is None and named not in self._begun) or not self.first(named):
            return False
        self._take_over(named, into)
        into.usage, into.response_id, into.finish_reasons = used, named, (str(status),)
        for name, attribute in (("model", "model"), ("service_tier", "service_tier")):
            if isinstance(said.get(name), str):
                setattr(into, attribute, said[name])
        return True

    def read_file(self, named: str, content: bytes, request: Request, into: Answer, price: Price) -> bool:
        """Read a file; False where it is no batch's output, or was counted before. Its lines are priced one by one."""
        if not content.startswith(BATCH) or not self.first(named):
            return False
        if len(content) > MOST_BYTES:
            say_once("batch too long", "a batch's output of %d bytes is not read for its cost", len(content))
            return True  # a call whose cost is unknown
        known: list[Cost] = []
        used: list[Usage] = []
        models: set[Any] = set()
        unknown = 0
        for body in filter(None, map(_body, content.splitlines())):
            usage, model = read_answer(body, into.provider), body.get("model")
            models.add(model)
            asked = replace(request, model=model if isinstance(model, str) else None, params={"service_tier": "batch"})
            cost = None if usage is None else price(asked, usage)
            if usage is not None:
                used.append(usage)
            if cost is None:
                unknown += 1
            else:
                known.append(cost)
        into.usage, into.service_tier = reduce(Usage.plus, used) if used else None, "batch"
        if len(models) == 1 and isinstance(model := models.pop(), str):
            into.model = model
        if known:
            cost = reduce(Cost.plus, known)
            note = (UNKNOWN_LINES.format(unknown, unknown + len(known)),) if unknown else ()
            into.cost = replace(cost, caveats=(*cost.caveats, *note))
        return bool(known or unknown)


def _body(line: bytes) -> Mapping[str, Any] | None:
    """Return the answer in a line of a batch's output, or None for one that failed, and so costs nothing."""
    try:
        response = json.loads(line)["response"]
        body = None if response["status_code"] >= 400 else response["body"]
    except (ValueError, KeyError, TypeError):
        return None
    return body if isinstance(body, Mapping) else None
