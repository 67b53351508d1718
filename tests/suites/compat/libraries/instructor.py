"""instructor: answers as models of pydantic, and half of them while they stream."""

import asyncio
from typing import Any

import instructor
from measured import MODEL, Weather
from openai import AsyncOpenAI, OpenAI

ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Oslo?"}]}


def client(url: str) -> Any:
    return instructor.from_openai(OpenAI(api_key="test", base_url=url))


def plain(url: str) -> Any:
    return client(url).chat.completions.create(response_model=None, **ASKED).choices[0].message.content


def streamed(url: str) -> Any:
    return list(client(url).chat.completions.create_partial(response_model=Weather, **ASKED))[-1]


def structured(url: str) -> Any:
    answer = client(url).chat.completions.create(response_model=Weather, **ASKED)
    assert isinstance(answer, Weather)
    return answer


def asynchronous(url: str) -> Any:
    awaited = instructor.from_openai(AsyncOpenAI(api_key="test", base_url=url))
    return asyncio.run(awaited.chat.completions.create(response_model=Weather, **ASKED))
