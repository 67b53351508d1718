"""dspy: programs of signatures. Its own engine has its own HTTP; `engine="litellm"` goes through openai's client."""

import asyncio
from typing import Any

import dspy
from measured import MODEL, Weather

BEYOND = ("own_engine",)
ASKED = "question -> city: str, celsius: int"


def using(url: str, engine: str = "litellm") -> Any:
    model = dspy.LM(f"openai/{MODEL}", api_base=url, api_key="test", cache=False, engine=engine)
    return dspy.context(lm=model, adapter=dspy.JSONAdapter())


def plain(url: str) -> Any:
    with using(url):
        return dspy.settings.lm("Oslo?")


def streamed(url: str) -> Any:
    with using(url):
        return list(dspy.streamify(dspy.Predict(ASKED), async_streaming=False)(question="Oslo?"))


def structured(url: str) -> Any:
    with using(url):
        answer = dspy.Predict(ASKED)(question="Oslo?")
    return Weather(city=answer.city, celsius=answer.celsius)


def asynchronous(url: str) -> Any:
    with using(url):
        return asyncio.run(dspy.Predict(ASKED).acall(question="Oslo?"))


def own_engine(url: str) -> Any:
    with using(url, engine="lm15"):
        return dspy.settings.lm("Oslo?")
