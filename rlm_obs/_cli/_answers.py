"""What the demo's own server answers: a few fixed texts, slow enough that the durations look like those of a model."""

from __future__ import annotations

from rlm_obs.testing import Answer, FakeOpenAI, Seen, fake_openai

THOUGHT = "The gale on day 2 cost the most, I think; but then, the calm on day 5 was long, and so I think again. " * 17
ANSWERS = {
    "Answer from this part": "Head winds and one gale; about two days were lost here.",
    "Combine these findings": "Head winds above all: about six days. The gales tore sails, but cost two days at most.",
    "in one sentence": "Sixty days of wind, calm and torn sails brought the ship home late, but whole.",
    "worst delay": '{"reason": "a gale tore two sails", "days_lost": 2}',
    "Think about": THOUGHT,
}


def serve() -> FakeOpenAI:
    """Start the server."""
    return fake_openai(answer, latency_s=0.05, chunk_delay_s=0.02)


def answer(seen: Seen) -> Answer:
    """Answer by what the prompt says; a model that was retired is not found."""
    if seen.json.get("model") == "gpt-3.5-turbo-0301":
        return Answer("The model `gpt-3.5-turbo-0301` has been retired.", status=404, delay_s=0.03)
    prompt = seen.body.decode()
    return Answer(next((text for sign, text in ANSWERS.items() if sign in prompt), None))
