"""What writers do, in the words of scenarios: everything from an ordinary evening to a text that is lost.

Each writer works on one document, in steps spread over a stretch of the happening's time. Their user ids are the group
`name`, and the documents the group `name_documents`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from opskit.sandbox import moments
from opskit.sandbox.telling import Count, Telling, counted
from opskit.sandbox.writers import Desk

if TYPE_CHECKING:
    from opskit.sandbox.world import World

Tier = Literal["free", "hobbyist", "professional", "studio"]
Story = Iterator[None]

# One document for each user without a part, left alone since the happening began.
DESKS = """
    select distinct on (p.id) p.id::text, d.id::text from user_profiles p join documents d on d.user_id = p.id
    where not d.is_folder and length(d.content ->> 'html') > 600 and d.updated_at < %(begins)s
      and p.id <> all(%(taken)s::uuid[]) and (%(tier)s::text is null or p.subscription_tier = %(tier)s)
      and not exists (select from document_snapshots s where s.document_id = d.id and s.created_at >= %(begins)s)
    order by p.id, d.id
"""


class ByWriters(Telling):
    """Something that writers do. `of` lets those of an earlier group go on with the same documents."""

    what: str
    name: str | None = None
    of: str | None = None
    count: Count | tuple[Count, Count] = 1
    tier: Tier | None = None
    saves: Count | tuple[Count, Count] = (4, 10)
    every: str = "40 seconds"

    @field_validator("every")
    @classmethod
    def _a_length(cls, value: str) -> str:
        moments.duration(value)
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for pair in (self.count, self.saves):
            if isinstance(pair, tuple) and pair[0] > pair[1]:
                raise ValueError("count, saves: the lower number comes first")
        return self


class Write(ByWriters):
    """They write a paragraph, it is saved, and so on. `text` is among what they write; `unreached` saves get lost."""

    what: Literal["write"]
    text: str | None = None
    unreached: Annotated[int, Field(ge=0)] = 0


class WriteOffline(ByWriters):
    """A tunnel in the middle: the browser knows that it is offline, attempts nothing, and tells nobody."""

    what: Literal["write_offline"]


class StaySignedOut(ByWriters):
    """Their session expires while they write: every further save is 401, and no report of it gets through."""

    what: Literal["stay_signed_out"]


class DeleteOwnText(ByWriters):
    """They cut down their own text, little by little; or nearly all of it at once."""

    what: Literal["delete_own_text"]
    abruptly: bool = False


class AddChapter(ByWriters):
    """They add a chapter in the sidebar and write on. Every save but the first is then refused as a conflict."""

    what: Literal["add_chapter"]


class Conflict(ByWriters):
    """They write on two devices by turns; each save from the one is a conflict for the other."""

    what: Literal["conflict"]


class Overwrite(ByWriters):
    """They write on one device; then another, where an old text is still open, saves that over it."""

    what: Literal["overwrite"]
    by: Literal["manual_save", "null_hash"] = "manual_save"


class SaveByHand(ByWriters):
    """They write, and press Save: no snapshot is made."""

    what: Literal["save_by_hand"]


def schedule(world: World, told: ByWriters, rng: random.Random) -> None:
    """Put each writer's steps on the agenda."""
    begins, ends = moments.span(told.when, world.clock.now())
    desks = seated(world, told.of, told.tier, counted(told.count, rng), begins, rng)
    remember(world, told.name or told.what, desks)
    for desk in desks:
        story = STORIES[type(told)](told, desk)
        for moment in _steps(told, rng, begins, ends):
            world.agenda.at(moment, partial(next, story, None))


