"""Migrations applied, finished, taken back and put right, on a real database whose owner is no superuser."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import as_bash_reads, everything

from opskit.actions import Change, Result, carry_out, plain
from opskit.errors import BadInput, Denied, Faulty, Refused
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, catalog, migrating, migrations, reversal
from opskit.services.statements import File

VERSION = "20270101000000"
ROW = "select version, name, statements from supabase_migrations.schema_migrations where version = %(version)s"


@pytest.fixture
def services(firm: Sandbox) -> Services:
    return everything(firm.name)[1]


def file(folder: Path, text: str, version: str = VERSION) -> File:
    path = folder / f"{version}_made.sql"
    path.write_bytes(text.encode())
    return next(one for one in migrations.opened(folder).files if one.version == version)


def do(services: Services, action: Any) -> Any:
    """Do it if it still is as planned; the state afterwards."""
    change = Change.known[action.name]
    assert plain(change.look(services, action.arguments)) == action.before
    change.do(services, action.arguments, action.before, "key")
    now = plain(change.look(services, action.arguments))
    assert change.done(now, action.before)
    return now


def ledger(services: Services, version: str = VERSION) -> list[Any]:
    return services.database.rows(ROW, version=version)


def apply(services: Services, made: File, **timeouts: float) -> Any:
    return services.migrations.apply_file(made, timeouts.get("lock", 1), 30)


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


def test_an_invalid_index_is_dropped_before_it_is_built_again(
    services: Services, firm: Sandbox, tmp_path: Path
) -> None:
    with services.database.session() as session:
        session.execute("set role postgres")
        with pytest.raises(Faulty):
            session.execute("create unique index concurrently made_i on documents (status)")
    assert list(services.migrations.invalid_indexes()["index"]) == ["public.made_i"]
    made = file(tmp_path, "create index concurrently made_i on documents (status);")
    do(services, apply(services, made))
    assert services.migrations.invalid_indexes().empty
    assert len(ledger(services)) == 1


def test_an_invalid_index_is_not_kept_silently(services: Services, tmp_path: Path) -> None:
    with services.database.session() as session:
        session.execute("set role postgres")
        with pytest.raises(Faulty):
            session.execute("create unique index concurrently made_i on documents (status)")
    made = file(tmp_path, "create index if not exists made_i on documents (status);")
    with pytest.raises(Faulty, match=r"made_i was there and is invalid.* Nothing of it stays"):
        do(services, apply(services, made))
    assert ledger(services) == []


def half_built(services: Services, table: str, *indexes: str) -> None:
    """A table of the owner's, and unique indexes of it that were refused for its rows, which were mended since."""
    with services.database.session() as session:
        session.execute("set role postgres")
        session.execute(f"create table {table} (n int); insert into {table} values (1), (1)")
        for index in indexes:
            with pytest.raises(Faulty):
                session.execute(f"create unique index concurrently {index}")
        session.execute(f"delete from {table} where ctid = (select min(ctid) from {table})")


def mended(services: Services) -> list[str]:
    """What is planned for each invalid index, and done."""
    found: Any = services.migrations.invalid_indexes().itertuples()
    plan = [
        (services.migrations.drop_leftover if row.leftover else services.migrations.rebuild_index)(
            row.table, row.index, 60
        )
        for row in found
    ]
    for action in plan:
        do(services, action)
    return [action.title.split(":")[0] + (" dropped" if "left" in action.title else " rebuilt") for action in plan]


def test_what_a_reindex_left_is_dropped_and_the_index_stays(services: Services) -> None:
    half_built(
        services, "made", "made_n_ccnew on made (n)", "made_n_ccold1 on made (n)", "card_ccnew on made ((n + 1))"
    )
    owned(services, "create index made_n on made (n)")
    held = {name for kind, name in catalog.read(services.database.rows) if kind == "index"}
    assert {"public.made_n"} == {name for name in held if "made_n" in name}  # what a reindex left is no drift
    assert mended(services) == [
        "Index public.card_ccnew rebuilt",  # somebody's own, by that name
        "Index public.made_n_ccnew dropped",
        "Index public.made_n_ccold1 dropped",
    ]
    left = services.database.rows("select indexname as name from pg_indexes where tablename = 'made' order by 1")
    assert [row["name"] for row in left] == ["card_ccnew", "made_n"]
    assert services.migrations.invalid_indexes().empty


