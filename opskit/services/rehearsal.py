"""Every pending migration, tried in a scratch database before the target sees it.

Its base is the target's schema, copied without a row, or an empty database with stand-ins for what Supabase brings.
Files are applied as the Supabase CLI applies them, as the schema's owner. A file that fails is named with its
statement; then what works of it is kept, so that the files after it can be judged too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from opskit import actions
from opskit.database import Database, Session
from opskit.errors import CannotTell, ServiceError
from opskit.services import access, catalog, checkpoints, excuses, owners, scratch, things
from opskit.services.catalog import Catalog, Shape
from opskit.services.checkpoints import Checkpoints, chain
from opskit.services.statements import File, Statement, split
from opskit.services.things import Thing

SCRATCH = "rehearsal"
STANDINS = Path(__file__).with_name("standins.sql")
ROLES = """
    select rolname as name, rolcreatedb as createdb, rolcreaterole as createrole, rolbypassrls as bypassrls,
           rolinherit as inherit
    from pg_roles where rolname !~ '^pg_'
"""
MAJOR = "select current_setting('server_version_num')::int / 10000 as major"
LOCKS = """
    select relation::int8 as relation, mode from pg_locks
    where pid = pg_backend_pid() and granted and locktype = 'relation' and mode = any(%(modes)s)
"""
TABLES = """
    select c.oid::int8 as relation, n.nspname || '.' || c.relname as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'm') and n.nspname !~ '^(pg_|information_schema)'
