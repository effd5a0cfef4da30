"""The scenarios of migrations, and what a right repair of each is, for all who try them."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import yaml

from opskit import sandbox
from opskit.sandbox import Sandbox, migrations, scenario

RUNBOOK = "supabase-migration-procedures"
WAITING = {path.stem: str(path) for path in sorted((Path(__file__).parent / "waiting").glob("*.yaml"))}
SHIPPED = {name: name for name in sandbox.scenarios() if scenario.load(name).runbook == RUNBOOK}
FOUND = {**WAITING, **SHIPPED}  # name -> what it is loaded by
NAMES = sorted(FOUND)
SLUGS = "20251103090000"
FINISH = "alter table documents add column tagged_at timestamptz"
REPAIRS = {  # what a tool does, as the owner of the tables, after people have done their part
    "migrations-lock-timeout": ["push"],
    "migrations-healthy": ["push"],
    "migrations-open-on-purpose": ["push"],
    "migrations-constraint-against-data": ["push"],
    "migrations-history-and-constraint": ["push"],
    "migrations-partial-apply": [FINISH, "enter"],
    "migrations-history-mismatch": [
        "update supabase_migrations.schema_migrations set version = '20251105140000' where version = '20251103090000'"
    ],
    "migrations-invalid-index": [
        "drop index concurrently documents_recent",
        "create index concurrently documents_recent on documents (user_id, updated_at desc)",
        "drop index concurrently documents_user_ccnew",
    ],
    "migrations-long-backfill": ["update documents set slug = left(md5(id::text), 12) where slug is null"],
    "migrations-rollback-that-destroys": [
        "create schema opskit_kept",
        "create table opskit_kept.v20251103090000_document_snapshots_summary as "
        "select id, summary from document_snapshots where summary is not null",
        "alter table document_snapshots rename column body to payload",
        "alter table document_snapshots drop column summary",
        "delete from supabase_migrations.schema_migrations where version = '20251103090000'",
    ],
    "migrations-rollback-needed": [
        "alter table document_snapshots rename column body to payload",
        "delete from supabase_migrations.schema_migrations where version = '20251103090000'",
    ],
}
ENDS = {"migrations-lock-timeout": "nightly-export", "migrations-long-backfill": "backfill-slugs"}


def connect(company: Sandbox) -> psycopg.Connection[Any]:
    place = yaml.safe_load(company.environment.read_text())["services"]["database"]
    command = shlex.split(place["change"]["secret"]["command"])
    password = subprocess.check_output(command, text=True)
    return psycopg.connect(place["address"], user=place["change"]["user"], password=password, autocommit=True)


def repair(company: Sandbox, name: str) -> None:
    company.by_hand()
    if name in ENDS:
        company.cut_sessions(ENDS[name])
    for step in REPAIRS.get(name, []):
        with closing(connect(company)) as connection:
            connection.execute(f"set role {migrations.OWNER}")
            if step == "push":
                migrations.push(connection, migrations.read(company.folder))
            elif step == "enter":
                connection.execute(migrations.ENTER, [SLUGS, "document_tags", [FINISH]])
            else:
                connection.execute(step.encode())
