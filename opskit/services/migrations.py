"""The team's migration folder beside the target's ledger: what is applied, what is pending, what does not fit.

The rules are the Supabase CLI's: a file's version is its leading digits, compared as text; the ledger is
`supabase_migrations.schema_migrations`, which holds no times.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from opskit.actions import Action
from opskit.database import Database
from opskit.errors import BadInput
from opskit.services import (
    access,
    afterwards,
    backfill,
    bodies,
    busiest,
    catalog,
    extensions,
    hazards,
    indexes,
    migrating,
    offenders,
    owners,
    rehearsal,
    reversal,
    statements,
    things,
)
from opskit.services import migration_steps as steps
from opskit.services.backfill import Filling
from opskit.services.catalog import Shape
from opskit.services.hazards import Hazard
from opskit.services.rehearsal import Rehearsal, Replay
from opskit.services.reversal import Lost, Reverse
from opskit.services.statements import File, same
from opskit.services.supabase import RestorePoint

NAME = re.compile(r"([0-9]+)_(.*)\.sql")
DIGITS = 14  # of a version that sorts as a time
PENDING = "pending"
LATE = "older than the newest applied"
KEPT = "select to_regclass('supabase_migrations.schema_migrations') is not null as kept"
LEDGER = """
    select version, coalesce(name, '') as name, coalesce(statements, '{}') as statements
    from supabase_migrations.schema_migrations order by version collate "C"
"""

INVALID = """
    select format('%I.%I', n.nspname, c.relname) as index, format('%I.%I', m.nspname, t.relname) as table,
           c.relname ~ '_cc(new|old)[0-9]*$' and exists (
             select from pg_index o join pg_class oc on oc.oid = o.indexrelid
             where o.indrelid = i.indrelid and o.indkey::text = i.indkey::text
               and oc.relname !~ '_cc(new|old)[0-9]*$') as leftover
    from pg_index i join pg_class c on c.oid = i.indexrelid and c.relkind = 'i'
    join pg_namespace n on n.oid = c.relnamespace
    join pg_class t on t.oid = i.indrelid join pg_namespace m on m.oid = t.relnamespace
    where not i.indisvalid
      and not exists (select from pg_stat_progress_create_index p where p.index_relid = i.indexrelid)
    order by 1
"""  # REINDEX CONCURRENTLY calls the new one _ccnew and the old one _ccold; one that fails leaves it beside the index
OPEN = """
    select a.pid, a.usename as role, a.application_name as application, a.state, now() - a.xact_start as open_for,
           left(a.query, 100) as query, cardinality(pg_blocking_pids(a.pid)) as waits_for,
           string_agg(distinct l.relation::regclass || ' ' || l.mode, ', ')
             filter (where c.relkind in ('r', 'p')) as holds
    from pg_stat_activity a left join pg_locks l on l.pid = a.pid and l.granted and l.locktype = 'relation'
    left join pg_class c on c.oid = l.relation and c.relnamespace not in ('pg_catalog'::regnamespace)
    where a.xact_start < now() - make_interval(secs => %(seconds)s) and a.pid <> pg_backend_pid()
      and a.backend_type = 'client backend' and a.application_name not like 'opskit%%'
    group by 1, 2, 3, 4, 5, 6, a.xact_start order by a.xact_start
"""
SIZES = """
    select schemaname || '.' || relname as table, pg_size_pretty(pg_total_relation_size(relid)) as size,
           n_live_tup as rows, n_tup_ins + n_tup_upd + n_tup_del as written
    from pg_stat_user_tables where schemaname || '.' || relname = any(%(tables)s)
    order by pg_total_relation_size(relid) desc