"""
MODES = (  # weakest first
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
    "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
)  # fmt: skip
BLOCKING = MODES[MODES.index("ShareUpdateExclusiveLock") :]  # those that somebody's save, or read, may have to wait for
SPOKEN = {mode: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper() for mode in MODES}  # as SQL does
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
    earlier: int = 0  # files that passed in an earlier rehearsal, and are as they were
    changes: dict[str, str | None] = field(default_factory=dict)  # what they make of the base; None: it is gone
    version: str = ""  # said where it was another PostgreSQL than the target's, which may spell definitions otherwise

    @property
    def failing(self) -> pd.DataFrame:
        return self.tried[self.tried.verdict == "fails"]

    @property
    def unproven(self) -> pd.DataFrame:
        return self.tried[self.tried.verdict == "could not rehearse"]


@dataclass
class Facts:
    """What is known of a scratch database, by what was done there."""

    known: dict[str, str] = field(default_factory=dict)  # the target's tables by oid: a lock on another hurts nobody
    before: list[list[Any]] = field(default_factory=list)  # who may do what in the base
    base: Shape = field(default_factory=dict)
    tried: list[list[Any]] = field(default_factory=list)
    locks: list[list[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lacking: bool = False  # an extension is missing here
    unmade: list[list[str]] = field(default_factory=list)  # things of files that could not be rehearsed


class Stage:
    """One scratch database."""

    def __init__(self, database: Database, owner: str, path: str, facts: Facts) -> None:
        self.owner = owner
        self._path = path  # on which the owner's migrations look for names
        self.facts = facts
        self.earlier = 0  # how many of its files were tried in an earlier rehearsal
        self._database = database
        self._open = ExitStack()
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = self._open.enter_context(self._database.session(0))
        return self._session

    def close(self) -> None:
        """Leave the database; the next question comes back to it."""
        self._open.close()
        self._session = None

    def keep(self, copies: Checkpoints, link: str, facts: Facts) -> None:
        """Have it copied as it is."""
        self.close()
        copies.keep(SCRATCH, link, vars(facts))

    def found(self, copied: str) -> None:
        """What Supabase brings, and the target's own schema; or nothing, as in a new project."""
        self.session.execute(STANDINS.read_text(encoding="utf-8"))
        if copied:
            self.copy(copied)
            self.facts.known = {str(row["relation"]): row["name"] for row in self.session.execute(TABLES)}
        else:
            self.be_empty()
        self.facts.before = access.matrix(self.session).to_numpy().tolist()
        self.facts.base = catalog.shape(self.catalog())

    def be_empty(self) -> None:
        """A new project: the owner may make what it likes, and the app sees it."""
        self.session.execute(
            f'alter default privileges for role "{self.owner}" in schema public '
            "grant all on tables to anon, authenticated, service_role"
        )

    def copy(self, dump: str) -> None:
        """The target's own schema. What this server cannot make is noted."""
        for statement in split(dump, "dump"):
            try:
                self.session.execute(statement.text)
            except ServiceError as error:
                if not _harmless(error):
                    self.facts.lacking = self.facts.lacking or excuses.lacks(error, statement.node)
                    self.facts.notes.append(f"not copied: {statement.head} ({error.sqlstate})")
        self.session.execute("reset all")

    def become_owner(self) -> None:
        self.session.execute("reset all")
        self.session.execute(f'set role "{self.owner}"')
        if self._path:
            self.session.execute("select set_config('search_path', %(path)s, false)", path=self._path)

    def step_back(self) -> None:
        self.session.execute("reset role")
        self.session.execute("reset all")

    def apply(self, file: File) -> None:
        """Apply a file as the CLI does. Raises ServiceError with `at`, the statement that failed."""
        locks: list[list[Any]] = []
        at: Statement | None = None
        self.become_owner()
        try:
            for at in (s for s in file.statements if s.node is not None):
                self._send(at)
                if not self.session.idle:
                    locks += self._held(file, at)
            if not self.session.idle:
                self.session.execute("commit")
        except ServiceError as error:
            if not self.session.idle:
                self.session.execute("rollback")
            error.at = at  # type: ignore[attr-defined]  # for the report
            raise
        finally:
            self.step_back()
            self.facts.locks += locks

    def _send(self, statement: Statement) -> None:
        if statement.alone and not self.session.idle:
            self.session.execute("commit")
        if not statement.alone and self.session.idle:
            self.session.execute("begin")
        self._run(statement)

    def _run(self, statement: Statement) -> None:
        if not excuses.is_lent(statement.node):
            self.session.execute(statement.text)
            return
        self.session.execute("reset role")  # Supabase lets the owner do this to what is not its own
        self.session.execute(statement.text)
        self.session.execute(f'set role "{self.owner}"')

    def attempt(self, statement: Statement) -> None:
        """Alone, whether it works or not."""
        if statement.node is None or statement.transaction:
            return
        try:
            self._run(statement)
        except ServiceError:
            self.session.execute(f'set role "{self.owner}"')

    def _held(self, file: File, statement: Statement) -> list[list[Any]]:
        known = self.facts.known
        found = self.session.execute(LOCKS, modes=list(BLOCKING)) if known else []
        seen = [(known[key], row["mode"]) for row in found if (key := str(row["relation"])) in known]
        return [[file.path.name, statement.line, statement.head, table, mode] for table, mode in seen]

    def salvage(self, file: File) -> None:
        """What of a failing file works, statement by statement, so that later files find it."""
        self.become_owner()
        for statement in file.statements:
            self.attempt(statement)
        self.step_back()

    def catalog(self) -> Catalog:
        return catalog.read(self.session.execute)


def _harmless(error: ServiceError) -> bool:
    return error.sqlstate in (*DUPLICATE, "42P16")


