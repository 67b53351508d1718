"""openai-agents: agents that run on the responses API."""

import asyncio
from typing import Any

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, set_tracing_disabled
from measured import MODEL, Weather
from openai import AsyncOpenAI

set_tracing_disabled(True)


def agent(url: str, **options: Any) -> Agent[Any]:
    model = OpenAIResponsesModel(MODEL, AsyncOpenAI(api_key="test", base_url=url))
    return Agent("weather", instructions="Tell the weather.", model=model, model_settings=ModelSettings(), **options)


def plain(url: str) -> Any:
    return Runner.run_sync(agent(url), "Oslo?").final_output


def streamed(url: str) -> Any:
    async def read() -> Any:
        run = Runner.run_streamed(agent(url), "Oslo?")
        async for _ in run.stream_events():
            pass
        return run.final_output

    return asyncio.run(read())


def structured(url: str) -> Any:
    answer = Runner.run_sync(agent(url, output_type=Weather), "Oslo?").final_output
    assert isinstance(answer, Weather)
    return answer


def asynchronous(url: str) -> Any:
    async def ask() -> Any:
        return (await Runner.run(agent(url), "Oslo?")).final_output

    return asyncio.run(ask())
