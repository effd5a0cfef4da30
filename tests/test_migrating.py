"""Migrations applied, finished and put right, on a real database whose owner is no superuser."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from applying import VERSION, apply, carried, do, file, held, ledger, owned
from support import as_bash_reads, everything

from opskit.actions import Change, Result, carry_out
from opskit.errors import BadInput, Faulty, Refused
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, migrating, migrations


def test_a_file_is_applied_and_entered_as_the_cli_enters_it(services: Services, tmp_path: Path) -> None:
    made = file(tmp_path, "-- why;\ncreate table made (id int);\r\n\r\ncreate index made_id on made (id);\n-- end\n")
    do(services, apply(services, made))
    texts = ["-- why;\ncreate table made (id int)", "create index made_id on made (id)", "-- end"]
    assert ledger(services) == [{"version": VERSION, "name": "made", "statements": texts}]
    owner = services.database.rows("select relowner::regrole::text as owner from pg_class where relname = 'made'")
    assert owner == [{"owner": "postgres"}]


def test_of_a_file_that_fails_nothing_stays(services: Services, tmp_path: Path) -> None:
    made = file(tmp_path, "create table made (id int);\nselect 1 / 0;")
    with pytest.raises(Faulty, match=r"division by zero .* Nothing of it stays"):
        do(services, apply(services, made))
    assert services.database.rows("select to_regclass('made') as made") == [{"made": None}]
    assert ledger(services) == []


def test_behind_concurrently_it_is_said_what_stays_and_the_rest_is_finished(services: Services, tmp_path: Path) -> None:
    text = "alter table documents add column made int;\ncreate index concurrently made_i on documents (made);\n"
    made = file(tmp_path, text + "select 1 / 0;")
    with pytest.raises(Faulty, match=r"Statements \[1, 2\] are committed; the ledger has no row"):
        do(services, apply(services, made))
    mended = file(tmp_path, text + "select 1;")
    do(services, services.migrations.finish_file(mended, [3], 1, 30))
    assert len(ledger(services)[0]["statements"]) == 3


def test_by_hand_what_is_left_of_a_file_is_sent_and_nothing_else(tmp_path: Path) -> None:
    made = file(
        tmp_path,
        "set lock_timeout = '4s';\nalter table documents add column made int;\n-- it's not there yet\n"
        "create index concurrently made_i on documents (made);\ncomment on column documents.made is 'It''s made';\n",
    )
    of = {"path": str(made.path), "version": made.version, "name": made.name, "statements": [1, 3, 4]}
    by_hand = migrating.Finish().by_hand(of, None)
    words = as_bash_reads(by_hand, tmp_path)
    assert [words[number] for number in range(5, 10, 2)] == [
        "set lock_timeout = '4s'",
        "create index concurrently made_i on documents (made)",
        "comment on column documents.made is 'It''s made'",
    ]
    assert words[:4] == ["psql", words[1], "-v", "ON_ERROR_STOP=1"]
    assert by_hand.endswith(f"&& supabase migration repair --linked --status applied {VERSION}")


@pytest.mark.parametrize(
    ("text", "doubted"),
    [
        ("set lock_timeout = '4s'; create table a (id int); comment on table a is 'x'; analyze a; -- end", []),
        ("set local lock_timeout = '4s'; grant select on a to anon; notify pgrst, 'reload schema';", []),
        ("insert into a values (1); update a set b = 1;", [1, 2]),
        ("do $$ begin null; end $$; select f(); set local role x; notify mails;", [1, 2, 3, 4]),
        ("grant select on all tables in schema public to anon; grant a to b;", [1, 2]),  # also what was made since
        ("set lock_timeout = '4s'; grant select on a to anon; drop table a; -- end", [2]),  # or on what is a now
    ],
)
def test_what_nobody_sees_is_sent_again_only_where_that_does_no_harm(
    tmp_path: Path, text: str, doubted: list[int]
) -> None:
    made = file(tmp_path, text)
    there = [True if one.head.startswith(("create table", "drop table")) else None for one in made.statements]
    assert [one.number for one in migrating.in_doubt(made, there)] == doubted


def test_a_lock_that_is_not_to_be_had_is_tried_for_again(
    services: Services, firm: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "PAUSE", 0.2)
    made = file(tmp_path, "alter table documents add column made int;")
    with everything(firm.name)[1].database.session() as other:
        other.execute("begin")
        other.execute("select 1 from documents limit 1")
        threading.Timer(1.2, lambda: other.execute("commit")).start()
        do(services, apply(services, made, lock=0.5))
    assert len(ledger(services)) == 1


@pytest.mark.parametrize("text", ["alter table documents add column made int;", "vacuum full documents;"])
def test_a_lock_is_not_waited_for_without_end(
    services: Services, firm: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(migrating, "PAUSE", 0.01)
    made = file(tmp_path, text)
    with everything(firm.name)[1].database.session() as other:
        other.execute("begin")
        other.execute("select 1 from documents limit 1")
        with pytest.raises(Faulty, match="55P03"):
            do(services, apply(services, made, lock=0.1))


def test_what_a_file_commits_itself_is_not_done_again(
    services: Services, firm: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "PAUSE", 0.01)
    held(services, "select 1")
    text = "begin;\ninsert into tally values (1);\ncommit;\ninsert into tally values (2);\n"
    action = apply(services, file(tmp_path, text + "alter table documents add column made int;"), lock=0.1)
    with everything(firm.name)[1].database.session() as other:
        other.execute("begin")
        other.execute("select 1 from documents limit 1")
        result, why = carried(services, action, tmp_path)
    assert result is Result.FAILED
    assert "Statements [1, 2, 3] are committed; the ledger has no row." in why
    assert owned(services, "select n from tally") == [{"n": 1}]
    assert carried(services, action, tmp_path)[0] is Result.DONE
    assert owned(services, "select n from tally order by n") == [{"n": 1}, {"n": 2}]
    assert len(ledger(services)) == 1


def test_what_a_file_rolls_back_itself_is_not_said_to_be_committed(services: Services, tmp_path: Path) -> None:
    held(services, "select 1")
    made = file(tmp_path, "begin;\ninsert into tally values (1);\nrollback;\nselect 1 / 0;")
    with pytest.raises(Faulty, match="Nothing of this attempt stays"):
        do(services, apply(services, made))


def test_a_resume_goes_on_behind_what_is_committed(services: Services, tmp_path: Path) -> None:
    held(services, "insert into tally values (1), (1)")
    text = "set search_path = nowhere;\nupdate public.tally set n = n * 3;\ncommit;\nset search_path = public;\n"
    text += "update tally set n = n + 1;\ncreate unique index concurrently tally_n on tally (n);\nselect n from tally;"
    action = apply(services, file(tmp_path, text))
    result, why = carried(services, action, tmp_path)
    assert result is Result.FAILED
    assert "Statements [1, 2, 3, 4, 5] are committed" in why
    assert "half-built" in why
    owned(services, "delete from tally where ctid = (select min(ctid) from tally)")
    assert carried(services, action, tmp_path) == (Result.DONE, "")
    assert owned(services, "select n from tally") == [{"n": 4}]
    assert services.migrations.invalid_indexes().empty


@pytest.mark.parametrize("told", [1, 2])
def test_of_parts_whose_end_nobody_saw_none_is_sent_again(services: Services, tmp_path: Path, told: int) -> None:
    """Killed between two of three parts, and before the last: that one is of one transaction with the ledger's row."""
    held(services, "insert into tally values (1)")
    text = "update tally set n = n + 1;\ncommit;\nupdate tally set n = n + 1;\ncommit;\nupdate tally set n = n + 1;"
    action, journal = apply(services, file(tmp_path, text)), Journal(tmp_path / "journal.jsonl")
    journal.write("action.begun", action=action.id, name=action.name, key="key")
    steps = Change.known[action.name].steps(services, action.arguments, action.before, "key", None)
    for _ in range(told):
        journal.write("action.progress", action=action.id, name=action.name, reached=next(steps))
    steps.close()
    result, why = carried(services, action, tmp_path)
    assert result is (Result.UNKNOWN if told == 1 else Result.DONE)
    assert ("which of its statements are committed was not seen; known: [1, 2]" in why) == (told == 1)
    assert owned(services, "select n from tally") == [{"n": 2 if told == 1 else 4}]


