"""Has a runbook rotted?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opskit import __version__
from opskit.commands.answering import Reply, root, verb
from opskit.errors import BadInput, CannotTell
from opskit.outcome import Exit

if TYPE_CHECKING:
    from opskit.database import Database
    from opskit.linting.lint import Reality


@click.command()
@click.argument("runbook", required=False)
@verb
def lint(runbook: str | None) -> Reply:
    """Find what is no longer true in a runbook, in all of them, or in a page of Markdown. Touches nothing.

    RUNBOOK is a name, or the path of a notebook or a Markdown page.
    """
    from opskit.linting.lint import lint as look  # noqa: PLC0415  # the parsers are nobody else's business
    from opskit.linting.pages import read  # noqa: PLC0415

    pages = [read(path, root()) for path in _paths(runbook)]
    with _reality() as reality:
        found = [finding for page in pages for finding in look(page, reality)]
    lines = [f"{one.place}: {one.rule}: {one.wrong}" + (f" {one.remedy}" if one.remedy else "") for one in found]
    said = f"{len(found)} things are no longer true." if found else f"All is true in {len(pages)} of {len(pages)}."
    return Reply([asdict(one) for one in found], "\n".join([*lines, said]), Exit(bool(found)))


def _paths(runbook: str | None) -> list[Path]:
    folder = root() / "notebooks"
    if runbook is None:
        return sorted(folder.glob("*.ipynb"))
    named = folder / f"{runbook}.ipynb"
    path = named if named.is_file() else Path(runbook).absolute()
    if not path.is_file():
        known = ", ".join(p.stem for p in sorted(folder.glob("*.ipynb")))
        raise BadInput(f"there is no runbook {runbook!r}, nor such a file.", f"There are: {known}.")
    return [path]


@contextmanager
def _reality() -> Iterator[Reality]:
    """What runbooks are held against: a database is made for it, empty, and with the sandbox's schema."""
    from opskit.cli import main  # noqa: PLC0415  # it imports this module
    from opskit.linting import schema, structure, tools  # noqa: PLC0415
    from opskit.linting.lint import Reality  # noqa: PLC0415
    from opskit.sandbox import SCENARIOS  # noqa: PLC0415

    known = {**tools.recorded(), "opskit": tools.introspected(main, "opskit", __version__)}
    with _database() as database:
        yield Reality(root(), known, structure.rehearsals(SCENARIOS), database, schema.learn(database))


@contextmanager
def _database() -> Iterator[Database]:
    """Raises CannotTell where there is no PostgreSQL on this machine."""
    from opskit.database import Database  # noqa: PLC0415
    from opskit.sandbox import SandboxError  # noqa: PLC0415

    try:
        from opskit.sandbox.postgres import SUPERUSER, Postgres  # noqa: PLC0415
    except ImportError as error:
        raise CannotTell(
            f"SQL could not be looked at: {error.name} is missing.", "pip install 'opskit[sandbox]'"
        ) from None

    with tempfile.TemporaryDirectory(prefix="opskit-lint-") as place:
        server = Postgres(Path(place) / "database")
        try:
            server.create()
            database = Database(server.dsn(), {"read": SUPERUSER}, {"read": server.passwords[SUPERUSER]}, "opskit/lint")
            yield database
            database.close()
        except SandboxError as error:
            raise CannotTell(f"SQL could not be looked at: {error}") from None
        finally:
            server.stop()
