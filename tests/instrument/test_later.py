"""What is billed by a later answer is counted when that answer is read, once."""

from __future__ import annotations

import json
import warnings
from decimal import Decimal
from typing import Any

import pytest

import rlm_obs
from rlm_obs._instrument.later import Later
from rlm_obs._instrument.openai import _instrumentor
from rlm_obs.testing import Answer, Collected, fake_openai

USED = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
WHOLE = {"id": "resp_9", "object": "response", "status": "completed", "background": True, "model": "gpt-4o"}
QUEUED = {**WHOLE, "status": "queued", "output": [], "usage": None}
DONE = {**WHOLE, "output": [], "usage": USED}
FULL = Decimal("0.0035")


@pytest.fixture(autouse=True)
def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin with nothing counted."""
    monkeypatch.setattr(_instrumentor._gate.reader, "_later", Later())


async def test_a_response_in_the_background_is_priced_once(caller: Any, as_openai: Any, collect: Collected) -> None:
    """Its beginning is unknown, each poll is nothing, the answer that has ended is priced, and read again is nothing."""
    answers = [QUEUED, {**QUEUED, "status": "in_progress"}, DONE, DONE]
    with fake_openai(lambda seen: Answer(json=answers.pop(0))) as server:
        client = caller.client(server)
        await caller(client.responses.create(model="gpt-4o", input="Hello", background=True))
        for _ in range(3):
            await caller(client.responses.retrieve("resp_9"))
    begun, ended = collect.records
    assert (begun.cost, begun.endpoint) == (None, "/responses")
    assert (ended.cost_usd, ended.endpoint, ended.model) == (FULL, "/responses/{response_id}", "gpt-4o")
    assert len(collect.spans) == 2
    assert as_openai.report().total_cost == FULL


async def test_its_money_is_held_until_its_end_is_read(caller: Any, as_openai: Any) -> None:
    """The budget that it was begun under holds what it may cost until its bill is read, wherever, and then pays that."""
    answers = [QUEUED, QUEUED, DONE]
    with fake_openai(lambda seen: Answer(json=answers.pop(0))) as server:
        client = caller.client(server)
        with rlm_obs.CostTracker(1) as tracker:
            await caller(
                client.responses.create(model="gpt-4o", input="Hello", background=True, max_output_tokens=1000)
            )
        held = tracker.held
        assert held > FULL
        assert (tracker.spent, tracker.get_report().unpriced_calls) == (0, 1)
        await caller(client.responses.retrieve("resp_9"))
        assert (tracker.spent, tracker.held) == (0, held)
        await caller(client.responses.retrieve("resp_9"))
    report = tracker.get_report()
    assert (tracker.spent, tracker.held, report.total_cost) == (FULL, 0, FULL)
    assert (report.unpriced_calls, report.calls) == (0, 2)


async def test_one_that_ends_without_a_bill_is_held_no_more(caller: Any, as_openai: Any) -> None:
    """Cancelled, and nothing is said of what it used: its cost stays unknown, and the budget counts what is likely."""
    answers = [QUEUED, {**QUEUED, "status": "cancelled"}]
    with fake_openai(lambda seen: Answer(json=answers.pop(0))) as server, rlm_obs.CostTracker(1) as tracker:
        client = caller.client(server)
        await caller(client.responses.create(model="gpt-4o", input="Hello", background=True))
        await caller(client.responses.cancel("resp_9"))
        assert tracker.held == 0
        assert 0 < tracker.spent < Decimal("0.001")
        assert tracker.get_report().unpriced_calls == 1


async def test_its_price_is_that_of_how_it_was_asked(caller: Any, as_openai: Any, collect: Collected) -> None:
    """The time that it was given to wait is of the request that began it, and prices the answer that is retrieved."""
    answers = [{**QUEUED, "model": "gpt-5.4"}, {**DONE, "model": "gpt-5.4"}]
    with fake_openai(lambda seen: Answer(json=answers.pop(0))) as server:
        client = caller.client(server)
        extra = {"background_options": {"completion_window": "8h"}}
        await caller(client.responses.create(model="gpt-5.4", input="Hello", background=True, extra_body=extra))
        await caller(client.responses.retrieve("resp_9"))
    assert collect.records[-1].cost_usd == Decimal("0.004") * 6 / 10


async def test_a_stored_response_is_not_billed_again(caller: Any, as_openai: Any, collect: Collected) -> None:
    """One that did not run in the background was billed when it was made: to read it makes no record."""
    with fake_openai(Answer(json={**DONE, "background": False})) as server:
        await caller(caller.client(server).responses.retrieve("resp_9"))
        await caller(caller.client(server).responses.with_raw_response.retrieve("resp_9"))
    assert collect.records == []


def events(*said: Any) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in said)


async def test_a_stream_that_is_resumed(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A stream that is taken up again brings the usage; a second time it costs nothing more."""
    body = events({"type": "response.completed", "sequence_number": 4, "response": DONE})
    with fake_openai(Answer(body=body, content_type="text/event-stream")) as server:
        client = caller.client(server)
        for _ in range(2):
            await caller.all(await caller(client.responses.retrieve("resp_9", stream=True, starting_after=3)))
    assert [record.cost_usd for record in collect.records] == [FULL, 0]
    assert collect.records[1].cost is not None
    assert collect.records[1].cost.source == "billed before"