def test_behind_a_commit_of_its_own_a_file_is_one_transaction_again(services: Services, tmp_path: Path) -> None:
    held(services, "select 1")
    made = file(tmp_path, "commit;\ninsert into tally values (1);\nselect 1 / 0;")
    with pytest.raises(Faulty, match=r"Statements \[1\] are committed"):
        do(services, apply(services, made))
    assert owned(services, "select n from tally") == []


def test_another_file_of_one_version_is_not_taken_for_applied(services: Services, tmp_path: Path) -> None:
    first = file(tmp_path, "create table made (id int);")
    (tmp_path / f"{VERSION}_other.sql").write_text("create table other (id int);")
    (second,) = [one for one in migrations.opened(tmp_path).files if one.name == "other"]
    planned = [apply(services, first), apply(services, second)]
    journal = Journal(tmp_path / "journal.jsonl")
    assert [result for _, result, _ in carry_out(planned, services, journal)] == [Result.DONE, Result.STALE]
    assert services.database.rows("select to_regclass('other') as it") == [{"it": None}]


def test_a_file_that_was_edited_since_the_plan_is_not_applied(services: Services, tmp_path: Path) -> None:
    action = apply(services, file(tmp_path, "select 1;"))
    file(tmp_path, "drop table documents;")
    with pytest.raises(Refused, match="is not the file that was planned"):
        Change.known[action.name].do(services, action.arguments, action.before, "key")


