"""An UPDATE in batches, on a real database: whole, stopped, killed, held up, and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import BEGIN, Machine, events, everything

from opskit.actions import Action, Result, carry_out
from opskit.archive import Archive
from opskit.database import Database
from opskit.errors import BadInput
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, backfill, migrations, scratch
from opskit.services.migrations import Migrations

ROWS = 3000
MADE = f"""
    create table made (id bigint primary key, "Name" text, slug text, n int not null default 0, twice int);
    insert into made (id, "Name", twice) select i, 'Name ' || i, i / 2 from generate_series(1, {ROWS}) i;
"""
SLUGS = "update made set slug = lower(\"Name\") || '-100%' where slug is null"


@pytest.fixture
def services(firm: Sandbox) -> Iterator[Services]:
    found = everything(firm.name)[1]
    as_owner(found, MADE)
    yield found
    found.database.close()


def as_owner(services: Services, sql: str) -> None:
    with services.database.session() as session:
        session.execute("set role postgres")
        session.execute(sql)


def planned(services: Services, update: str = SLUGS, batch: int = 500, key: str = "id") -> Action:
    filling = services.migrations.filling(update, [], key)
    assert filling
    return services.migrations.fill(filling, 1, 30, batch)


def one(services: Services, sql: str) -> Any:
    (row,) = services.database.rows(sql)
    return next(iter(row.values()))


def slugs(services: Services) -> int:
    return int(one(services, "select count(*) from made where slug = lower(\"Name\") || '-100%'"))


def steps(journal: Journal) -> list[Any]:
    return [event["reached"] for event in journal.told("action.progress")]


def stop_after(batches: int, how: Callable[[], None]) -> Callable[..., str]:
    """Asked before the action and after each batch; after so many of those it does something."""

    def may_begin(action: Action, reached: Any = None) -> str:
        if reached and reached["batches"] == batches:
            how()
        return ""

    return may_begin


def interrupt() -> None:
    raise KeyboardInterrupt


def test_every_row_is_filled_in_batches_each_told_after_it_is_committed(services: Services, tmp_path: Path) -> None:
    action, journal = planned(services), Journal(tmp_path / "journal.jsonl")
    assert action.title == "Fill slug of made in batches by id: 3,000 rows"
    assert not action.removes_access
    seen: list[int] = []
    told = stop_after(3, lambda: seen.append(slugs(services)))
    assert [result for _, result, _ in carry_out([action], services, journal, told)] == [Result.DONE]
    assert slugs(services) == ROWS
    reached = steps(journal)
    assert len(reached) >= 3
    assert seen == [reached[2]["rows"]]  # it is there for others when it is told
    assert (reached[-1]["last"], reached[-1]["rows"]) == (str(ROWS), ROWS)
    assert journal.told("action.ended")[0]["after"] == {"left": 0}


def test_a_stop_comes_after_a_whole_batch_and_a_resume_goes_on_from_there(services: Services, tmp_path: Path) -> None:
    action, journal = planned(services, batch=100), Journal(tmp_path / "journal.jsonl")
    with pytest.raises(KeyboardInterrupt):
        list(carry_out([action], services, journal, stop_after(2, interrupt)))
    first = steps(journal)[-1]
    assert slugs(services) == first["rows"] < ROWS
    assert journal.told("action.ended")[-1]["result"] == Result.WAITING
    as_owner(services, "update made set slug = 'mine' where id = 1")  # behind what was reached: not looked at again
    assert [result for _, result, _ in carry_out([action], services, journal)] == [Result.DONE]
    second = steps(journal)[2]
    assert int(second["last"]) > int(first["last"])
    assert steps(journal)[-1]["rows"] == ROWS
    assert slugs(services) == ROWS - 1


KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support import BEGIN, Machine, events, everything
from opskit.actions import Action, carry_out
from opskit.database import Database
from opskit.journal import Journal
def may_begin(action, reached=None):
    if reached and reached["batches"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return ""
action = Action(**json.loads(Path({action!r}).read_text()))
list(carry_out([action], everything({name!r})[1], Journal(Path({journal!r})), may_begin))
"""


def test_what_was_killed_between_two_batches_is_finished_by_a_resume(
    services: Services, firm: Sandbox, tmp_path: Path
) -> None:
    action, journal = planned(services, batch=100), Journal(tmp_path / "journal.jsonl")
    (tmp_path / "action.json").write_text(json.dumps(action.data()))
    script = KILLED.format(
        tests=str(Path(__file__).parent),
        action=str(tmp_path / "action.json"),
        name=firm.name,
        journal=str(journal.path),
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, env=dict(os.environ), timeout=60)
    assert done.returncode == -signal.SIGKILL
    last = steps(journal)[-1]
    assert (last["batches"], slugs(services)) == (3, last["rows"])
    assert journal.told("action.ended") == []
    assert [result for _, result, _ in carry_out([action], services, journal)] == [Result.DONE]
    assert steps(journal)[3]["batches"] == 4
    assert (slugs(services), steps(journal)[-1]["rows"]) == (ROWS, ROWS)


