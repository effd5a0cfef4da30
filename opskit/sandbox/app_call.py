"""One request to the app: what came, what is answered, and what is printed on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opskit.sandbox.vercel import Deployment, LogLine

if TYPE_CHECKING:
    from opskit.sandbox.world import World

JSON = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


@dataclass(frozen=True)
class Call:
    """One request being handled: what came, which build handles it, and what it prints."""

    world: World
    deployment: Deployment
    headers: dict[str, str]  # names in lower case
    body: bytes
    lines: list[LogLine] = field(default_factory=list)

    def log(self, level: str, operation: str, message: str, **context: Any) -> None:
        self.lines.append(printed(self.world.clock.now(), level, operation, message, **context))


def printed(moment: datetime, level: str, operation: str, message: str, **context: Any) -> LogLine:
    """One JSON object on one line, as the app's logger prints it in production."""
    entry = {
        "timestamp": moment.isoformat(timespec="milliseconds"),
        "level": level,
        "message": message,
        "context": {"operation": operation, **context},
    }
    return LogLine(moment, level, json.dumps(entry))


def answer(status: int, body: JSON) -> Answer:
    return Answer(status, json.dumps(body).encode())


def error(status: int, message: str) -> Answer:
    """As the older routes say it: the error is a text."""
    return answer(status, {"error": message})


def refusal(status: int, message: str, code: str) -> Answer:
    """As the newer routes say it: the error is an object."""
    return answer(status, {"error": {"message": message, "code": code}})


def limited(call: Call, bucket: str, caller: str, most: int, seconds: int = 3600) -> Answer | None:
    """The limit for each caller and time. Kept in the instance's memory: a new build starts afresh."""
    windows: dict[str, list[float]] = call.deployment.memory.setdefault(bucket, {})
    now = call.world.clock.now().timestamp()
    window = windows.setdefault(caller, [now, 0])
    if not 0 <= now - window[0] < seconds:
        window[:] = [now, 0]
    window[1] += 1
    if window[1] <= most:
        return None
    call.log("warning", "rate_limit:exceeded", "Rate limit exceeded", bucket=bucket, caller=caller)
    refused = refusal(429, "Too many requests", "RATE_LIMIT_EXCEEDED")
    return Answer(
        refused.status, refused.body, {**refused.headers, "retry-after": str(int(window[0] + seconds - now) + 1)}
    )
