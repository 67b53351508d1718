"""Tells a Slack channel, or any webhook that takes {"text": …}, of budget alerts and of failed calls, by a thread of its own."""

from __future__ import annotations

import atexit
import json
import logging
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import rlm_obs

if TYPE_CHECKING:
    from rlm_obs import Alert

URL, ON = "ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_ON"
#: After a failed call was told, others are only counted for so long, in seconds.
EACH_S = 60.0
#: So many messages wait to be sent; one answer, and the end of the program, are waited for so long, in seconds.
MOST_WAITING, ANSWER_S, END_S = 100, 10.0, 5.0
Kind = Literal["alerts", "errors", "end", "quiet"]
log = logging.getLogger("rlm_obs_webhook")


class Webhook:
    """Sends messages to one address. The address is a secret (who knows it may write there), so nothing ever shows it."""

    def __init__(self) -> None:
        self._url, self._on, self._program = "", ["alerts", "errors"], "program"
        self._start_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_anew)
        atexit.register(self.close)

    def _start_anew(self) -> None:
        self._waiting: queue.Queue[tuple[Kind, str]] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    # -- hooks -------------------------------------------------------------------------------------------------------

    @rlm_obs.hookimpl
    def configured(self, settings: rlm_obs.Settings) -> None:
        """Read where to, and what of: `alerts`, `errors`, or both."""
        self._program = settings.service_name or "program"
        self._on = os.environ.get(ON, "alerts,errors").replace(" ", "").split(",")
        self._url = os.environ.get(URL, "").strip()
        if self._url and not is_address(self._url):
            log.warning("%s is no address of http or https: nothing is sent", URL)
            self._url = ""

    @rlm_obs.hookimpl
    def budget_alert(self, alert: Alert) -> None:
        """Tell of a threshold, of a pace that will not last, of a refusal."""
        self._tell("alerts", str(alert))

    @rlm_obs.hookimpl
    def call_finished(self, record: rlm_obs.Record) -> None:
        """Tell of a failed call: what names it, never what was said."""
        if record.status == "error":
            model = record.model or record.requested_model or "a model"
            where = f" (trace {record.trace_id})" if record.trace_id else ""
            self._tell(
                "errors", f"{record.operation} {model} failed after {record.duration_s:.1f} s: {record.error}{where}"
            )

    @rlm_obs.hookimpl
    def register_checks(self) -> Mapping[str, Callable[[], str]]:
        """Offer `rlm-obs doctor webhook`."""
        return {"webhook": self.check}

    def check(self) -> str:
        """Send a message, since there is no other way to know whether it is taken; nothing where no address is set."""
        self._url = os.environ.get(URL, "").strip()
        if not self._url:
            return f"{URL} is not set: nothing is sent"
        why = self._post("this is rlm-obs doctor: alerts arrive here") if is_address(self._url) else "it is no address"
        if why:
            raise rlm_obs.ConfigError(f"{why}: look at {URL}")
        return f"{urlsplit(self._url).hostname} has taken a message"

    # -- sending -----------------------------------------------------------------------------------------------------

    def _tell(self, kind: Kind, text: str) -> None:
        """Hand a message to the thread; never waits, it runs inside the user's call."""
        if not self._url or kind not in self._on:
            return
        try:
            self._waiting.put_nowait((kind, text))
        except queue.Full:
            log.warning("a message was dropped: %d wait already", MOST_WAITING)
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="rlm_obs_webhook", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """Send messages in their order; after one of a failed call only count those that follow, and then tell how many."""
        counted, quiet_until = 0, 0.0
        kind: Kind = "alerts"
        while kind != "end":
            kind, text = self._next(quiet_until if counted else None)
            if kind == "errors" and time.monotonic() < quiet_until:
                counted += 1
                continue
            if kind == "errors" or (counted and not text):
                quiet_until = time.monotonic() + EACH_S
            if not text and counted:
                text, counted = f"{counted} more failed {'call' if counted == 1 else 'calls'}", 0
            why = self._post(text) if text else None
            if why:
                log.warning("a message was not taken: %s", why)

    def _next(self, until: float | None) -> tuple[Kind, str]:
        try:
            return self._waiting.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            return "quiet", ""

    def _post(self, text: str) -> str | None:
        """POST a text; returns why it was not taken, without the address."""
        text = f"[{self._program}] {text}"
        for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # as Slack wants them
            text = text.replace(sign, written)
        headers = {"Content-Type": "application/json", "User-Agent": "rlm-obs-webhook"}
        request = urllib.request.Request(self._url, json.dumps({"text": text}).encode(), headers)  # noqa: S310
        try:
            OPENER.open(request, timeout=ANSWER_S).close()
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answers {error.code}"
        except (OSError, ValueError) as error:
            return f"it does not answer ({type(getattr(error, 'reason', error)).__name__})"
        return None

    def close(self) -> None:
        """Send what waits, and tell what was counted, within five seconds; called at the end of the program."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            try:
                self._waiting.put(("end", ""), timeout=END_S)
            except queue.Full:
                return  # it hangs, and so would the end
            thread.join(END_S)


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a message is for the host that was named."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none; the answer is then the error that it is."""


def is_address(text: str) -> bool:
    """Tell whether a text is an address of http or https."""
    return urlsplit(text).scheme in ("http", "https") and bool(urlsplit(text).hostname)


OPENER = urllib.request.build_opener(NoRedirects)
plugin = Webhook()
