"""The built-in redactors: keys, e-mail addresses, card and phone numbers, and your own patterns; on where a setting says so."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from rlm_obs._hookspecs import hookimpl
from rlm_obs._settings import Settings, read_settings

#: Keys of services by the prefixes that they give them, tokens of the Bearer scheme, JSON Web Tokens, private keys.
KEYS = re.compile(
    r"""
      -----BEGIN[ ][A-Z ]{0,40}PRIVATE[ ]KEY-----.{0,20000}?(?:-----END[ ][A-Z ]{0,40}PRIVATE[ ]KEY-----|\Z)
    | (?i:\bbearer)[ ]+[\w.~+/-]{16,}=*
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*
    | (?<![A-Za-z0-9])(?:
        (?:sk|pk|rk)[-_][\w-]{16,}                         # OpenAI, Anthropic, Langfuse, Stripe and many more
      | (?:AKIA|ASIA)[A-Z0-9]{16}                          # AWS
      | AIza[\w-]{35}                                      # Google
      | gh[oprsu]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{20,}
      | xox[a-z]-[A-Za-z0-9-]{10,}                         # Slack
      | (?:gsk|hf|npm|r8)_[A-Za-z0-9]{20,} | (?:xai|pplx|csk|nvapi|pypi|tgp_v1)[-_][\w-]{20,}
    )
    """,
    re.VERBOSE | re.DOTALL,
)
EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
#: 13 to 19 digits in groups: what a card's number looks like, before its check digit is tried.
DIGITS = re.compile(r"(?<![0-9])[0-9](?:[ \u00a0-]?[0-9]){12,}(?![0-9])")
GROUP, SEPARATORS = re.compile(r"[0-9]+"), re.compile(r"[^0-9]+")
PHONE = re.compile(
    r"""
      (?<![\w.+])(?:\+|00)[1-9](?:[ \u00a0().-]{0,2}[0-9]){6,14}(?![0-9])      # with the code of its country
    | (?<![\w.-])(?:\([0-9]{3}\)[ ]?|[0-9]{3}[-. ])[0-9]{3}[-. ][0-9]{4}(?![\w-])   # North America's, in groups
    | (?<![\w.-])8[ -]?\(?[0-9]{3}\)?[ -][0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{2}(?![\w-])  # Russia's, with its 8
    """,
    re.VERBOSE,
)


def hide_keys(said: str) -> str:
    """Replace keys and tokens that can be told by their form."""
    return KEYS.sub("[key]", said)


def hide_emails(said: str) -> str:
    """Replace e-mail addresses."""
    return EMAIL.sub("[email]", said) if "@" in said else said


def hide_cards(said: str) -> str:
    """Replace card numbers: groups of 13 to 19 digits that pass Luhn's check (ISO/IEC 7812-1, annex B)."""
    return DIGITS.sub(_without_cards, said)


def hide_phones(said: str) -> str:
    """Replace phone numbers: with a country's code, or written as in North America or Russia."""
    return PHONE.sub("[phone]", said)


def _without_cards(found: re.Match[str]) -> str:
    """Return a run of digits without the cards in it: such of its groups, one after another, as make up a number."""
    run, kept, done = found[0], "", 0
    groups = [(group.start(), group.end()) for group in GROUP.finditer(run)]
    for first, (start, _) in enumerate(groups):
        for _, end in groups[first : first + 19] if start >= done else ():
            digits = SEPARATORS.sub("", run[start:end])
            if 13 <= len(digits) <= 19 and digits[0] in "234568" and _passes_luhn(digits):
                kept, done = kept + run[done:start] + "[card]", end
                break
    return kept + run[done:]


def _passes_luhn(digits: str) -> bool:
    doubled = [int(d) * (1 + n % 2) for n, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


HIDES: Mapping[str, Callable[[str], str]] = {
    "keys": hide_keys,
    "email": hide_emails,
    "card": hide_cards,
    "phone": hide_phones,
}


@functools.lru_cache(maxsize=8)
def _chosen(names: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[Callable[[str], str], ...]:
    own = [functools.partial(re.compile(pattern).sub, "[redacted]") for pattern in patterns]
    return (*own, *(hide for name, hide in HIDES.items() if name in names))


def _cleaned(value: Any, hides: tuple[Callable[[str], str], ...]) -> Any:
    """Return JSON-like data with each text in it cleaned, keys of mappings too: a tool may be given any."""
    if isinstance(value, str):
        for hide in hides:
            value = hide(value)
        return value
    if isinstance(value, Mapping):
        return {_cleaned(key, hides): _cleaned(one, hides) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(one, hides) for one in value]
    return _cleaned_number(value, hides)


def _cleaned_number(value: Any, hides: tuple[Callable[[str], str], ...]) -> Any:
    """Return a number as it is, unless its digits are what is hidden: a card's, in a tool's arguments."""
    if isinstance(value, bool) or not isinstance(value, int) or -(10**12) < value < 10**12:
        return value
    said = str(value)
    cleaned = _cleaned(said, hides)
    return value if cleaned == said else cleaned


#: What `configured` was told last; None: nobody has told yet, and the settings are read when they are needed.
_told: Settings | None = None


@hookimpl
def configured(settings: Settings) -> None:
    """Keep the settings; the last ones win."""
    global _told
    _told = settings


@hookimpl(trylast=True)
def redact(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Clean what the settings `redact` and `redact_patterns` name, after every other plugin."""
    settings = _told or read_settings()
    hides = _chosen(settings.redact, settings.redact_patterns)
    return {name: _cleaned(value, hides) for name, value in content.items()} if hides else content
