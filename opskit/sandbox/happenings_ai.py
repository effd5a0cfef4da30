"""What users ask of AI, and what befalls the providers, in the words of scenarios.

Each user asks a few times, spread over the happening's time; their ids are the group `name`. The tasks that
`start_task` starts are the group `name_tasks`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from opskit.sandbox import app, app_ai, app_database, app_models, app_session, moments, writing
from opskit.sandbox.telling import Count, Telling, counted
from opskit.sandbox.world import Fault

if TYPE_CHECKING:
    from opskit.sandbox.world import World

Tier = Literal["free", "hobbyist", "professional", "studio"]
Provider = Literal["openai", "anthropic", "deepseek"]
Command = Literal["rewrite", "tone_shift", "continue", "expand", "brainstorm", "shorten", "summarize"]
STALL = "a stalled task"
WATCHING = timedelta(seconds=30)  # between two looks of a page that is open
PAID = ("hobbyist", "professional", "studio")

# Users without a part who may ask, and whose words have been counted since before the happening.
ASKERS = """
    select id::text from user_profiles
    where id <> all(%(taken)s::uuid[]) and subscription_tier = any(%(tiers)s)
      and subscription_status in ('active', 'trialing')
      and coalesce(subscription_current_period_end > now(), true)
      and coalesce(subscription_current_period_start, ai_words_reset_date) < %(begins)s
    order by id
"""
TASK_BY_THEN = """
    select id::text, provider_response_id from ai_background_tasks
    where user_id = %s and created_at <= %s order by created_at desc limit 1
"""
LOSE = "update user_profiles set ai_words_used_this_month = greatest(ai_words_used_this_month + %s, 0) where id = %s"


class ByAskers(Telling):
    """Something that users do with AI. `of` lets those of an earlier group act again. Without a tier: paying ones."""

    what: str
    name: str | None = None
    of: str | None = None
    count: Count | tuple[Count, Count] = 1
    tier: Tier | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in type(self).model_fields:
            pair = getattr(self, name)
            if isinstance(pair, tuple) and pair[0] > pair[1]:
                raise ValueError(f"{name}: the lower number comes first")
        return self


class AskAI(ByAskers):
    """They ask for text with one command, or with all by turns; `model` insists on one. `length` is the prompt's."""

    what: Literal["ask_ai"]
    requests: Count | tuple[Count, Count] = (3, 6)  # of each user
    command: Command | None = None
    model: str | None = None
    length: Count | tuple[Count, Count] = (200, 3000)


class AskEnsemble(ByAskers):
    """They ask all three models at once."""

    what: Literal["ask_ensemble"]
    requests: Count | tuple[Count, Count] = (1, 3)
    blend: bool = False


class StartTask(ByAskers):
    """They start a task in the background, look at it for a while, and close the page.

    `became`: what happened to it at OpenAI. finished: done soon, and not fetched; expired: done long ago, no longer
    kept; incomplete, cancelled, failed: it ended like that; running: it still runs; fetched: done, and fetched;
    killed: the hosting killed the app's function before the provider gave the task an id.
    What is still to be fetched is kept for ten minutes from its end, which comes within a minute or two of the start.
    `watched`: the page is open until now, and asks once in a while.
    """

    what: Literal["start_task"]
    watched: bool = False
    became: Literal["finished", "expired", "incomplete", "cancelled", "failed", "running", "fetched", "killed"]


class LoseCount(ByAskers):
    """Their word counters leave the ledger: `words` are added, or where `negative` taken away."""

    what: Literal["lose_count"]
    words: Count | tuple[Count, Count] = (500, 4000)
    negative: bool = False


class SetProvider(Telling):
    """Something changes at a provider, or in our account there.

    `revoke_key` ends the key that production holds; `new_key` makes one, `${openai_key}` in `env` and so on.
    """

    what: Literal["set_provider"]
    provider: Provider
    revoke_key: bool = False
    new_key: bool = False
    funded: bool | None = None
    per_minute: Annotated[int | None, Field(ge=1)] = None  # requests that it lets us make; null: as many as we like
    retire: str | None = None  # a model that it no longer has


def schedule(world: World, told: ByAskers | SetProvider, rng: random.Random) -> None:
    begins, ends = moments.span(told.when, world.clock.now())
    if isinstance(told, SetProvider):
        world.agenda.at(begins, partial(_set_provider, world, told))
        return
    users = _users(world, told, counted(told.count, rng), begins, rng)
    group = told.name or told.what
    world.actors.setdefault(group, []).extend(users)
    if isinstance(told, StartTask):
        world.actors.setdefault(f"{group}_tasks", [])
    for user in users:
        times = counted(told.requests, rng) if isinstance(told, AskAI | AskEnsemble) else 1
        for _ in range(times):
            moment = begins + (ends - begins) * rng.random()
            one = random.Random(rng.getrandbits(64))
            world.agenda.at(moment, partial(PLAYS[type(told)], world, told, user, one))


