"""smolagents: its model of the OpenAI API; it has no async calls, so that one runs in a thread of asyncio's."""

import asyncio
from typing import Any

from measured import MODEL, Weather
from smolagents import OpenAIModel

ASKED: Any = [{"role": "user", "content": [{"type": "text", "text": "Oslo?"}]}]
FORM = {"type": "json_schema", "json_schema": {"name": "weather", "schema": Weather.model_json_schema()}}


def model(url: str) -> OpenAIModel:
    return OpenAIModel(MODEL, api_base=url, api_key="test")


def plain(url: str) -> Any:
    return model(url).generate(ASKED).content


def streamed(url: str) -> Any:
    return "".join(delta.content or "" for delta in model(url).generate_stream(ASKED))


def structured(url: str) -> Any:
    return Weather.model_validate_json(str(model(url).generate(ASKED, response_format=FORM).content))


def asynchronous(url: str) -> Any:
    return asyncio.run(asyncio.to_thread(model(url).generate, ASKED)).content
