"""Counts text exactly by tiktoken, where its vocabularies are on this disk already: nothing is ever downloaded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_obs import _guard
from rlm_obs._budgets.bound import most_text_tokens

if TYPE_CHECKING:
    from tiktoken import Encoding

#: The vocabularies of the models in use, as tiktoken 0.14 names, fetches and checks them (`tiktoken_ext.openai_public`).
VOCABULARIES = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{0}.tiktoken"
#: A longer text counts by its bytes: counting takes 0.28 ms per 1,000 tokens, inside the user's call.
LONGEST = 1_000_000

_encodings: dict[str, Encoding] = {}


def use(how: str) -> None:
    """Count by "bytes" or by "tiktoken" from now on; vocabularies are read here, so that no call has to.

    Where tiktoken or a vocabulary is missing, one line in the log says so, and its models are counted by bytes.
    """
    _encodings.clear()
    text_counter.cache_clear()
    if how != "tiktoken":
        return
    try:
        import tiktoken
    except ImportError:
        _guard.say_once(
            "no tiktoken", 'count_tokens="tiktoken": it is not installed (pip install tiktoken); bytes are counted'
        )
        return
    for name in VOCABULARIES:
        if _at_hand(name):
            _encodings[name] = tiktoken.get_encoding(name)
    if not _encodings:
        _guard.say_once(
            "no vocabulary",
            'count_tokens="tiktoken": no vocabulary is in its cache (%s), and none is downloaded; bytes are counted. '
            "Fetch one beforehand: python -c \"import tiktoken; tiktoken.get_encoding('o200k_base')\"",
            _cache(),
        )


@lru_cache(maxsize=1024)
def text_counter(model: str) -> Callable[[str], int]:
    """Return what counts the tokens of a text for `model`: exactly where its vocabulary is loaded, else its bytes."""
    if not _encodings:
        return most_text_tokens
    from tiktoken.model import encoding_name_for_model

    try:
        encoding = _encodings.get(encoding_name_for_model(model.rsplit("/")[-1]))
    except KeyError:
        encoding = None
    if encoding is None:
        return most_text_tokens
    encode = encoding.encode_ordinary

    def exactly(text: str) -> int:
        return len(encode(text)) if len(text) <= LONGEST else most_text_tokens(text)

    return exactly


def _at_hand(name: str) -> bool:
    """Tell whether a vocabulary is in tiktoken's cache, whole: it would fetch a missing or a damaged one."""
    try:
        content = (
            _cache() / hashlib.sha1(ADDRESS.format(name).encode(), usedforsecurity=False).hexdigest()
        ).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == VOCABULARIES[name]


def _cache() -> Path:
    """Return the folder in which tiktoken keeps vocabularies, by its own two variables or in the temporary folder."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable])
    return Path(tempfile.gettempdir()) / "data-gym-cache"