def test_an_index_is_the_one_of_its_table_wherever_its_owner_looks_for_names(services: Services) -> None:
    """Two of one name: on the owner's search_path the other comes first."""
    owned(services, "create schema away; create table away.made (n int); create index made_n on away.made (n)")
    half_built(services, "made", "made_n on made (n)")
    owned(services, "alter role postgres set search_path = away, public")
    try:
        assert mended(services) == ["Index public.made_n rebuilt"]
    finally:
        owned(services, "alter role postgres reset search_path")
    assert services.migrations.invalid_indexes().empty
    there = services.database.rows("select schemaname from pg_indexes where indexname = 'made_n' order by 1")
    assert [row["schemaname"] for row in there] == ["away", "public"]


def test_by_hand_an_index_is_built_again_whatever_it_is_called(services: Services, tmp_path: Path) -> None:
    half_built(services, "made", """"Made 'n" on made (n) where n::text <> 'a'""")
    (row,) = services.migrations.invalid_indexes().itertuples()
    words = as_bash_reads(services.migrations.rebuild_index(row.table, row.index, 60).by_hand, tmp_path)
    for sql in (words[3], words[5]):
        owned(services, sql)
    assert services.migrations.invalid_indexes().empty


def test_an_index_without_a_name_leaves_nothing_where_it_fails(services: Services, tmp_path: Path) -> None:
    action = apply(services, file(tmp_path, "create unique index concurrently on documents (status);"))
    for _ in range(2):
        result, why = carried(services, action, tmp_path)
        assert result is Result.FAILED
        assert "23505" in why
        assert services.migrations.invalid_indexes().empty


def test_where_an_earlier_attempt_at_an_index_without_a_name_was_cut_a_person_looks(
    services: Services, tmp_path: Path
) -> None:
    with pytest.raises(Faulty):
        owned(services, "create unique index concurrently on documents (status)")
    made = file(tmp_path, "create index concurrently on documents (status);")
    with pytest.raises(
        Faulty, match=r"documents_status_idx is invalid .* A person looks, and drops it: drop index conc"
    ):
        do(services, apply(services, made))
    other = file(tmp_path, "create index concurrently on documents (status, title);", "20270101000001")
    do(services, apply(services, other))
    assert len(services.migrations.invalid_indexes()) == 1


def test_an_index_of_a_partitioned_table_in_the_making_is_not_called_invalid(services: Services) -> None:
    owned(services, "create table parts (id int) partition by range (id)")
    owned(services, "create table part_1 partition of parts for values from (0) to (9)")
    owned(services, "create index parts_i on only parts (id)")
    assert services.migrations.invalid_indexes().empty


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


def held(services: Services, sql: str) -> None:
    """A table of the owner's, to see what was done to it how often."""
    owned(services, "create table tally (n int)")
    owned(services, sql)


def carried(services: Services, action: Any, folder: Path) -> tuple[Result, str]:
    ((_, result, why),) = carry_out([action], services, Journal(folder / "journal.jsonl"))
    return result, why


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


def test_an_index_takes_longer_than_a_statement_may(
    services: Services, firm: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "MARGIN", 0.1)
    made = file(tmp_path, "create index concurrently made_i on documents (status);\nset statement_timeout = '9s';")
    with everything(firm.name)[1].database.session() as other:
        other.execute("begin")
        other.execute("set role postgres")
        other.execute("lock table documents in row exclusive mode")
        threading.Timer(2, lambda: other.execute("commit")).start()
        do(services, services.migrations.apply_file(made, 1, 0.5))
    assert services.migrations.invalid_indexes().empty


