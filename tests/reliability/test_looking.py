"""Looking never touches: judged by the database's own log, the services' traffic, and the company before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import watching
import yaml
from support import Opskit, data, notebook

from opskit import environment, journal, provenance, record, sandbox
from opskit.commands.sandbox import written
from opskit.database import Database
from opskit.errors import Denied, Faulty, ServiceError
from opskit.sandbox import Sandbox
from opskit.services import providers

# Together they ask every service everything that the runbook can ask.
SAMPLE = ["endpoint-disabled-and-duplicate", "missing-profile", "ai-quota-exhausted", "autosave-rls-denial"]
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
EVERY = [
    pytest.param(name, twin, id=f"{name}{'-twin' * twin}", marks=[] if sampled else pytest.mark.deep)
    for name in sandbox.scenarios()
    if (NOTEBOOKS / f"{written(name)['runbook']}.ipynb").exists()  # a scenario may come before its runbook
    for twin in (False, True)
    for sampled in [name in SAMPLE and not twin]
    if not twin or written(name).get("twin")
]


def differences(firm: Sandbox, before: dict[str, Any]) -> list[dict[str, Any]]:
    """What has changed in the company, apart from the time of a row's last change.

    Where Stripe itself delivered something meanwhile, only what the scenario's own `touches` forbid counts.
    """
    found = firm.changes(before)
    delivered = [entry for entry in firm.traffic() if entry["agent"].startswith("Stripe/")]
    changes = found["stray"] if delivered else found["stray"] + found["allowed"]
    return [change for change in changes if set(change["fields"]) != {"updated_at"}]


def look(opskit: Opskit, firm: Sandbox, truth: dict[str, Any]) -> None:
    given = [word for name, value in truth["parameters"].items() for word in ("-p", name, value)]
    result = opskit("run", truth["runbook"], *given, "--environment", firm.name, "--json")
    assert result.exit_code in (0, 3, 6) or (result.exit_code == 4 and truth["causes"] == ["wrong-target"])
    assert record.verify(Path(data(result)["folder"])).wrong == ()


@pytest.mark.parametrize(("name", "twin"), EVERY)
def test_plan_mode_writes_nothing(name: str, twin: bool, opskit: Opskit, firm: Sandbox, reader: Database) -> None:
    may_do_anything = volatile(reader)  # asked beforehand: a scenario may hide it
    truth = firm.break_with(name, twin)
    down = firm.status()["database"] == "down"
    before = firm.state()
    if down:  # a log of statements would wake it
        look(opskit, firm, truth)
        statements = []
    else:
        with firm.statements() as log:
            look(opskit, firm, truth)
            statements = log()
        assert watching.asked(statements)
    traffic = firm.traffic()
    assert watching.changing(traffic) == []
    assert watching.writing(statements) == []
    assert {entry["user"] for entry in watching.asked(statements)} <= {"opskit_read"}
    assert all(entry["application"].startswith("opskit/") for entry in watching.asked(statements))
    assert differences(firm, before) == []
    assert watching.functions(statements) & may_do_anything == set()
    if name == SAMPLE[0] and not twin:
        asked = {entry["service"] for entry in watching.ours(traffic)}
        assert asked == set(watching.READS) - set(providers.READS) - {"supabase"}


def volatile(reader: Database) -> set[str]:
    """Functions that could do anything: a read-only transaction does not hold back every function."""
    return {row["proname"] for row in reader.rows("select distinct proname from pg_proc where provolatile = 'v'")}


@pytest.mark.parametrize(
    "sql",
    [
        ["begin read only", "update user_profiles set full_name = 'x'"],
        ["begin read only", "with gone as (delete from ai_usage returning 1) select * from gone"],
        ["begin read only", "select * from user_profiles for update"],
        ["begin read only", "select 1 into mine"],
        ["begin read only", "copy user_profiles to program 'cat'"],
        ["begin read only", "commit"],
        ["begin read only", "rollback", "select 1"],
        ["begin", "select 1"],
        ["select 1"],
    ],
    ids=lambda sql: sql[-1],
)
def test_the_judge_sees_a_write(sql: list[str]) -> None:
    entries = [{"user": "opskit_read", "session": 1, "application": "opskit/x", "sql": one} for one in sql]
    assert watching.writing(entries)
    assert [e["sql"] for e in watching.writing([{**e, "user": "authenticator"} for e in entries])] == []


def test_the_judge_sees_a_change_over_http() -> None:
    request = {"service": "stripe", "method": "POST", "path": "/v1/webhook_endpoints/we_1", "agent": "python-httpx"}
    assert watching.changing([request]) == [request]
    assert watching.changing([{**request, "method": "GET"}]) == []


# What a notebook might try, through the very door by which it reads.

ATTEMPTS = {
    "another transaction": "begin read write; update user_profiles set full_name = 'x'; commit",
    "ending it first": "commit; delete from ai_usage",
    "leaving it first": "rollback; delete from ai_usage",
    "a second statement": "select 1; delete from ai_usage",
    "read write": "set transaction read write",
    "read write by function": "select set_config('transaction_read_only', 'off', true)",
    "read write for the session": "set session characteristics as transaction read write; delete from ai_usage",
    "ending somebody's session": "select pg_terminate_backend(pid) from pg_stat_activity where usename <> current_user",
    "a program": "copy user_profiles to program 'cat'",
    "a program fed by a query": "copy (select 1) to program 'cat'",
    "a file": "copy (select 1) to '/tmp/opskit-was-here'",
    "locking rows": "select * from user_profiles for update",
    "deleting inside": "with gone as (delete from ai_usage returning 1) select count(*) from gone",
    "deleting by explaining": "explain analyze delete from ai_usage",
    "a block of code": "do $$ begin delete from ai_usage; end $$",
    "a sequence": "select nextval('pg_catalog.pg_statistic')",
    "a large object": "select lo_import('/etc/hostname')",
    "making a large object": "select lo_creat(-1)",
    "a temporary table": "create temporary table mine as select 1",
    "a setting of the server": "alter system set statement_timeout = 0",
    "a prepared transaction": "prepare transaction 'mine'",
    "somebody else": "set role opskit_change",
}
TRYING = """
from opskit.errors import OpskitError
for name, attempt in ATTEMPTS.items():
    try:
        run.database.read(attempt)
        taken = True
    except OpskitError:
        taken = False
    run.check(name, not taken, attempt)
