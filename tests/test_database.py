"""The database: looking never touches, and rows that are hidden are no rows that are missing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from opskit import environment, provenance
from opskit.database import Database
from opskit.errors import CannotTell, Denied, Faulty, Refused, ServiceError, Unreachable
from opskit.sandbox import Sandbox


def connect(name: str, *accesses: str, **users: str) -> Database:
    target = environment.load(name, provenance.find_root())
    known = {"read": "opskit_read", "change": "opskit_change", **users}
    passwords = {a: environment.resolve(target, a)["database"] for a in accesses}  # type: ignore[arg-type]
    return Database(target.services.database.address, known, passwords, "opskit/test-run")


@pytest.fixture
def database(standing: Sandbox) -> Iterator[Database]:
    found = connect(standing.name, "read")
    yield found
    found.close()


@pytest.fixture
def both(standing: Sandbox) -> Iterator[Database]:
    found = connect(standing.name, "read", "change")
    yield found
    found.close()


@pytest.fixture
def strong(standing: Sandbox) -> Iterator[Database]:
    """The worst case: an environment whose reading credential could change things."""
    found = connect(standing.name, "change", read="opskit_change")
    found._passwords = {"read": found._passwords["change"]}
    yield found
    found.close()


def users(database: Database) -> int:
    return int(database.rows("select count(*) as n from user_profiles")[0]["n"])


def test_where_there_is_no_first_row_nothing_can_be_told(database: Database) -> None:
    assert database.first("select 1 as one, 2 as two").two == 2
    with pytest.raises(CannotTell, match="no such row"):
        database.first("select 1 where false")


def test_a_read_answers_a_table_with_its_columns(database: Database) -> None:
    found = database.read("select tier, max_projects from subscription_tier_limits where tier = %(tier)s", tier="free")
    assert list(found.columns) == ["tier", "max_projects"]
    assert found.to_dict("records") == [{"tier": "free", "max_projects": 3}]


def test_an_empty_answer_still_has_its_columns(database: Database) -> None:
    found = database.read("select id, email from user_profiles where false")
    assert (len(found), list(found.columns)) == (0, ["id", "email"])


def test_columns_of_the_same_name_do_not_swallow_each_other_silently(database: Database) -> None:
    try:
        found = database.read("select 1 as a, 2 as a")
    except (ValueError, ServiceError):
        return
    assert found.shape == (1, 2)


def test_values_are_values_and_never_sql(database: Database) -> None:
    nasty = "'; delete from user_profiles; --"
    assert database.rows("select %(x)s::text as x", x=nasty) == [{"x": nasty}]
    assert database.rows("select 1 from user_profiles where id::text = any(%(ids)s)", ids=[nasty]) == []


def test_percent_signs_need_no_escaping_without_values(database: Database) -> None:
    assert database.rows("select 'a' like '%' as yes") == [{"yes": True}]


COUNTS = "select (select count(*) from user_profiles) as users, (select count(*) from ai_usage) as used"
TALKED_OUT_OF_IT = [
    "delete from user_profiles",
    "update user_profiles set subscription_tier = 'studio'",
    "insert into subscription_tier_limits (tier) values ('x')",
    "truncate user_profiles cascade",
    "drop table ai_usage",
    "create table mine (a int)",
    "begin read write; delete from ai_usage; commit",
    "commit; delete from ai_usage",
    "rollback; delete from ai_usage",
    "select 1; delete from ai_usage",
    "set transaction read write",
    "set transaction read write; delete from ai_usage",
    "select set_config('transaction_read_only', 'off', true)",
    "with gone as (delete from ai_usage returning 1) select count(*) from gone",
    "explain analyze delete from ai_usage",
    "do $$ begin delete from ai_usage; end $$",
    "select * from user_profiles for update",
    "select nextval('pg_catalog.pg_statistic')",
    "copy user_profiles to program 'true'",
    "copy (select 1) to program 'true'",
    "copy (select 1) to '/tmp/opskit-was-here'",
    "copy user_profiles from program 'true'",
    "alter role opskit_read superuser",
    "alter system set statement_timeout = 0",
    "select pg_reload_conf()",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "vacuum",
    "lock table user_profiles",
    "set role postgres",
    "set session authorization postgres",
    "call nothing()",
]


@pytest.mark.parametrize("sql", TALKED_OUT_OF_IT)
def test_a_read_cannot_be_talked_into_a_change(database: Database, sql: str) -> None:
    before = database.rows(COUNTS)
    with pytest.raises(ServiceError):
        database.read(sql)
    assert database.rows(COUNTS) == before


@pytest.mark.parametrize(
    "sql",
    [
        "update user_profiles set full_name = 'x'",
        "begin read write; update user_profiles set full_name = 'x'; commit",
        "commit; update user_profiles set full_name = 'x'",
        "set transaction read write; update user_profiles set full_name = 'x'",
        "with x as (update user_profiles set full_name = 'x' returning 1) select * from x",
    ],
)
def test_nor_where_the_reading_credential_could_change_things(strong: Database, sql: str) -> None:
    with pytest.raises(Faulty):
        strong.read(sql)
    assert strong.rows("select count(*) as n from user_profiles where full_name = 'x'") == [{"n": 0}]


@pytest.mark.parametrize(
    "first",
    ["commit", "rollback", "set session characteristics as transaction read write",
     "select set_config('default_transaction_read_only', 'off', false)", "set statement_timeout = 0"],
)  # fmt: skip
def test_one_read_does_not_open_the_door_for_the_next(strong: Database, first: str) -> None:
    with suppress(ServiceError):
        strong.read(first)
    with pytest.raises(Faulty, match="read-only"):
        strong.read("update user_profiles set full_name = 'x'")
    assert strong.rows("select current_setting('statement_timeout') as t") == [{"t": "30s"}]


def test_others_sessions_cannot_be_ended_through_a_read(database: Database, both: Database) -> None:
    with both.transaction() as cursor:
        cursor.execute("select pg_backend_pid() as pid")
        row = cursor.fetchone()
        assert row is not None
        with pytest.raises(Denied):
            database.read("select pg_terminate_backend(%(pid)s)", pid=row["pid"])
        cursor.execute("select 1")


def test_hidden_rows_are_denied_and_not_missing(firm: Sandbox, database: Database) -> None:
    firm.break_with("rls-filtered")
    with pytest.raises(Denied, match="rows are hidden from this role by row-level security"):
        users(database)


def test_a_missing_right_is_denied(database: Database) -> None:
    with pytest.raises(Denied, match="permission denied"):
        database.read("select * from pg_authid")


@pytest.mark.parametrize("sql", ["select nothing from user_profiles", "selec 1", "select 1/0", "select * from gone"])
def test_a_query_that_fails_is_faulty_and_the_next_one_works(database: Database, sql: str) -> None:
    with pytest.raises(Faulty, match="SQLSTATE"):
        database.read(sql)
    assert users(database) > 0


def test_every_session_says_who_it_is_and_has_its_limits(database: Database) -> None:
    settings = ("application_name", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
                "row_security", "transaction_read_only")  # fmt: skip
    found = database.rows(
        "select name, current_setting(name) as value from unnest(%(names)s::text[]) as name", names=list(settings)
    )
    assert {row["name"]: row["value"] for row in found} == {
        "application_name": "opskit/test-run",
        "statement_timeout": "30s",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "1min",
        "row_security": "off",
        "transaction_read_only": "on",
    }


def test_reading_leaves_no_transaction_open_and_takes_one_connection(database: Database) -> None:
    for _ in range(3):
        users(database)
    found = database.rows(
        "select state, pid = pg_backend_pid() as me from pg_stat_activity where application_name = 'opskit/test-run'"
    )
    assert [row["me"] for row in found] == [True]
    connection = database._open["read"]
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


# Changing.


def test_without_the_credential_nothing_can_be_changed(database: Database) -> None:
    with pytest.raises(Refused, match="holds no credential for changing"), database.transaction():
        pass


@pytest.mark.usefixtures("firm")
def test_a_transaction_changes_and_a_failed_one_does_not(both: Database) -> None:
    def named() -> int:
        return int(both.rows("select count(*) as n from user_profiles where full_name = 'x'")[0]["n"])

    one = "(select id from user_profiles order by id limit 1)"
    with both.transaction() as cursor:
        cursor.execute(f"update user_profiles set full_name = 'x' where id = {one}")
    assert named() == 1
    with pytest.raises(Refused), both.transaction() as cursor:
        cursor.execute("update user_profiles set full_name = 'x'")
        raise Refused("changed since")
    assert named() == 1


def test_a_change_beyond_the_right_is_denied(both: Database) -> None:
    with pytest.raises(Denied), both.transaction() as cursor:
        cursor.execute("delete from user_profiles")


# When it is not there.


def test_a_database_that_goes_away_is_unreachable_and_found_again(firm: Sandbox, database: Database) -> None:
    assert users(database) > 0
    firm.break_with("postgres-down")
    for _ in range(2):
        with pytest.raises(Unreachable):
            users(database)
    firm.heal()
    assert users(database) > 0


def test_a_server_that_is_stuck_is_given_up_and_asked_anew(
    firm: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opskit.database.SILENCE", 0.5)
    assert users(database) > 0
    assert firm.freeze_sessions("opskit/test-run") == 1
    began = time.monotonic()
    assert users(database) > 0
    assert 0.4 < time.monotonic() - began < 5


def test_a_change_that_gets_stuck_is_given_up(firm: Sandbox, both: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opskit.database.SILENCE", 0.5)
    with pytest.raises(Unreachable), both.transaction() as cursor:
        firm.freeze_sessions("opskit/test-run")
        cursor.execute("update user_profiles set full_name = 'x'")
    firm.lift()
    assert both.rows("select count(*) as n from user_profiles where full_name = 'x'") == [{"n": 0}]


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://127.0.0.1:1/postgres",
        "postgresql://no-such-host.invalid/postgres",
        "postgresql://127.0.0.1:99999/postgres",
        "not an address",
        "",
    ],
)
def test_a_wrong_address_cannot_tell(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(ServiceError):
        Database(address, {"read": "me"}, {"read": "password"}, "x").read("select 1")


def test_a_wrong_password_cannot_tell_and_is_not_shown(database: Database) -> None:
    wrong = Database(database._address, {"read": "opskit_read"}, {"read": "wrong-password-1"}, "x")
    with pytest.raises(ServiceError) as caught:
        wrong.read("select 1")
    assert "wrong-password-1" not in str(caught.value)


def test_without_any_credential_it_cannot_tell() -> None:
    with pytest.raises(CannotTell, match="no credential to read with"):
        Database("postgresql://127.0.0.1:1/x", {}, {}, "x").read("select 1")