def test_an_index_that_may_still_be_in_the_making_is_not_dropped(
    services: Services, firm: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = apply(services, file(tmp_path, "create index concurrently made_i on documents (status);"))
    with everything(firm.name)[1].database.session() as other:
        other.execute("begin")
        other.execute("set role postgres")
        other.execute("lock table documents in row exclusive mode")
        monkeypatch.setattr(migrating, "PATIENCE", 0.5)  # we go; the server builds on
        result, why = carried(services, action, tmp_path)
        assert result is Result.UNKNOWN
        assert "Whether statements [1] still take effect was not seen" in why
        result, why = carried(services, action, tmp_path)
        assert result is Result.UNKNOWN
        assert "which of its statements are committed was not seen" in why
        with pytest.raises(Faulty, match="may still be in the making"):
            do(services, action)
        other.execute("commit")
    for _ in range(50):
        found = services.database.rows("select indisvalid as it from pg_index where indexrelid = 'made_i'::regclass")
        if found == [{"it": True}]:
            return
        time.sleep(0.1)
    pytest.fail(f"the index that the server was building: {found}")


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


def test_a_migration_is_taken_back_where_nothing_is_lost(services: Services, tmp_path: Path) -> None:
    made = file(tmp_path, "set lock_timeout = '1s';\nalter table document_snapshots rename column payload to body;")
    do(services, apply(services, made))
    steps = reversal.reverse(made)
    assert reversal.lossless(steps)
    do(services, services.migrations.reverse(made, steps, 1, 30))
    assert services.database.rows("select count(payload) as n from document_snapshots limit 1")
    assert ledger(services) == []


def owned(services: Services, sql: str) -> list[Any]:
    with services.database.session() as session:
        session.execute("set role postgres")
        return session.execute(sql)


def test_what_would_be_lost_is_kept_before_a_migration_is_taken_back(services: Services, tmp_path: Path) -> None:
    text = (
        "alter table documents add column slug text;\ncreate table made (id int primary key, note text);\n"
        "alter table made enable row level security;\ncreate policy own on made using (true);"
    )
    made = file(tmp_path, text)
    do(services, apply(services, made))
    owned(services, "update documents set slug = 'x' where id in (select id from documents order by id limit 3)")
    owned(services, "insert into made values (1, 'one')")
    steps = reversal.reverse(made)
    assert (reversal.lossless(steps), reversal.possible(steps)) == (False, True)
    keeping = [services.migrations.keep_rows(made, one) for one in reversal.lost(steps)]
    back = services.migrations.reverse(made, steps, 1, 30, keeping)
    assert back.removes_access
    assert list(back.after) == [action.id for action in keeping]
    with pytest.raises(Refused, match="was not kept in opskit_kept"):
        Change.known[back.name].do(services, back.arguments, back.before, "key")
    assert [one.title for one in keeping] == [
        f'Keep what made holds: 1 rows, into opskit_kept."v{VERSION}_made"',
        f'Keep what documents.slug holds: 3 rows, into opskit_kept."v{VERSION}_documents_slug"',
    ]
    for action in keeping:
        do(services, action)
    owned(services, "insert into made values (2, 'late'); update made set note = 'changed' where id = 1")
    do(services, back)
    assert ledger(services) == []
    assert services.database.rows("select to_regclass('public.made') as made") == [{"made": None}]
    kept = owned(services, f'select note from opskit_kept."v{VERSION}_made" order by note')
    assert [row["note"] for row in kept] == ["changed", "late", "one"]  # what was written since, too
    assert len(owned(services, f'select id, slug from opskit_kept."v{VERSION}_documents_slug"')) == 3
    with pytest.raises(Denied):
        services.database.rows(f'select * from opskit_kept."v{VERSION}_made"')


def test_a_way_back_takes_as_long_as_the_person_allows(services: Services, tmp_path: Path) -> None:
    """What is kept is a whole table, perhaps; and its writers wait meanwhile, so it is the person who says how long."""
    made = file(tmp_path, "create table made (id int primary key, note json);")
    do(services, apply(services, made))
    owned(services, "insert into made select i, '{}' from generate_series(1, 20000) i")
    steps = reversal.reverse(made)
    keeping = [services.migrations.keep_rows(made, one) for one in reversal.lost(steps)]
    do(services, keeping[0])
    owned(services, "update made set note = '[]' where id = 7")
    back = services.migrations.reverse(made, steps, 1, 77, keeping)
    query = migrating._late(back.arguments["lost"][0])
    plan = "\n".join(row["QUERY PLAN"] for row in owned(services, f"explain {query}"))
    assert re.search(r"(Hash|Merge) Cond: \(+\w+\.id = \w+\.id\)", plan), plan
    back.arguments["sql"].append("create table seen as select current_setting('statement_timeout') as it")
    do(services, back)
    assert owned(services, "select it from seen") == [{"it": "77s"}]
    assert len(owned(services, f'select id from opskit_kept."v{VERSION}_made" where id = 7')) == 2


def test_by_hand_the_rows_are_kept_too(services: Services, tmp_path: Path) -> None:
    made = file(tmp_path, "alter table documents add column slug text;")
    do(services, apply(services, made))
    owned(services, "update documents set slug = 'x'")
    (lost,) = reversal.lost(reversal.reverse(made))
    words = as_bash_reads(services.migrations.keep_rows(made, lost).by_hand, tmp_path)
    for sql in (words[3], words[5]):
        owned(services, sql)
    assert owned(services, f'select count(slug) as n from opskit_kept."v{VERSION}_documents_slug"')[0]["n"] > 0


@pytest.mark.parametrize("days", [None, 7])
def test_a_restore_is_for_people_and_says_what_it_loses(
    services: Services, firm: Sandbox, tmp_path: Path, days: int | None
) -> None:
    told: Any = {"name": "made", "title": "x", "runbook": "supabase-migration-procedures", "causes": ["healthy"]}
    told["happenings"] = [{"what": "set_project", "pitr_days": days, "last_backup": "6 h ago", "when": "1 day ago"}]
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(told))
    firm.break_with(tmp_path / "made.yaml")
    made = file(tmp_path, "alter table documents drop column status;")
    do(services, apply(services, made))
    assert not reversal.possible(reversal.reverse(made))
    before = datetime.now(UTC) - timedelta(minutes=50)
    point = services.supabase.restore_point(before)
    assert point
    assert point.at == before if days else point.at < before
    action = services.migrations.restore(made, point)
    assert action.manual
    assert f"in the {str(point.loses).split('.')[0]} since is lost" in action.title
    assert ("supabase backups restore" in action.by_hand) == bool(days)
    assert point.loses >= (timedelta(minutes=50) if days else timedelta(hours=5))
    assert services.supabase.restore_point(datetime.now(UTC) - timedelta(days=30)) is None