@pytest.mark.parametrize("text", [b"create tabel made (id int);", b"\xff\xfe", b"select 1;\0"])
def test_a_file_that_cannot_be_read_is_neither_planned_nor_entered(
    services: Services, tmp_path: Path, text: bytes
) -> None:
    planned = apply(services, file(tmp_path, "select 1;"))
    (tmp_path / f"{VERSION}_made.sql").write_bytes(text)
    (broken,) = migrations.opened(tmp_path).files
    with pytest.raises(BadInput, match=r"_made\.sql:1"):
        apply(services, broken)
    with pytest.raises(BadInput, match=r"_made\.sql:1"):
        services.migrations.finish_file(broken, [1], 1, 30)
    for before in (planned.before, {**planned.before, "file": None}):  # a plan of an earlier version had None
        with pytest.raises(Refused, match="not applied"):
            Change.known[planned.name].do(services, planned.arguments, before, "key")
    assert ledger(services) == []


def test_what_destroys_is_approved_by_name(services: Services, tmp_path: Path) -> None:
    destroying = ["delete from documents;", "drop table documents;", "alter table documents drop column title;"]
    destroying += [
        "with gone as (delete from documents returning *) select count(*) from gone;",
        "do $$ begin truncate documents; end $$;",
        "do $$ begin execute (select body from notes); end $$;",
        "-- squawk-ignore\ndrop table documents;",
    ]
    for text in destroying:
        assert apply(services, file(tmp_path, text)).removes_access, text
    harmless = "create function gone() returns void language sql as 'delete from documents';\n"
    for text in ("create table made (id int);", harmless):
        assert not apply(services, file(tmp_path, text)).removes_access
    finishing = file(tmp_path, f"{harmless}select gone();")
    assert [services.migrations.finish_file(finishing, [n], 1, 30).removes_access for n in (1, 2)] == [False, True]


def test_what_a_file_calls_is_looked_into_whoever_made_it(services: Services, tmp_path: Path) -> None:
    """By a pending file, or on the target: then it is read there, and what it calls, too."""
    emptied = "create function emptied() returns int language plpgsql as 'begin\ndelete from notes;\nreturn 1; end'"
    tidied = "create function tidied(int) returns int language sql as 'select emptied()'"
    texts = ("create function wipe() returns void language sql as 'truncate notes';", "select wipe();",
             "do $$ begin perform public.tidied(3); end $$;", "select 'tidied';\nselect lower('x');")  # fmt: skip
    for number, text in enumerate(texts):
        (tmp_path / f"2027010100000{number}_f.sql").write_text(text)
    pending = migrations.opened(tmp_path).files
    with services.database.session() as session:
        session.execute(f"set role postgres; {emptied}; {tidied}")
        try:
            beside = services.migrations.beside(pending)
            told = [(h.file, h.name) for h in services.migrations.hazards(pending)]
            planned = [services.migrations.apply_file(one, 1, 30, beside).removes_access for one in pending]
            finishing = services.migrations.finish_file(pending[2], [1], 1, 30).removes_access
        finally:
            session.execute("drop function emptied(); drop function tidied(int)")
    assert told == [("20270101000000_f.sql", "truncate"), ("public.emptied (on the target)", "unqualified-write")]
    assert (planned, finishing) == ([False, True, True, False], True)


def test_a_version_is_put_right_and_back(services: Services) -> None:
    old, new = "20251006113348", "20251006113349"
    action = services.migrations.renumber(old, new)
    after = do(services, action)
    assert len(ledger(services, new)) == 1
    Change.known[action.name].undo(services, action.arguments, action.before, after, "key")
    assert len(ledger(services, old)) == 1