def _users(world: World, told: ByAskers, count: int, begins: datetime, rng: random.Random) -> list[str]:
    if told.of is not None:
        if told.of not in world.actors:
            raise ValueError(f"nobody before this has the name {told.of!r}")
        return list(world.actors[told.of])
    taken = [id_ for group in world.actors.values() for id_ in group]
    tiers = [told.tier] if told.tier else list(PAID)
    with world.database.connect() as connection:
        rows = connection.execute(ASKERS, {"taken": taken, "tiers": tiers, "begins": begins}).fetchall()
    if len(rows) < count:
        raise ValueError(f"{count} users are wanted, and only {len(rows)} may ask")
    return [str(row[0]) for row in rng.sample(rows, count)]


# What each happening does, at its moment


def _ask(world: World, told: AskAI, user: str, rng: random.Random) -> None:
    command: str = told.command or rng.choice([*writing.MODELS])
    prompt = writing.manuscript(counted(told.length, rng))
    _send(world, user, app_ai.GENERATE, {"command": command, "prompt": prompt, "model": told.model or "auto"})


def _ask_ensemble(world: World, told: AskEnsemble, user: str, rng: random.Random) -> None:
    _send(world, user, app_ai.TOGETHER[1 if told.blend else 0], {"prompt": writing.paragraph(rng)})


def _start_task(world: World, told: StartTask, user: str, rng: random.Random) -> None:
    asked = {"taskType": rng.choice(writing.TASKS), "prompt": writing.manuscript(rng.randint(2000, 20_000))}
    if told.became == "killed":
        with _stalled(world):
            _send(world, user, app_ai.TASK, asked)
    else:
        _send(world, user, app_ai.TASK, asked)
    with app_database.session(world) as connection:
        task, response = connection.execute(TASK_BY_THEN, [user, world.clock.now()]).fetchone() or ("", None)
    world.actors[f"{told.name or told.what}_tasks"].append(task)
    if response is not None:
        _become(world, told, response, rng)
    patience = timedelta(seconds=60 if told.became == "fetched" else rng.uniform(3, 6))
    looks = world.clock.now() + patience
    while looks < datetime.now(UTC):
        world.agenda.at(looks, partial(_send, world, user, app_ai.TASK, {"taskId": task}, "PATCH"))
        if not told.watched:
            break
        looks += WATCHING


def _send(world: World, user: str, path: str, body: dict[str, Any], method: str = "POST") -> None:
    """A request of that user's browser."""
    first = hashlib.sha256(user.encode()).digest()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": writing.AGENTS[first[2] % len(writing.AGENTS)],
        "Authorization": f"Bearer {app_session.token(world, user)}",
    }
    address = f"198.18.{first[0]}.{first[1]}"
    app.posted(world, path, headers, json.dumps(body).encode(), address, method=method)


def _lose_count(world: World, told: LoseCount, user: str, rng: random.Random) -> None:
    words = counted(told.words, rng)
    with app_database.session(world) as connection:
        connection.execute(LOSE, [-words if told.negative else words, user])


@contextmanager
def _stalled(world: World) -> Iterator[None]:
    """OpenAI takes longer to answer than the hosting lets a function live."""
    stall = Fault("openai", app_models.RESPONSES, delay=app_models.FUNCTION_SECONDS + 30, name=STALL)
    world.faults.add(stall, first=True)
    try:
        yield
    finally:
        world.faults.lift(STALL)


def _become(world: World, told: StartTask, response: str, rng: random.Random) -> None:
    kept = world.providers["openai"].responses[response]
    if told.became == "running":
        kept.done = datetime.now(UTC) + timedelta(days=1)
    elif told.became in ("expired", "fetched"):
        kept.done += timedelta(seconds=10)
    else:
        kept.done += timedelta(seconds=rng.uniform(0, 60))
        kept.outcome = "completed" if told.became == "finished" else told.became


def _set_provider(world: World, told: SetProvider) -> None:
    provider, given = world.providers[told.provider], told.model_fields_set
    if told.revoke_key:
        provider.keys.discard(world.vercel.live().env[f"{told.provider.upper()}_API_KEY"])
    if told.new_key:
        world.secrets[f"{told.provider}_key"] = provider.new_key()
    if told.funded is not None:
        provider.funded = told.funded
    if "per_minute" in given:
        provider.per_minute = told.per_minute
    if told.retire is not None:
        provider.retired.add(told.retire)


PLAYS: dict[type[ByAskers], Callable[..., None]] = {
    AskAI: _ask,
    AskEnsemble: _ask_ensemble,
    StartTask: _start_task,
    LoseCount: _lose_count,
}