"""


@dataclass(frozen=True)
class Folder:
    """The migrations in one folder, in the order in which they are applied."""

    path: Path
    files: tuple[File, ...]
    skipped: tuple[str, ...]  # names that the CLI passes over

    def chosen(self, versions: str, pending: Sequence[File]) -> list[File]:
        """Those of the pending files that are asked for. Raises BadInput for a version that is not pending."""
        if versions.strip() == PENDING:
            return list(pending)
        wanted = [version.strip() for version in versions.split(",") if version.strip()]
        known = {file.version for file in pending}
        if missing := [version for version in wanted if version not in known]:
            raise BadInput(f"versions: {', '.join(missing)} not pending in {self.path}.", "Pending: " + _some(known))
        return [file for file in pending if file.version in wanted]


def opened(path: str | Path) -> Folder:
    """What lies in a migrations folder. Raises BadInput where there is no folder or no migration in it."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise BadInput(
            f"folder: {folder} is no folder.", "Give the path of the team's supabase/migrations, from a fresh checkout."
        )
    found, skipped = [], []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name.encode()):
        match = NAME.fullmatch(entry.name)
        if match and not entry.is_dir():
            found.append((entry, match[1], match[2]))
        elif entry.suffix == ".sql":
            skipped.append(entry.name)
    if not found:
        raise BadInput(
            f"folder: {folder} holds no migration.",
            f"Files are called <{DIGITS} digits>_<name>.sql; others are skipped.",
        )
    found.sort(key=lambda one: (one[1], one[0].name))
    return Folder(folder, tuple(statements.read(*one) for one in found), tuple(skipped))


@dataclass(frozen=True)
class Alignment:
    """The folder against the ledger. All is well where nothing but `pending` and `skipped` holds anything."""

    pending: list[File]
    unknown: list[str]  # in the ledger, without a file: `db push` refuses
    late: list[str]  # pending, and older than the newest applied one: `db push` refuses
    repeated: list[str]  # several files of one version
    mixed: list[str]  # versions that do not have 14 digits: as text they sort wrongly
    changed: list[str]  # applied with other statements than the file now has
    renamed: list[tuple[str, str]]  # (in the ledger, pending): the same migration under two versions
    skipped: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[tuple[str, str, str]]:
        """(what, version, then) for each thing that does not fit."""
        told: tuple[tuple[str, Iterable[str], str], ...] = (
            (
                "in the ledger, no file",
                self.unknown,
                "find its file in git first; compare the schema; repair only then",
            ),
            (LATE, self.late, "give it a newer version, or apply it by its number"),
            ("two files of one version", self.repeated, "rename one; only one of them can be in the ledger"),
            ("not 14 digits", self.mixed, "versions are compared as text: rename what is pending"),
            ("applied as something else", self.changed, "never edit an applied file: put it back, write a new one"),
            ("renamed", [f"{a} → {b}" for a, b in self.renamed], "the same migration: repair the ledger, after a look"),
        )
        return [(what, version, then) for what, versions, then in told for version in versions]

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.problems, columns=["problem", "version", "then"])


