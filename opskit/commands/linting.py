"""Has a runbook rotted?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opskit import __version__
from opskit.commands.answering import Reply, root, verb
from opskit.errors import BadInput, CannotTell
from opskit.outcome import Exit

if TYPE_CHECKING:
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
        unseen = reality.unseen
    lines = [f"{one.place}: {one.rule}: {one.wrong}" + (f" {one.remedy}" if one.remedy else "") for one in found]
    count = "1 {}thing is" if len(found) == 1 else f"{len(found)} {{}}things are"
    true = "Nothing else was found." if unseen else f"All is true in {len(pages)} of {len(pages)}."
    said = f"{count.format('other ' if unseen else '')} no longer true." if found else true
    if unseen:
        lines.append(f"Their SQL was not looked at: {unseen}")
    exit_code = Exit.ERROR if found else Exit.PEOPLE if unseen else Exit.OK
    return Reply([asdict(one) for one in found], "\n".join([*lines, said]), exit_code)


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
    """What runbooks are held against. Where no database can be made, that is everything but SQL."""
    from opskit.cli import main  # noqa: PLC0415  # it imports this module
    from opskit.linting import causes, roles, schema, tools  # noqa: PLC0415
    from opskit.linting.lint import Reality  # noqa: PLC0415
    from opskit.sandbox import SCENARIOS  # noqa: PLC0415

    known = {**tools.recorded(), "opskit": tools.introspected(main, "opskit", __version__)}
    rehearsed, contacts = causes.rehearsals(SCENARIOS), roles.roles(root())
    with ExitStack() as ending:
        try:
            database = ending.enter_context(schema.made(_scripts()))
        except CannotTell as error:
            yield Reality(root(), known, rehearsed, contacts, unseen=str(error))
            return
        yield Reality(root(), known, rehearsed, contacts, database, schema.learn(database))


def _scripts() -> list[str]:
    """What makes the schema: the platform's part, the team's migrations (else the sandbox's), opskit's rights."""
    from opskit.sandbox import SCENARIOS  # noqa: PLC0415

    shipped = SCENARIOS.with_name("schema")
    migrations = sorted((root() / "supabase" / "migrations").glob("*.sql"))
    files = [*(migrations or sorted((shipped / "migrations").glob("*.sql")))]
    texts = [f"set role postgres;\n{path.read_text(encoding='utf-8')}" for path in files]
    return [(shipped / "platform.sql").read_text(encoding="utf-8"), *texts]
