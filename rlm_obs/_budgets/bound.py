"""The most that a call can use, known before a byte is sent: an upper bound of its input, and its output limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlm_obs._budgets.audio import audio_tokens
from rlm_obs._budgets.images import image_tokens, size_of

#: How many bytes of text a token has, about: for what is likely, never for a bound.
BYTES_PER_TOKEN = 4
#: A model wraps each message in a few tokens of its own, and JSON each key and value in quotes, a colon and a comma.
WRAP, MARKS = 6, 4
#: What a message of a role and a text counts beside the text.
MESSAGE = WRAP + 2 * MARKS + len("role") + len("content")
ROLES = {role: MESSAGE + len(role) for role in ("user", "assistant", "system", "developer")}
#: Text longer than this is encoded piece by piece, so that no second copy of it is ever whole.
PIECE = 65_536

STORED = "what is stored on the server: conversations, earlier answers, prompts"
FILES = "the content of files"
PICTURES = "what an image costs on a model without a published formula"
SOUND = "the length of a sound that is not in the request"
UNREAD = "content that can be read only once, or is no JSON"
CUSTOM = "content of a kind that is not known"


@dataclass(slots=True)
class Bound:
    """The most a call can use, in tokens. `output_tokens` is of all choices; `limit_is_users` if the request set it.

    `input_tokens` is of all kinds; at most `audio_tokens` and `image_tokens` of them are not text. `likely_tokens` is
    what the input probably is. `unknown` names what nobody can know before the call; `holds` says that the bound is
    one all the same, and False that the named can pass it. `speaks` if the output may be audio; `long_cache` if it may
    be written to a cache that is kept for hours and costs twice as much. `characters` of text to be spoken. `plain` if
    it is of text alone, and none of all that.
    """

    input_tokens: int
    output_tokens: int
    choices: int = 1
    limit_is_users: bool = False
    audio_tokens: int = 0
    image_tokens: int = 0
    likely_tokens: int | None = None
    unknown: tuple[str, ...] = ()
    holds: bool = True
    speaks: bool = False
    long_cache: bool = False
    characters: int | None = None
    plain: bool = False


def most_text_tokens(text: str) -> int:
    """Return the most tokens `text` can be: a bound, about four times too high for English prose.

    Unit: tokens of any byte-level BPE. Source: one covers at least one byte (Radford et al. 2019, section 2.2).
    """
    if text.isascii():
        return len(text)
    if len(text) <= PIECE:
        return len(text.encode("utf-8", "surrogatepass"))
    return sum(len(text[at : at + PIECE].encode("utf-8", "surrogatepass")) for at in range(0, len(text), PIECE))


def plain_text_tokens(messages: Any) -> int | None:
    """Return what `Count` does, by bytes, of a list of messages of a role and a text in ASCII; None of any other."""
    if messages.__class__ is not list:
        return None
    total = WRAP
    try:
        for message in messages:
            if message.__class__ is not dict or len(message) != 2:
                return None
            role, said = message["role"], message["content"]
            if said.__class__ is not str or not said.isascii():
                return None
            beside = ROLES.get(role)
            if beside is None:
                if type(role) is not str or not role.isascii():
                    return None
                beside = MESSAGE + len(role)
            total += beside + len(said)
    except (KeyError, TypeError):  # a role that is no text
        return None
    return total


def most_json_tokens(value: Any) -> int:
    """Return the most tokens that a JSON value can be as it is written out: schemas, tools, arguments.

    Its bytes with quotes, colons and commas; a model's own, shorter spelling of a schema is within them.
    """
    kind = type(value)
    if kind is str:
        return most_text_tokens(value) + 2
    if kind is dict:
        total = WRAP
        for key, item in value.items():
            total += MARKS + most_text_tokens(key if type(key) is str else str(key)) + most_json_tokens(item)
        return total
    if kind is list or kind is tuple:
        return WRAP + sum([1 + most_json_tokens(item) for item in value])
    if isinstance(value, Mapping):
        return most_json_tokens(dict(value))
    if kind is int:
        return 2 + int(value.bit_length()) // 3
    return 25  # a float, a bool, null


class Count:
    """Counts one request's content for one model: text by `text_tokens`, images and sounds by their formulas.

    Totals are kept apart: `counted` what the content is at most (media too), `images` and `sounds` their shares.
    `unknown` is what was met and cannot be known; `stored` if that much is on the server, and only a window bounds it.
    """

    __slots__ = ("images", "long_cache", "model", "sounds", "stored", "text_tokens", "unknown")

    def __init__(self, model: str, text_tokens: Callable[[str], int] = most_text_tokens) -> None:
        self.model, self.text_tokens = model, text_tokens
        self.images = self.sounds = 0
        self.unknown: dict[str, None] = {}
        self.stored = self.long_cache = False

    def content(self, value: Any) -> int:
        """Return the most tokens of messages, input items or content parts, whatever they are nested in."""
        kind = type(value)
        if kind is str:
            return self.text_tokens(value)
        if kind is dict:
            part = value.get("type")
            if type(part) is str and part in PARTS:
                return self._part(PARTS[part], value)
            if "audio" in value or "prompt_cache_breakpoint" in value:
                self._marks(value)
            text_tokens, total = self.text_tokens, WRAP
            by_bytes = text_tokens is most_text_tokens
            for key, item in value.items():
                total += MARKS + (len(key) if type(key) is str and key.isascii() else most_json_tokens(key))
                if type(item) is not str:
                    total += self.content(item)
                else:  # what `most_text_tokens` does, a call less for each text
                    total += len(item) if by_bytes and item.isascii() else text_tokens(item)
            return total
        if kind is list or kind is tuple:
            total = WRAP
            for item in value:
                total += self.content(item)
            return total
        if isinstance(value, Mapping):
            return self.content(dict(value))
        if value is None or kind is int or kind is float or kind is bool:
            return most_json_tokens(value)
        return self._object(value)

    def leave_open(self, reason: str, *, stored: bool = True) -> int:
        """Name what is not knowable; `stored` if it is input that no more than a context window can hold."""
        self.unknown[reason] = None
        self.stored = self.stored or stored
        return 0

    def _part(self, read: Callable[[Count, dict[str, Any]], int], value: dict[str, Any]) -> int:
        if "prompt_cache_breakpoint" in value:
            self._marks(value)
        return WRAP + read(self, value)

    def _marks(self, value: dict[str, Any]) -> None:
        mark, said = value.get("prompt_cache_breakpoint"), value.get("audio")
        if mark is not None and is_long(mark):
            self.long_cache = True
        if isinstance(said, Mapping) and "id" in said:  # an earlier spoken answer, by its id
            self.leave_open(SOUND)

    def _object(self, value: Any) -> int:
        """Count an object of a client's model as the fields that it is sent with; what else there is, is not read."""
        if isinstance(value, str):  # an enum of strings, or any other subclass
            return self.text_tokens(str.__str__(value))
        if isinstance(value, int | float):
            return most_json_tokens(value)
        fields = getattr(value, "__dict__", None)
        if hasattr(value, "model_dump") and isinstance(fields, dict):
            extra = getattr(value, "__pydantic_extra__", None)
            said = {**fields, **extra} if extra else fields
            return self.content({name: item for name, item in said.items() if item is not None})
        return self.leave_open(UNREAD)

    def _image(self, url: Any, detail: Any, file_id: Any = None) -> int:
        size = size_of(url)
        most, known = image_tokens(self.model, size, detail)
        if not known:
            self.leave_open(PICTURES, stored=False)
        if file_id and not url and not known:
            self.leave_open(FILES)
        self.images += most
        return most

    def _rest(self, value: Mapping[str, Any], *without: str) -> int:
        return sum([len(str(k)) + MARKS + most_json_tokens(v) for k, v in value.items() if k not in without])


