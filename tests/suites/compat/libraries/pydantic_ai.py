"""pydantic-ai: typed agents, on the chat API."""

import asyncio
from typing import Any

from measured import MODEL, Weather
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def agent(url: str, **options: Any) -> Agent[None, Any]:
    return Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key="test")), **options)


def plain(url: str) -> Any:
    return agent(url).run_sync("Oslo?").output


def streamed(url: str) -> Any:
    async def read() -> str:
        async with agent(url).run_stream("Oslo?") as answer:
            return "".join([piece async for piece in answer.stream_text(delta=True)])

    return asyncio.run(read())


def structured(url: str) -> Any:
    answer = agent(url, output_type=Weather).run_sync("Oslo?").output
    assert isinstance(answer, Weather)
    return answer


def asynchronous(url: str) -> Any:
    return asyncio.run(agent(url).run("Oslo?")).output
