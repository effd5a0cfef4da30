"""What befalls the team's migrations: files come and go, somebody pushes them, and the project is set up otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import psycopg
from pydantic import Field

from opskit.sandbox import migrations, moments
from opskit.sandbox.telling import Telling

if TYPE_CHECKING:
    from opskit.sandbox.world import World

PLAYED_PATIENCE = "300ms"  # for a lock, in a played past, where the file does not say: nobody waits for real


class ChangeFolder(Telling):
    """Files of the migrations folder: name and text, or null where one is removed. `linked`: to which project."""

    what: Literal["change_folder"]
    files: Annotated[dict[str, str | None], Field(default_factory=dict)]
    linked: Annotated[str | None, Field(pattern=r"^([a-z]{20}|\$\{project\})$")] = None


class Push(Telling):
    """Somebody pushes the pending files with the command-line tool, which stops at the first that fails."""

    what: Literal["push"]


class SetProject(Telling):
    """The project at Supabase: how far back any moment can be restored, when it was last backed up (null: never)."""

    what: Literal["set_project"]
    status: Annotated[str | None, Field(pattern="^[A-Z_]+$")] = None
    pitr_days: Annotated[int | None, Field(ge=1, le=28)] = None
    last_backup: str | None = "6 h ago"


def schedule(world: World, told: ChangeFolder | Push | SetProject) -> None:
    begins, _ = moments.span(told.when, world.clock.now())
    world.agenda.at(begins, partial(PLAYS[type(told)], world, told))


def _change_folder(world: World, told: ChangeFolder) -> None:
    changed = {**world.migrations, **told.files}
    world.migrations = {name: text for name, text in changed.items() if text is not None}
    if told.linked is not None:
        world.migrations[migrations.LINKED] = told.linked.replace("${project}", world.supabase.ref)


def _push(world: World, told: Push) -> None:
    with world.database.connect() as connection:
        connection.execute("select set_config('sandbox.now', %s, false)", [world.clock.now().isoformat()])
        connection.execute(f"set lock_timeout = '{PLAYED_PATIENCE}'")
        try:
            migrations.push(connection, world.migrations)
        except migrations.Refused:
            return  # told to whoever pushed, and to nobody else
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error)
            world.supabase.log(world.clock.now(), said, "ERROR", error.sqlstate or "", migrations.OWNER)


def _set_project(world: World, told: SetProject) -> None:
    world.supabase.status = told.status or world.supabase.status
    world.supabase.pitr_days = told.pitr_days
    if told.last_backup is None:
        world.supabase.backups = []
    else:
        world.supabase.back_up(moments.moment(told.last_backup, world.clock.now()))


PLAYS: dict[type[Telling], Callable[..., None]] = {
    ChangeFolder: _change_folder,
    Push: _push,
    SetProject: _set_project,
}
