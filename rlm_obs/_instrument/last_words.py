"""What a streamed chat says last, its usage and why it ended, found in its bytes without reading all of them."""

from __future__ import annotations

import json
from typing import Any

#: How an event says its usage, why a choice ends, which tool it calls, and which tier has answered.
USAGE = b'"usage":'
USAGES = USAGE + b"{", USAGE + b" {"
REASONS = b'"finish_reason":"', b'"finish_reason": "'
NAMES = b':{"name":', b': {"name": '
TIERS = b'"service_tier":"', b'"service_tier": "'
OF_CALLS = "tool_calls", "function_call"
DECODER = json.JSONDecoder()


def last_words(data: bytes | bytearray, start: int, one_text: bool) -> tuple[dict[str, Any], str] | None:
    """Return what the last event says, which has the usage if any has, and why the answer ended.

    None where the events between may say more than a text: with calls of tools, with several choices, with a usage in one
    of them; at an error the client ends the stream. `one_text` says that no more than a text was asked for: then a usage
    at the end is all of it.
    """
    end = data.rfind(b"\ndata:", start)
    last = data[end + 6 :].strip()
    if last == b"[DONE]":
        end, done = data.rfind(b"\ndata:", start, end), end
        last = data[end + 6 : done].strip()
    sign = REASONS[0]
    at = data.rfind(sign, start)
    if at < 0:
        sign = REASONS[1]
        at = data.rfind(sign, start)
    begins = at + len(sign)
    reason = bytes(data[begins : data.find(b'"', begins)]).decode(errors="replace")
    if at < 0 or "\\" in reason or reason.startswith(OF_CALLS):
        return None
    if not one_text and (data.find(sign, start, at) >= 0 or any([data.find(name, start) >= 0 for name in NAMES])):
        return None
    try:
        said, _ = DECODER.raw_decode(last.decode())
    except ValueError:
        return None
    if said.__class__ is not dict or not said.get("model") or "error" in said:
        return None
    at = -1 if said.get("usage") else data.find(USAGE, start)  # one look, where no event has any
    if at >= 0 and any([data.find(sign, at) >= 0 for sign in USAGES]):
        return None
    if not said.get("service_tier") and any([tier in data[start : data.find(b"\ndata:", start + 6)] for tier in TIERS]):
        return None  # which changes the price, and was told by the first event alone
    return said, reason
