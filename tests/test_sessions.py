"""Whose session others wait for: it is told, stopped where it may be, and shown without what people wrote."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from losing import by_hand, done

from opskit.actions import Result, carry_out
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, sessions


@pytest.mark.parametrize(("scenario", "verb"), [("autosave-lock", "terminate"), ("autosave-lock-running", "cancel")])
def test_who_blocks_others_is_found_and_stopped(
    firm: Sandbox, services: Services, tmp_path: Path, scenario: str, verb: str
) -> None:
    told = firm.break_with(scenario)
    (head,) = services.sessions.blockers().itertuples()
    assert head.waiting == len(told["actors"]["waiting"])
    assert not head.spared
    action = getattr(services.sessions, verb)(head)
    assert f"({head.role}, {head.application}, open for " in action.title
    assert head.query[:30] in action.title
    another = getattr(services.sessions, verb)(head._replace(backend_start="2026-01-01 00:00:00+00"))
    assert not services.database.rows(looked(by_hand(another, tmp_path)))
    assert len(services.database.rows(looked(by_hand(action, tmp_path)))) == 1
    assert done(services, Journal(tmp_path / "another.jsonl"), another) == [Result.ALREADY]  # a pid that is used again
    assert len(services.sessions.blockers()) == 1
    assert done(services, Journal(tmp_path / "journal.jsonl"), action) == [Result.DONE]
    assert services.sessions.blockers().empty
    assert not services.database.rows(looked(by_hand(action, tmp_path)))  # nobody waits for it any more


def looked(statement: str) -> str:
    """Which sessions a statement by hand would end, without ending any."""
    return re.sub(r"pg_\w+_backend\(pid\)", "pid", statement)


def test_a_migration_is_not_ended_by_hand_either(firm: Sandbox, services: Services, tmp_path: Path) -> None:
    firm.break_with("autosave-lock")
    (head,) = services.sessions.blockers().itertuples()
    statement = looked(by_hand(services.sessions.terminate(head), tmp_path))
    for query, found in (("alter table documents", 0), ("select 1 from schema_migrations", 0), ("select altered", 1)):
        as_if = statement.replace("query !~", f"'{query}' !~")
        assert len(services.database.rows(as_if)) == found


def test_a_moments_wait_and_a_queue_of_the_apps_own_are_no_trouble(firm: Sandbox, services: Services) -> None:
    with closing(session(firm)) as first, closing(session(firm)) as second:
        first.execute("select pg_advisory_lock(4711)")
        second.pgconn.send_query(b"select pg_advisory_lock(4711)")
        time.sleep(0.3)
        assert services.sessions.blockers().empty
    with closing(session(firm)) as first, closing(session(firm)) as second:
        first.execute(PRIVATE)
        second.pgconn.send_query(PRIVATE)
        release = threading.Timer(1, first.rollback)
        release.start()
        assert services.sessions.blockers().empty
        release.join()


def session(firm: Sandbox) -> psycopg.Connection[Any]:
    """Somebody else's session, with the rights to change accounts."""
    place = yaml.safe_load(firm.environment.read_text())["services"]["database"]
    held = place["change"]
    word = subprocess.check_output(shlex.split(held["secret"]["command"]), text=True)
    return psycopg.connect(place["address"], user=held["user"], password=word)


@pytest.fixture
def blocker(firm: Sandbox, services: Services) -> Iterator[psycopg.Connection[Any]]:
    """A session that wrote somebody's words and went to lunch; another one waits behind it."""
    with session(firm) as first, session(firm) as second:
        first.execute(PRIVATE)
        second.pgconn.send_query(PRIVATE)
        for _ in range(100):
            if len(services.sessions.blockers()):
                break
            time.sleep(0.05)
        yield first
        for one in (first, second):
            one.close()


PRIVATE = b"""update user_profiles set stripe_customer_id = 'Marta confessed, ana.bell@example.com'
              where id = (select min(id::text)::uuid from user_profiles) -- Marta"""


def test_a_session_that_became_a_migration_since_the_plan_is_spared(
    services: Services, blocker: psycopg.Connection[Any], tmp_path: Path
) -> None:
    (head,) = services.sessions.blockers().itertuples()
    assert "Marta" not in head.query
    assert "update user_profiles set stripe_customer_id = ?" in head.query
    assert not head.spared
    action = services.sessions.terminate(head)
    assert "Marta" not in str(action.data())
    blocker.execute("set application_name = 'nightly-migrations'")  # it only moves data, and says who it is
    assert services.sessions.blockers().spared.tolist() == ["a migration"]
    assert not services.database.rows(looked(by_hand(action, tmp_path)))
    blocker.execute("set application_name = ''")
    assert services.sessions.blockers().spared.tolist() == [""]
    blocker.execute("create temporary table moved (id int)")
    blocker.execute("select 1")
    ((_, result, why),) = carry_out([action], services, Journal(tmp_path / "journal.jsonl"))
    assert result is Result.STALE
    assert "is the holder of a whole table by now" in why
    assert blocker.execute("select 1").fetchone() == (1,)
    (head,) = services.sessions.blockers().itertuples()
    assert head.spared == "the holder of a whole table"
    blocker.execute("select 'alter table user_profiles'")
    assert services.sessions.blockers().spared.tolist() == ["a migration"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ('update d set content = \'{"a": "Marta"}\' where n = 5.2', "update d set content = ? where n = ?"),
        ("select E'Mar\\'ta', $$Marta$$, $x$Marta$x$, U&'Marta', x'1f'", "select ?, ?, ?, ?, ?"),
        ('select a, -- Marta\n b /* Marta */ from "Doc" where id = $1', 'select a, b from "Doc" where id = $1'),
        ("update d set title = 'né', content = 'Marta confessed and was cut o", "update d set title = ?, content =…"),
        ("update d set content = $x$Marta $$ cut o", "update d set content =…"),
        ("select 1 /* Marta", "select ?…"),
        ("select 5marta", "select…"),
        ("", ""),
    ],
)
def test_a_query_is_shown_without_what_people_wrote(query: str, shown: str) -> None:
    assert sessions.without_values(query) == shown


def test_a_long_query_is_shown_in_part() -> None:
    assert len(sessions.without_values(f"select {'a, ' * 500} 'Marta'")) == sessions.SHOWN
