"""Asks about a long document part by part, in threads, under one budget: one tree of spans, one sum."""

from concurrent.futures import ThreadPoolExecutor

import openai

import rlm_obs

client = openai.OpenAI()
tracker = rlm_obs.CostTracker(budget_usd="0.05", name="long document")


def ask(prompt: str) -> str:
    """Ask one thing, with an output limit: so each call holds little of the budget, and many run at once."""
    answer = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": prompt}], max_completion_tokens=300
    )
    return answer.choices[0].message.content or ""


@rlm_obs.traced
def ask_about(document: str, question: str) -> str:
    """Ask each part, then put the findings together."""
    parts = [document[at : at + 2000] for at in range(0, len(document), 2000)]
    with ThreadPoolExecutor(4) as pool, tracker.track("parts"):
        findings = list(pool.map(lambda part: ask(f"{question}\n\n{part}"), parts))
    with tracker.track("summary"):
        return ask(f"{question}\n\nFindings:\n" + "\n".join(findings))


if __name__ == "__main__":
    with rlm_obs.instrument(exporters=["console", "file"]):
        try:
            print(ask_about("The ship left at dawn, and the wind was fair. " * 200, "What happened?"))
        except rlm_obs.BudgetExceeded as refusal:
            print("stopped:", refusal)
        for operation, cost in tracker.get_report().by_operation.items():
            print(f"{operation}: ${cost:f}")
