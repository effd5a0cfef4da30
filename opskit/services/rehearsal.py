"""Every pending migration, tried in a scratch database before the target sees it.

Its base is the target's schema, copied without a row, or an empty database with stand-ins for what Supabase brings.
Files are applied as the Supabase CLI applies them, as the schema's owner. A file that fails is named with its
statement; then what works of it is kept, so that the files after it can be judged too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from opskit.database import Database, Session
from opskit.errors import CannotTell, ServiceError
from opskit.services import access, catalog, scratch
from opskit.services.catalog import Catalog
from opskit.services.statements import File, Statement, split

STANDINS = Path(__file__).with_name("standins.sql")
ROLES = """
    select rolname as name, rolcreatedb as createdb, rolcreaterole as createrole, rolbypassrls as bypassrls,
           rolinherit as inherit
    from pg_roles where rolname !~ '^pg_'
"""
MAJOR = "select current_setting('server_version_num')::int / 10000 as major"
LOCKS = """
    select n.nspname || '.' || c.relname as name, l.mode
    from pg_locks l join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace
    where l.pid = pg_backend_pid() and l.granted and l.locktype = 'relation' and c.relkind in ('r', 'p', 'm')
      and n.nspname !~ '^(pg_|information_schema)'
"""
TABLES = """
    select n.nspname || '.' || c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'm') and n.nspname !~ '^(pg_|information_schema)'
"""
MODES = (  # weakest first
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
    "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
)  # fmt: skip
BLOCKING = MODES[MODES.index("ShareUpdateExclusiveLock") :]  # those that somebody's save, or read, may have to wait for
UNAVAILABLE = ("0A000", "58P01")  # an extension that this server does not have
FOLLOWS = ("42704", "42883", "3F000")  # what is missing where an extension is
DUPLICATE = ("42P07", "42701", "42710", "42723", "42P06")
VERDICTS = ("passes", "fails", "could not rehearse")
TRIED = ["file", "verdict", "line", "statement", "sqlstate", "message", "seconds"]


@dataclass
class Rehearsal:
    """What came of it."""

    tried: pd.DataFrame  # file, verdict, line, statement, sqlstate, message, seconds
    locks: pd.DataFrame  # file, line, statement, table, mode: on tables that the target has
    before: pd.DataFrame  # who may do what, without the pending files
    after: pd.DataFrame  # and with them
    notes: list[str] = field(default_factory=list)  # in what the scratch database is not the target

    @property
    def failing(self) -> pd.DataFrame:
        return self.tried[self.tried.verdict == "fails"]

    @property
    def unproven(self) -> pd.DataFrame:
        return self.tried[self.tried.verdict == "could not rehearse"]


class Stage:
    """One scratch database, and what is known of its base."""

    def __init__(self, session: Session, owner: str) -> None:
        self.session = session
        self.owner = owner
        self.notes: list[str] = []
        self.lacking = False  # an extension is missing here
        self.known: set[str] = set()  # tables that the target has: a lock on another hurts nobody

    def stand_in(self) -> None:
        """What Supabase brings."""
        self.session.execute(STANDINS.read_text(encoding="utf-8"))

    def be_empty(self) -> None:
        """A new project: the owner may make what it likes, and the app sees it."""
        self.session.execute(
            f'alter default privileges for role "{self.owner}" in schema public '
            "grant all on tables to anon, authenticated, service_role"
        )

    def copy(self, dump: str) -> None:
        """The target's own schema. What this server cannot make is noted."""
        plain = re.sub(r"^\\(un)?restrict.*$", "", dump, flags=re.MULTILINE)
        for statement in split(plain, "dump"):
            try:
                self.session.execute(statement.text)
            except ServiceError as error:
                if not _harmless(error):
                    self.lacking = self.lacking or error.sqlstate in UNAVAILABLE
                    self.notes.append(f"not copied: {statement.head} ({error.sqlstate})")
        self.session.execute("reset all")

    def apply(self, file: File, locks: list[tuple[str, int, str, str, str]] | None = None) -> Statement | None:
        """Apply a file as the CLI does. Raises ServiceError with `at`, the statement that failed."""
        at: Statement | None = None
        self.session.execute("reset all")
        self.session.execute(f'set role "{self.owner}"')
        try:
            for at in (s for s in file.statements if s.node is not None):
                self._send(at)
                if locks is not None and not self.session.idle:
                    locks += self._held(file, at)
            if not self.session.idle:
                self.session.execute("commit")
            return None
        except ServiceError as error:
            if not self.session.idle:
                self.session.execute("rollback")
            error.at = at  # type: ignore[attr-defined]  # for the report
            raise
        finally:
            self.session.execute("reset role")

    def _send(self, statement: Statement) -> None:
        if statement.alone and not self.session.idle:
            self.session.execute("commit")
        if not statement.alone and self.session.idle:
            self.session.execute("begin")
        self.session.execute(statement.text)

    def _held(self, file: File, statement: Statement) -> list[tuple[str, int, str, str, str]]:
        return [
            (file.path.name, statement.line, statement.head, row["name"], row["mode"])
            for row in self.session.execute(LOCKS)
            if row["name"] in self.known and row["mode"] in BLOCKING
        ]

    def salvage(self, file: File) -> None:
        """What of a failing file works, statement by statement, so that later files find it."""
        self.session.execute(f'set role "{self.owner}"')
        for statement in file.statements:
            if statement.node is not None and not statement.transaction:
                with suppress(ServiceError):
                    self.session.execute(statement.text)
        self.session.execute("reset role")

    def catalog(self) -> Catalog:
        return catalog.read(self.session.execute)


