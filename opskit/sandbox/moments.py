"""Moments as people write them: "now", "90 minutes ago", "2 h ago", and ranges "3 days ago .. 5 minutes ago"."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGO = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)\s*"
    r"(?P<unit>s|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)(?:\s+ago)?"
)


def duration(text: str) -> timedelta:
    """A length of time: "24 h", "5 minutes"."""
    found = AGO.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no length of time; write for example '5 minutes' or '24 h'")
    return timedelta(**{UNITS[found["unit"][0]]: float(found["number"])})


def moment(text: str, now: datetime) -> datetime:
    """A moment before now, or an absolute one with its time zone."""
    text = text.strip()
    if text == "now":
        return now
    if text.endswith("ago"):
        return now - duration(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no moment; write 'now', '90 minutes ago' or 2026-05-01T12:00:00Z") from None
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; add Z for UTC")
    return found.astimezone(UTC)


def span(text: str, now: datetime) -> tuple[datetime, datetime]:
    """A range of moments; a single moment is a range of no length."""
    first, _, last = text.partition("..")
    begins = moment(first, now)
    ends = moment(last, now) if last else begins
    if ends < begins:
        raise ValueError(f"{text!r} ends before it begins")
    return begins, ends
