"""Whatever a whole program writes, with every exporter and at the loudest level of its log, is searched for its secrets."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlm_obs.testing import Answer, Seen, fake_openai

#: What must never be written, by where it comes from.
SECRETS = {
    "the client's key": "sk-test-" + "A1b2C3d4" * 6,
    "a key in a prompt": "sk-proj-" + "Z9y8X7w6" * 19,
    "an address": "ann.secret@example.com",
    "a card": "4111 1111 1111 1111",
    "a phone": "+1 415 555 2671",
    "a name of our own": "ACME-471100",
}
EVERY = " and ".join(SECRETS.values())
#: Ordinary words of a prompt and of an answer: recorded only where that was asked for.
ASKED, ANSWERED = "Xylophone", "Quasar"
#: How two of the calls in the program end.
ENDS = ["BadRequestError", "BudgetExceeded"]
PROGRAM = """
import asyncio, json, logging, os, sys
import openai, rlm_obs
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logging.basicConfig(level=logging.DEBUG)
for chatty in ("httpx", "httpcore", "httpx2", "httpcore2", "openai", "asyncio"):
    logging.getLogger(chatty).setLevel(logging.CRITICAL)  # what the client itself logs is not ours
every, asked = os.environ["EVERY"], os.environ["ASKED"]

class Stock(SpanExporter):
    def export(self, spans):
        with open("stock.json", "a", encoding="utf-8") as file:
            file.writelines(span.to_json() for span in spans)
        return SpanExportResult.SUCCESS

class Records:
    @rlm_obs.hookimpl
    def call_finished(self, record):
        with open("records.txt", "a", encoding="utf-8") as file:
            print(record, record.to_dict(), file=file)

@rlm_obs.traced(capture_args=True)
def step(text, nested, api_key, number):
    raise ValueError(every)

def asks(client):
    said = f"{asked}: {every}"
    message, image = {"role": "user", "content": said}, {"type": "image_url", "image_url": {"url": f"https://a.b/{every}"}}
    tool = {"name": "find", "description": said, "parameters": {"type": "object", "properties": {every: {}}}}
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": json.dumps({every: every})}}
    chat = [
        {"role": "system", "content": said}, message, {"role": "user", "content": [image]},
        {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": said},
    ]
    for stream in (False, True):
        yield lambda stream=stream: client.chat.completions.create(
            model="gpt-4o", messages=chat, tools=[{"type": "function", "function": tool}], stream=stream, user=every,
            metadata={"a": every}, stop=None, extra_headers={"x-secret": every})
        yield lambda stream=stream: client.responses.create(
            model="gpt-4o", input=said, instructions=said, stream=stream, tools=[{"type": "function", **tool}])
    yield lambda: client.chat.completions.with_raw_response.create(model="gpt-4o", messages=[message])
    yield lambda: client.embeddings.create(model="text-embedding-3-small", input=[said])
    yield lambda: client.completions.create(model="gpt-3.5-turbo-instruct", prompt=said)
    yield lambda: client.chat.completions.create(model="gpt-4-turbo", messages=[message])
    yield lambda: client.chat.completions.create(model="gpt-4o", messages=[message], n=1000, max_completion_tokens=16000)

def plain():
    client = openai.OpenAI(max_retries=0)
    for ask in asks(client):
        try:
            answer = ask()
            if isinstance(answer, openai.Stream):
                list(answer)
        except (openai.APIError, rlm_obs.BudgetExceeded) as error:
            sys.stdout.write(f"ended by {type(error).__name__}\\n")  # in one piece: the console writes from another thread

async def awaited():
    async with openai.AsyncOpenAI(max_retries=0) as client:
        for ask in asks(client):
            try:
                answer = await ask()
                if isinstance(answer, openai.AsyncStream):
                    async for _ in answer:
                        pass
            except (openai.APIError, rlm_obs.BudgetExceeded) as error:
                sys.stdout.write(f"ended by {type(error).__name__}\\n")  # in one piece: the console writes from another thread

plugin = Records()
rlm_obs.register_plugin(plugin)
capture = os.environ["CAPTURE"] == "yes"
settings = {"redact": ["keys", "email", "card", "phone"], "redact_patterns": ["ACME-[0-9]{6}"]}
otlp = rlm_obs.FileExporter("otlp.jsonl", format="otlp")
on = rlm_obs.instrument(
    exporters=["console", "file", "langfuse", Stock(), otlp], budget_usd=100, capture_content=capture, settings=settings)
plain()
asyncio.run(awaited())
try:
    step(every, {"a": [every]}, every, 4111111111111111)
except ValueError:
    pass
print(rlm_obs.report().to_dict(), rlm_obs.stats(), on, on.settings, on.tracer, on.tracker)
rlm_obs.uninstrument()
"""


@pytest.fixture
def sent() -> Iterator[tuple[str, list[bytes]]]:
    """A server in Langfuse's place, and every byte that was sent to it."""
    bodies: list[bytes] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()
    thread.join()


def answered(seen: Seen) -> Answer:
    """Answer with the secrets, in a text or in an error."""
    said = f"{ANSWERED}: {EVERY}"
    return Answer(said, status=400 if seen.json.get("model") == "gpt-4-turbo" else 200)


@pytest.mark.parametrize("capture", ["no", "yes"])
def test_nothing_that_is_written_holds_a_secret(capture: str, sent: Any, tmp_path: Path) -> None:
    """Console, files, log, records, a stock exporter and Langfuse hold none of the secrets, with content captured or not;
    the other words of prompts and answers are there only if it is."""
    host, bodies = sent
    with fake_openai(answered) as server:
        variables = {
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": SECRETS["the client's key"],
            "LANGFUSE_HOST": host,
            "LANGFUSE_PUBLIC_KEY": "pk-lf-test",
            "LANGFUSE_SECRET_KEY": "sk-lf-" + "S3cr3t" * 5,
            "NO_PROXY": "127.0.0.1",
            "RLM_OBS_HOSTS": f'{{"{server.base_url.split("/")[2]}": "openai"}}',
            "EVERY": EVERY,
            "ASKED": ASKED,
            "CAPTURE": capture,
            "PYTHONIOENCODING": "utf-8",
        }
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **variables},
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
        )
        calls = len(server.billed)
    written = {"stdout": ran.stdout, "stderr": ran.stderr, "langfuse": b"".join(bodies)}
    written |= {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert ran.returncode == 0, ran.stderr.decode()
    assert calls == 2 * 7
    assert re.findall(r"^ended by (\w+)\r?$", ran.stdout.decode(), re.M) == ENDS * 2
    assert written.keys() == {
        "stdout",
        "stderr",
        "langfuse",
        "rlm_obs.jsonl",
        "otlp.jsonl",
        "stock.json",
        "records.txt",
    }
    assert all(written[name] for name in written.keys() - {"stderr"})
    secrets = {**SECRETS, "a card in one piece": "4111111111111111", "a key of ours": "S3cr3t"}
    for where, content in written.items():
        for what, secret in secrets.items():
            assert secret.encode() not in content, f"{what} is in {where}"
    holding = {
        where for where, content in written.items() if ASKED.encode() in content and ANSWERED.encode() in content
    }
    assert holding == ({"langfuse", "rlm_obs.jsonl", "otlp.jsonl", "stock.json"} if capture == "yes" else set())
    assert b"[email]" in written["rlm_obs.jsonl"]  # of the arguments, if of nothing else
