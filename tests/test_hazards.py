"""Hazards in migrations: each found once, at the right file and line, and none invented."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.errors import CannotTell
from opskit.services import hazards, migrations

# Every hazard, beside what looks like it and is none. A line `-- ! name …` says what the next one holds.
FILES = {
    "20260101000000_indexes.sql": """
-- ! blocking-index
create index documents_title on documents (title);
create table fresh (id int, note text);
alter table fresh enable row level security;
create index fresh_note on fresh (note);
-- drop table documents;
comment on table fresh is 'delete from documents; truncate documents cascade';
-- ! blocking-index-drop
drop index documents_old;
""",
    "20260101000001_concurrently.sql": "create index concurrently documents_title on documents (title);\n",
    "20260101000002_mixed.sql": """
alter table documents add column note text;
-- ! concurrently-mixed
create index concurrently documents_note on documents (note);
""",
    "20260101000003_constraints.sql": """
-- ! validated-constraint
alter table documents add constraint words check (word_count >= 0);
alter table documents add constraint words2 check (word_count >= 0) not valid;
-- ! validated-constraint
alter table documents validate constraint words2;
-- ! validated-constraint
alter table documents add constraint fk foreign key (user_id) references user_profiles (id);
-- ! blocking-unique
alter table documents add constraint once unique (title);
alter table documents add constraint used unique using index documents_title;
""",
    "20260101000004_columns.sql": """
alter table documents add column a int default 7;
-- ! volatile-default
alter table documents add column b uuid default gen_random_uuid();
-- ! required-column
alter table documents add column c text not null;
-- ! type-change
alter table documents alter column word_count type bigint;
-- ! rename
alter table documents rename column title to heading;
-- ! set-not-null
alter table documents alter column note set not null;
-- ! drop-column
alter table documents drop column note;
""",
    "20260101000005_data.sql": """
-- ! unqualified-write
update documents set note = '';
update documents set note = '' where note is null;
-- ! unqualified-write
delete from documents;
-- ! truncate-cascade
truncate documents cascade;
-- ! truncate
truncate documents;
-- ! drop-table
drop table documents;
-- ! drop-schema
drop schema old cascade;
-- ! drop-owned
drop owned by somebody;
-- ! drop-extension
drop extension citext cascade;
drop extension citext;
-- ! drop-column
drop domain must cascade;
-- ! drop-column
drop type mood cascade;
drop type nobodys;
-- ! merge-delete
merge into documents d using members m on m.id = d.id when matched then delete;
merge into documents d using members m on m.id = d.id when matched then update set note = '' when not matched then
  insert values (m.id);
""",
    "20260101000011_rewrites.sql": """
-- ! blocking-reindex
reindex table documents;
""",
    "20260101000012_full.sql": "-- ! rewrites-table\nvacuum full documents;\n",
    "20260101000013_vacuum.sql": "vacuum documents;\n",
    "20260101000014_cluster.sql": "-- ! rewrites-table\ncluster documents using documents_title;\n",
    "20260101000015_reindex.sql": "reindex table concurrently documents;\n",
    "20260101000016_enum_renamed.sql": """
alter type mood rename value 'glad' to 'happy';
select 'happy';
""",
    "20260101000006_begin.sql": """
-- ! own-transaction
begin;
alter table documents add column note text;
-- ! own-transaction
commit;
do $$ begin perform 1; end $$;
""",
    "20260101000007_enum.sql": """
alter type mood add value 'glad';
select 'sad';
-- ! enum-value-used
insert into moods values ('glad');
""",
    "20260101000008_enum_alone.sql": "alter type mood add value 'glad' after 'sad';\n",
    "20260101000009_rights.sql": """
-- ! definer-search-path
create function f() returns int language sql security definer as $$ select 1 $$;
create function g() returns int language sql security definer set search_path = '' as $$ select 1 $$;
create function h() returns int language sql as $$ select 1 -- security definer
$$;
-- ! definer-search-path
alter function h() security definer;
alter function h() security definer set search_path = '';
-- ! policy-recursion
create policy p on documents using (exists (select from documents d where d.id = id));
create policy q on documents using (exists (select from members m where m.id = id));
create policy r on users using (exists (select from auth.users u where u.id = id));
-- ! rls-off
alter table documents disable row level security;
-- ! rls-missing
create table naked (id int);
create table private.other (id int);
create temp table passing (id int);
-- ! rls-missing
create table copied as select * from documents;
create materialized view seen as select * from documents;
""",
    "20260101000017_bodies.sql": """
