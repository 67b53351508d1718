"""A batch of calls at once, under a budget that has not room for all of them: it stops in time, and says where."""

import asyncio

import openai

import rlm_obs

QUESTIONS = [f"What is {number} squared?" for number in range(40)]


async def main() -> None:
    """Ask all; those for which no money is left are refused before they are sent."""
    budget = rlm_obs.CostTracker(budget_usd="0.0001", name="batch")
    async with openai.AsyncOpenAI() as client:

        async def ask(question: str) -> bool:
            try:
                await client.chat.completions.create(
                    model="gpt-4o-mini", messages=[{"role": "user", "content": question}], max_completion_tokens=20
                )
            except rlm_obs.BudgetExceeded:
                return False
            return True

        with budget:
            answered = await asyncio.gather(*map(ask, QUESTIONS))
    print(f"{sum(answered)} of {len(QUESTIONS)} were asked, for ${budget.spent:f} of ${budget.budget_usd:f}")


if __name__ == "__main__":
    with rlm_obs.instrument(exporters=["file"]):
        asyncio.run(main())