still = run.database.read("select current_setting('transaction_read_only') as read_only")
run.check("read only afterwards", still.read_only[0] == "on", "Still?")
"""


def test_what_a_notebook_tries_is_refused(opskit: Opskit, firm: Sandbox, repository: Path) -> None:
    small = notebook(
        'from opskit import begin\nrun = begin("small")',
        f"ATTEMPTS = {ATTEMPTS!r}",
        TRYING,
        "run.apply()",
    )
    (repository / "notebooks" / "small.ipynb").write_text(json.dumps(small))
    firm.break_with("healthy")
    before = firm.state()
    result = opskit("run", "small", "--environment", firm.name, "--json")
    events = journal.read(Path(data(result)["folder"]) / record.JOURNAL)
    answers = {e["name"]: e["answer"] for e in events if e["event"] == "check"}
    assert [name for name, answer in answers.items() if answer != "yes"] == []
    assert set(answers) == {*ATTEMPTS, "read only afterwards"}
    assert differences(firm, before) == []


@pytest.fixture
def reader(standing: Sandbox) -> Iterator[Database]:
    """The notebooks' own read path."""
    found = connect(standing)
    yield found
    found.close()


def connect(firm: Sandbox) -> Database:
    target = environment.load(firm.name, provenance.find_root())
    password = environment.resolve(target, "read")["database"]
    return Database(target.services.database.address, {"read": "opskit_read"}, {"read": password}, "opskit/a-run")


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=list(ATTEMPTS))
def test_each_attempt_is_refused(attempt: str, reader: Database) -> None:
    with pytest.raises(ServiceError):
        reader.read(attempt)
    assert reader.rows("select current_setting('transaction_read_only') as ro") == [{"ro": "on"}]


def test_an_advisory_lock_can_be_taken_and_ends_with_the_session(reader: Database) -> None:
    """PostgreSQL counts no lock of this kind as a write. It changes nothing, and goes when the session goes."""
    held = "select count(*) as n from pg_locks where locktype = 'advisory'"
    reader.read("select pg_advisory_lock(1)")
    reader.close()
    assert reader.rows(held) == [{"n": 0}]


# What our way of reading keeps back even where the credential would allow it, and what only the role keeps back.

STILL_REFUSED = [
    "another transaction", "ending it first", "a second statement", "read write", "locking rows", "deleting inside",
    "deleting by explaining", "a block of code", "a large object", "making a large object", "a temporary table",
    "a setting of the server",
]  # fmt: skip
POSSIBLE = {
    "ending somebody's session": "select pg_terminate_backend(%(pid)s)",
    "a program": "copy (select 1) to program 'cat > /dev/null'",
    "a file that the server can write": "copy (select 1) to '/dev/null'",
    "reading the server's files": "select pg_read_file('postgresql.conf')",
    "the server's settings again": "select pg_reload_conf()",
}


@pytest.fixture
def superuser(firm: Sandbox, tmp_path: Path) -> Iterator[Database]:
    """What nobody should give: an environment that reads as a superuser."""
    path = tmp_path / "mistake.yaml"
    written = {"name": "mistake", "title": "A superuser reads", "runbook": "stripe-webhook-replay"}
    path.write_text(yaml.safe_dump({**written, "causes": ["healthy"], "sql": ["alter role opskit_read superuser"]}))
    firm.break_with(path)
    found = connect(firm)
    yield found
    found.close()


def test_a_superuser_still_writes_nothing_through_a_read(firm: Sandbox, superuser: Database) -> None:
    before = firm.state()
    for name in STILL_REFUSED:
        with pytest.raises(Faulty):
            superuser.read(ATTEMPTS[name])
    assert differences(firm, before) == []


@contextmanager
def attempt_on_somebody(name: str, firm: Sandbox) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """What to try, where it concerns somebody's session, and that session."""
    target = environment.load(firm.name, provenance.find_root())
    password = environment.resolve(target, "change")["database"]
    with psycopg.connect(target.services.database.address, user="opskit_change", password=password) as somebody:
        yield POSSIBLE[name].replace("%(pid)s", str(somebody.info.backend_pid)), somebody


@pytest.mark.parametrize("name", POSSIBLE)
def test_a_superuser_could_still_do_this(name: str, firm: Sandbox, superuser: Database) -> None:
    """No way of reading keeps a superuser back: the reading role must be a plain one, as `opskit describe` lists it."""
    with attempt_on_somebody(name, firm) as (attempt, _):
        superuser.read(attempt)


@pytest.mark.parametrize("name", POSSIBLE)
def test_and_the_plain_reading_role_cannot(name: str, standing: Sandbox, reader: Database) -> None:
    with attempt_on_somebody(name, standing) as (attempt, somebody):
        with pytest.raises(Denied):
            reader.read(attempt)
        somebody.execute("select 1")
