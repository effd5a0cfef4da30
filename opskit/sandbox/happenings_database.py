"""What befalls the database itself: a migration, a session that holds a lock, an account that is full."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from opskit.sandbox import migrations, moments
from opskit.sandbox.happenings_writing import Tier, remember, seated
from opskit.sandbox.telling import Count, Telling, counted

if TYPE_CHECKING:
    from opskit.sandbox.world import World

# Old drafts, spread over the user's documents as evenly as it goes, up to what the plan allows. No new one: the
# newest snapshot of each document stays the one that agrees with it.
FILL = """
    with mine as (
      select d.id, d.user_id, d.updated_at, d.content, row_number() over (order by d.id) - 1 as place,
             count(*) over () as places
      from documents d where d.user_id = %(user)s and not d.is_folder),
    room as (
      select l.max_document_snapshots - (select count(*) from document_snapshots where user_id = %(user)s) as free
      from user_profiles p join subscription_tier_limits l on l.tier = p.subscription_tier where p.id = %(user)s)
    insert into document_snapshots (document_id, user_id, autosave_hash, payload, created_at)
    select m.id, m.user_id, encode(sha256(convert_to(m.id::text || n, 'utf8')), 'hex'),
           jsonb_set(m.content, '{html}', to_jsonb(format('<p>Draft %%s.</p>', n))),
           m.updated_at - n * interval '90 seconds'
    from room, generate_series(1, room.free) n join mine m on m.place = n %% m.places
"""
MORE_DOCUMENTS = """
    insert into documents (project_id, user_id, title, content, word_count, created_at, updated_at)
    select d.project_id, d.user_id, 'Notes ' || n, d.content, d.word_count, d.created_at, d.created_at
    from documents d, generate_series(1, %(more)s) n where d.id = %(document)s
"""
OLDER = "update documents set created_at = created_at - interval '1 day' where user_id = %(user)s"


class ChangeSchema(Telling):
    """Somebody runs SQL as the owner of the tables. As a `migration` it is in ledger and folder, else in neither."""

    what: Literal["change_schema"]
    sql: Annotated[list[str], Field(min_length=1)]
    migration: Annotated[str | None, Field(pattern=r"^[a-z0-9_]+$")] = None


class Lock(Telling):
    """A script's session takes a lock and keeps it, idle or busy with another statement, into the present.

    `waiting` writers are held up behind it from then on. It ends when somebody ends it, or with heal and reset.
    """

    what: Literal["lock"]
    name: str | None = None
    of: str | None = None
    statement: str = "lock table documents in share row exclusive mode"
    then: str | None = None
    application: str = "psql"
    waiting: Count | tuple[Count, Count] = 3


class FillSnapshots(Telling):
    """Writers whose account holds as many snapshots as their plan allows: no further save finds room."""

    what: Literal["fill_snapshots"]
    name: str | None = None
    count: Count | tuple[Count, Count] = 1
    tier: Tier = "free"
    documents: Annotated[int, Field(ge=1)] = 10  # of each, at least


def schedule(world: World, told: ChangeSchema | Lock | FillSnapshots, rng: random.Random) -> None:
    begins, _ = moments.span(told.when, world.clock.now())
    if isinstance(told, ChangeSchema):
        world.agenda.at(begins, partial(_change_schema, world, told))
        return
    wanted = told.waiting if isinstance(told, Lock) else told.count
    of, tier = (told.of, None) if isinstance(told, Lock) else (None, told.tier)
    desks = seated(world, of, tier, counted(wanted, rng), begins, rng)
    remember(world, told.name or told.what, desks)
    if isinstance(told, FillSnapshots):
        for desk in desks:
            world.agenda.at(begins, partial(_fill, world, told, desk.user, desk.document))
    else:
        world.agenda.at(begins, partial(_lock, world, told, [(desk.user, desk.document) for desk in desks]))


def _change_schema(world: World, told: ChangeSchema) -> None:
    with world.database.connect(autocommit=False) as connection:
        connection.execute("select set_config('sandbox.now', %s, false)", [world.clock.now().isoformat()])
        connection.execute(f"set local role {migrations.OWNER}")
        for statement in told.sql:
            connection.execute(statement.encode())
        if told.migration is not None:
            version = f"{world.clock.now():%Y%m%d%H%M%S}"
            connection.execute(migrations.ENTER, [version, told.migration, told.sql])
            world.migrations[f"{version}_{told.migration}.sql"] = ";\n\n".join([*told.sql, ""]).rstrip() + "\n"


def _lock(world: World, told: Lock, waiting: list[tuple[str, str]]) -> None:
    world.locks.hold(world, told.statement, told.then, told.application)
    for user, document in waiting:
        world.locks.wait(world, json.dumps({"sub": user, "role": "authenticated"}), [document])


def _fill(world: World, told: FillSnapshots, user: str, document: str) -> None:
    with world.database.connect(autocommit=False) as connection:
        connection.execute("set session_replication_role = replica")  # long ago; nothing was counted or touched then
        row = connection.execute("select count(*) from documents where user_id = %s", [user]).fetchone()
        more = max(told.documents - (row[0] if row else 0), 0)
        connection.execute(MORE_DOCUMENTS, {"more": more, "document": document})
        connection.execute(OLDER, {"user": user})
        connection.execute(FILL, {"user": user})