@pytest.mark.parametrize(
    ("text", "back", "safe"),
    [
        ("create index i on t (a);", 'drop index "i"', True),
        ("create index i on app.t (a);", 'drop index "app"."i"', True),
        ("create index if not exists i on t (a);", None, False),  # what was there before is not ours to drop
        ("create table if not exists t (a int);", None, False),
        ("alter table t add column if not exists a int;", None, False),
        ("alter table t rename to u;", 'alter table "u" rename to "t"', True),
        ("alter table t add constraint c check (a > 0);", 'alter table "t" drop constraint "c"', True),
        ("alter table t add column a int;", 'alter table "t" drop column "a"', False),
        ("create table t (a int);", 'drop table "t"', False),
        ("drop table t;", None, False),
        ("update t set a = 1;", None, False),
    ],
)
def test_ways_back(tmp_path: Path, text: str, back: str | None, safe: bool) -> None:
    (step,) = steps = reversal.reverse(file(tmp_path, text))
    assert (step.sql, reversal.lossless(steps)) == (back, safe)


@pytest.mark.parametrize(
    ("text", "offenders"),
    [
        ("alter table documents add constraint c check (word_count < 0);", True),
        ("alter table documents add constraint c check (word_count < 0) not valid;", None),
        ("alter table documents add constraint c check (word_count >= 0);", False),
        ("alter table documents alter column user_id set not null;", False),
        ("create unique index i on documents (status);", True),
        ("alter table documents add constraint c unique (id);", False),
        ("alter table documents alter column title type int;", True),
        ("alter table documents alter column status type varchar;", False),
        ("alter table documents add constraint c foreign key (id) references user_profiles (id);", True),
        ("alter table documents add constraint c foreign key (user_id) references user_profiles;", False),
        ("create table made (a int); alter table made add constraint c check (a > 0);", None),
        ("create table made (a int); insert into made values (1); create unique index i on made (a);", None),
        ("create unique index i on documents (lower(status));", True),
        ("create unique index i on document_versions (document_id, version_number) nulls not distinct;", False),
        ("alter table documents add column made int not null;", True),
        ("alter table documents add column made int not null default 7;", None),
        ("alter table documents add column made serial not null;", None),
        ("alter table documents alter column word_count type smallint;", False),
        (
            "alter table documents add constraint c foreign key (id) references user_profiles (id) not valid;"
            "alter table documents validate constraint c;",
            True,
        ),
    ],
)
def test_rows_that_would_be_refused_are_counted(services: Services, tmp_path: Path, text: str, offenders: Any) -> None:
    found = services.migrations.offenders([file(tmp_path, text)])
    assert [bool(n) for n in found.offenders] == ([] if offenders is None else [offenders]), found


@pytest.mark.parametrize(
    "text",
    [
        "alter table documents add column made text; alter table documents alter column made set not null;",
        "alter table documents alter column title type int using length(title);",
        "alter table documents add column made int default 7 unique;",
        "alter table documents validate constraint nobody_knows;",
        "alter table documents add constraint c exclude (title with =);",
        "create domain d as text; alter domain d set not null;",
    ],
)
def test_what_nobody_counted_is_not_said_to_fit(services: Services, tmp_path: Path, text: str) -> None:
    (row,) = services.migrations.offenders([file(tmp_path, text)]).itertuples()
    assert row.offenders is None
    assert row.why.startswith("not proven: ")


def test_what_an_earlier_statement_may_put_right_is_not_proven(services: Services, tmp_path: Path) -> None:
    text = "update documents set word_count = -1;\nalter table documents add constraint c check (word_count < 0);"
    (row,) = services.migrations.offenders([file(tmp_path, text)]).itertuples()
    assert row.offenders is None
    assert "an earlier statement changes rows" in row.why
