"""langchain-openai: chat models of LangChain."""

import asyncio
from typing import Any

from langchain_openai import ChatOpenAI
from measured import MODEL, Weather


def model(url: str) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, api_key="test", base_url=url)


def plain(url: str) -> Any:
    return model(url).invoke("Oslo?").content


def streamed(url: str) -> Any:
    return "".join(str(chunk.content) for chunk in model(url).stream("Oslo?"))


def structured(url: str) -> Any:
    answer = model(url).with_structured_output(Weather).invoke("Oslo?")
    assert isinstance(answer, Weather)
    return answer


def asynchronous(url: str) -> Any:
    return asyncio.run(model(url).ainvoke("Oslo?")).content
