"""Which route of the test server answers what: one method per endpoint, a table of them at the end."""

from __future__ import annotations

import base64
import itertools
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

from rlm_obs.testing._answers import (
    DONE,
    ERRORS,
    EVENT_STREAM,
    OTHER_SPELLING,
    Answer,
    ApiError,
    Reply,
    Seen,
    UsageLike,
    dumps,
    sse,
    totalled,
)
from rlm_obs.testing._shapes import (
    called,
    chat_deltas,
    chat_usage,
    model_card,
    page,
    raw_events,
    replied,
    response_body,
    response_events,
    responses_usage,
    tier_of,
)
from rlm_obs.testing._writing import LIMITS, WORD, Ask, form_of, need, text_of, tokens, vector

__all__ = ["Routes", "is_paid"]


SNAPSHOTS = {
    "gpt-3.5-turbo": "gpt-3.5-turbo-0125",
    "gpt-4": "gpt-4-0613",
    "gpt-4-turbo": "gpt-4-turbo-2024-04-09",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-5-nano": "gpt-5-nano-2025-08-07",
    "o3": "o3-2025-04-16",
    "o3-mini": "o3-mini-2025-01-31",
    "o4-mini": "o4-mini-2025-04-16",
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
PATH = re.compile(r"(?:/openai/deployments/([^/]+)|(?:/openai)?(?:/v1)?)/(.+?)/?$")


@lru_cache(maxsize=256)
def split_path(path: str) -> tuple[str | None, str]:
    """Return Azure's deployment, if the path names one, and the path below the version."""
    found = PATH.match(path)
    return (found[1], found[2]) if found else (None, "")


def is_paid(seen: Seen) -> bool:
    """Tell whether the request asks for something that costs money."""
    return seen.method == "POST" and split_path(seen.path)[1] in PAID


class Routes:
    """All routes, and what they remember: ids, stored responses and files. Safe to use from many threads."""

    def __init__(self, *, usage: UsageLike, model: str | None, stream_usage: bool | Literal["always"]) -> None:
        self._usage, self._model, self._stream_usage = usage, model, stream_usage
        self._numbers = itertools.count(1)
        self._responses: dict[str, dict[str, Any]] = {}
        self._files: dict[str, dict[str, Any]] = {}

    def reply(self, seen: Seen, answer: Answer) -> Reply:
        """Return what goes out for `seen`; `answer` decides what it leaves open."""
        made = Reply(status=answer.status)
        asked = str(seen.json.get("model", "")) if isinstance(seen.json, Mapping) else ""
        if answer.body is not None:
            made.content = answer.body
        elif answer.json is not None:
            made.content, made.model = dumps(answer.json), asked
            if isinstance(answer.json, Mapping) and is_paid(seen):
                made.model, made.usage = answer.json.get("model", asked), answer.json.get("usage")
        else:
            made = self._routed(seen, answer)
        made.content_type = answer.content_type or made.content_type
        return made

    def _routed(self, seen: Seen, answer: Answer) -> Reply:
        try:
            if answer.status >= 400:
                message, code = ERRORS.get(answer.status, (f"The server answered {answer.status}.", None))
                raise ApiError(answer.status, answer.text or message, code=code)
            deployment, name = split_path(seen.path)
            route = ROUTES.get((seen.method, name))
            first, _, rest = name.partition("/")
            route, rest = (route, "") if route else (ROUTES.get((seen.method, first + "/*")), rest)
            if route is None:
                raise ApiError(404, f"Invalid URL ({seen.method} {seen.path})", code="unknown_url")
            body = seen.json if isinstance(seen.json, Mapping) else form_of(seen)
            if seen.method == "POST" and not body:
                raise ApiError(400, "We could not parse the JSON body of your request.")
            model = str(body.get("model") or deployment or "")
            if "does-not-exist" in model + rest:
                message = f"The model `{model or rest}` does not exist or you do not have access to it."
                raise ApiError(404, message, code="model_not_found")
            if not model and name in NEED_MODEL:
                raise ApiError(400, "you must provide a model parameter")
            for limit in LIMITS:
                if body.get(limit) is not None and int(body[limit]) < 1:
                    message = f"Invalid '{limit}': expected a value >= 1, but got {body[limit]} instead."
                    raise ApiError(400, message, param=limit, code="integer_below_min_value")
            made = self._model or SNAPSHOTS.get(model, model)
            number = f"{next(self._numbers):024x}"
            ask = Ask(seen, answer, body, number, model, made, rest)
            reply = raw_events(ask) or route(self, ask)
        except ApiError as error:
            return error.reply()
        reply.status, reply.model = answer.status, reply.model or made
        return reply

    def _counted(self, ask: Ask, usage: dict[str, Any]) -> dict[str, Any] | None:
        """Merge what the server and then the answer say about usage into the counted numbers."""
        for said in (self._usage, ask.answer.usage):
            if callable(said):
                said = said(ask.seen)
            if said is False:
                return None
            for name, value in (said or {}).items():
                other = OTHER_SPELLING.get(name)
                if name not in usage and other is not None:
                    if other not in usage:
                        continue  # this route has no such number
                    name = other
                if isinstance(value, Mapping) and isinstance(usage.get(name), Mapping):
                    value = {**usage[name], **value}
                usage[name] = value
            if said and "total_tokens" not in said:
                usage = totalled(usage)
        return {name: value for name, value in usage.items() if value is not None}

    def _chunked(
        self, ask: Ask, head: dict[str, Any], choices: Iterable[tuple[dict[str, Any], int]], usage: Any
    ) -> Reply:
        """Return a stream of chunks, with usage where this host puts it."""
        asked = self._stream_usage is True and bool((ask.body.get("stream_options") or {}).get("include_usage"))
        null = {"usage": None} if asked else {}
        chunks = [({**head, "choices": [choice], **null}, pieces) for choice, pieces in choices]
        if self._stream_usage == "always" and usage:
            chunks[-1][0]["usage"] = usage
        if asked and usage:
            chunks.append(({**head, "choices": [], "usage": usage}, 0))
        events = [*(sse(chunk, pieces) for chunk, pieces in chunks), DONE]
        return Reply(events=events, content_type=EVENT_STREAM, usage=usage)

    def _chat(self, ask: Ask) -> Reply:
        body = ask.body
        need(body, "messages")
        if body.get("stream_options") and not body.get("stream"):
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise ApiError(400, message, param="stream_options")
        written, count = ask.write(body["messages"], body.get("response_format")), int(body.get("n") or 1)
        usage = self._counted(ask, chat_usage(tokens(text_of(body["messages"])), written.tokens * count))
        head = {
            "id": f"chatcmpl-{ask.number}",
            "object": "chat.completion.chunk" if body.get("stream") else "chat.completion",
            "created": int(time.time()),
            "model": ask.model,
            "service_tier": tier_of(body),
            "system_fingerprint": "fp_fake",
        }
        if body.get("stream"):
            return self._chunked(ask, head, (c for i in range(count) for c in chat_deltas(i, written)), usage)
        said: dict[str, Any] = {"role": "assistant", "content": written.text, "refusal": None, "annotations": []}
        if written.tools:
            said.update(content=written.text or None, tool_calls=[called(*tool) for tool in written.tools])
        choice = {"message": said, "logprobs": None, "finish_reason": written.finish}
        choices = [{"index": index, **choice} for index in range(count)]
        return replied({**head, "choices": choices}, usage)

    def _completions(self, ask: Ask) -> Reply:
        prompt, count = ask.body.get("prompt", ""), int(ask.body.get("n") or 1)
        written = ask.write(prompt, None)
        usage = self._counted(ask, chat_usage(tokens(text_of(prompt)), written.tokens * count))
        head: dict[str, Any] = {"id": f"cmpl-{ask.number}", "object": "text_completion"}
        head.update(created=int(time.time()), model=ask.model)
        blank = {"text": "", "logprobs": None, "finish_reason": None}
        if ask.body.get("stream"):
            choices: list[tuple[dict[str, Any], int]] = []
            for index in range(count):
                choices += [({"index": index, **blank, "text": piece}, 1) for piece in written.pieces]
                choices.append(({"index": index, **blank, "finish_reason": written.finish}, 0))
            return self._chunked(ask, head, choices, usage)
        choice = {"text": written.text, "logprobs": None, "finish_reason": written.finish}
        return replied({**head, "choices": [{"index": index, **choice} for index in range(count)]}, usage)

    def _response(self, ask: Ask) -> Reply:
        body = ask.body
        need(body, "input", "prompt", "conversation", "previous_response_id")
        for name in body.get("stream_options") or ():
            if name != "include_obfuscation":
                param = f"stream_options.{name}"
                raise ApiError(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
        written = ask.write(body.get("input"), (body.get("text") or {}).get("format"))
        prompt = text_of(body.get("instructions")) + text_of(body.get("input"))
        usage = self._counted(ask, responses_usage(tokens(prompt), written.tokens))
        whole = response_body(ask, written, usage)
        if body.get("store") is not False:
            self._responses[whole["id"]] = whole
        if body.get("stream"):
            return Reply(events=response_events(whole, written), content_type=EVENT_STREAM, usage=usage)
        return replied(whole, usage)

    def _stored_response(self, ask: Ask) -> Reply:
        if ask.rest not in self._responses:
            raise ApiError(404, f"Response with id '{ask.rest}' not found.", param="id")
        return replied(self._responses[ask.rest])

    def _embeddings(self, ask: Ask) -> Reply:
        body = ask.body
        need(body, "input")
        given: Any = body["input"]
        many: list[Any] = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        size = int(body.get("dimensions") or (3072 if ask.asked_model.endswith("3-large") else 1536))
        count = sum(tokens(one) if isinstance(one, str) else len(one) for one in many)
        data: list[dict[str, Any]] = []
        for index, one in enumerate(many):
            packed, floats = vector(str(one), size)
            as_text = body.get("encoding_format") == "base64"
            made = base64.b64encode(packed).decode() if as_text else floats
            data.append({"object": "embedding", "index": index, "embedding": made})
        usage = self._counted(ask, {"prompt_tokens": count, "total_tokens": count})
        return replied({"object": "list", "data": data, "model": ask.model}, usage)

    def _moderation(self, ask: Ask) -> Reply:
        need(ask.body, "input")
        given = ask.body["input"]
        names = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
        result = {
            "flagged": False,
            "categories": dict.fromkeys(names, False),
            "category_scores": dict.fromkeys(names, 0.0),
            "category_applied_input_types": {name: ["text"] for name in names},
        }
        count = len(given) if isinstance(given, list) and isinstance(given[0], str) else 1
        model = ask.model or "omni-moderation-latest"
        return replied({"id": f"modr-{ask.number}", "model": model, "results": [result] * count})

    def _images(self, ask: Ask) -> Reply:
        need(ask.body, "prompt")
        body, count, model = ask.body, int(ask.body.get("n") or 1), ask.model or "gpt-image-1"
        made: dict[str, Any] = {"created": int(time.time()), "data": [{"b64_json": PNG}] * count}
        if model.startswith("dall-e"):  # priced by the image: its answers say nothing of usage
            return Reply(content=dumps(made), model=model, usage={"images": count})
        each = {"low": 272, "high": 4160}.get(str(body.get("quality")), 1056)
        given = tokens(body["prompt"])
        counted = {
            "input_tokens": given,
            "input_tokens_details": {"text_tokens": given, "image_tokens": 0},
            "output_tokens": each * count,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": each * count},
            "total_tokens": given + each * count,
        }
        reply = replied(made, self._counted(ask, counted))
        reply.model = model
        return reply

    def _speech(self, ask: Ask) -> Reply:
        need(ask.body, "input")
        form = ask.body.get("response_format", "mp3")
        kind = {"mp3": "audio/mpeg", "opus": "audio/ogg", "pcm": "audio/pcm"}.get(form, f"audio/{form}")
        spoken = b"\xff\xfb\x90\x00" + bytes(1020)
        return Reply(content=spoken, content_type=kind, usage={"characters": len(ask.body["input"])})

    def _transcription(self, ask: Ask) -> Reply:
        need(ask.body, "file")
        form, length = ask.body.get("response_format", "json"), len(ask.body["file"][1])
        seconds = max(1, round(length / 32_000))  # 16 kHz, 16 bit, one channel
        text = ask.answer.text if ask.answer.text is not None else "This is what was said."
        if ask.asked_model.startswith("whisper"):
            counted: dict[str, Any] = {"type": "duration", "seconds": seconds}
        else:
            given, made = seconds * 10, max(1, len(text.split()))
            details = {"input_token_details": {"text_tokens": 0, "audio_tokens": given}}
            counted = {"type": "tokens", "input_tokens": given, "output_tokens": made, "total_tokens": given + made}
            counted.update(details)
        usage = self._counted(ask, counted)
        if form == "json" and ask.body.get("stream") in (True, "true"):
            pieces = WORD.findall(text)
            events = [sse({"type": "transcript.text.delta", "delta": piece}, 1) for piece in pieces]
            done = {"type": "transcript.text.done", "text": text, **({"usage": usage} if usage else {})}
            return Reply(events=[*events, sse(done)], content_type=EVENT_STREAM, usage=usage)
        if form in ("text", "srt", "vtt"):
            return Reply(content=text.encode() + b"\n", content_type="text/plain; charset=utf-8", usage=usage)
        verbose = {"task": "transcribe", "language": "english", "duration": float(seconds), "segments": []}
        return replied({**(verbose if form == "verbose_json" else {}), "text": text}, usage)

    def _models(self, ask: Ask) -> Reply:
        return replied({"object": "list", "data": [model_card(name) for name in SNAPSHOTS]})

    def _model_card(self, ask: Ask) -> Reply:
        return replied(model_card(ask.rest))

    def _new_file(self, ask: Ask) -> Reply:
        need(ask.body, "file")
        name, content = ask.body["file"]
        made: dict[str, Any] = {"id": f"file-{ask.number}", "object": "file", "bytes": len(content), "filename": name}
        made.update(created_at=int(time.time()), purpose=ask.body.get("purpose", "user_data"), status="processed")
        self._files[made["id"]] = made
        return replied(made)

    def _all_files(self, ask: Ask) -> Reply:
        return replied(page(list(self._files.values())))

    def _all_batches(self, ask: Ask) -> Reply:
        return replied(page([]))


ROUTES: dict[tuple[str, str], Callable[[Routes, Ask], Reply]] = {
    ("POST", "chat/completions"): Routes._chat,
    ("POST", "completions"): Routes._completions,
    ("POST", "responses"): Routes._response,
    ("GET", "responses/*"): Routes._stored_response,
    ("POST", "embeddings"): Routes._embeddings,
    ("POST", "moderations"): Routes._moderation,
    ("POST", "images/generations"): Routes._images,
    ("POST", "images/edits"): Routes._images,
    ("POST", "audio/speech"): Routes._speech,
    ("POST", "audio/transcriptions"): Routes._transcription,
    ("POST", "audio/translations"): Routes._transcription,
    ("GET", "models"): Routes._models,
    ("GET", "models/*"): Routes._model_card,
    ("GET", "files"): Routes._all_files,
    ("POST", "files"): Routes._new_file,
    ("GET", "batches"): Routes._all_batches,
}
NEED_MODEL = {name for _, name in ROUTES if name.startswith(("chat", "comp", "embed", "audio"))} | {"responses"}
PAID = NEED_MODEL | {"images/generations", "images/edits"}