@dataclass
class Migrations:
    """The migrations of the target database. `owner`: the role that owns the schema, as which they are applied."""

    database: Database
    owner: str | None = None
    project: str | None = None  # Supabase's ref of what the environment names
    apart: Database | None = None  # the same database once more, on a connection of its own
    meant: Sequence[str] = ()  # what others than the owner may do with a row on purpose

    # What can be seen. Nothing of it touches the target.

    def pooled(self) -> bool:
        """Whether a pooler stands between that hands out backends by transaction: it forgets SET, and who we are.

        Then two connections that are open at once have one backend.
        """
        if self.apart is None:
            return False
        backends = [one.rows("select pg_backend_pid() as pid")[0]["pid"] for one in (self.database, self.apart)]
        self.apart.close()
        return len(set(backends)) == 1

    def ledger(self) -> pd.DataFrame:
        """version, name, statements, as applied; empty where there is no ledger yet."""
        if not self.database.rows(KEPT)[0]["kept"]:
            return pd.DataFrame([], columns=["version", "name", "statements"])
        return self.database.read(LEDGER)

    def align(self, folder: Folder) -> Alignment:
        """The folder against the ledger."""
        return align(folder, self.ledger())

    def rehearse(self, files: Sequence[File], base: str) -> Rehearsal:
        """Try these files in a scratch database: on a copy of the target's schema, or on an empty one."""
        return rehearsal.rehearse(self.database, self.role, files, base)

    def replay(self, folder: Folder, pending: Sequence[File]) -> Replay:
        """What the ledger says was applied, made from nothing, beside what the target holds."""
        return rehearsal.replay(
            self.database, self.role, applied(folder, self.ledger()), pending, catalog.read(self.database.rows)
        )

    def drift(self, folder: Folder, pending: Sequence[File]) -> pd.DataFrame:
        """kind, name, how: in what the target is not what was applied; what pending files make is not counted."""
        return self.replay(folder, pending).drift

    def shape(self) -> Shape:
        """The schema in few letters, and who gets at whose rows, tried on a copy of it."""
        tried = self.rehearse([], "target").before
        return {**catalog.shape(catalog.read(self.database.rows)), **access.told(tried)}

    def exposed(self) -> pd.DataFrame:
        """Rows of the target's schema that others than their owner get at, and are not meant to, tried on a copy."""
        return access.exposed(self.rehearse([], "target").before, self.meant)

    def offenders(self, files: Sequence[File]) -> pd.DataFrame:
        """How many rows of the target each new constraint, NOT NULL, unique index or cast would be refused for."""
        return offenders.count(self.database, files)

    def extensions(self, files: Sequence[File]) -> pd.DataFrame:
        """file, line, extension, takes (None: not to be told), why: whether the target takes each that they make."""
        return extensions.made(self.database, self.role, files)

    def invalid_indexes(self) -> pd.DataFrame:
        """index, table, leftover: indexes that no query uses and every write pays for, those being built apart.

        A `leftover` is what a REINDEX CONCURRENTLY left beside the index that it was for.
        """
        return self.database.read(INVALID)

    def open_transactions(self, seconds: float) -> pd.DataFrame:
        """Transactions open for longer, and the locks on the team's tables that they hold."""
        return self.database.read(OPEN, seconds=seconds)

    def sizes(self, tables: Sequence[str]) -> pd.DataFrame:
        """table, size, rows, written: of these tables; `written` counts rows changed since the statistics began."""
        return self.database.read(SIZES, tables=list(tables))

    def busiest(self) -> pd.DataFrame:
        """statement, calls, seconds, plan: what the database is busiest with; empty without pg_stat_statements."""
        return busiest.read(self.database)

    def planned_otherwise(self, before: pd.DataFrame) -> pd.DataFrame:
        """statement, calls, before, after: of the busiest statements those whose plan is another now."""
        return busiest.changed(self.database, before)

    def in_batches(self, files: Sequence[File]) -> pd.DataFrame:
        """file, line, statement, rows: UPDATEs of large tables in these files, which should rather go in batches."""
        return backfill.recommended(self.database, files)

    def filling(self, update: str | None, files: Sequence[File], key: str) -> Filling | None:
        """What an UPDATE would change, ready for batches: the one that is given, else the only one in these files.

        Raises BadInput where it cannot go in batches, or where several are in the files.
        """
        found = [backfill.read(update)] if update else [update for *_, update in backfill.in_files(files)]
        if len(found) > 1:
            raise BadInput("update: the pending files hold several UPDATEs.", "Give one, or choose with `versions`.")
        return backfill.prepare(self.database, found[0], key) if found else None

    def hazards(self, files: Sequence[File]) -> list[Hazard]:
        """What in these files, and in functions that they call, will block, break or destroy."""
        return hazards.find(files, self.beside(files))

    def beside(self, files: Sequence[File]) -> list[File]:
        """Where the functions are made that these files may call: they themselves, and the target."""
        return [*files, *bodies.there(catalog.functions(self.database.rows), files)]

    def done_before(self, files: Sequence[File]) -> list[tuple[str, int, str]]:
        """(file, line, what) of what is there already though its file is pending, where more would be done again."""
        path = owners.schemas(self.database.rows, self.role)
        return things.done_before(files, catalog.read(self.database.rows), path)

    def culprit(self, folder: Folder, messages: Iterable[str], named: str) -> tuple[File | None, str]:
        """The newest applied file, where it is shown to have taken away what these messages miss; else None. And why.

        It need not be shown where a person has `named` its version.
        """
        ledger = self.ledger()
        files, newest = applied(folder, ledger), str(ledger.version.iloc[-1]) if len(ledger) else "none"
        if not files or files[-1].version != newest:
            return None, f"what the newest applied version did ({newest}) stands neither in the ledger nor in a file"
        if named == PENDING:
            return things.culprit(files, messages, catalog.read(self.database.rows))
        if named.strip() != newest:
            return None, f"the newest applied version is {newest}, not {named}"
        return files[-1], "a person names it"

    def left(self, filling: Filling) -> int:
        """How many rows would still be changed."""
        return backfill.left(self.database.rows, filling)[0]

    @property
    def role(self) -> str:
        return self.owner or str(self.database.rows("select current_user as name")[0]["name"])

    # What a plan may ask for. Each of these only describes; nothing happens.

    def apply_file(
        self, file: File, lock_timeout: float, statement_timeout: float, beside: Sequence[File] = ()
    ) -> Action:
        """Apply a pending file; `beside` as of all that are. Raises BadInput for one that cannot be sent at all."""
        of = {**_about(file), "lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
        destroys = hazards.destroys(file, beside=beside or self.beside([file]))
        return migrating.Apply().plan(of, _pending(file), destroys)

    def finish_file(self, file: File, left: Sequence[int], lock_timeout: float, statement_timeout: float) -> Action:
        """Apply what of a file is missing, and enter it. Raises BadInput for one that cannot be sent at all."""
        of = {**_about(file), "lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
        of |= {"statements": list(left), "left": ", ".join(map(str, left)) or "none"}
        return migrating.Finish().plan(of, _pending(file), hazards.destroys(file, left, self.beside([file])))

    def migrate_by_hand(self, command: str, files: Sequence[File], pending: Sequence[File]) -> Action:
        """Have people apply the pending files with their own command. Raises BadInput where only some are meant."""
        if list(files) != list(pending):
            raise BadInput(f"versions: `{command}` applies every pending file.", "Leave it at `pending`.")
        of = {"command": command, "count": len(files), "files": [_about(file) for file in files]}
        before, beside = [_pending(file) for file in files], self.beside(files)
        return steps.MigrateByHand().plan(of, before, any(hazards.destroys(file, beside=beside) for file in files))

    def look_again(self, files: Sequence[File], people: bool = False) -> Action:
        """Hold schema and access, once these files are applied, against what they make of a copy of the target.

        Where `people` change other things before, only what the files change, and what is open to others than owners.
        """
        now = catalog.shape(catalog.read(self.database.rows))
        rehearsed = self.rehearse(files, "target")
        but = f"; what the files make by name alone: {rehearsed.version}" if rehearsed.version else ""
        but += "; of what people change before only what is open to others" if people else ""
        of = {"expected": afterwards.expected(now, rehearsed), "only": sorted(rehearsed.changes) if people else None}
        return afterwards.LookAgain().plan(of, None, but=but)

    def fill(self, filling: Filling, lock_timeout: float, statement_timeout: float, batch: int = 1000) -> Action:
        """Change what is left of a table, in batches: `batch` rows at first, then as many as a second or so allows."""
        of = {"batch": batch, "lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
        return backfill.planned(self.database, filling, of)

    def keep_rows(self, file: File, lost: Lost, patience: float = 3600) -> Action:
        """Copy what taking a file back would destroy into a table that only its owner reads."""
        query = self._query(lost)
        rows = self.database.rows(f"select count(*)::int as n from ({query}) lost")[0]["n"]  # noqa: S608  # parsed names
        table = ".".join(part for part in (lost.table, lost.column) if part).replace('"', "")
        of = {"table": table, "kept": reversal.kept_as(file.version, lost), "query": query, "patience": patience}
        return migrating.KeepRows().plan(of, {"kept": False}, rows=f"{rows:,}")

    def reverse(
        self,
        file: File,
        steps: Sequence[Reverse],
        lock_timeout: float,
        statement_timeout: float,
        kept: Sequence[Action] = (),
    ) -> Action:
        """Take an applied file back. What is lost by that has to be `kept` first, and agreed to by name."""
        sql, lost = [step.sql for step in steps if step.sql], reversal.lost(steps)
        gone = [
            {
                "table": one.table,
                "kept": reversal.kept_as(file.version, one),
                "query": self._query(one),
                "key": self._key(one),
            }
            for one in lost
        ]
        timeouts = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
        of = {"version": file.version, "name": file.name, "sql": sql, "lost": gone, **timeouts}
        found = migrating.Reverse().plan(of, {"in_ledger": True}, bool(gone), steps="; ".join(sql))
        return replace(found, after=[action.id for action in kept])

    def restore(self, file: File, point: RestorePoint) -> Action:
        """Have people restore the whole project to a moment before a file was applied."""
        at, loses = point.at.isoformat(timespec="minutes"), str(point.loses).split(".")[0]
        of = {"version": file.version, "project": self.project, "unix": int(point.at.timestamp()), "any": point.any}
        return steps.Restore().plan(of, {"in_ledger": True}, at=at, loses=loses)

    def _query(self, lost: Lost) -> str:
        return reversal.rows_of(lost, self._key(lost))

    def _key(self, lost: Lost) -> list[str]:
        return self.database.rows(reversal.KEY, table=lost.table)[0]["columns"] or []

    def renumber(self, old: str, new: str) -> Action:
        """Call an applied migration what its file is called now."""
        return migrating.Renumber().plan({"old": old, "new": new}, {"old": True, "new": False})

    def rebuild_index(self, table: str, index: str, patience: float) -> Action:
        """Drop an invalid index, and build it again. Names as `invalid_indexes` writes them."""
        return self._of_index(indexes.RebuildIndex(), table, index, patience)

    def drop_leftover(self, table: str, index: str, patience: float) -> Action:
        """Drop an invalid index that a REINDEX CONCURRENTLY left."""
        return self._of_index(indexes.DropLeftover(), table, index, patience)

    def _of_index(self, change: indexes.RebuildIndex, table: str, index: str, patience: float) -> Action:
        (before,) = self.database.rows(indexes.INDEX, table=table, index=index)
        return change.plan({"table": table, "index": index, "patience": patience}, before)

    def find_file(self, folder: Folder, version: str) -> Action:
        """Have people bring back the file of an applied migration."""
        return steps.FindFile().plan({"folder": str(folder.path), "version": version}, {"found": False})

    def mend_rows(self, table: str, asks: str, query: str) -> Action:
        """Have people decide about rows that a migration would be refused for."""
        return steps.MendRows().plan({"table": table, "asks": asks, "query": query}, None)

    def capture_drift(self, folder: Folder) -> Action:
        """Have people make a migration of what was changed by hand, or take that back."""
        return steps.CaptureDrift().plan({"folder": str(folder.path)}, None)

    def close_access(self) -> Action:
        """Have people close what is open to others than its owners, with a migration forward."""
        return steps.CloseAccess().plan({}, None)

    def mend_file(self, file: File, why: str) -> Action:
        """Have people mend a file that fails."""
        return steps.MendFile().plan({"path": str(file.path), "why": why}, {"file": migrating.digest(file)})


def _about(file: File) -> dict[str, Any]:
    if file.trouble:
        raise BadInput(f"{file.trouble}.", "Mend the file first: what cannot be read cannot be applied.")
    return {"path": str(file.path), "version": file.version, "name": file.name}


def _pending(file: File) -> dict[str, Any]:
    return {"in_ledger": False, "file": migrating.digest(file), "entered": migrating.NOWHERE}


def applied(folder: Folder, ledger: pd.DataFrame) -> list[File]:
    """What was applied, as the ledger has it; where a row holds no statements, as the folder has it."""
    of_version = {file.version: file for file in folder.files}
    found = []
    rows: Any = ledger.itertuples()
    for row in rows:
        name = f"{row.version}_{row.name}.sql"
        if len(row.statements):
            text = "\n;\n".join(row.statements) + "\n;\n"  # one may end in a comment
            found.append(File(Path(name), str(row.version), str(row.name), tuple(statements.split(text, name))))
        elif row.version in of_version:
            found.append(of_version[str(row.version)])
    return found


def align(folder: Folder, ledger: pd.DataFrame) -> Alignment:
    """What of a folder is applied and what is not, and where the two disagree."""
    applied: dict[str, Any] = {str(row.version): row for row in ledger.itertuples()}
    of_version = {file.version: file for file in folder.files}
    newest = max(applied, default="")
    pending = [file for file in folder.files if file.version not in applied]
    unknown = [version for version in applied if version not in of_version]
    times = Counter(file.version for file in folder.files)
    return Alignment(
        pending=pending,
        unknown=unknown,
        late=[file.version for file in pending if file.version < newest],
        repeated=[version for version, count in times.items() if count > 1],
        mixed=[version for version in sorted({*of_version, *applied}) if len(version) != DIGITS],
        changed=[v for v, row in applied.items() if v in of_version and _differs(of_version[v], row.statements)],
        renamed=[
            (version, file.version)
            for version in unknown
            for file in pending
            if file.name and file.name == applied[version].name
        ],
        skipped=list(folder.skipped),
    )


def _differs(file: File, applied: Sequence[str]) -> bool:
    """Whether it was applied as something else. An empty row tells nothing."""
    return bool(applied) and not same(file, applied)


def _some(versions: Iterable[str]) -> str:
    found = sorted(versions)
    return (", ".join(found[:5]) + (" …" if len(found) > 5 else "") or "none") + "."