async def test_raw_and_cancelled(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A raw answer tells the same, and so does the answer to a cancellation that says what was used."""
    with fake_openai(Answer(json={**DONE, "status": "cancelled"})) as server:
        client = caller.client(server)
        await caller(client.responses.with_raw_response.retrieve("resp_9"))
        await caller(client.responses.cancel("resp_9"))
    (record,) = collect.records
    assert record.cost_usd == FULL


def line(number: int, body: Any, status: int = 200) -> str:
    answer = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": f"batch_req_{number}", "custom_id": str(number), "response": answer, "error": None})


CHAT = {"model": "gpt-4o", "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}


async def test_a_batch_is_priced_when_its_output_is_read(caller: Any, as_openai: Any, collect: Collected) -> None:
    """Each line costs its batch rate, a failed one nothing, an unknown one is a caveat; read again it is nothing."""
    lines = [line(1, CHAT), line(2, {"error": {}}, 400), line(3, {**CHAT, "model": "acme-1"}), line(4, CHAT)]
    body = "\n".join(lines).encode() + b"\n"
    for content_type in ("application/octet-stream", "application/json"):
        with fake_openai(Answer(body=body, content_type=content_type)) as server:
            content = await caller(caller.client(server).files.content("file-1"))
            assert content.text == body.decode()
    (record,) = collect.records
    assert record.cost_usd == FULL  # twice the half of it
    assert record.cost is not None
    assert record.cost.caveats == ("1 of 3 lines have no known price",)
    assert (record.service_tier, record.usage and record.usage.input_tokens) == ("batch", 3000)


async def test_a_long_batch_is_priced_line_by_line(caller: Any, as_openai: Any, collect: Collected) -> None:
    """Lines that together pass the step of long contexts are below it each."""
    short = {"model": "gpt-5.4", "usage": {"input_tokens": 200_000, "output_tokens": 0}}
    body = "\n".join(line(n, short) for n in range(3)).encode()
    with fake_openai(Answer(body=body, content_type="application/octet-stream")) as server:
        await caller(caller.client(server).files.content("file-2"))
    assert collect.records[0].cost_usd == 3 * Decimal("0.25")


async def test_another_file_is_none_of_ours(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A file that is no batch's output makes no record."""
    with fake_openai(Answer(body=b'{"prompt": "x"}\n', content_type="application/octet-stream")) as server:
        await caller(caller.client(server).files.content("file-3"))
    assert collect.records == []


RUN = {"id": "run_1", "object": "thread.run", "status": "completed", "model": "gpt-4o", "thread_id": "t"}
RUN_USED = {**RUN, "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}}


async def test_the_run_of_an_assistant(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A run costs nothing while it goes on, and what it used when it has ended, once."""
    answers = [{**RUN, "status": "queued", "usage": None}, {**RUN, "status": "in_progress"}, RUN_USED, RUN_USED]
    with fake_openai(lambda seen: Answer(json=answers.pop(0))) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        runs = caller.client(server).beta.threads.runs
        await caller(runs.create(thread_id="t", assistant_id="a"))
        for _ in range(3):
            await caller(runs.retrieve("run_1", thread_id="t"))
    (record,) = collect.records
    assert record.cost_usd == FULL


async def test_a_run_that_is_streamed(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A streamed run is priced by its last word, not by those of its steps; polled afterwards it is nothing more."""
    step = {"object": "thread.run.step", "id": "step_1", "usage": {"prompt_tokens": 400, "completion_tokens": 40}}
    body = b"".join(
        b"event: %b\ndata: %b\n\n" % (name, json.dumps(data).encode())
        for name, data in [
            (b"thread.run.created", {**RUN, "status": "queued", "usage": None}),
            (b"thread.run.step.completed", step),
            (b"thread.run.completed", RUN_USED),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with fake_openai(Answer(body=body + b"data: [DONE]\n\n", content_type="text/event-stream")) as server:
            runs = caller.client(server).beta.threads.runs
            await caller.all(await caller(runs.create(thread_id="t", assistant_id="a", stream=True)))
        with fake_openai(Answer(json=RUN_USED)) as server:
            await caller(caller.client(server).beta.threads.runs.retrieve("run_1", thread_id="t"))
    (record,) = collect.records
    assert (record.cost_usd, record.streamed) == (FULL, True)


async def test_a_run_that_waits_for_tools(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A streamed run that stops for the tools' outputs has not said what it used: its steps are not its bill."""
    step = {"object": "thread.run.step", "id": "step_1", "usage": {"prompt_tokens": 400, "completion_tokens": 40}}
    waits = {**RUN, "status": "requires_action", "usage": None}
    body = b"event: thread.run.step.completed\ndata: %b\n\nevent: thread.run.requires_action\ndata: %b\n\n" % (
        json.dumps(step).encode(),
        json.dumps(waits).encode(),
    )
    with fake_openai(Answer(body=body, content_type="text/event-stream")) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        runs = caller.client(server).beta.threads.runs
        await caller.all(await caller(runs.create(thread_id="t", assistant_id="a", stream=True)))
    (record,) = collect.records
    assert (record.usage, record.cost) == (None, None)


@pytest.mark.parametrize(
    ("path", "answer", "usd"),
    [
        ("/videos/v", {"id": "v", "object": "video", "status": "completed", "model": "sora-2", "seconds": "8"}, "0.8"),
        (
            "/fine_tuning/jobs/j",
            {
                "id": "j",
                "object": "fine_tuning.job",
                "status": "succeeded",
                "model": "gpt-4o-mini",
                "trained_tokens": 5,
            },
            "0.000015",
        ),
        (
            "/evals/e/runs/r",
            {
                "id": "r",
                "object": "eval.run",
                "status": "completed",
                "per_model_usage": [{"model_name": "gpt-4o", "prompt_tokens": 1000, "completion_tokens": 100}],
            },
            "0.0035",
        ),
    ],
)
async def test_jobs(caller: Any, collect: Collected, path: str, answer: Any, usd: str) -> None:
    """A video, a training and an evaluation are priced when they are first retrieved complete."""
    own = {"sora-2": {"per_second": "0.1"}, "gpt-4o-mini": {"training": 3}}
    settings = {"hosts": {"127.0.0.1": "openai"}, "prices": own}
    with rlm_obs.instrument(exporters=[], settings=settings), fake_openai(Answer(json=answer)) as server:
        for _ in range(2):
            await caller(caller.client(server).get(path, cast_to=object))
    (record,) = collect.records
    assert record.cost_usd == Decimal(usd)


async def test_what_nobody_can_price_is_counted(caller: Any, as_openai: Any, collect: Collected) -> None:
    """A container is billed by its time: its making is a call of unknown cost, which the report counts."""
    with fake_openai(Answer(json={"id": "cntr_1", "object": "container", "name": "n", "status": "running"})) as server:
        await caller(caller.client(server).post("/containers", cast_to=object, body={"name": "n"}))
    assert [record.cost for record in collect.records] == [None]
    assert as_openai.report().unpriced_calls == 1


async def test_an_image_that_is_streamed(caller: Any, as_openai: Any, collect: Collected) -> None:
    """Partial images say no usage; each image that is complete does, and they add up."""
    used = {"input_tokens": 50, "input_tokens_details": {"image_tokens": 0, "text_tokens": 50}, "output_tokens": 1056}
    done = {"type": "image_generation.completed", "b64_json": "eA==", "usage": {**used, "total_tokens": 1106}}
    part = {"type": "image_generation.partial_image", "b64_json": "eA==", "partial_image_index": 0}
    with fake_openai(Answer(body=events(part, done, done), content_type="text/event-stream")) as server:
        stream = await caller(caller.client(server).images.generate(model="gpt-image-1", prompt="A cat", stream=True))
        await caller.all(stream)
    assert collect.records[0].cost_usd == 2 * (50 * Decimal("5e-6") + 1056 * Decimal("4e-5"))


async def test_a_transcription_that_is_streamed(caller: Any, as_openai: Any, collect: Collected) -> None:
    """The event that ends a transcription brings its tokens."""
    used = {"type": "tokens", "input_tokens": 14, "input_token_details": {"text_tokens": 4, "audio_tokens": 10}}
    done = {"type": "transcript.text.done", "text": "a", "usage": {**used, "output_tokens": 31, "total_tokens": 45}}
    with fake_openai(Answer(body=events(done), content_type="text/event-stream")) as server:
        heard = caller.client(server).audio.transcriptions
        file = ("a.wav", b"RIFF")
        await caller.all(await caller(heard.create(model="gpt-4o-transcribe", file=file, stream=True)))
    assert collect.records[0].cost_usd == Decimal("0.00038")
