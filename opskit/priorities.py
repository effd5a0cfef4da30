"""How urgent an incident is, and by when somebody must have responded."""

from __future__ import annotations

from datetime import datetime, timedelta

RESPONSE = {
    "CRITICAL": timedelta(minutes=15),
    "HIGH": timedelta(hours=1),
    "MEDIUM": timedelta(hours=4),
    "LOW": timedelta(hours=24),
}


def respond_by(detected: datetime, priority: str) -> datetime:
    """When somebody must have responded to an incident of this priority, detected then."""
    return detected + RESPONSE[priority]


def span(of: timedelta) -> str:
    """A response time in words: `15 minutes`, `1 hour`."""
    hours, minutes = divmod(of.total_seconds() // 60, 60)
    number, unit = (hours, "hour") if hours else (minutes, "minute")
    return f"{number:.0f} {unit}{'s' * (number > 1)}"
