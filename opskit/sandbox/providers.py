"""The AI providers: OpenAI, Anthropic and DeepSeek, as far as the app and a runbook meet them.

`receive` is a provider as a function; `ask` is a request to it while the past is played, behind the faults of that
moment. A provider looks at the key first, then at credit and pace, then at the request: its list of models proves
neither credit nor pace.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from opskit.sandbox import provider_shapes as shapes
from opskit.sandbox.app_call import JSON, Answer, answer

if TYPE_CHECKING:
    from opskit.sandbox.world import World

NAMES = ("openai", "anthropic", "deepseek")
MODELS = {
    "openai": ("gpt-5", "gpt-5-chat-latest", "gpt-5-mini"),
    "anthropic": ("claude-haiku-4-5-20251001", "claude-opus-4-1-20250805", "claude-sonnet-4-5-20250929"),
    "deepseek": ("deepseek-chat", "deepseek-reasoner"),
}
KEY_BEGINS = {"openai": "sk-", "anthropic": "sk-ant-", "deepseek": "sk-"}
KEPT = timedelta(minutes=10)  # how long a background response can be read once it has ended
TAKES = timedelta(seconds=30)  # a background response, usually
TOO_LATE = Answer(0, b"")  # no answer within the caller's patience


@dataclass
class Background:
    """A response that OpenAI works on in the background: `outcome` from `done` on."""

    id: str
    asked: JSON
    created: datetime
    done: datetime
    outcome: str = "completed"  # incomplete, cancelled, failed

    def status(self, now: datetime) -> str:
        return self.outcome if now >= self.done else "in_progress"


@dataclass
class Provider:
    """Our account at one provider."""

    name: str
    keys: set[str] = field(default_factory=set)
    funded: bool = True
    per_minute: int | None = None  # requests to its models; None: as many as we like
    retired: set[str] = field(default_factory=set)
    responses: dict[str, Background] = field(default_factory=dict)
    admitted: list[datetime] = field(default_factory=list)  # in the last minute
    runbooks_asked: int = 0  # what costs money, or cancels, with the key that runbooks have

    @property
    def models(self) -> list[str]:
        return [one for one in MODELS[self.name] if one not in self.retired]

    def new_key(self) -> str:
        key = KEY_BEGINS[self.name] + secrets.token_hex(24)
        self.keys.add(key)
        return key

    def wait(self, now: datetime) -> int | None:
        """Seconds until one more request is let in; None: it is, and counts."""
        self.admitted = [at for at in self.admitted if timedelta(0) <= now - at < timedelta(minutes=1)]
        if self.per_minute is None or len(self.admitted) < self.per_minute:
            self.admitted.append(now)
            return None
        return 60 - int((now - self.admitted[0]).total_seconds())


def found(world: World) -> dict[str, Provider]:
    """An account at each, with the key that production uses, and one for runbooks."""
    made = {name: Provider(name, {world.vercel.live().env[f"{name.upper()}_API_KEY"]}) for name in NAMES}
    for name, provider in made.items():
        kept = world.secrets.setdefault(f"{name}_read", KEY_BEGINS[name] + secrets.token_hex(24))
        provider.keys.add(kept)  # the same in every company of this sandbox: its file is written once
    return made


def dump(world: World) -> JSON:
    """What a runbook did at each. What the app and people do there goes on by itself."""
    return {"accounts": {name: {"runbooks_asked": one.runbooks_asked} for name, one in world.providers.items()}}


def ask(
    world: World, name: str, method: str, path: str, headers: Mapping[str, str], body: bytes, patience: float
) -> Answer | None:
    """What a caller hears while the past is played. None: the connection is cut; TOO_LATE: nothing in that time."""
    fault = world.faults.strike(name, method, path, world.clock.now())
    if fault is None:
        return receive(world, name, method, path, headers, body)
    if fault.delay >= patience:
        return TOO_LATE
    said = receive(world, name, method, path, headers, body) if fault.passes else None
    if fault.status is not None:
        return Answer(fault.status, fault.body.encode(), {**fault.headers})
    if said is None or fault.reset:
        return None
    return Answer(said.status, said.body[: len(said.body) // 2], said.headers) if fault.truncate else said


def receive(
    world: World,
    name: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    query: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    """Answer one request."""
    provider, given = world.providers[name], {key.lower(): value for key, value in headers.items()}
    key = given.get("authorization", "").removeprefix("Bearer ")
    if name == "anthropic":
        key = given.get("x-api-key") or key
    if key not in provider.keys:
        return shapes.refused(name, "key", key=f"{key[:3]}…{key[-4:]}")
    if name == "anthropic" and "anthropic-version" not in given:
        return shapes.refused(name, "version")
    if method == "POST":
        provider.runbooks_asked += key == world.secrets[f"{name}_read"]
        try:
            asked = json.loads(body or b"{}")
        except ValueError:
            return shapes.refused(name, "body")
        return _worked(world, provider, path, asked if isinstance(asked, dict) else {})
    return _looked_up(world, provider, path, query)


def _looked_up(world: World, provider: Provider, path: str, query: Mapping[str, str]) -> Answer:
    """What costs nothing."""
    if (provider.name, path) == ("anthropic", "/v1/models"):
        limit = query.get("limit", "20")
        if not (limit.isdecimal() and 1 <= int(limit) <= 1000):
            return shapes.refused("anthropic", "limit")
        return answer(200, shapes.models("anthropic", provider.models, int(limit), query.get("after_id")))
    if path == ("/models" if provider.name == "deepseek" else "/v1/models"):
        return answer(200, shapes.models(provider.name, provider.models))
    if (provider.name, path) == ("deepseek", "/user/balance"):
        return answer(200, shapes.balance(provider.funded))
    if provider.name == "openai" and path.startswith("/v1/responses/"):
        return _response(world, provider, path.rpartition("/")[2])
    return shapes.refused(provider.name, "path", path=path)


def _worked(world: World, provider: Provider, path: str, asked: JSON) -> Answer:
    """What costs money, and canceling."""
    name, now = provider.name, world.clock.now()
    if name == "openai" and path.startswith("/v1/responses/") and path.endswith("/cancel"):
        return _response(world, provider, path.split("/")[3], cancel=True)
    work = WORK.get((name, path))
    if work is None:
        return shapes.refused(name, "path", path=path)
    if not provider.funded:
        return shapes.refused(name, "money")
    model, length = str(asked.get("model")), shapes.tokens(asked)
    wait = provider.wait(now)
    if wait is not None:
        return shapes.refused(name, "pace", retry_after=wait, model=model, limit=provider.per_minute, wait=wait)
    if model not in provider.models:
        return shapes.refused(name, "model", model=model)
    if name == "openai" and "max_tokens" in asked:
        return shapes.refused(name, "parameter")
    if length > shapes.CONTEXT[name]:
        return shapes.refused(name, "length", most=shapes.CONTEXT[name], tokens=length)
    return answer(200, work(provider, asked, now))


def _text(provider: Provider, asked: JSON, now: datetime) -> JSON:
    return shapes.written(provider.name, asked, int(now.timestamp()))


def _begun(provider: Provider, asked: JSON, now: datetime) -> JSON:
    """A response: at once, or in the background."""
    key, takes = f"resp_{secrets.token_hex(24)}", TAKES if asked.get("background") else timedelta(0)
    provider.responses[key] = Background(key, asked, now, now + takes)
    status = "queued" if asked.get("background") else "completed"
    return shapes.response(key, asked, int(now.timestamp()), status)


def _response(world: World, provider: Provider, key: str, cancel: bool = False) -> Answer:
    now, kept = world.clock.now(), provider.responses.get(key)
    if kept is None or now - kept.done > KEPT:
        return shapes.refused("openai", "response", response=key)
    if cancel and now < kept.done:
        kept.done, kept.outcome = now, "cancelled"
    return answer(200, shapes.response(key, kept.asked, int(kept.created.timestamp()), kept.status(now)))


WORK: dict[tuple[str, str], Callable[[Provider, JSON, datetime], JSON]] = {
    ("openai", "/v1/chat/completions"): _text,
    ("openai", "/v1/responses"): _begun,
    ("anthropic", "/v1/messages"): _text,
    ("deepseek", "/chat/completions"): _text,
}
