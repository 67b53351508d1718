"""Which endpoints of OpenAI cost what, and how: the ones that pass the gate, and how each spells what we need of it.

Those that cost nothing are listed in `free.py`, so that a test can tell when the client has learnt a new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rlm_obs._instrument.bounds import DRAWN, HEARD, SPOKEN

#: `answer`: its answer says what it used. `later`: a later answer does, once (a job, a file). `unknown`: none does.
Bill = Literal["answer", "later", "unknown"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint that costs something: its operation, how it spells an output limit, why its cost has no bound (if so).

    `bill` is which answer says what it cost, `note` what the docs say of it.
    """

    operation: str
    api_type: str | None = None
    limits: tuple[str, ...] = ()
    unbounded: str | None = None
    asks_usage: bool = False
    bill: Bill = "answer"
    note: str = ""


KEPT_LENGTH = "how long what is kept will be"
AFTERWARDS = "what it costs is told afterwards"
CHAT_LIMITS = ("max_completion_tokens", "max_tokens")
IMAGE = Endpoint(
    "generate_content", unbounded=DRAWN, note="tokens of text and images; DALL-E by the image, at a price of your own"
)
#: POST to these, by the path below the version: they are called often, and found by one look into a dict.
ENDPOINTS: Mapping[str, Endpoint] = {
    "/chat/completions": Endpoint("chat", "chat_completions", CHAT_LIMITS, asks_usage=True, note="streamed too"),
    "/responses": Endpoint(
        "chat",
        "responses",
        ("max_output_tokens",),
        note="streamed and by WebSocket too; hosted tools and images drawn within; in the background: when it is retrieved",
    ),
    "/responses/compact": Endpoint("chat", "responses", unbounded=KEPT_LENGTH, note="the model that was asked for"),
    "/completions": Endpoint("text_completion", None, ("max_tokens",), asks_usage=True, note="streamed too"),
    "/decisions": Endpoint("chat", note="input only, at a price of its own"),
    "/embeddings": Endpoint("embeddings", note="input only"),
    "/images/generations": IMAGE,
    "/images/edits": IMAGE,
    "/images/variations": IMAGE,
    "/audio/speech": Endpoint(
        "generate_content",
        unbounded=SPOKEN,
        note="tts-1 by the characters of its input; others where events say tokens, else unknown",
    ),
    "/audio/transcriptions": Endpoint(
        "generate_content",
        unbounded=HEARD,
        note="tokens or seconds, streamed and diarised too; whisper-1 as plain text is unknown",
    ),
    "/audio/translations": Endpoint(
        "generate_content", unbounded=HEARD, note="seconds, where `verbose_json` says them; else unknown"
    ),
}

