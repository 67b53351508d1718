"""llama-index-llms-openai: the language models of LlamaIndex."""

import asyncio
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from measured import MODEL, Weather


def model(url: str) -> OpenAI:
    return OpenAI(model=MODEL, api_key="test", api_base=url)


def plain(url: str) -> Any:
    return model(url).complete("Oslo?")


def streamed(url: str) -> Any:
    return "".join(str(piece.delta) for piece in model(url).stream_complete("Oslo?"))


def structured(url: str) -> Any:
    answer = model(url).as_structured_llm(Weather).chat([ChatMessage("Oslo?")]).raw
    assert isinstance(answer, Weather)
    return answer


def asynchronous(url: str) -> Any:
    return asyncio.run(model(url).acomplete("Oslo?"))
