"""litellm: one interface to many providers. Its `responses()` does not use openai's client, so no patch of that sees it."""

import asyncio
from typing import Any

import litellm
from measured import MODEL, Weather

BEYOND = ("responses",)


def asked(url: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Oslo?"}]
    return {"model": f"openai/{MODEL}", "messages": messages, "api_base": url, "api_key": "test"}


def plain(url: str) -> Any:
    return litellm.completion(**asked(url)).choices[0].message.content


def streamed(url: str) -> Any:
    return "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked(url), stream=True))


def structured(url: str) -> Any:
    answer = litellm.completion(**asked(url), response_format=Weather)
    return Weather.model_validate_json(answer.choices[0].message.content)


def asynchronous(url: str) -> Any:
    return asyncio.run(litellm.acompletion(**asked(url))).choices[0].message.content


def responses(url: str) -> Any:
    return litellm.responses(model=f"openai/{MODEL}", input="Oslo?", api_base=url, api_key="test")
