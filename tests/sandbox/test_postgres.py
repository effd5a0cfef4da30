"""The database: who may do what, how it starts, stops, forgets, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import CheckViolation, InsufficientPrivilege, QueryCanceled

from opskit.sandbox import postgres
from opskit.sandbox.postgres import Postgres, clean

OWNER, STRANGER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    folder = tmp_path_factory.mktemp("cluster") / "postgres"
    found = Postgres(folder)
    found.create()
    with found.connect() as connection:
        for user in (OWNER, STRANGER):
            connection.execute("insert into auth.users (id, email) values (%s, %s)", (user, f"{user[0]}@example.com"))
        connection.execute("insert into projects (user_id, title) values (%s, 'Book')", (OWNER,))
        connection.execute(
            "insert into documents (project_id, user_id, title, content) select id, user_id, 'One', %s from projects",
            (json.dumps({"html": "<p>a</p>"}),),
        )
    found.keep("kept")
    yield found
    found.stop()
    clean(folder)


@pytest.fixture
def database(cluster: Postgres) -> Iterator[Postgres]:
    cluster.start()
    yield cluster
    cluster.start()
    cluster.restore("kept")


def as_user(database: Postgres, user: str | None, query: str) -> int:
    """How many rows a statement sees or changes for a user of the app; None is a visitor."""
    role = "authenticated" if user else "anon"
    with psycopg.connect(database.dsn("authenticator")) as connection:
        connection.execute(f"set local role {role}")
        connection.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps({"sub": user}),))
        return connection.execute(query).rowcount


def test_a_new_user_gets_a_profile(database: Postgres) -> None:
    with database.connect() as connection:
        profiles = connection.execute("select id::text, subscription_tier from user_profiles order by 1").fetchall()
    assert profiles == [(OWNER, "free"), (STRANGER, "free")]


@pytest.mark.parametrize(("user", "rows"), [(OWNER, 1), (STRANGER, 0), (None, 0)])
def test_row_level_security(database: Postgres, user: str | None, rows: int) -> None:
    assert as_user(database, user, "select * from documents") == rows
    assert as_user(database, user, "update documents set title = title") == rows


def test_opskit_read_sees_everything_and_changes_nothing(database: Postgres) -> None:
    with psycopg.connect(database.dsn("opskit_read"), autocommit=True) as connection:
        assert connection.execute("select * from documents").rowcount == 1
        assert connection.execute("select * from auth.users").rowcount == 2
        assert connection.execute("select version from supabase_migrations.schema_migrations").rowcount > 0
        for statement in (
            "update user_profiles set subscription_tier = 'studio'",
            "delete from documents",
            "insert into ai_requests (user_id, selected_model) select id, 'm' from user_profiles",
            "create table mine (id int)",
        ):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement.encode())


def test_opskit_change_changes_profiles_only(database: Postgres) -> None:
    with psycopg.connect(database.dsn("opskit_change"), autocommit=True) as connection:
        assert connection.execute("update user_profiles set subscription_tier = 'studio'").rowcount == 2
        with pytest.raises(InsufficientPrivilege):
            connection.execute("delete from user_profiles")
        with pytest.raises(InsufficientPrivilege):
            connection.execute("update documents set title = 'x'")


def test_a_wrong_password_is_refused(database: Postgres) -> None:
    dsn = database.dsn("opskit_read").replace(database.passwords["opskit_read"], "guess")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(dsn)


def test_statement_timeouts(database: Postgres) -> None:
    with psycopg.connect(database.dsn("authenticator")) as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("8s",)
        connection.execute("set statement_timeout = '50ms'")
        with pytest.raises(QueryCanceled):
            connection.execute("select pg_sleep(5)")


def test_tiers_are_checked(database: Postgres) -> None:
    with database.connect() as connection, pytest.raises(CheckViolation):
        connection.execute("update user_profiles set subscription_tier = 'premium'")


def test_a_save_makes_a_version_with_the_new_body_at_the_moment_played(database: Postgres) -> None:
    with database.connect() as connection:
        connection.execute("select set_config('sandbox.now', '2026-01-02T03:04:05Z', false)")
        connection.execute("update documents set content = %s", (json.dumps({"html": "<p>b</p>"}),))
        connection.execute("update documents set title = 'Two'")
        versions = connection.execute(
            "select version_number, content ->> 'html', created_at::text from document_versions"
        ).fetchall()
        assert versions == [(1, "<p>b</p>", "2026-01-02 03:04:05+00")]
        assert connection.execute("select updated_at::text from documents").fetchone() == ("2026-01-02 03:04:05+00",)


def test_the_free_tier_holds_twenty_documents(database: Postgres) -> None:
    insert = "insert into documents (project_id, user_id, title) select id, user_id, 'More' from projects"
    with database.connect() as connection:
        for _ in range(19):
            connection.execute(insert)
        with pytest.raises(CheckViolation, match="Plan free allows 20 documents"):
            connection.execute(insert)


def test_restore_brings_back_what_was_kept_and_ends_every_session(database: Postgres) -> None:
    with psycopg.connect(database.dsn("opskit_read")) as held:
        held.execute("select 1")
        with database.session() as connection:
            connection.execute("delete from documents")
        database.restore("kept")
        with pytest.raises(psycopg.OperationalError):
            held.execute("select 1")
    with database.session() as connection:
        assert connection.execute("select count(*) from documents").fetchone() == (1,)


def test_stop_and_start_keep_the_address_and_the_data(database: Postgres) -> None:
    dsn = database.dsn()
    database.stop()
    database.stop()
    assert not database.running
    with pytest.raises(psycopg.OperationalError):
        database.connect()
    database.start()
    database.start()
    assert database.dsn() == dsn
    with database.connect() as connection:
        assert connection.execute("select count(*) from documents").fetchone() == (1,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_as_root_without_user_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the server runs as nobody, on copies that nobody can read."""
    monkeypatch.setattr(postgres, "_namespaces", lambda: False)
    database = Postgres(tmp_path / "closed" / "postgres")
    try:
        database.create()
        with database.connect() as connection:
            assert connection.execute("select count(*) from subscription_tier_limits").fetchone() == (4,)
    finally:
        database.stop()
        clean(tmp_path / "closed" / "postgres")
    assert not database.home.exists()


def test_clean_ends_a_server_whose_owner_died(tmp_path: Path) -> None:
    database = Postgres(tmp_path / "postgres")
    database.create()
    pid = int((database.data / "postmaster.pid").read_text().split()[0])
    clean(tmp_path / "postgres")
    assert not database.running
    assert not (tmp_path / "postgres").exists()
    shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    assert str(database.data) not in shown
    clean(tmp_path / "postgres")