RUN = Endpoint(
    "chat", unbounded=AFTERWARDS, bill="later", note="when the run has ended, or at once where it is streamed"
)
FILE = Endpoint(
    "chat",
    unbounded=AFTERWARDS,
    bill="later",
    note="a batch's output, at batch rates, when it is first read; other files are free",
)
VIDEO = Endpoint(
    "generate_content",
    unbounded=AFTERWARDS,
    bill="later",
    note="seconds, when it is first retrieved complete; at a price of your own",
)
JOB = Endpoint(
    "generate_content",
    unbounded=AFTERWARDS,
    bill="later",
    note="trained tokens, when it has ended; at a price of your own",
)
EVAL = Endpoint("chat", unbounded=AFTERWARDS, bill="later", note="by model, when the run has ended")
KEPT = Endpoint(
    "chat",
    "responses",
    unbounded=AFTERWARDS,
    bill="later",
    note="one that ran in the background, when it has ended, once",
)
SESSION = Endpoint("chat", unbounded=AFTERWARDS, bill="unknown", note="its usage may change after it was answered")
CONTAINER = Endpoint("generate_content", unbounded=AFTERWARDS, bill="unknown", note="billed by its time")
BY_VOICE = Endpoint(
    "chat",
    unbounded=AFTERWARDS,
    bill="unknown",
    note="billed by the session, whose events go elsewhere",
)
#: The others: verb and path, with a name in braces for each part that differs.
OTHERS: Mapping[tuple[str, str], Endpoint] = {
    ("get", "/responses/{response_id}"): KEPT,
    ("post", "/responses/{response_id}/cancel"): KEPT,
    ("get", "/files/{file_id}/content"): FILE,
    ("post", "/threads/runs"): RUN,
    ("post", "/threads/{thread_id}/runs"): RUN,
    ("get", "/threads/{thread_id}/runs/{run_id}"): RUN,
    ("post", "/threads/{thread_id}/runs/{run_id}/cancel"): RUN,
    ("post", "/threads/{thread_id}/runs/{run_id}/submit_tool_outputs"): RUN,
    ("get", "/videos/{video_id}"): VIDEO,
    ("get", "/fine_tuning/jobs/{fine_tuning_job_id}"): JOB,
    ("get", "/evals/{eval_id}/runs/{run_id}"): EVAL,
    ("post", "/fine_tuning/alpha/graders/run"): Endpoint(
        "chat", unbounded=AFTERWARDS, bill="unknown", note="its tokens are counted by grader, without a model's price"
    ),
    ("post", "/agents/sessions"): SESSION,
    ("post", "/agents/sessions/{session_id}/events"): SESSION,
    ("post", "/agents/automations/{automation_id}/invocations"): SESSION,
    ("post", "/containers"): CONTAINER,
    ("post", "/realtime/calls"): BY_VOICE,
    ("post", "/realtime/calls/{call_id}/accept"): BY_VOICE,
    ("post", "/live/sessions"): BY_VOICE,
    ("post", "/live/sessions/{session_id}/accept"): BY_VOICE,
    ("post", "/live/sessions/{session_id}/fork"): BY_VOICE,
    ("post", "/content_provenance_checks"): Endpoint(
        "generate_content", unbounded=AFTERWARDS, bill="unknown", note="nobody has published a price"
    ),
}
#: What stands before the path of an endpoint: a host, Azure's prefixes, the version.
BEFORE = re.compile(r"^(?:https?://[^/]+)?(?:.*/v\d\w*(?=/)|(?:/openai)?(?:/deployments/[^/]+)?)")
#: First part of a path and verb -> the patterns to try.
_patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], str, Endpoint]]] = {}
for (_verb, _path), _endpoint in OTHERS.items():
    _pattern = re.compile(re.sub(r"\{\w+\}", "([^/]+)", _path))
    _patterns.setdefault((_verb, _path.split("/")[1]), []).append((_pattern, _path, _endpoint))


@dataclass(frozen=True, slots=True)
class Asks:
    """An endpoint that was asked: its path as the table has it, and the id of what it is about, if it names one (`named`)."""

    path: str
    endpoint: Endpoint
    named: str | None = None


#: What the client asks, as it asks it.
USUAL: Mapping[str, Asks] = {path: Asks(path, endpoint) for path, endpoint in ENDPOINTS.items()}


def asked(method: str, url: str) -> Asks | None:
    """Return which endpoint a request asks, or None for one that costs nothing."""
    verb = method.lower()
    if verb == "post":
        usual = USUAL.get(url) or USUAL.get(_last(url))
        if usual is not None:
            return usual
    path = BEFORE.sub("", url.partition("?")[0].rstrip("/"))
    for pattern, template, endpoint in _patterns.get((verb, path.split("/", 2)[1] if "/" in path else ""), ()):
        found = pattern.fullmatch(path)
        if found is not None:
            return Asks(template, endpoint, found[pattern.groups] if pattern.groups else None)
    return None


def _last(url: str) -> str:
    """Return the endpoint behind a URL: absolute or relative, with a version, a deployment or a query."""
    parts = url.partition("?")[0].rstrip("/").split("/")
    two, one = "/" + "/".join(parts[-2:]), "/" + parts[-1]
    return two if two in ENDPOINTS else one
