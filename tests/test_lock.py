"""One change at a time: who holds an environment is named; the lock is gone with its process, and its loss is seen."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from pooler import behind, pooler
from support import TWO, Opskit, data, events, everything, held, keep

from opskit import database as databases
from opskit import lock
from opskit.database import Database
from opskit.errors import Refused
from opskit.sandbox import Sandbox


@pytest.fixture
def database(standing: Sandbox) -> Iterator[Database]:
    _, services = everything(standing.name)
    yield services.database
    services.database.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The outputs of another machine: its file lock is not ours."""
    return tmp_path / "elsewhere"


HOLDING = f"""
import sys, time
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from support import everything
from opskit.lock import alone
with alone(sys.argv[1], everything(sys.argv[1])[1].database, Path(sys.argv[2]), "apply"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(name: str, outputs: Path, **surroundings: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds an environment."""
    command = [sys.executable, "-c", HOLDING, name, str(outputs)]
    with subprocess.Popen(command, env={**os.environ, **surroundings}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_loser_is_told_who_holds_it_and_since_when(
    standing: Sandbox, database: Database, outputs: Path, elsewhere: Path
) -> None:
    said = rf"is being changed: opskit apply bo@{socket.gethostname()}, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    with holder(standing.name, elsewhere, OPSKIT_OPERATOR="bo"):
        for place in (outputs, elsewhere):  # on another machine the database tells, on the same one the file
            with pytest.raises(Refused, match=said), lock.alone(standing.name, database, place, "undo"):
                pass
    with lock.alone(standing.name, database, outputs, "undo") as found:
        assert database.holds_lock(found["backend"])
    assert not database.holds_lock(found["backend"])


def test_it_is_gone_with_its_process(standing: Sandbox, database: Database, outputs: Path) -> None:
    with holder(standing.name, outputs) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        deadline = time.monotonic() + 10
        while True:
            try:
                with lock.alone(standing.name, database, outputs, "apply"):
                    return
            except Refused:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_it_is_gone_with_its_connection(standing: Sandbox, database: Database, outputs: Path, elsewhere: Path) -> None:
    with lock.alone(standing.name, database, outputs, "apply") as found:
        assert standing.cut_sessions("opskit apply ana@%") == 1
        assert not database.holds_lock(found["backend"])
        with lock.alone(standing.name, everything(standing.name)[1].database, elsewhere, "apply") as other:
            assert not database.holds_lock(found["backend"])
            assert database.holds_lock(other["backend"])


def test_reading_needs_no_lock_and_holding_it_hinders_nobody(
    standing: Sandbox, database: Database, outputs: Path, opskit: Opskit, repository: Path
) -> None:
    keep(repository, *TWO)
    with lock.alone(standing.name, database, outputs, "apply"):
        with database.transaction() as cursor:
            cursor.execute("update user_profiles set updated_at = updated_at where false")
        assert opskit("run", "small", "--environment", standing.name).exit_code in (0, 6)


def test_idling_for_long_does_not_lose_it(
    standing: Sandbox, outputs: Path, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    limits = "-c idle_in_transaction_session_timeout=300 -c transaction_timeout=300"
    monkeypatch.setenv("PGOPTIONS", limits)  # as a role or a server may be set to
    with lock.alone(standing.name, everything(standing.name)[1].database, outputs, "apply") as found:
        time.sleep(1)
        monkeypatch.delenv("PGOPTIONS")
        assert database.holds_lock(found["backend"])


def test_a_holder_that_has_ended_meanwhile_is_not_named(database: Database) -> None:
    connection = database._connect("change")
    assert databases._holder(connection) == "by somebody who has ended just now"
    connection.close()


def test_no_snapshot_is_kept_that_would_hinder_vacuum(standing: Sandbox, database: Database, outputs: Path) -> None:
    with lock.alone(standing.name, database, outputs, "apply") as found:
        query = "select state, backend_xmin, backend_xid from pg_stat_activity where pid = %(pid)s"
        with database.transaction() as cursor:
            cursor.execute(query, {"pid": found["backend"]})
            assert cursor.fetchone() == {"state": "idle in transaction", "backend_xmin": None, "backend_xid": None}


def test_an_environment_whose_database_is_down_cannot_be_locked(firm: Sandbox, outputs: Path) -> None:
    _, services = everything(firm.name)
    firm.misbehave(service="database", down=True)
    said = rf"{firm.name} cannot be locked, so nothing was changed\. database: .*--no-lock REASON"
    with pytest.raises(Refused, match=said), lock.alone(firm.name, services.database, outputs, "apply"):
        pass
    with lock.alone(firm.name, services.database, outputs, "apply", "it burns") as found:
        assert found["without"] == "it burns"
        assert found["because"].startswith("database: ")
        with pytest.raises(Refused, match="is being changed: opskit apply ana@"), held(firm, outputs):
            pass  # on this machine one is still alone


def test_a_run_without_a_credential_for_changing_cannot_lock(standing: Sandbox, outputs: Path) -> None:
    _, services = everything(standing.name)
    services.database._passwords = {"read": services.database._passwords["read"]}
    with pytest.raises(Refused, match="no credential for changing"):
        lock.alone(standing.name, services.database, outputs, "apply").__enter__()


# Through a pooler that hands a connection to the next one after each transaction.


@pytest.fixture
def pooled(standing: Sandbox, repository: Path) -> Iterator[str]:
    """The sandbox's environment as it is reached through pgbouncer."""
    with pooler(standing, "transaction") as port:
        path = repository / "parameters" / "environments" / "pooled.yaml"
        path.write_text(yaml.safe_dump(behind(standing, port)))
        yield "pooled"


def test_it_is_held_through_a_transaction_mode_pooler(
    standing: Sandbox, pooled: str, outputs: Path, elsewhere: Path
) -> None:
    (_, through), (_, direct) = everything(pooled), everything(standing.name)
    with lock.alone(pooled, through.database, outputs, "apply") as found:
        for _ in range(20):  # while others use the pool
            assert through.database.holds_lock(found["backend"])
            assert direct.database.holds_lock(found["backend"])
            with through.database.transaction() as cursor:
                cursor.execute("select 1")
        for services in (through, direct):
            with (
                pytest.raises(Refused, match=r"is being changed: opskit apply ana@.*, since "),
                lock.alone(standing.name, services.database, elsewhere, "apply"),
            ):
                pass
    assert not direct.database.holds_lock(found["backend"])
    for _ in range(5):  # it is free at once
        with lock.alone(pooled, through.database, elsewhere, "apply"):
            pass


def test_a_whole_apply_goes_through_a_pooler(opskit: Opskit, firm: Sandbox, pooled: str, repository: Path) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, *TWO)
    planned = data(opskit("run", "small", "--environment", pooled, "--json"))
    assert opskit("approve", "last", "--with-removals", "--type", f"{pooled} {planned['actions']}").exit_code == 0
    result = opskit("apply", "last", "--json")
    assert (result.exit_code, data(result)["outcome"]) == (0, "done and verified")
    assert [e["result"] for e in events(Path(data(result)["folder"]), "action.ended")] == ["done"] * 3
