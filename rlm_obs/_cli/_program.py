"""The program that `rlm-obs demo` runs: one like many, which knows nothing of rlm_obs but two decorators."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import openai
from pydantic import BaseModel

from rlm_obs import cost_tracked, traced

RETIRED = "gpt-3.5-turbo-0301"
EMBEDDING = "text-embedding-3-small"
QUESTION = "What slowed the voyage down?"
MOST_TURNS = 100

WINDS = ["fair wind, all sails set", "no wind at all", "a gale, two sails torn", "head wind, tacking", "a calm sea"]


def logbook(days: int = 60) -> str:
    """Return a document too long to ask about in one go: a ship's log, a line a day."""
    return "\n".join(f"Day {day}: {40 + day * 37 % 90} miles, {WINDS[day * day % 5]}." for day in range(1, days + 1))


@traced
def ask_about(client: openai.OpenAI, model: str, document: str, question: str) -> str:
    """Answer a question over a long document: ask each part at the same time, then put the findings together."""
    lines = document.splitlines()
    parts = ["\n".join(lines[at : at + 20]) for at in range(0, len(lines), 20)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        findings = list(pool.map(partial(ask_part, client, model, question), parts))
    return ask(client, model, f"Combine these findings into one answer to: {question}\n" + "\n".join(findings))


@traced
@cost_tracked(operation="parts")
def ask_part(client: openai.OpenAI, model: str, question: str, part: str) -> str:
    """Ask one part of the document."""
    return ask(client, model, f"{question}\nAnswer from this part of a log only:\n{part}")


def ask(client: openai.OpenAI, model: str, prompt: str, most_tokens: int = 200) -> str:
    """Ask one thing."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], max_completion_tokens=most_tokens
    )
    return answer.choices[0].message.content or ""


def stream_answer(client: openai.OpenAI, model: str) -> None:
    """Show an answer while it is being written."""
    chunks = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell the voyage in one sentence."}],
        max_completion_tokens=60,
        stream=True,
    )
    for chunk in chunks:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


def embed_question(client: openai.OpenAI) -> None:
    """Turn the question into numbers, to look for like passages."""
    client.embeddings.create(model=EMBEDDING, input=QUESTION)


class Delay(BaseModel):
    """What the structured answer has to look like."""

    reason: str
    days_lost: int


def parse_delay(client: openai.OpenAI, model: str) -> Delay | None:
    """Ask for data instead of prose."""
    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": f"Give the worst delay of this voyage:\n{logbook(5)}"}],
        response_format=Delay,
        max_completion_tokens=200,
    )
    return answer.choices[0].message.parsed


def ask_retired_model(client: openai.OpenAI) -> str:
    """Ask a model that is not there any more."""
    return ask(client, RETIRED, "Are you still there?", most_tokens=50)


@traced
@cost_tracked(operation="agent", budget_usd="0.0015")
def agent(client: openai.OpenAI, model: str) -> None:
    """Do what agents do when nobody watches: think again and again. Its budget is what stops it."""
    for turn in range(1, MOST_TURNS + 1):
        ask(client, model, f"Think about the voyage once more, in 300 words (turn {turn}).", most_tokens=400)
