"""Prices a usage part by part: audio, images, tools, seconds, and answers that say too little or too much."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from rlm_obs._record import EXACT, Cost, Usage

if TYPE_CHECKING:
    from rlm_obs._pricing.rates import Rates

ZERO = Decimal(0)
HOUR = Decimal(3600)
#: Hourly rates do not divide by 3,600 evenly; their cost is kept to this unit, so that adding costs stays exact.
FINEST = Decimal("1e-15")

PARTS_EXCEED = "the parts of the {0} exceed its total"
AUDIO_AS_TEXT = "the price list has no audio rate for the model; its audio is priced as text"
CACHE_SPLIT = "the answer does not say which part of the cache was text, audio or images"
CONTAINER = "container time not in the answer"
SEARCH_CONTENT = "{0} input tokens a search are billed for its content, which the usage does not show"
LONG_WRITE = "there is no rate for what is kept longer in the cache; the shorter time's is taken"
NO_TIME = "the time that the call takes is not known; a second is counted"
#: Tools that run in a container, which is billed by its time, never by the call.
IN_CONTAINER = frozenset({"code_interpreter", "shell"})


@dataclass(frozen=True, slots=True)
class Line:
    """One product of a cost: `count` of `what`, at `rate` US dollars each, are `usd`."""

    what: str
    count: Decimal
    rate: Decimal
    usd: Decimal


class _Sum:
    """Adds up the parts of one cost, and remembers what had a rate and what had none."""

    def __init__(self, caveats: tuple[str, ...], lines: list[Line] | None) -> None:
        self.notes = list(caveats)
        self.missing: list[str] = []
        self.priced = False
        self.lines = lines

    def of(self, count: int, rate: Decimal | None, what: str) -> Decimal:
        """Return count x rate; a count without a rate is remembered by its name."""
        if count <= 0:
            return ZERO
        if rate is None:
            self.missing.append(what)
            return ZERO
        return self.add(Decimal(count), rate, what, EXACT.multiply(rate, count))

    def add(self, count: Decimal, rate: Decimal, what: str, usd: Decimal) -> Decimal:
        self.priced = True
        if self.lines is not None:
            self.lines.append(Line(what, count, rate, usd))
        return usd

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def in_full(
    rates: Rates,
    usage: Usage,
    source: str,
    caveats: tuple[str, ...],
    duration_s: float | None = None,
    lines: list[Line] | None = None,
) -> Cost | None:
    """Price a usage with anything beyond text and cache in it, or one that does not say everything.

    Each product that the cost is made of is appended to `lines`.
    """
    if not _says_something(usage) and rates.per_hour is None:
        return None
    tokens = usage.input_tokens is not None or usage.output_tokens is not None
    sums = _Sum(caveats, lines)
    fresh, cached, written = _input(rates, usage, sums)
    if usage.characters and (rates.character is not None or not tokens):
        fresh = EXACT.add(fresh, sums.of(usage.characters, rates.character, "characters"))
    if usage.seconds and (rates.audio_hour is not None or not tokens):
        fresh = EXACT.add(fresh, _seconds(rates, usage.seconds, sums))
    fresh = EXACT.add(fresh, sums.of(usage.trained_tokens or 0, rates.training, "trained tokens"))
    output = _output(rates, usage, sums)
    if usage.images and not tokens:
        output = EXACT.add(output, sums.of(usage.images, rates.image, "images"))
    tools = _tools(rates, usage, sums, duration_s)
    if sums.missing and not sums.priced:
        return None
    for what in sums.missing:
        sums.note(f"there is no rate for {what}")
    if rates.input and usage.input_tokens is None and usage.output_tokens is not None:
        sums.note("the answer does not say its input tokens")
    if rates.output and usage.output_tokens is None and usage.input_tokens is not None:
        sums.note("the answer does not say its output tokens")
    total = EXACT.add(EXACT.add(EXACT.add(fresh, cached), EXACT.add(written, output)), tools)
    return Cost(
        total=total,
        source=source,
        input=fresh,
        cached_input=cached,
        cache_write=written,
        output=output,
        tools=tools,
        caveats=tuple(sums.notes),
    )


def _says_something(usage: Usage) -> bool:
    said = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.input_audio_tokens,
        usage.input_image_tokens,
        usage.output_audio_tokens,
        usage.output_image_tokens,
        usage.trained_tokens,
        usage.seconds,
        usage.characters,
        usage.images,
    )
    return bool(usage.tool_calls) or any([one is not None for one in said])


def _tools(rates: Rates, usage: Usage, sums: _Sum, duration_s: float | None) -> Decimal:
    """Return what hosted tools cost, and what is billed by the call or by its time."""
    cost = ZERO
    if rates.per_call is not None:
        cost = sums.add(Decimal(1), rates.per_call, "call", rates.per_call)
    if rates.per_hour is not None:
        if duration_s is None:
            sums.note(NO_TIME)  # and never 0, or a budget that is used up would let it pass
        took = Decimal(1) if duration_s is None else Decimal(str(duration_s))
        cost = EXACT.add(cost, _by_time(took, rates.per_hour, "seconds of the call", sums))
    for name, calls in usage.tool_calls.items():
        rate = rates.tools.get(name)
        if rate is None and name in IN_CONTAINER:
            sums.note(CONTAINER)
            continue
        cost = EXACT.add(cost, sums.of(calls, rate, f"{name} calls"))
        if name == "web_search" and rates.search_tokens:
            cost = EXACT.add(cost, sums.of(calls * rates.search_tokens, rates.input, "input tokens of search content"))
            sums.note(SEARCH_CONTENT.format(f"{rates.search_tokens:,}"))
    return cost


def _input(rates: Rates, usage: Usage, sums: _Sum) -> tuple[Decimal, Decimal, Decimal]:
    """Return what the fresh, the cached and the written input cost.

    Most answers do not say how much of the cache was audio or images: there text is taken first, so they share no more
    than the total forces them to. genai-prices wants that overlap named (`cache_audio_read_tokens`) or refuses.
    """
    hits, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    audio, images = usage.input_audio_tokens or 0, usage.input_image_tokens or 0
    parts = hits + written + audio + images
    total = parts if usage.input_tokens is None else usage.input_tokens
    excess = max(parts - total, 0)
    if usage.cached_audio_tokens is None and usage.cached_image_tokens is None:
        told = False
        hit_audio = min(excess, audio, hits)
        hit_images = min(excess - hit_audio, images, hits - hit_audio)
    else:
        told = True
        hit_audio = min(usage.cached_audio_tokens or 0, audio, hits)
        hit_images = min(usage.cached_image_tokens or 0, images, hits - hit_audio)
    text = total - parts + hit_audio + hit_images
    if text < 0:
        sums.note(PARTS_EXCEED.format("input"))
    audio_rate, image_rate = own(rates.input_audio, rates.input), own(rates.input_image, rates.input)
    cached_audio = own(rates.cached_audio, rates.input_audio, rates.hit)
    cached_image = own(rates.cached_image, rates.input_image, rates.hit)
    if audio and rates.input_audio is None and rates.input is not None:
        sums.note(AUDIO_AS_TEXT)
    if hits and rates.cached_caveat:
        sums.note(rates.cached_caveat)
    for shared, count, fresh_rate, hit_rate in (
        (hit_audio, audio, audio_rate, cached_audio),
        (hit_images, images, image_rate, cached_image),
    ):
        if not told and shared < min(count, hits) and _differ(rates.input, rates.hit, fresh_rate, hit_rate):
            sums.note(CACHE_SPLIT)
    fresh = EXACT.add(
        sums.of(text, rates.input, "input tokens"),
        EXACT.add(
            sums.of(audio - hit_audio, audio_rate, "input audio tokens"),
            sums.of(images - hit_images, image_rate, "input image tokens"),
        ),
    )
    cached = EXACT.add(
        sums.of(hits - hit_audio - hit_images, rates.hit, "cached input tokens"),
        EXACT.add(
            sums.of(hit_audio, cached_audio, "cached audio tokens"),
            sums.of(hit_images, cached_image, "cached image tokens"),
        ),
    )
    longer = min(usage.cache_write_long_tokens or 0, written)
    stored = sums.of(written - longer, rates.write, "cache write tokens")
    if longer and rates.cache_write_long is None:
        sums.note(LONG_WRITE)
    kept = sums.of(longer, own(rates.cache_write_long, rates.write), "cache write tokens, kept longer")
    return fresh, cached, EXACT.add(stored, kept)


def _output(rates: Rates, usage: Usage, sums: _Sum) -> Decimal:
    """Return what the output costs; reasoning is billed as output wherever it has no rate of its own."""
    audio, images = usage.output_audio_tokens or 0, usage.output_image_tokens or 0
    thought = (usage.reasoning_tokens or 0) if rates.reasoning is not None else 0
    parts = audio + images + thought
    text = (parts if usage.output_tokens is None else usage.output_tokens) - parts
    if text < 0:
        sums.note(PARTS_EXCEED.format("output"))
    if audio and rates.output_audio is None and rates.output is not None:
        sums.note(AUDIO_AS_TEXT)
    said = sums.of(text, rates.output, "output tokens")
    said = EXACT.add(said, sums.of(audio, own(rates.output_audio, rates.output), "output audio tokens"))
    said = EXACT.add(said, sums.of(images, own(rates.output_image, rates.output), "output image tokens"))
    return EXACT.add(said, sums.of(thought, rates.reasoning, "reasoning tokens"))


def _seconds(rates: Rates, seconds: float, sums: _Sum) -> Decimal:
    if rates.audio_hour is None:
        sums.missing.append("seconds of audio")
        return ZERO
    return _by_time(max(Decimal(str(seconds)), Decimal(rates.least_seconds)), rates.audio_hour, "seconds", sums)


def _by_time(seconds: Decimal, hour: Decimal, what: str, sums: _Sum) -> Decimal:
    usd = EXACT.quantize(EXACT.divide(EXACT.multiply(hour, seconds), HOUR), FINEST)
    return sums.add(seconds, EXACT.divide(hour, HOUR), what, usd)


def own(*rates: Decimal | None) -> Decimal | None:
    return next((rate for rate in rates if rate is not None), None)


def _differ(text: Decimal | None, hit: Decimal | None, other: Decimal | None, other_hit: Decimal | None) -> bool:
    """Tell whether it changes the sum that a cached token was `other` and not text."""
    if text is None or hit is None or other is None or other_hit is None:
        return False
    return EXACT.subtract(text, hit) != EXACT.subtract(other, other_hit)
