"""Addresses and quoted words in the middle of a text are hidden, whoever wrote it; what a protocol quotes stays."""

from __future__ import annotations

import time

import pytest

from opskit.masking import addresses, words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Invalid prompt for user ana.bell@example.com: no", "Invalid prompt for user a…@example.com: no"),
        ("<ana+1@example.com>,bo@sub.example.co.uk;", "<a…@example.com>,b…@sub.example.co.uk;"),
        ("/reset?email=ana%40example.com&x=1", "/reset?email=a…%40example.com&x=1"),
        ("ünal@exämple.org", "ü…@exämple.org"),
        (
            "stripe@12.0.0, @supabase/cli, opskit@localhost, 5 @ 3",
            "stripe@12.0.0, @supabase/cli, opskit@localhost, 5 @ 3",
        ),
        ("", ""),
    ],
)
def test_addresses_anywhere(text: str, shown: str) -> None:
    assert addresses(text) == shown
    assert addresses(shown) == shown


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ('400 Invalid prompt for ana@example.com: "Marta confessed."', "400 Invalid prompt for a…@example.com: …"),
        ('400 Invalid prompt: "Marta said "x" and fled", see docs', "400 Invalid prompt: …, see docs"),
        ("400 Invalid prompt: 'Marta didn't go' is bad", "400 Invalid prompt: … is bad"),
        ("400 Invalid prompt: “Marta confessed, cut o", "400 Invalid prompt: …"),
        ("404 The model `gpt-5` does not exist", "404 The model `gpt-5` does not exist"),
        ("400 Unsupported parameter: 'max_tokens' isn't known", "400 Unsupported parameter: 'max_tokens' isn't known"),
        (
            '429 {"type":"error","error":{"type":"rate_limit_error","message":"Too many. Slow down"}}',
            '429 {"type":"error","error":{"type":"rate_limit_error","message":"Too many. Slow down"}}',
        ),
        (
            r'400 {"error":{"message":"Refused: \"Marta \\\"x\\\" fled\".","type":"request_error","input":"Marta',
            '400 {"error":{"message":"Refused: ….","type":"request_error","…":"…"',
        ),
    ],
)  # fmt: skip
def test_an_error_tells_what_went_wrong_and_nobodys_words(error: str, shown: str) -> None:
    assert words(error) == shown


@pytest.mark.parametrize(
    "text", ["a" * 10**6 + "@", "a%" * 10**5 + "@", '"\\' * 10**5, "'a' " * 10**5, '{"message" ' * 10**5]
)
def test_long_texts_take_no_longer(text: str) -> None:
    begun = time.monotonic()
    words(text)
    assert time.monotonic() - begun < 10