@contextmanager
def played(target: Database, owner: str, copied: str, files: Sequence[File]) -> Iterator[Stage]:
    """A scratch database behind all these files, tried one after the other on a copied schema, or on an empty one.

    What passed before and has not changed is not tried again. Raises CannotTell where there is nothing to rehearse on.
    """
    roles = target.rows(ROLES)
    binaries = scratch.choose(target.rows(MAJOR)[0]["major"])
    provided = STANDINS.read_text(encoding="utf-8")
    ours = [Path(__file__), *(Path(str(module.__file__)) for module in (access, catalog, checkpoints, excuses))]
    ours += sorted(scratch.STANDINS.glob("*/*"))
    texts = [path.read_text(encoding="utf-8") for path in ours]
    name = actions.digest([str(binaries.folder), roles, provided, *texts])
    with scratch.lasting(binaries, name[7:23]) as server, server.open("postgres").session(0) as first:
        known = {row["name"] for row in first.execute("select rolname as name from pg_roles")}
        for role in roles:
            if role["name"] not in known:
                first.execute(_role(role))
        path = owners.path(target.rows, owner)
        copies, links = Checkpoints(first, server.home), chain([owner, path, copied, provided], files)
        earlier, noted = copies.latest(links)
        copies.begin(SCRATCH, owner, links[earlier] if noted else "template1")
        with closing(Stage(server.open(SCRATCH), owner, path, Facts(**noted) if noted else Facts())) as stage:
            if not noted:
                stage.found(copied)
                stage.keep(copies, links[0], stage.facts)
            stage.earlier = max(earlier, 0)
            _play(stage, files, links, copies)
            yield stage
        server.keep = server.keep and copies.sound


def _play(stage: Stage, files: Sequence[File], links: Sequence[str], copies: Checkpoints) -> None:
    """Try the files that were not tried earlier, and keep what is worth beginning with the next time."""
    whole = True  # every file before has passed
    for number, file in enumerate(files[stage.earlier :], stage.earlier + 1):
        facts = stage.facts
        so_far = replace(facts, tried=list(facts.tried), locks=list(facts.locks))
        passed = _try(stage, file)
        if whole and not passed and file.together:
            stage.keep(copies, links[number - 1], so_far)
        if not passed:
            stage.salvage(file)
        whole = whole and passed
        if whole and (number == len(files) or copies.due()):
            stage.keep(copies, links[number], stage.facts)


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
    found = target.dump(able[-1].pg_dump, *left_out, "--no-subscriptions")
    return re.sub(r"^\\(un)?restrict.*$", "", found, flags=re.MULTILINE)  # another each time


def rehearse(target: Database, owner: str, files: Sequence[File], base: str) -> Rehearsal:
    """Try these files, in order. Raises CannotTell where there is nothing to rehearse on, or the target is not seen."""
    copied = dump(target) if base == "target" else ""
    with played(target, owner, copied, files) as stage:
        facts = stage.facts
        before = pd.DataFrame(facts.before, columns=access.COLUMNS).astype({"allowed": object})
        after = access.matrix(stage.session) if files else before
        taken = pd.DataFrame(facts.locks, columns=["file", "line", "statement", "table", "mode"])
        tried = pd.DataFrame(facts.tried, columns=TRIED)
        other = _other(target, stage)
        notes = facts.notes + other + _stood_in(stage)
        changes = _changes(facts.base, catalog.shape(stage.catalog()))
        return Rehearsal(tried, _first_taken(taken), before, after, notes, stage.earlier, changes, "".join(other))


def _changes(base: Shape, now: Shape) -> dict[str, str | None]:
    return {name: now.get(name) for name in base.keys() | now.keys() if base.get(name) != now.get(name)}


def _stood_in(stage: Stage) -> list[str]:
    """Extensions that are not here, and of which only names and signatures are."""
    found = stage.session.execute("select extname as name from pg_extension where extversion = 'standin' order by 1")
    return [f"{row['name']} is a stand-in here: its names and signatures, not its values" for row in found]


def _other(target: Database, stage: Stage) -> list[str]:
    """Whether it is another version than the target's."""
    here, there = stage.session.execute(MAJOR)[0]["major"], target.rows(MAJOR)[0]["major"]
    return [f"rehearsed on PostgreSQL {here}; the target is {there}"] if here != there else []


