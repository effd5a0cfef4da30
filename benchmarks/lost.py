"""A million documents and ten million snapshots: the search for text that may be lost, beside the same SQL alone.

The search and its rival run in processes of their own on the same database, as the role that a plan-mode run has, with
the app's own indexes and no others, and within a run's statement timeout.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.measuring import Row, in_turns
from opskit.database import STATEMENT_TIMEOUT, Database
from opskit.sandbox.postgres import Postgres
from opskit.services.documents import MOST, SEARCH, Documents

NAME = "lost"
DOCUMENTS = int(os.environ.get("OPSKIT_BENCH_DOCUMENTS", "1000000"))
SNAPSHOTS = 10  # of each document
USERS = 10_000
LATELY = 100  # one document in so many was written in since
EMPTIED = 50  # of those, so many lost their text
MOST_MEMORY = 300.0  # MB
SINCE = timedelta(hours=24)

ROWS = (
    "set session_replication_role = replica",  # no trigger, no check of references: only the rows matter
    "insert into auth.users (id, email) select md5('u' || n)::uuid, n || '@example.com' from generate_series(1, {u}) n",
    """insert into user_profiles (id, email, subscription_tier)
       select md5('u' || n)::uuid, n || '@example.com', 'studio' from generate_series(1, {u}) n""",
    "insert into projects (id, user_id, title) select id, id, 'One' from user_profiles",
    """insert into documents (id, project_id, user_id, title, content, updated_at)
       select md5('d' || n)::uuid, md5('u' || n % {u} + 1)::uuid, md5('u' || n % {u} + 1)::uuid, 'Chapter',
              jsonb_build_object('html', case when n % {lately} = 0 and n / {lately} <= {emptied} then ''
                else repeat('<p>salt and tide</p>', 10 + {s}) end),
              now() - case when n % {lately} = 0 then interval '3 hours' else interval '40 days' end
       from generate_series(1, {d}) n""",
    """insert into document_snapshots (document_id, user_id, autosave_hash, payload, created_at)
       select md5('d' || n)::uuid, md5('u' || n % {u} + 1)::uuid, '', jsonb_build_object('html',
              repeat('<p>salt and tide</p>', 10 + s)),
              now() - case when n % {lately} = 0 then interval '4 hours' else interval '40 days' end
                - interval '1 minute' * ({s} - s)
       from generate_series(1, {d}) n, generate_series(1, {s}) s""",
)


def measure(place: Path, rounds: int) -> list[Row]:
    postgres = Postgres(place / "postgres")
    postgres.create()
    try:
        _fill(postgres)
        found = in_turns(
            rounds, {"search": lambda: _apart(postgres, "ours"), "same SQL": lambda: _apart(postgres, "bare")}
        )
    finally:
        postgres.stop()
    counts = {one["found"] for runs in found.values() for one in runs}
    if counts != {min(EMPTIED, DOCUMENTS // LATELY)}:
        raise RuntimeError(f"the search found {counts}, not {EMPTIED} documents")
    limit = float(STATEMENT_TIMEOUT.removesuffix("s"))
    note = f"{DOCUMENTS:,} documents, {DOCUMENTS * SNAPSHOTS:,} snapshots, {DOCUMENTS // LATELY:,} written in since"
    ours, bare = found["search"], found["same SQL"]
    return [
        Row(NAME, "same SQL, bare client", "s", [one["seconds"] for one in bare]),
        Row(NAME, "the search", "s", [one["seconds"] for one in ours], "same SQL, bare client", limit, note),
        Row(NAME, "peak memory", "MB", [one["memory"] for one in ours], limit=MOST_MEMORY),
    ]


def _fill(postgres: Postgres) -> None:
    sizes = {"u": USERS, "d": DOCUMENTS, "s": SNAPSHOTS, "lately": LATELY, "emptied": EMPTIED}
    with postgres.connect() as connection:
        for sql in ROWS:
            connection.execute(sql.format(**sizes).encode())
        connection.execute("vacuum analyze")  # as a living database has been


def _apart(postgres: Postgres, who: str) -> dict[str, Any]:
    """Run one of the two in a process of its own; answers its seconds, its peak memory and what it found."""
    told = json.dumps([who, postgres.port, postgres.passwords["opskit_read"]])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.lost"], input=told, capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _search(who: str, port: int, password: str) -> dict[str, Any]:
    address, since = f"postgresql://127.0.0.1:{port}/postgres", datetime.now(UTC) - SINCE
    if who == "ours":
        database = Database(address, {"read": "opskit_read"}, {"read": password}, NAME)
        begun = time.perf_counter()
        found = len(Documents(database).at_risk(since))
    else:
        with psycopg.connect(address, user="opskit_read", password=password) as connection:
            begun = time.perf_counter()
            found = len(connection.execute(SEARCH.encode(), {"since": since, "most": MOST}).fetchall())
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "found": found}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_search(*json.loads(sys.stdin.read()))))
