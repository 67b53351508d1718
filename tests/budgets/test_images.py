"""What an image costs, by the published formulas and their published examples; its size is read from its header."""

from __future__ import annotations

import base64
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_obs._budgets.images import MODELS, MOST_PATCHES, image_tokens, size_of


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        # the examples of OpenAI's guide "Images and vision"
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4.1-mini", (1024, 1024), None, 1659),  # 1,024 patches x 1.62
        ("gpt-4.1-mini", (1800, 2400), None, 2353),  # 1,452 patches x 1.62
        ("gpt-4.1-nano", (1024, 1024), "auto", 2520),
        ("o4-mini", (1024, 1024), "high", 1762),
        # the same formulas elsewhere
        ("gpt-4o-mini", (1024, 1024), "high", 2833 + 4 * 5667),
        ("gpt-4o-mini-2024-07-18", (1024, 1024), "low", 2833),
        ("gpt-4.1-2025-04-14", (512, 512), None, 255),
        ("gpt-5", (1024, 1024), None, 630),
        ("gpt-5.1", (4096, 8192), "low", 70),
        ("o3", (1024, 1024), None, 675),
        ("gpt-5-nano", (1024, 1024), None, 1536),
        ("gpt-5.2", (4000, 4000), "high", 3000),  # 2,500 patches x 1.2
        ("gpt-5.4", (4000, 4000), "high", 3000),
        ("gpt-5.4", (3200, 3200), "original", 12_000),
        ("gpt-5.4", (3200, 3200), "auto", 12_000),  # which "auto" may turn out to be
        ("gpt-5.5-2026-04-23", (3200, 3200), "high", 3000),
        ("gpt-5.6-sol", (3200, 3200), "high", 12_000),  # no budget
        ("gpt-5.6-sol", (32_000, 32_000), "high", 36_000),  # refused above 30,000 patches
    ],
)
def test_the_published_formulas(model: str, size: tuple[int, int], detail: str | None, tokens: int) -> None:
    """Patches and tiles as OpenAI counts them."""
    assert image_tokens(model, size, detail) == (tokens, True)


@given(
    st.sampled_from([*MODELS, "gpt-9"]),
    st.tuples(st.integers(1, 40_000), st.integers(1, 40_000)),
    st.sampled_from([None, "auto", "low", "high", "original", 7, ["high"]]),
)
def test_no_size_costs_more_than_an_unknown_one(model: str, size: tuple[int, int], detail: object) -> None:
    """An image behind a URL or an id is bounded by the model's most."""
    known, unknown = image_tokens(model, size, detail)[0], image_tokens(model, None, detail)[0]
    assert 0 < known <= unknown <= MOST_PATCHES * 2.46


@given(st.sampled_from(sorted(MODELS)), st.integers(1, 9_000), st.integers(1, 9_000))
def test_a_model_without_a_formula_is_the_dearest(model: str, width: int, height: int) -> None:
    """What is taken for an unknown model is no less than any known one costs."""
    most, known = image_tokens("gpt-9", (width, height))
    assert not known and most >= image_tokens(model, (width, height))[0]


@pytest.mark.parametrize("name", ["gpt-5.7", "gpt-4o-turbo", "gpt-5-mini-max", "", "-", "gpt-4o-"])
def test_a_name_that_is_only_near_is_not_known(name: str) -> None:
    """Tomorrow's model does not cost what today's does."""
    assert not image_tokens(name, None)[1]


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(40)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(40)


def jpeg(width: int, height: int, *, metadata: int = 0, kind: int = 0xC0) -> bytes:
    segments = b"".join(
        b"\xff\xe1" + struct.pack(">H", min(left, 65_533) + 2) + bytes(min(left, 65_533))
        for left in range(metadata, 0, -65_533)
    )
    table = b"\xff\xdb" + struct.pack(">H", 67) + bytes(65)
    frame = bytes([0xFF, kind]) + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + segments + table + b"\xff" + frame + bytes(20)


def webp(width: int, height: int, kind: bytes) -> bytes:
    if kind == b"VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + (width - 1 | (height - 1) << 14).to_bytes(4, "little")
    else:
        body = bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + bytes(4) + b"WEBP" + kind + struct.pack("<I", len(body)) + body + bytes(40)


def url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@given(st.integers(1, 16_000), st.integers(1, 16_000), st.integers(0, 200_000))
def test_sizes_are_read_from_headers(width: int, height: int, metadata: int) -> None:
    """PNG, GIF, JPEG (behind its metadata) and the three kinds of WebP, in a data URL or bare."""
    for content in (
        png(width, height),
        gif(width, height),
        jpeg(width, height, metadata=metadata),
        jpeg(width, height, kind=0xC2),
        webp(width, height, b"VP8X"),
        webp(width, height, b"VP8L"),
        webp(width, height, b"VP8 "),
    ):
        assert size_of(url(content)) == (width, height)
        assert size_of(base64.b64encode(content).decode()) == (width, height)


@given(st.binary(max_size=200), st.sampled_from([png, gif, jpeg]), st.integers(0, 120))
def test_what_is_malformed_has_no_size(noise: bytes, make: object, cut: int) -> None:
    """A header that is cut off or made up gives no size or some size, and never an error."""
    whole = make(3, 5)  # type: ignore[operator]
    for content in (noise, whole[:cut], whole[:cut] + noise):
        found = size_of(url(content))
        assert found is None or min(found) > 0


@pytest.mark.parametrize(
    "given",
    [
        None,
        7,
        "",
        "data:",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png,%89PNG",
        "data:image/png;base64,====",
        "data:image/png;base64,é" * 9,
        "data:image/svg+xml;base64,PHN2Zz4=",
        "https://example.test/cat.png",
        url(png(0, 5)),
        url(b"\xff\xd8\xff" + b"\xff" * 5_000),
        url(b"\xff\xd8" + b"\xff\xe1\x00\x00" * 3_000),
    ],
)
def test_an_odd_url_has_no_size(given: object) -> None:
    """What is no image that can be read is bounded by the model's most."""
    assert size_of(given) is None


def test_a_long_data_url_is_not_copied() -> None:
    """Ten megabytes of an image cost no more memory than its header."""
    text = url(jpeg(3_000, 2_000, metadata=4_000_000) + bytes(6_000_000))
    taken = []
    for _ in range(5):  # other threads of the tests may ask for memory meanwhile
        tracemalloc.start()
        try:
            assert size_of(text) == (3_000, 2_000)
            taken.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(taken) < 20_000
