"""Prices a usage part by part: audio, images, tools, seconds, and answers that say too little or too much."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import TYPE_CHECKING

from rlm_obs._record import Cost, Usage

if TYPE_CHECKING:
    from rlm_obs._pricing.rates import Rates

ZERO = Decimal(0)
HOUR = Decimal(3600)
#: Sums do not depend on the decimal context of the thread that calls: a program may have set its own precision.
EXACT = Context(prec=60)
#: Hourly rates do not divide by 3,600 evenly; their cost is kept to this unit, so that adding costs stays exact.
FINEST = Decimal("1e-15")

PARTS_EXCEED = "the parts of the {0} exceed its total"
AUDIO_AS_TEXT = "the price list has no audio rate for the model; its audio is priced as text"
CACHE_SPLIT = "the answer does not say which part of the cache was text, audio or images"


class _Sum:
    """Adds up the parts of one cost, and remembers what had a rate and what had none."""

    def __init__(self, caveats: tuple[str, ...]) -> None:
        self.notes = list(caveats)
        self.missing: list[str] = []
        self.priced = False

    def of(self, count: int, rate: Decimal | None, what: str) -> Decimal:
        """Return count x rate; a count without a rate is remembered by its name."""
        if count <= 0:
            return ZERO
        if rate is None:
            self.missing.append(what)
            return ZERO
        self.priced = True
        return EXACT.multiply(rate, count)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def in_full(rates: Rates, usage: Usage, source: str, caveats: tuple[str, ...]) -> Cost | None:
    """Price a usage with anything beyond text and cache in it, or one that does not say everything."""
    tokens = usage.input_tokens is not None or usage.output_tokens is not None
    alone = (usage.seconds, usage.characters, usage.images)
    parts = (usage.cached_input_tokens, usage.cache_write_tokens, usage.input_audio_tokens, usage.input_image_tokens)
    said = tokens or usage.tool_calls or any(n is not None for n in (*alone, *parts))
    if not said and usage.output_audio_tokens is None and usage.output_image_tokens is None:
        return None
    sums = _Sum(caveats)
    fresh, cached, written = _input(rates, usage, sums)
    if usage.characters and (rates.character is not None or not tokens):
        fresh = EXACT.add(fresh, sums.of(usage.characters, rates.character, "characters"))
    if usage.seconds and (rates.audio_hour is not None or not tokens):
        fresh = EXACT.add(fresh, _seconds(rates, usage.seconds, sums))
    if usage.images and not tokens:
        sums.missing.append("images")
    output = _output(rates, usage, sums)
    tools = rates.per_call or ZERO
    for name, calls in usage.tool_calls.items():
        tools = EXACT.add(tools, sums.of(calls, rates.tools.get(name), f"{name} calls"))
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


def _input(rates: Rates, usage: Usage, sums: _Sum) -> tuple[Decimal, Decimal, Decimal]:
    """Return what the fresh, the cached and the written input cost.

    An answer does not say how much of the cache was audio or images: text is taken first, so they share no more than
    the total forces them to. genai-prices wants that overlap named (`cache_audio_read_tokens`) or refuses.
    """
    hits, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    audio, images = usage.input_audio_tokens or 0, usage.input_image_tokens or 0
    parts = hits + written + audio + images
    total = parts if usage.input_tokens is None else usage.input_tokens
    excess = max(parts - total, 0)
    hit_audio = min(excess, audio, hits)
    hit_images = min(excess - hit_audio, images, hits - hit_audio)
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
        if shared < min(count, hits) and _differ(rates.input, rates.hit, fresh_rate, hit_rate):
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
    return fresh, cached, sums.of(written, rates.write, "cache write tokens")


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
    sums.priced = True
    billed = EXACT.multiply(rates.audio_hour, max(Decimal(str(seconds)), Decimal(rates.least_seconds)))
    return EXACT.quantize(EXACT.divide(billed, HOUR), FINEST)


def own(*rates: Decimal | None) -> Decimal | None:
    return next((rate for rate in rates if rate is not None), None)


def _differ(text: Decimal | None, hit: Decimal | None, other: Decimal | None, other_hit: Decimal | None) -> bool:
    """Tell whether it changes the sum that a cached token was `other` and not text."""
    if text is None or hit is None or other is None or other_hit is None:
        return False
    return EXACT.subtract(text, hit) != EXACT.subtract(other, other_hit)