def test_a_batch_that_was_not_told_of_any_more_is_done_again_without_effect(services: Services, tmp_path: Path) -> None:
    action, journal = planned(services, "update made set n = 1 where n = 0"), Journal(tmp_path / "journal.jsonl")
    journal.write("action.begun", action=action.id, name=action.name, arguments=action.arguments, key="k")
    as_owner(services, "update made set n = 1 where id <= 500")  # committed, and then the line was lost
    list(carry_out([action], services, journal))
    assert steps(journal)[-1]["rows"] == ROWS - 500
    assert one(services, "select sum(n) from made") == ROWS


def test_rows_written_behind_us_are_filled_too(services: Services, tmp_path: Path) -> None:
    behind = "insert into made (id, \"Name\") values (-1, 'Late')"
    journal = Journal(tmp_path / "journal.jsonl")
    told = stop_after(2, lambda: as_owner(services, behind))
    assert [r for _, r, _ in carry_out([planned(services)], services, journal, told)] == [Result.DONE]
    assert one(services, "select slug from made where id = -1") == "late-100%"


def test_what_is_null_afterwards_too_is_done(services: Services, tmp_path: Path) -> None:
    as_owner(services, 'update made set "Name" = null where id % 2 = 0')
    action = planned(services, 'update made set slug = lower("Name") where slug is null')
    assert "1,500 rows" in action.title
    journal = Journal(tmp_path / "journal.jsonl")
    assert [r for _, r, _ in carry_out([action], services, journal)] == [Result.DONE]
    assert one(services, "select count(*) from made where slug is null") == ROWS / 2


