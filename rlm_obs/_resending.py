"""Sends what the spool keeps when its receiver is back: in the background, the oldest first, in one process at a time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

from rlm_obs import _guard
from rlm_obs._spool import Kept, Spool

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from rlm_obs._outlet import Outlet

#: How long to wait after a failure, in seconds: the first, twice as long after each other, and the most.
FIRST_S, MOST_S = 1.0, 60.0
#: How often to look for what other processes have left.
LOOK_S = 60.0


class Resending:
    """The spool of one pipeline, and the thread that empties it.

    Before it sends, it asks the receiver for an answer that stores nothing, so that no span is on its way to one that does
    not listen. A file whose sender has died is sent again only to a receiver that counts a second span as the first.
    """

    def __init__(self, spool: Spool, outlet: Outlet) -> None:
        self.spool, self._outlet = spool, outlet
        self.sent = self.retried = 0
        #: Whether the receiver has failed last: then spans go to the disk at once, and nobody waits for it.
        self.down = False
        self._last: Kept | None = None
        self._set_up()

    def _set_up(self) -> None:
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._due, self._failures = time.monotonic(), 0
        self._begun = self._ended = self._wanted = 0
        self._stopped = self._elsewhere = False

    def start(self) -> None:
        """Have the thread running in this process."""
        with self._changed:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="rlm_obs-spool", daemon=True)
                with suppress(RuntimeError):  # at the end of the program no thread starts any more
                    self._thread.start()

    def keep(self, spans: Sequence[ReadableSpan], down: bool = True) -> int:
        """Keep spans that could not be sent; returns how many are on the disk. `down`: nothing at all could be sent."""
        kept = self.spool.put(spans)
        self.down = self.down or down
        with self._changed:
            self._due = min(self._due, time.monotonic() + FIRST_S) if not self._failures else self._due
            self._changed.notify_all()
        return kept

    def suspect(self) -> None:
        """Take the receiver for one that is down until it has answered: a batch was lost with it, and no other is risked."""
        self.down = True
        with self._changed:
            self._due = 0.0 if not self._failures else self._due
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Try now to send what is kept; True if, within `timeout_s`, none is left."""
        ends = time.monotonic() + timeout_s
        while self.spool.holds()[0]:
            self.start()
            with self._changed:
                wanted = self._wanted = self._begun + 1
                self._changed.notify_all()
                done = self._changed.wait_for(lambda: self._ended >= wanted, max(0.0, ends - time.monotonic()))  # noqa: B023
            if not done or self._failures or self._stopped:
                return self.spool.holds()[0] == 0
            time.sleep(0.05)  # another process has its turn
        return True

    def stop(self, timeout_s: float) -> None:
        """Begin no other file, and let the one that is on its way arrive, within `timeout_s`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout_s)

    def stats(self) -> dict[str, Any]:
        """Return how much is kept, of all processes, and what this one has sent of it and dropped."""
        spans, size = self.spool.holds()
        dropped = {why: count for why, count in self.spool.dropped.items() if count}
        return {"spans": spans, "bytes": size, "sent": self.sent, "dropped": dropped}

    def after_fork(self) -> None:
        """Start anew in a forked child."""
        self._set_up()
        self.sent = self.retried = 0
        self.spool.after_fork()

    def _run(self) -> None:
        context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # as in OpenTelemetry's own thread
        while True:
            with self._changed:
                while not self._stopped and self._begun >= self._wanted and (left := self._due - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._stopped:
                    return
                self._begun += 1
            well = _guard.guarded("spool", self._pass)
            with self._changed:
                self._failures = 0 if well else self._failures + 1
                pause = FIRST_S if self._elsewhere else LOOK_S
                if self._failures:
                    pause = min(MOST_S, FIRST_S * 2.0 ** min(self._failures - 1, 30))
                self._due = time.monotonic() + pause * random.uniform(0.8, 1.2)  # noqa: S311
                self._ended = self._begun
                self._changed.notify_all()

    def _pass(self) -> bool:
        """Send what waits; False where the receiver does not take it now."""
        spool = self.spool
        if not spool.folder.is_dir() and not self.down:
            return True
        self._elsewhere = spool.folder.is_dir() and not spool.turn.take()
        if self._elsewhere:
            return True
        try:
            spool.recover(self._outlet.idempotent)
            if not spool.holds()[0] and not self.down:
                return True
            if not self._outlet.awake():
                self.down = True
                return False
            spool.seal()
            for kept in self._in_turn(spool.waiting()):
                if self._stopped:
                    return True
                if not self._send(kept):
                    return False
                self.down = False
            self.down = False
            return True
        finally:
            spool.turn.release()

    def _in_turn(self, waiting: Sequence[Kept]) -> Sequence[Kept]:
        """Begin behind the file that has failed last, so that one which nobody takes holds up no other."""
        last = "" if self._last is None else self._last.path.name
        behind = [kept for kept in waiting if kept.path.name > last]
        return [*behind, *(kept for kept in waiting if kept.path.name <= last)]

    def _send(self, kept: Kept) -> bool:
        found = self.spool.take(kept)
        if found is None:
            return True
        claimed, spans = found
        self.retried += 1
        taken, again = self._outlet.export(spans) if spans else (0, ())
        self.sent += taken
        if again and len(again) == len(spans):
            self.spool.put_back(claimed)
        else:
            self.spool.done(claimed, len(spans) - taken - len(again), again)
        self._last = kept if again else None
        lost = bool(spans) and not taken and not again
        self.down = self.down or lost  # no other is risked before it has answered again
        return not again and not lost