def seated(
    world: World, of: str | None, tier: str | None, count: int, begins: datetime, rng: random.Random
) -> list[Desk]:
    """Writers with a document each: those of an earlier group, or some without a part yet."""
    if of is not None:
        if f"{of}_documents" not in world.actors:
            raise ValueError(f"no writers before this have the name {of!r}")
        found = list(zip(world.actors[of], world.actors[f"{of}_documents"], strict=True))
    else:
        taken = [id_ for group in world.actors.values() for id_ in group]
        with world.database.connect() as connection:
            rows = connection.execute(DESKS, {"begins": begins, "taken": taken, "tier": tier}).fetchall()
        if len(rows) < count:
            raise ValueError(f"{count} writers are wanted, and only {len(rows)} have a document for it")
        found = [(str(user), str(document)) for user, document in rng.sample(rows, count)]
    return [Desk(world, user, document, random.Random(rng.getrandbits(64))) for user, document in found]


def remember(world: World, name: str, desks: list[Desk]) -> None:
    world.actors.setdefault(name, []).extend(desk.user for desk in desks)
    world.actors.setdefault(f"{name}_documents", []).extend(desk.document for desk in desks)


def _steps(told: ByWriters, rng: random.Random, begins: datetime, ends: datetime) -> list[datetime]:
    """When one writer saves: regularly, somewhere in the happening's time."""
    saves = counted(told.saves, rng)
    pause = min(moments.duration(told.every), (ends - begins) / saves)
    first = begins + (ends - begins - pause * saves) * rng.random()
    return [first + pause * (step + 0.8 * rng.random()) for step in range(saves)]


# The stories. Each goes on by one step at each of its moments.


def _write(told: Write, desk: Desk) -> Story:
    tab, left = desk.open(), told.unreached
    tab.type(told.text)
    while True:
        tab.autosave(reached=not left)
        left = max(left - 1, 0)
        yield
        tab.type()


def _write_offline(told: WriteOffline, desk: Desk) -> Story:
    tab = desk.open()
    for step in range(10**6):
        tab.type()
        if step % 6 not in (2, 3):
            tab.autosave()
        yield


def _stay_signed_out(told: StaySignedOut, desk: Desk) -> Story:
    tab = desk.open()
    while True:
        for _ in range(3):
            tab.type()
            tab.autosave()
            yield
        tab.signed_in = False


def _delete_own_text(told: DeleteOwnText, desk: Desk) -> Story:
    tab = desk.open()
    while True:
        tab.cut(0.1 if told.abruptly else 0.85)
        tab.autosave()
        yield


def _add_chapter(told: AddChapter, desk: Desk) -> Story:
    tab = desk.open()
    tab.add_chapter()
    while True:
        tab.type()
        tab.autosave()
        yield


def _conflict(told: Conflict, desk: Desk) -> Story:
    """By turns: one device saves, the other is refused, keeps its own text, and at last reloads and writes anew."""
    ahead, behind = desk.open(), desk.open(1)
    while True:
        ahead.type()
        ahead.autosave()
        yield
        for _ in range(2):
            behind.type()
            behind.autosave()
            yield
        behind.reload()
        ahead, behind = behind, ahead


def _overwrite(told: Overwrite, desk: Desk) -> Story:
    """The last step is the old text's."""
    stale, fresh = desk.open(1), desk.open()
    saves = told.saves if isinstance(told.saves, int) else told.saves[0]
    for _ in range(saves - 1):
        fresh.type()
        fresh.autosave()
        yield
    stale.type()
    if told.by == "manual_save":
        stale.save()
    else:
        stale.base = None
        stale.autosave()


def _save_by_hand(told: SaveByHand, desk: Desk) -> Story:
    tab = desk.open()
    while True:
        tab.type()
        tab.save()
        yield


STORIES: dict[type[ByWriters], Callable[..., Story]] = {
    Write: _write,
    WriteOffline: _write_offline,
    StaySignedOut: _stay_signed_out,
    DeleteOwnText: _delete_own_text,
    AddChapter: _add_chapter,
    Conflict: _conflict,
    Overwrite: _overwrite,
    SaveByHand: _save_by_hand,
}