def test_a_row_that_somebody_holds_is_waited_for(services: Services, firm: Sandbox, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with everything(firm.name)[1].database.session() as other:
        other.execute("set role postgres")
        other.execute("begin")
        other.execute("update made set n = 5 where id = 700")
        threading.Timer(1.5, lambda: other.execute("commit")).start()
        found = list(carry_out([planned(services)], services, journal))
    assert [result for _, result, _ in found] == [Result.DONE]
    assert (slugs(services), one(services, "select n from made where id = 700")) == (ROWS, 5)


SLOW = """
    create function slowly() returns trigger language plpgsql as $$ begin perform pg_sleep(0.02); return new; end $$;
    create trigger made_slowly before update on made for each row when (new.id <= 50) execute function slowly();
"""


def test_others_who_wait_for_us_come_first(services: Services, firm: Sandbox, tmp_path: Path) -> None:
    as_owner(services, SLOW)
    action, journal = planned(services, batch=50), Journal(tmp_path / "journal.jsonl")
    other = everything(firm.name)[1].database

    def write() -> None:
        with other.session() as session:
            session.execute("set role postgres")
            session.execute("update made set n = 7 where id = 1")

    threading.Timer(0.3, write).start()
    list(carry_out([action], services, journal))
    assert "rested for 1 s" in steps(journal)[-1]["said"]
    assert int(steps(journal)[1]["last"]) - int(steps(journal)[0]["last"]) == 25  # the next one is smaller


REFUSED = (
    ("update made set n = n + 1", "id", "would be changed again after it was changed"),
    ("update made set slug = random()::text", "id", "would be changed again"),
    ("update made set n = 1", "twice", "is not a unique column without NULL"),
    ("update made set n = 1", "nothing", "There: id"),
    ("update made set id = 1", "id", "is changed by the UPDATE itself"),
    ("update made set nothing = 1", "id", "no column nothing"),
    ("update nowhere set n = 1", "id", "there is no table"),
    ("update made set n = o.n from made o", "id", "without FROM"),
    ("update made set (n, slug) = (1, 'x')", "id", "with plain columns"),
    ("update made set n = 1; select 1", "id", "give one UPDATE"),
    ("delete from made", "id", "give one UPDATE"),
    ("update made sett", "id", "syntax error"),
)


def test_what_cannot_go_in_batches_is_refused(services: Services) -> None:
    for update, key, why in REFUSED:
        with pytest.raises(BadInput, match=why):
            services.migrations.filling(update, [], key)


def test_what_overwrites_is_approved_by_name(services: Services) -> None:
    as_owner(
        services, "create trigger made_touch before update on made for each row execute function touch_updated_at()"
    )
    action = planned(services, 'update made as m set "Name" = upper(m."Name")')
    assert action.removes_access
    assert action.title == "Fill Name of made in batches by id: 3,000 rows, each of which fires made_touch"


def test_an_update_of_a_large_table_is_recommended_to_go_in_batches(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_owner(services, "analyze made")
    path = tmp_path / "20270101000000_made.sql"
    path.write_text(
        "alter table made add column more int;\nupdate made set slug = 'x';\nupdate projects set title = '';"
    )
    files = migrations.opened(tmp_path).files
    assert services.migrations.in_batches(files).empty
    monkeypatch.setattr(backfill, "MANY", ROWS)
    ((*told, rows),) = services.migrations.in_batches(files).itertuples(index=False)
    assert told == [path.name, 2, "update made set slug = 'x'"]
    assert rows >= ROWS  # the server's estimate: what a session reports late is counted twice
    with pytest.raises(BadInput, match="several UPDATEs"):
        services.migrations.filling(None, files, "id")


def test_by_hand_it_is_a_command_to_repeat(services: Services, tmp_path: Path) -> None:
    action = planned(services, "update made set slug = 'it''s' where slug is null and \"Name\" like 'Name 1%'")
    sql = action.by_hand.split(" -c ")[1].split("  #")[0]
    words = subprocess.run(["bash", "-c", f"printf %s {sql}"], capture_output=True, text=True, check=True).stdout
    as_owner(services, words)
    assert one(services, "select count(*) from made where slug = 'it''s'") == 1000


CELLS = (
    BEGIN,
    f"due = run.migrations.filling({SLUGS!r}, [], 'id')\nrun.plan.add(run.migrations.fill(due, 1, 30, 20))",
    "run.apply()",
)


@pytest.mark.deep
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_from_the_command_line_it_is_stopped_and_resumed(
    services: Services, firm: Sandbox, ana: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    as_owner(services, "delete from made where id > 600")
    as_owner(services, SLOW.replace("id <= 50", "id > 0"))
    here = Machine("ana", ana, tmp_path, firm, *CELLS)
    here.plans()
    with here.begins("apply", "last") as process:
        while not any(events(folder, "action.progress") for folder in Archive(here.outputs).runs()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(sign)
        code = process.wait(60)
    (applied,) = (run for run in Archive(here.outputs).runs() if (run / "approval.json").exists())
    kernel = events(applied, "run.begun")[0]["kernel"]
    while Path(f"/proc/{kernel}").exists() and ") Z " not in Path(f"/proc/{kernel}/stat").read_text():
        time.sleep(0.05)
    reached = events(applied, "action.progress")[-1]["reached"]
    assert slugs(services) >= reached["rows"]
    if sign is signal.SIGINT:
        assert (code, slugs(services)) == (5, reached["rows"])
    resumed = here.types("resume", "last", "--json")
    found = json.loads(resumed.stdout)["data"]
    assert (resumed.returncode, found["outcome"], slugs(services)) == (0, "done and verified", 600)
    assert "under way: Fill slug of made in batches by id: 600 rows" in resumed.stderr
    after = [event["reached"] for event in events(Path(found["folder"]), "action.progress")]
    assert after.index(reached) + 1 < len(after)
    assert int(after[after.index(reached) + 1]["last"]) > int(reached["last"])


@pytest.mark.deep
def test_a_replica_that_falls_behind_is_waited_for_and_said_where_it_cannot_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "MOST_BEHIND", 64 * 1024)
    monkeypatch.setattr(backfill, "LOOKS", 0.2)
    for name, value in {"wal_level": "replica", "max_wal_senders": "4"}.items():
        monkeypatch.setitem(scratch.SETTINGS, name, value)
    binaries, home = scratch.choose(18), tmp_path / "r"
    home.mkdir()
    with scratch.server(binaries) as primary:
        copied = scratch._run(
            binaries, "pg_basebackup", "-h", str(primary.home), "-U", scratch.SUPERUSER, "-D", str(home / "data"), "-R"
        )
        assert copied.returncode == 0, copied.stderr
        (home / scratch.WHOLE).write_text(scratch._boot())
        with scratch._running(binaries, home) as replica, replica.open("postgres").session() as there:
            with primary.open("postgres").session() as session:
                session.execute(
                    "create role postgres; create role nobody_special login; grant postgres to nobody_special"
                )
                session.execute(MADE + "alter table made owner to postgres")
            there.execute("select pg_wal_replay_pause()")
            seen: list[str] = []

            def may_begin(action: Action, reached: Any = None) -> str:
                if reached and "MB behind" in reached["note"]:
                    seen.append(reached["note"])
                    if len(seen) == 3:
                        there.execute("select pg_wal_replay_resume()")
                return ""

            for user, told in ((scratch.SUPERUSER, "MB behind"), ("nobody_special", backfill.UNSEEN)):
                users = {"read": user, "change": scratch.SUPERUSER}
                address = f"postgresql:///postgres?host={primary.home}"
                database = Database(address, users, dict.fromkeys(users, ""), "opskit/test")
                services: Any = SimpleNamespace(database=database, migrations=Migrations(database, "postgres"))
                journal = Journal(tmp_path / f"{user}.jsonl")
                action = planned(services, f"update made set slug = '{user}' where slug is distinct from '{user}'", 200)
                assert [r for _, r, _ in carry_out([action], services, journal, may_begin)] == [Result.DONE]
                assert any(told in one["said"] for one in steps(journal))
                database.close()
    assert len(seen) >= 3