def is_long(mark: Any) -> bool:
    """Tell whether cache options ask for a life of hours: writing such an entry costs twice as much."""
    return isinstance(mark, Mapping) and mark.get("ttl") not in (None, "5m", "30m")


def _chat_image(count: Count, value: dict[str, Any]) -> int:
    given = value.get("image_url")
    if isinstance(given, Mapping):
        most = count._image(given.get("url"), given.get("detail")) + count._rest(given, "url", "detail")
    else:
        most = count._image(given, value.get("detail"), value.get("file_id"))
    return most + count._rest(value, "image_url", "detail")


def _drawn_image(count: Count, value: dict[str, Any]) -> int:
    return count._image(value.get("result"), None) + count._rest(value, "result")


def _sound(count: Count, value: dict[str, Any]) -> int:
    most = audio_tokens(value.get("input_audio"))
    if most is None:
        count.leave_open(SOUND)
        return count._rest(value)
    count.sounds += most
    return most + count._rest(value, "input_audio")


def _file(count: Count, value: dict[str, Any]) -> int:
    count.leave_open(FILES)
    given = value.get("file")
    inner = count._rest(given, "file_data") if isinstance(given, Mapping) else 0
    return inner + count._rest(value, "file", "file_data")


def _reference(count: Count, value: dict[str, Any]) -> int:
    count.leave_open(STORED)
    return count._rest(value)


def _video(count: Count, value: dict[str, Any]) -> int:
    return count.leave_open(CUSTOM)


#: What a part of a message is, by its type: those whose tokens are not the bytes of their text.
PARTS: Mapping[str, Callable[[Count, dict[str, Any]], int]] = {
    "image_url": _chat_image,
    "input_image": _chat_image,
    "computer_screenshot": _chat_image,
    "image_generation_call": _drawn_image,
    "input_audio": _sound,
    "file": _file,
    "input_file": _file,
    "item_reference": _reference,
    "video_url": _video,
    "input_video": _video,
}


def most_input_tokens(content: Any, model: str = "") -> int:
    """Return the most input tokens that a request's JSON content can be: texts by their bytes, images and audio apart.

    Keys and roles are counted too, which covers the few tokens by which a model wraps each message and tool.
    """
    return Count(model).content(content)