do $$
declare one record; many int;
begin
  if true then
    -- ! unqualified-write
    delete from documents;
    delete from documents where note is null;
  end if;
  -- ! unqualified-write
  for one in delete from members returning * loop
    -- ! drop-table
    execute 'drop table old_documents';
    -- ! cannot-be-seen
    execute format('drop table %I', one.name);
  end loop;
  raise notice 'truncate documents';  -- drop table documents
  -- ! unqualified-write
  with gone as (
    delete from moods returning *) select count(*) into many from gone;
  many := wipe();
exception when others then
  -- ! drop-column
  alter table documents drop column note;
end $$;

create function wipe() returns int language plpgsql as $$
begin
  -- ! truncate
  truncate documents;
  return 1;
end $$;
create function unused() returns void language sql as 'delete from documents';
create procedure tidy() language sql as '
  select ''it''''s fine'';
  -- ! unqualified-write
  update documents set note = '''';
';
call tidy();
create trigger later after insert on documents execute function unused();
create rule never as on delete to documents do also delete from members;
create function atomic() returns void begin atomic delete from documents where id = 1; end;
select atomic();
-- ! cannot-be-seen
do language plpython3u 'plpy.execute("select 1")';
""",
    "20260101000018_with.sql": """
-- why
-- ! unqualified-write
with gone as (delete from documents returning *) insert into archive select * from gone;
with gone as (delete from documents where note is null returning *) insert into archive select * from gone;
-- ! unqualified-write
with all_of as (update documents set note = '' where true returning *) select count(*) from all_of;
-- ! unqualified-write
delete from documents where 1 = 1;
delete from documents where 1 = 2;
explain delete from documents;
-- ! unqualified-write
explain analyze delete from documents;
""",
    "20260101000019_ignored.sql": """
-- squawk-ignore ban-drop-table
-- ! drop-table
drop table documents;
-- squawk-ignore ban-drop-column
alter table documents
  add column more numeric(4, 2),
  -- squawk-ignore ban-drop-column
  -- ! drop-column
  drop column note,
  -- ! drop-column
  drop column title;
-- squawk-ignore
-- ! truncate-cascade
truncate documents cascade;
""",
    "20260101000020_all_ignored.sql": """
-- squawk-ignore-file
-- ! drop-table
drop table documents;
""",
    "20260101000021_made_before.sql": """
create function empty() returns void language plpgsql as $$
begin
  -- ! unqualified-write
  delete from documents;
end $$;
create function never_called() returns void language sql as 'delete from documents';
""",
    "20260101000022_called_after.sql": "select public.empty();\n",
    "20260101000010_crlf.sql": "select 1;\r\n\r\n-- ! drop-table\r\ndrop table documents;\r\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def expected() -> list[tuple[str, int, str]]:
    return sorted(
        (name, number + 1, word)
        for name, text in FILES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if line.lstrip().startswith("-- ! ")
        for word in line.lstrip().removeprefix("-- ! ").split()
    )


def test_each_hazard_is_found_once_and_none_is_invented(folder: Path) -> None:
    found = hazards.find(migrations.opened(folder).files)
    assert [(h.file, h.line, h.name) for h in found] == expected()
    assert {h.name for h in found} == set(hazards.KNOWN)  # every one that we know is in these files
    assert all(h.what and h.rewrite for h in found)


def test_a_file_that_cannot_be_sent_keeps_no_other_from_being_read(folder: Path) -> None:
    (folder / "20260101000005_data.sql").write_bytes(b"\xff")
    found = hazards.find(migrations.opened(folder).files)
    assert [(h.file, h.line, h.name) for h in found] == [one for one in expected() if "_data" not in one[0]]


def test_files_are_found_from_wherever_opskit_is_called_and_whatever_they_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a [b]" / "supabase" / "migrations"
    place.mkdir(parents=True)
    names = ["20260101000001_plain.sql", "20260101000002_a[1].sql", "20260101000003_b*.sql", "20260101000004_c?.sql"]
    for name in names:
        (place / name).write_text("create index i on documents (title);\n")
    monkeypatch.chdir(tmp_path / "a [b]")
    for folder in (Path("supabase/migrations"), Path("supabase/../supabase/migrations"), place):
        found = hazards.find(migrations.opened(folder).files)
        assert [(h.file, h.line, h.name) for h in found] == [(name, 1, "blocking-index") for name in names]


def test_files_that_squawk_does_not_see_are_not_without_hazards(folder: Path) -> None:
    kept = migrations.opened(folder).files
    for file in kept:
        file.path.unlink()
    with pytest.raises(CannotTell, match="Failed to find files"):
        hazards.find(kept)


def test_without_squawk_nobody_says_that_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(CannotTell, match="squawk is not installed"):
        hazards.find(migrations.opened(folder).files)
    assert list(hazards.known_to_us(migrations.opened(folder).files))  # what needs no squawk is still found
