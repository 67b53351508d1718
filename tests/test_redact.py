"""The built-in redactors take out what they name, and leave the rest of the text as it was."""

from __future__ import annotations

import time
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_obs
from rlm_obs import _redact, _settings
from rlm_obs._redact import hide_cards, hide_emails, hide_keys, hide_phones

KEYS = [
    "sk-proj-4f9Gh2kLmN0pQrStUvWxYz0123456789abcdEFGH",
    "sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz",
    "pk-lf-12345678-1234-1234-1234-123456789abc",
    "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0abcdefghijklmnop",
    "xox" + "b-123456789012-abcdefghijkl",
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
    "gsk_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
    "xai-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
    "Bearer abcdefghijklmnop.qrstuv",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nMIIEow, cut off",
]
EMAILS = ["ann@example.com", "first.last+tag@sub.example.co.uk", "x_y%z@a-b.io", "анна@пример.рф"]
CARDS = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "5555\u00a05555\u00a05555\u00a04444",
    "378282246310005",
    "3782 822463 10005",
    "6011111111111117",
    "2223003122003222",
]
PHONES = [
    "+1 415 555 2671",
    "+14155552671",
    "+44 (0)20 7946 0958",
    "+7 (912) 345-67-89",
    "0049 30 901820",
    "(415) 555-2671",
    "415-555-2671",
    "8 (912) 345-67-89",
]
PLAIN = [
    "The sum is 1,234,567.89 of 10000000000 units.",
    "On 2026-11-23 at 12:30:45, build 1.2.3-4 took 1700000000000 ns.",
    "ISBN 978-3-16-148410-0",
    "sk-learn and risk-free task-lists; a pk-zip",
    "user at example dot com, @mention, a@b",
    "4111 1111 1111 1112",
    "3.14159265358979323846",
    "uuid 123e4567-e89b-12d3-a456-426614174000",
]


@pytest.mark.parametrize("key", KEYS)
def test_keys(key: str) -> None:
    """A key that can be told by its form is taken out, wherever it stands."""
    assert hide_keys(key) == "[key]"
    assert hide_keys(f'{{"k": "{key}"}}') in ('{"k": "[key]"}', '{"k": "[key]')
    assert hide_keys(f"use {key}") == "use [key]"


@pytest.mark.parametrize("address", EMAILS)
def test_emails(address: str) -> None:
    """An address is taken out, and what stands around it stays."""
    assert hide_emails(f"<{address}>, please") == "<[email]>, please"
    assert hide_emails(f"mailto:{address}. Then") == "mailto:[email]. Then"


@pytest.mark.parametrize("number", CARDS)
def test_cards(number: str) -> None:
    """A card's number is taken out, in groups or in one piece, with numbers beside it too."""
    assert hide_cards(number) == "[card]"
    assert hide_cards(f"card {number}, thanks") == "card [card], thanks"
    assert hide_cards(f"{number} 12/28").startswith("[card]")
    assert hide_cards(f"pay 17 {number}").startswith("pay 17 [card]")
    assert hide_cards(f"{number} " * 2000) == "[card] " * 2000


@given(st.integers(10**14, 10**15 - 1), st.integers(0, 9))
def test_only_one_check_digit_is_right(body: int, wrong: int) -> None:
    """Of the ten numbers that differ in their last digit, Luhn's check passes one."""
    assert sum(_redact._passes_luhn(f"{body}{digit}") for digit in range(10)) == 1


@pytest.mark.parametrize("number", PHONES)
def test_phones(number: str) -> None:
    """A phone number with a country's code, or as North America and Russia write it, is taken out."""
    assert hide_phones(f"Call {number}!") == "Call [phone]!"


@pytest.mark.parametrize("said", PLAIN)
def test_what_is_none_of_it_stays(said: str) -> None:
    """Numbers, dates, versions and words that only look alike are left as they are."""
    for hide in _redact.HIDES.values():
        assert hide(said) == said


@pytest.mark.parametrize("bait", ["a", "1", "1 ", "a.", "@", "a@", "+1", "-", "(", "sk-", "eyJa.", "-----BEGIN "])
def test_no_text_is_slow(bait: str) -> None:
    """A hundred thousand characters of what each pattern begins with take no more than a fraction of a second."""
    began = time.process_time()
    for hide in _redact.HIDES.values():
        hide(bait * (100_000 // len(bait)))
    assert time.process_time() - began < 20  # a pattern that goes over it again and again takes hours


def test_the_names() -> None:
    """The setting takes the names of the redactors, and no others."""
    assert set(get_args(_settings.Redactor)) == set(_redact.HIDES)
    assert _settings.read_settings({"redact": "keys, email"}).redact == ("keys", "email")
    with pytest.raises(rlm_obs.ConfigError, match=r"redact.*emails"):
        _settings.read_settings({"redact": ["emails"]})


@pytest.mark.parametrize("wrong", ["[a", '["("]', "[1]", [""], ["("], [3], "a", {"a": 1}])
def test_a_wrong_pattern(wrong: Any) -> None:
    """What is no list of regular expressions is refused where it is given, and so is one that matches nothing but gaps."""
    with pytest.raises(rlm_obs.ConfigError, match="redact_patterns"):
        _settings.read_settings({"redact_patterns": wrong})


def test_patterns_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable holds the patterns as JSON, since a comma may be part of one."""
    monkeypatch.setenv("RLM_OBS_REDACT_PATTERNS", '["ACME-[0-9]{2,6}"]')
    assert _settings.read_settings().redact_patterns == ("ACME-[0-9]{2,6}",)


def test_all_of_the_content() -> None:
    """Texts at any depth are cleaned, keys of mappings and whole numbers too; what is no text stays what it is."""
    _redact.configured(_settings.read_settings({"redact": ["email", "card"], "redact_patterns": ["ACME-[0-9]+"]}))
    given = {
        "input": [{"parts": [{"content": "ann@example.com of ACME-77", "size": 3, "ok": True, "none": None}]}],
        "arguments": {"ann@example.com": 4111111111111111, "count": 10**13 + 1, "share": 0.5},
        "output": None,
    }
    assert _redact.redact(given) == {
        "input": [{"parts": [{"content": "[email] of [redacted]", "size": 3, "ok": True, "none": None}]}],
        "arguments": {"[email]": "[card]", "count": 10**13 + 1, "share": 0.5},
        "output": None,
    }


@pytest.fixture(autouse=True)
def nobody_has_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start with a redactor that was told no settings."""
    monkeypatch.setattr(_redact, "_told", None)
