"""What statements make and take away, and what PostgreSQL says is missing: a file is blamed where that is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import everything

from opskit import archive
from opskit.commands.runs import look
from opskit.errors import Faulty
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox
from opskit.services import catalog, migrations, things
from opskit.services.statements import File, split
from opskit.services.things import Thing

RUNBOOK = "supabase-migration-procedures"


def made(number: int, text: str) -> File:
    name = f"2027010100000{number}_f{number}.sql"
    return File(Path(name), name[:14], f"f{number}", tuple(split(text, name)))


@pytest.mark.parametrize(
    ("wrong", "missing"),
    [
        ("insert into documents (nope) values (1)", Thing("column", "nope", "documents")),
        ("update documents set nope = 1", Thing("column", "nope", "documents")),
        ("select nope from documents", Thing("column", "nope")),
        ("select d.nope from documents d", Thing("column", "nope")),
        ('select "No pe" from documents', Thing("column", "No pe")),
        ("select 1 from nope", Thing("relation", "nope")),
        ("select 1 from public.nope", Thing("relation", "nope", schema="public")),
        ("select nope(1, 'a')", Thing("function", "nope")),
        ("select public.nope()", Thing("function", "nope", schema="public")),
        ("select 1 / 0", None),
        ("select 1 + true", None),
    ],
)
def test_postgresql_says_what_is_missing(standing: Sandbox, wrong: str, missing: Thing | None) -> None:
    with everything(standing.name)[1].database.session() as session, pytest.raises(Faulty) as said:
        session.execute(wrong)
    for message in (said.value.message, json.dumps({"context": {"error": said.value.message}})):  # as the app logs it
        assert things.asked_for(message) == missing


@pytest.mark.parametrize(
    ("text", "taken", "done"),
    [
        ("alter table a.t rename column x to y", "column a.t.x", ""),
        ("alter table t rename to u", "relation t", ""),
        ("alter table t set schema s", "relation t", ""),
        ("alter function s.f(int) rename to g", "function s.f", ""),
        ("alter table t drop column a, drop column b", "column t.a, column t.b", ""),
        ("drop table a.b, c", "relation a.b, relation c", ""),
        ("drop function f(int)", "function f", ""),
        ("drop index concurrently if exists a.i, j", "index a.i, index j", ""),
        ("alter index i rename to j", "index i", ""),
        ("create index concurrently if not exists i on s.t (a)", "", "index s.i"),
        ("create table if not exists t (a int)", "", "relation t"),
        ("alter table t add column if not exists a int, add b int", "", "column t.a, column t.b"),
        ("drop policy p on t", "", ""),
        ("alter policy p on t rename to q", "", ""),
        ("comment on column t.payload is 'payload'", "", ""),
    ],
)
def test_what_a_statement_takes_away_and_makes(text: str, taken: str, done: str) -> None:
    (statement,) = split(text, "f")
    assert ", ".join(map(str, things.taken(statement))) == taken
    assert ", ".join(map(str, things.made(statement))) == done


RENAMED = made(1, "alter table document_snapshots rename column payload2 to payload;")
SPEAKS_OF_IT = made(2, "comment on table document_snapshots is 'payload2 is called payload';\nselect 'payload2';")
MISSES = ['column "payload2" of relation "document_snapshots" does not exist', "column s.payload2 does not exist"]


@pytest.mark.parametrize(
    ("files", "messages", "why"),
    [
        ([RENAMED], MISSES, ""),
        ([SPEAKS_OF_IT], MISSES, "no applied file is seen to take the column document_snapshots.payload2 away"),
        ([RENAMED, SPEAKS_OF_IT], MISSES, "f1.sql took .* away; the newest applied file is 20270101000002_f2.sql"),
        ([RENAMED], [*MISSES, 'relation "nope" does not exist'], "no applied file is seen to take the relation nope"),
        ([RENAMED], [*MISSES, "division by zero"], "names nothing that could be looked for"),
        ([made(1, "alter table documents drop column title;")], ["column d.title does not exist"], "there again"),
        ([made(1, "drop table a.t;")], ['relation "b.t" does not exist'], "no applied file is seen"),
        ([RENAMED], [], "nothing is missed"),
        ([], MISSES, "no applied file is seen"),
    ],
)
def test_the_newest_file_is_blamed_where_that_is_shown(
    standing: Sandbox, files: list[File], messages: list[str], why: str
) -> None:
    held = catalog.read(everything(standing.name)[1].database.rows)
    found, said = things.culprit(files, messages, held)
    if why:
        assert found is None
        assert re.search(why, said), said
    else:
        assert found == files[-1]
        assert said == "20270101000001_f1.sql took the column document_snapshots.payload2 away"


@pytest.mark.parametrize("says", [False, True])
def test_a_name_without_a_schema_is_looked_for_where_its_owner_does(says: bool) -> None:
    """Unless the file says where."""
    held = {("table", "audit.notes"): "r"}
    text = "create table if not exists notes (id int);\nupdate documents set title = '';\ncommit;"
    files = [made(1, f"set search_path = audit;\n{text}" if says else text)]
    assert bool(things.done_before(files, held, ["postgres", "public"])) is says
    assert things.done_before(files, held, ["public", "audit"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("alter table documents add column if not exists title text;\nupdate documents set title = '';\ncommit;", True),
        ("alter table documents add column if not exists slug text;\nupdate documents set slug = '';\ncommit;", False),
        ("alter table documents add column if not exists title text;\nupdate documents set title = '';", False),
        ("create index concurrently if not exists documents_user on documents (user_id);", False),
        (
            "create index concurrently if not exists documents_user on documents (user_id);\n"
            "update documents set title = '';",
            True,
        ),
        (
            "drop index concurrently if exists documents_user;\n"
            "create index concurrently documents_user on documents (user_id);",
            False,
        ),
        ("begin;\ndrop table if exists documents cascade;\ncreate table documents (id int);\ncommit;", False),
        (
            "drop table documents cascade;\ncreate table documents (id int);\n"
            "create index concurrently documents_user on documents (id);",
            False,
        ),
        (
            "alter table documents drop column title, add column title int;\nupdate documents set title = 1;\ncommit;",
            False,
        ),
        (
            "alter table public.documents drop column title;\nalter table documents add column title int;\ncommit;",
            False,
        ),
        ("drop table other.documents;\ncreate table if not exists documents (id int);\ncommit;", True),
        ("alter table projects drop column title;\nalter table documents add column title int;\ncommit;", True),
        ("create table if not exists documents (id int);\ndrop table documents;\ncommit;", True),
        ("create table if not exists users (id int);\nselect 1;\ncommit;", False),
    ],
)
def test_what_is_there_already_is_asked_about_where_more_would_be_done_again(
    standing: Sandbox, text: str, told: bool
) -> None:
    found = everything(standing.name)[1].migrations.done_before([made(1, text)])
    assert bool(found) == told, found


# With the runbook.


def broken(firm: Sandbox, place: Path, name: str, *more: dict[str, Any]) -> dict[str, Any]:
    """A scenario that is shipped, and then some."""
    told = yaml.safe_load((Path(migrations.__file__).parents[1] / f"sandbox/scenarios/{name}.yaml").read_text())
    told["happenings"][-1:-1] = more
    (place / f"{name}.yaml").write_text(yaml.safe_dump(told | {"name": name}))
    return firm.break_with(place / f"{name}.yaml")


@pytest.mark.deep
def test_an_innocent_file_is_not_taken_back_unless_a_person_names_it(firm: Sandbox, tmp_path: Path) -> None:
    """The newest applied file had nothing to do with the column that the app misses."""
    innocent = {"20251103100000_later.sql": "create index documents_title on documents (title);"}
    told = broken(
        firm,
        tmp_path,
        "migrations-rollback-needed",
        {"what": "change_folder", "when": "44 minutes ago", "files": innocent},
        {"what": "push", "when": "44 minutes ago"},
    )
    folder, outcome = look(RUNBOOK, {**told["parameters"], "environment": firm.name})
    assert (archive.summary(folder)["causes"], archive.planned(folder)) == (["rollback-needed"], [])
    assert outcome is Outcome.PEOPLE
    (asked,) = archive.open_questions(folder)
    assert "20251103090000_snapshot_body.sql took the column document_snapshots.payload away" in asked
    assert "the newest applied file is 20251103100000_later.sql" in asked
    folder, _ = look(RUNBOOK, {**told["parameters"], "environment": firm.name, "versions": "20251103090000"})
    assert archive.planned(folder) == []
    folder, _ = look(RUNBOOK, {**told["parameters"], "environment": firm.name, "versions": "20251103100000"})
    assert [title.split(":")[0] for title in archive.planned(folder)] == ["Take back 20251103100000_later"]


@pytest.mark.deep
def test_what_a_pending_file_makes_and_is_there_is_a_question(firm: Sandbox) -> None:
    told = firm.break_with("migrations-healthy")
    place = Path(told["parameters"]["folder"]) / "20251120000000_filled.sql"
    place.write_text(
        "set lock_timeout = '2s';\nalter table documents add column if not exists title text;\n"
        "update projects set title = title || '!' where id is null;\n"
        "create index concurrently projects_titled on projects (title);\n"
    )
    folder, outcome = look(RUNBOOK, {**told["parameters"], "environment": firm.name})
    assert (outcome, archive.planned(folder)) == (Outcome.UNKNOWN, [])
    assert any("20251120000000_filled.sql:2 column documents.title" in one for one in archive.open_questions(folder))
    versions = "20251103090000,20251110101500,20251120000000"
    folder, _ = look(RUNBOOK, {**told["parameters"], "environment": firm.name, "versions": versions})
    assert sum(title.startswith("Apply") for title in archive.planned(folder)) == 3