def _try(stage: Stage, file: File) -> bool:
    """Whether it passes; what came of it is noted. Of a file that fails nothing stays but what it committed itself."""
    name, started, tried, facts = file.path.name, time.monotonic(), stage.facts.tried, stage.facts
    if file.trouble:
        line = re.search(r":(\d+): ", file.trouble)
        tried.append([name, "fails", int(line[1]) if line else 0, "", "", file.trouble, 0.0])
        return False
    try:
        stage.apply(file)
        tried.append([name, "passes", 0, "", "", "", round(time.monotonic() - started, 2)])
        return True
    except ServiceError as error:
        at: Statement | None = getattr(error, "at", None)
        node = at.node if at else None
        lacks = excuses.lacks(error, node)
        blind = lacks or excuses.is_platforms(error, node) or (facts.lacking and error.sqlstate in excuses.FOLLOWS)
        blind = blind or excuses.is_stand_ins(error) or excuses.misses(error, [Thing(*one) for one in facts.unmade])
        said = error.message.removeprefix("database: ")
        place = (at.line, at.head) if at else (0, "")
        verdict = "could not rehearse" if blind else "fails"
        spent = round(time.monotonic() - started, 2)
        tried.append([name, verdict, *place, error.sqlstate or "", said, spent])
        facts.lacking = facts.lacking or lacks
        if blind and at:
            missing = [one for later in file.statements[at.number - 1 :] for one in things.made(later)]
            facts.unmade = [*facts.unmade, *(list(astuple(one)) for one in missing)]
        return False


def _first_taken(locks: pd.DataFrame) -> pd.DataFrame:
    """A lock is held until its file ends: told once, at the statement that took it; of weaker and stronger, both."""
    return locks.assign(mode=locks["mode"].map(SPOKEN)).drop_duplicates(["file", "table", "mode"], ignore_index=True)


@dataclass(frozen=True)
class Replay:
    """What the applied migrations make, and what of the pending ones is there already."""

    expected: Catalog  # made by what the ledger says was applied
    pending: dict[tuple[str, str], set[str | None]]  # what their statements make of an object; None: it is gone
    found: Catalog  # on the target
    present: dict[str, list[bool | None]]  # version -> for each statement, whether its effect is on the target
    notes: list[str]

    @property
    def drift(self) -> pd.DataFrame:
        """kind, name, how: in what the target is not what was applied.

        What pending files make or take away is not counted: one that stopped midway left it as some statement does.
        """
        told = catalog.difference(self.expected, self.found)
        keys = list(zip(told["kind"], told["name"], strict=True))
        ours = [self.found.get(key) in self.pending.get(key, ()) for key in keys]
        return told[[not one for one in ours]]


def replay(target: Database, owner: str, applied: Sequence[File], pending: Sequence[File], found: Catalog) -> Replay:
    """Make the schema from nothing, as the ledger says it was made, and compare statement by statement."""
    with played(target, owner, "", applied) as stage:
        notes = [f"{row[0]} could not be replayed: {row[5]}" for row in stage.facts.tried if row[1] != "passes"]
        notes += stage.facts.notes + _other(target, stage)
        expected = now = stage.catalog()
        present: dict[str, list[bool | None]] = {}
        made: dict[tuple[str, str], set[str | None]] = {}
        for file in pending:
            seen = _step_by_step(stage, file, now)
            present[file.version] = [_is_there(number, seen, found) for number in range(len(file.statements))]
            for before, now in pairwise(seen):
                for key in _changed(before, now):
                    made.setdefault(key, set()).add(now.get(key))
        return Replay(expected, made, found, present, notes)


def _step_by_step(stage: Stage, file: File, now: Catalog) -> list[Catalog]:
    """The catalog before a file, and behind each of its statements."""
    seen = [now]
    stage.become_owner()
    for statement in file.statements:
        stage.attempt(statement)
        seen.append(stage.catalog())
    stage.step_back()
    return seen


def _changed(before: Catalog, after: Catalog) -> list[tuple[str, str]]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


def _is_there(number: int, seen: list[Catalog], found: Catalog) -> bool | None:
    """Whether what a statement made or took away is so on the target, as it left it or as a later one did.

    None where it shows nowhere.
    """
    changed = _changed(*seen[number : number + 2])
    if not changed:
        return None
    return all(found.get(key) in [later.get(key) for later in seen[number + 1 :]] for key in changed)