def _harmless(error: ServiceError) -> bool:
    return error.sqlstate in (*DUPLICATE, "42P16")


@contextmanager
def stages(target: Database, owner: str, *names: str) -> Iterator[list[Stage]]:
    """Scratch databases with the target's roles and Supabase's part, and nothing of the team's yet."""
    major = target.rows(MAJOR)[0]["major"]
    roles = target.rows(ROLES)
    binaries = scratch.choose(major)
    with scratch.server(binaries) as open_database:
        with open_database("postgres").session() as first:
            for role in roles:
                first.execute(_role(role))
            for name in names:
                first.execute(f'create database "{name}" owner "{owner}"')
        with _sessions([open_database(name) for name in names]) as sessions:
            found = [Stage(session, owner) for session in sessions]
            for stage in found:
                stage.stand_in()
                if binaries.major != major:
                    stage.notes.append(f"rehearsed on PostgreSQL {binaries.major}; the target is {major}")
            yield found


@contextmanager
def _sessions(databases: Sequence[Database]) -> Iterator[list[Session]]:
    if not databases:
        yield []
        return
    with databases[0].session(3600) as session, _sessions(databases[1:]) as rest:
        yield [session, *rest]


def _role(role: dict[str, object]) -> str:
    may = [word for word in ("createdb", "createrole", "bypassrls") if role[word]]
    return f'create role "{role["name"]}" {" ".join(may)} {"inherit" if role["inherit"] else "noinherit"}'


def dump(target: Database) -> str:
    """The target's schema, without the platform's part. Raises CannotTell where no pg_dump here is new enough."""
    major = target.rows(MAJOR)[0]["major"]
    able = [one for one in scratch.installed() if one.major >= major]
    if not able:
        raise CannotTell(f"could not rehearse: no pg_dump here is as new as the target, PostgreSQL {major}.")
    left_out = [f"--exclude-schema={name}" for name in catalog.PLATFORM if name != "information_schema"]
    return target.dump(able[-1].pg_dump, *left_out, "--no-publications", "--no-subscriptions")


def rehearse(target: Database, owner: str, files: Sequence[File], base: str) -> Rehearsal:
    """Try these files, in order. Raises CannotTell where there is nothing to rehearse on, or the target is not seen."""
    copied = dump(target) if base == "target" else ""
    with stages(target, owner, "rehearsal") as (stage,):
        if copied:
            stage.copy(copied)
            stage.known = {row["name"] for row in stage.session.execute(TABLES)}
        else:
            stage.be_empty()
        before = access.matrix(stage.session)
        locks: list[tuple[str, int, str, str, str]] = []
        tried = pd.DataFrame([_try(stage, file, locks) for file in files], columns=TRIED)
        taken = pd.DataFrame(locks, columns=["file", "line", "statement", "table", "mode"])
        after = access.matrix(stage.session) if files else before
        return Rehearsal(tried, _first_taken(taken), before, after, stage.notes)


