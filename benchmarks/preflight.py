"""A preflight of a grown project: every file of a long branch, rehearsed, beside the same files in one psql.

350 files of 7,000 statements are tried on a copy of a schema of 80 tables and more; with and without seeing the locks,
again with nothing changed, and again with the last file changed. Then the whole runbook looks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import Row, Skipped, in_turns
from benchmarks.stage import living, watched
from opskit import environment
from opskit.database import Database
from opskit.sandbox import Sandbox
from opskit.services import connect, migrations, rehearsal, scratch
from opskit.services.statements import File

NAME = "preflight"
RUNBOOK = "supabase-migration-procedures"
OWNER = "postgres"
FILES = int(os.environ.get("OPSKIT_BENCH_FILES", "350"))
TABLES = 80
STATEMENTS = 20  # in each file
SLOWER = 2.0  # times, that seeing the locks may make a rehearsal


def measure(place: Path, rounds: int) -> list[Row]:
    with living("bench-preflight") as company:
        target, services = _prepared(company)
        folder = company.folder / "supabase" / "migrations"
        files = [file for file in migrations.opened(folder).files if file.version >= "2027"]
        if (count := sum(len(file.statements) for file in files)) != FILES * STATEMENTS:
            raise RuntimeError(f"{count} statements, not {FILES * STATEMENTS}")
        seen: dict[str, list[float]] = {}
        memory = {"psql": 0.0, "opskit": 0.0}

        def psql() -> float:
            seconds, memory["psql"] = _with_psql(services, files)
            return seconds

        found = in_turns(rounds, {
            "psql": psql,
            "rehearsal": lambda: _rehearsed(services, files),
            "rehearsal that sees no locks": lambda: _blind(services, files),
        })  # fmt: skip
        _rehearsed(services, files)
        seen["nothing changed"] = [_again(services, files, FILES) for _ in range(rounds)]
        seen["the last file changed"] = [_again(services, _with_another_end(files, n), 0) for n in range(rounds)]
        scratch.purge()
        given = ("--environment", target, "-p", "folder", str(folder))
        whole, peaks, _ = watched(RUNBOOK, *given)
        memory["opskit"] = peaks["kernel"]
    ratio = [a / b for a, b in zip(found["rehearsal"], found["rehearsal that sees no locks"], strict=True)]
    note = f"{FILES} files, {FILES * STATEMENTS} statements; the schema is copied in each case"
    return [
        Row(NAME, "psql", "s", found["psql"], note=note),
        *(Row(NAME, what, "s", found[what], rival="psql") for what in list(found)[1:]),
        Row(NAME, "seeing the locks", "times", ratio, limit=SLOWER, note="with, beside without, in the same round"),
        *(Row(NAME, f"rehearsal, {what}", "s", values, rival="psql") for what, values in seen.items()),
        Row(NAME, "the whole runbook", "s", [whole], rival="psql", note="hazards, offenders, access and all"),
        Row(NAME, "memory of psql", "MB", [memory["psql"]]),
        Row(NAME, "memory of the kernel", "MB", [memory["opskit"]], rival="memory of psql"),
    ]


def _prepared(company: Sandbox) -> tuple[str, Database]:
    """A target of many tables, and a folder of many pending files."""
    target = environment.load(company.name, Path(os.environ["OPSKIT_ROOT"]))
    secrets = {access: environment.resolve(target, access) for access in ("read", "change")}
    database = connect(target, secrets, "opskit/bench").database
    with database.session() as session:
        session.execute(f"set role {OWNER}")
        for n in range(TABLES):
            session.execute(
                f"create table t{n} (id uuid primary key, user_id uuid not null references user_profiles (id), "
                "title text not null, at timestamptz not null default now()); "
                f"create index on t{n} (user_id); alter table t{n} enable row level security; "
                f"create policy own on t{n} to authenticated using ((select auth.uid()) = user_id)"
            )
    for n in range(FILES):
        path = company.folder / "supabase" / "migrations" / f"2027{n:010}_step_{n}.sql"
        path.write_text("\n\n".join(_statements(n)) + "\n", encoding="utf-8")
    return company.name, database


def _statements(n: int) -> Iterator[str]:
    """Of one file: what branches are made of."""
    old, new = f"t{n % TABLES}", f"n{n}"
    yield "set lock_timeout = '2s';"
    yield f"create table {new} (id uuid primary key default gen_random_uuid(), user_id uuid not null, body text);"
    yield f"alter table {new} enable row level security;"
    yield f"create policy own_select on {new} for select to authenticated using ((select auth.uid()) = user_id);"
    yield f"create policy own_insert on {new} for insert to authenticated with check ((select auth.uid()) = user_id);"
    yield f"create index {new}_user on {new} (user_id);"
    yield f"alter table {new} add constraint {new}_old foreign key (id) references {old} (id);"
    yield f"create function f{n}() returns int language plpgsql as $$ begin perform 1; return {n}; end $$;"
    yield f"insert into {new} (id, user_id) select id, user_id from {old};"  # noqa: S608
    yield f"alter table {old} add constraint {old}_{n} check (title <> 'x{n}') not valid;"
    for number in range(5):
        yield f"alter table {old} add column c{n}_{number} text;"
        yield f"comment on column {old}.c{n}_{number} is 'What a user called it; step {n}';"


def _rehearsed(database: Database, files: list[File]) -> float:
    scratch.purge()
    begun = time.perf_counter()
    found = rehearsal.rehearse(database, OWNER, files, "target")
    seconds = time.perf_counter() - begun
    if found.earlier or len(found.failing) or found.locks.empty:
        raise RuntimeError(f"{found.earlier} known, {len(found.failing)} fail, {len(found.locks)} locks")
    return seconds


@contextmanager
def _without_locks() -> Iterator[None]:
    seeing, rehearsal.LOCKS = rehearsal.LOCKS, ""
    held, rehearsal.Stage._held = rehearsal.Stage._held, lambda *_: [["", 0, "", "", ""]]  # type: ignore[method-assign]
    try:
        yield
    finally:
        rehearsal.LOCKS, rehearsal.Stage._held = seeing, held  # type: ignore[method-assign]


def _blind(database: Database, files: list[File]) -> float:
    with _without_locks():
        return _rehearsed(database, files)


def _again(database: Database, files: list[File], known: int) -> float:
    begun = time.perf_counter()
    found = rehearsal.rehearse(database, OWNER, files, "target")
    if found.earlier < known:
        raise RuntimeError(f"only {found.earlier} files were known")
    return time.perf_counter() - begun


def _with_another_end(files: list[File], n: int) -> list[File]:
    last = files[-1]
    changed = last.path.with_name(f"{last.version}_end_{n}.sql")
    return [*files[:-1], File(changed, last.version, f"end_{n}", last.statements)]


def _with_psql(database: Database, files: list[File]) -> tuple[float, float]:
    """Seconds and megabytes of psql: the schema is copied, and then the files are applied, each in its transaction."""
    psql = shutil.which("psql") or str(scratch.installed()[0].folder / "psql")
    if not Path(psql).exists():
        raise Skipped("psql is missing.")
    with scratch.server(scratch.choose(18)) as server:
        with server.open("postgres").session() as session:
            for role in database.rows(rehearsal.ROLES):
                session.execute(rehearsal._role(role))
            session.execute(f"alter database postgres owner to {OWNER}")
        address = f"postgresql://{scratch.SUPERUSER}@/postgres?host={server.home}"
        begun = time.perf_counter()
        base = server.home / "base.sql"
        base.write_text(rehearsal.dump(database), encoding="utf-8")
        _psql([psql, address, "--quiet", "-f", str(rehearsal.STANDINS), "-f", str(base)])
        each = [word for file in files for word in ("-c", "begin", "-f", str(file.path), "-c", "commit")]
        stop = ["-v", "ON_ERROR_STOP=1"]
        peak = _psql([psql, address, "--quiet", *stop, "-c", f"reset all; set role {OWNER}", *each])
        return time.perf_counter() - begun, peak


def _psql(command: list[str]) -> float:
    """Its peak memory in MB. Raises where it fails."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"psql ended with {process.returncode}: {said.read()[-500:].decode()}")
    return used.ru_maxrss / 1000
