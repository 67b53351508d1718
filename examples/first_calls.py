"""The smallest program: one line traces, prices and caps its calls. It needs OPENAI_API_KEY."""

import openai

import rlm_obs

rlm_obs.instrument(budget_usd="0.10")
client = openai.OpenAI()

for question in ("Why is the sky blue?", "Why is the sea blue?"):
    answer = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": question}],
        max_completion_tokens=200,
    )
    print(answer.choices[0].message.content)

rlm_obs.flush()
report = rlm_obs.report()
print(f"{report.calls} calls, ${report.total_cost:f} spent, {report.remaining_percent:.1f} % left")