def _try(stage: Stage, file: File, locks: list[tuple[str, int, str, str, str]]) -> tuple[object, ...]:
    name, started = file.path.name, time.monotonic()
    if file.trouble:
        line = re.search(r":(\d+): ", file.trouble)
        return name, "fails", int(line[1]) if line else 0, "", "", file.trouble, 0.0
    try:
        stage.apply(file, locks)
        return name, "passes", 0, "", "", "", round(time.monotonic() - started, 2)
    except ServiceError as error:
        at: Statement | None = getattr(error, "at", None)
        blind = error.sqlstate in UNAVAILABLE or (stage.lacking and error.sqlstate in FOLLOWS)
        stage.lacking = stage.lacking or error.sqlstate in UNAVAILABLE
        stage.salvage(file)
        said = error.message.removeprefix("database: ")
        place = (at.line, at.head) if at else (0, "")
        verdict = "could not rehearse" if blind else "fails"
        return name, verdict, *place, error.sqlstate or "", said, round(time.monotonic() - started, 2)


def _first_taken(locks: pd.DataFrame) -> pd.DataFrame:
    """A lock is held until its file ends: told once, at the statement that took it; of weaker and stronger, both."""
    return locks.drop_duplicates(["file", "table", "mode"], ignore_index=True)


@dataclass(frozen=True)
class Replay:
    """What the applied migrations make, and what of the pending ones is there already."""

    expected: Catalog  # made by what the ledger says was applied
    with_pending: Catalog
    found: Catalog  # on the target
    present: dict[str, list[bool | None]]  # version -> for each statement, whether its effect is on the target
    notes: list[str]

    @property
    def drift(self) -> pd.DataFrame:
        """kind, name, how: in what the target is not what was applied; what pending files make is not counted."""
        told = catalog.difference(self.expected, self.found)
        keys = list(zip(told["kind"], told["name"], strict=True))
        ours = [key in self.found and self.with_pending.get(key) == self.found[key] for key in keys]
        return told[[not one for one in ours]]


def replay(target: Database, owner: str, applied: Sequence[File], pending: Sequence[File], found: Catalog) -> Replay:
    """Make the schema from nothing, as the ledger says it was made, and compare statement by statement."""
    with stages(target, owner, "replay") as (stage,):
        stage.be_empty()
        for file in applied:
            try:
                stage.apply(file)
            except ServiceError as error:
                stage.notes.append(f"{file.path.name} could not be replayed: {error.message}")
                stage.salvage(file)
        expected = now = stage.catalog()
        present: dict[str, list[bool | None]] = {}
        for file in pending:
            present[file.version], now = _step_by_step(stage, file, now, found)
        return Replay(expected, now, found, present, stage.notes)


def _step_by_step(stage: Stage, file: File, now: Catalog, found: Catalog) -> tuple[list[bool | None], Catalog]:
    """For each statement of a file whether its effect is on the target, and the catalog after all of them."""
    seen = [now]  # before the first, and after each
    stage.session.execute(f'set role "{stage.owner}"')
    for statement in file.statements:
        if statement.node is not None and not statement.transaction:
            with suppress(ServiceError):
                stage.session.execute(statement.text)
        seen.append(stage.catalog())
    stage.session.execute("reset role")
    return [_is_there(number, seen, found) for number in range(len(file.statements))], seen[-1]


def _is_there(number: int, seen: list[Catalog], found: Catalog) -> bool | None:
    """Whether what a statement made or took away is so on the target, as it left it or as a later one did.

    None where it shows nowhere.
    """
    before, after = seen[number : number + 2]
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    if not changed:
        return None
    return all(found.get(key) in [later.get(key) for later in seen[number + 1 :]] for key in changed)
