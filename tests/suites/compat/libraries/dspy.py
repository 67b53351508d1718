"""dspy: programs of signatures, through litellm."""

import asyncio
from typing import Any

import dspy
from measured import MODEL, Weather


def using(url: str) -> Any:
    model = dspy.LM(f"openai/{MODEL}", api_base=url, api_key="test", cache=False)
    return dspy.context(lm=model, adapter=dspy.JSONAdapter())


def plain(url: str) -> Any:
    with using(url):
        return dspy.settings.lm("Oslo?")


def streamed(url: str) -> Any:
    program = dspy.streamify(dspy.Predict("question -> city: str, celsius: int"), async_streaming=False)
    with using(url):
        return list(program(question="Oslo?"))


def structured(url: str) -> Any:
    with using(url):
        answer = dspy.Predict("question -> city: str, celsius: int")(question="Oslo?")
    return Weather(city=answer.city, celsius=answer.celsius)


def asynchronous(url: str) -> Any:
    with using(url):
        return asyncio.run(dspy.Predict("question -> city: str, celsius: int").acall(question="Oslo?"))
