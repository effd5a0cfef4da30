"""How urgent: the boundaries, where the sources leave gaps or contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from opskit.priorities import RESPONSE
from opskit.services.ai_levels import LEVELS, level


def of(**changes: Any) -> str:
    calm: dict[str, Any] = {"per_minute": 0.0, "failed": 0, "requests": 1000, "down": 0, "providers": 3, "slow": False}
    calm["vanishing"] = 0
    return level(**{**calm, **changes})[0]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({}, "P3"),
        ({"per_minute": 4.9}, "P3"),
        ({"per_minute": 5}, "P2"),
        ({"per_minute": 10}, "P1"),
        ({"per_minute": 50}, "P1"),
        ({"per_minute": 50.1}, "P0"),
        ({"failed": 49}, "P3"),
        ({"failed": 50}, "P2"),
        ({"failed": 100}, "P1"),
        ({"failed": 500}, "P0"),
        ({"failed": 9, "requests": 9}, "P3"),  # nine requests are no share
        ({"failed": 10, "requests": 10}, "P0"),
        ({"down": 1}, "P1"),
        ({"down": 3}, "P0"),
        ({"slow": True}, "P2"),
        ({"slow": True, "down": 1}, "P1"),
        ({"vanishing": 1}, "P1"),  # paid for, and gone in ten minutes
        ({"vanishing": 1, "failed": 500}, "P0"),
    ],
)
def test_the_worst_that_holds_decides(seen: dict[str, Any], expected: str) -> None:
    assert of(**seen) == expected


def test_it_says_what_was_seen_and_not_where_the_threshold_lies() -> None:
    assert level(2.0, 9, 53, 0, 3, slow=False, vanishing=0) == ("P1", "17 % of requests fail")
    assert level(12.4, 60, 1000, 0, 3, slow=False, vanishing=0) == ("P1", "12.4 errors a minute")
    assert level(0.0, 0, 50, 0, 3, slow=False, vanishing=2)[1].startswith("2 finished and paid for")


def test_every_level_has_a_priority_with_a_clock() -> None:
    assert set(LEVELS.values()) == set(RESPONSE)
