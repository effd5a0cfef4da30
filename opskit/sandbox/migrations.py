"""The team's migrations: the files in their folder, and the ledger that says which of them the database has had."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import psycopg
from pglast import parse_sql, split
from pglast.parser import ParseError

SCHEMA = Path(__file__).with_name("schema")
OWNER = "postgres"  # of the database and all that migrations make; no superuser
LINKED = "../.temp/project-ref"  # beside the migrations; the command-line tool keeps there which project it speaks to
FILE = re.compile(r"(\d+)_(.*)\.sql")  # other files are none of its business
ALONE = re.compile(  # what no transaction may hold, after comments
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
    r"(create\s+(unique\s+)?index\s+concurrently|drop\s+index\s+concurrently|reindex\b.*\bconcurrently|vacuum|"
    r"alter\s+system|cluster)\b",
    re.IGNORECASE | re.DOTALL,
)
KNOWN = "select version from supabase_migrations.schema_migrations"
ENTER = "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)"


class Refused(Exception):
    """A push that changes nothing, since folder and ledger tell two stories."""


Files = dict[str, str]  # name in the folder -> text
Connection = psycopg.Connection[Any]


def shipped() -> Files:
    """The migrations of a company to which nothing has happened yet."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((SCHEMA / "migrations").glob("*.sql"))}


def statements(text: str) -> list[str]:
    """A file's statements, as the command-line tool enters them in the ledger."""
    try:
        ends = [(one.stmt_location or 0) + one.stmt_len for one in parse_sql(text) if one.stmt_len]
    except ParseError:
        return list(split(text, with_parser=False))  # whoever applies it will hear of it
    parts = [text[begin:end].lstrip("; \t\r\n").rstrip() for begin, end in pairwise([0, *ends, len(text)])]
    return [part for part in parts if part]


def found(connection: Connection) -> None:
    """The company's schema in an empty database: Supabase's own part, the team's migrations, opskit's rights."""
    connection.execute((SCHEMA / "platform.sql").read_bytes())
    push(connection, shipped())
    connection.execute((SCHEMA / "rights.sql").read_bytes())


def push(connection: Connection, files: Files) -> None:
    """Apply every pending file in the order of versions, until one fails; what is raised then tells of it.

    As the command-line tool does: one transaction for each file, broken by every statement that allows none. Raises
    Refused where the ledger knows what the folder does not, or something later than what is pending.
    """
    known = {version for (version,) in connection.execute(KNOWN).fetchall()}
    waiting = list(pending(files, known))
    if known - {named[1] for file in files if (named := FILE.fullmatch(file))}:
        raise Refused("versions of the ledger are not in the folder")
    if waiting and waiting[0][0] < max(known, default=""):
        raise Refused("a pending file comes before what the ledger holds")
    for version, name, text in waiting:
        connection.execute(f"set role {OWNER}")
        try:
            _apply(connection, version, name, text)
        finally:
            connection.execute("reset role")


def pending(files: Files, known: set[str]) -> Iterator[tuple[str, str, str]]:
    """Version, name and text of the files that the ledger does not know."""
    for file in sorted(files):
        if (named := FILE.fullmatch(file)) and named[1] not in known:
            yield named[1], named[2], files[file]


def _apply(connection: Connection, version: str, name: str, text: str) -> None:
    asked = statements(text)
    for alone, together in groupby(asked, lambda statement: ALONE.match(statement) is not None):
        with nullcontext() if alone else connection.transaction():
            for statement in together:
                connection.execute(statement.encode())
    connection.execute(ENTER, [version, name, asked])


def place(folder: Path) -> Path:
    """Where the migrations lie in a sandbox's folder."""
    return folder / "supabase" / "migrations"


def write(files: Files, folder: Path) -> None:
    """Make the folder hold these files, and nothing else."""
    home = place(folder)
    if home.parent.exists():
        shutil.rmtree(home.parent)
    home.mkdir(parents=True)
    for name, text in files.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")


def read(folder: Path) -> Files:
    """The files that the folder holds now; people may have worked in it."""
    home = place(folder)
    names = [path.name for path in sorted(home.iterdir()) if path.is_file()]
    linked = [LINKED] if (home / LINKED).exists() else []
    return {name: (home / name).read_text(encoding="utf-8", errors="replace") for name in names + linked}
