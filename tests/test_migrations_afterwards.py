"""After an apply, ours or the team's own: what is there is held against what was rehearsed; a difference is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rehearsing import files
from support import Opskit, data, events

from opskit import plan
from opskit.actions import Change, Result, carry_out
from opskit.commands.runs import look
from opskit.commands.sandbox import approve_and_apply
from opskit.errors import BadInput, Faulty
from opskit.journal import Journal
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox
from opskit.services import Services, migrating
from opskit.services.statements import File

OWNED = """
create table made (
  id int primary key, user_id uuid references user_profiles (id), kind varchar(9) check (kind in ('a', 'b'))
);
alter table made enable row level security;
create policy own on made to authenticated using (user_id = (select auth.uid()));
"""
# Where there are rows it does something else than in a rehearsal, which has none.
IF_ROWS = """
do $$ begin
  if exists (select from documents) then
    alter table documents disable row level security;
    alter table documents add column found boolean;
  end if;
end $$;
"""


def steps(services: Services, made: list[File]) -> list[Any]:
    found = [services.migrations.apply_file(one, 3, 30) for one in made]
    return [*found, services.migrations.look_again(made)]


def carried(services: Services, actions: list[Any], folder: Path) -> list[tuple[Result, str]]:
    journal = Journal(folder / "journal.jsonl")
    return [(result, why) for _, result, why in carry_out(actions, services, journal)]


def as_owner(services: Services, *texts: str) -> None:
    with services.database.session() as session:
        session.execute("set role postgres")
        for text in texts:
            session.execute(text)


def test_what_is_as_rehearsed_is_verified_and_what_somebody_did_besides_is_named(
    services: Services, tmp_path: Path
) -> None:
    actions = steps(services, files(tmp_path, OWNED, "alter table documents rename column status to state;"))
    assert [result for result, _ in carried(services, actions, tmp_path)] == [Result.DONE] * 2 + [Result.ALREADY]
    as_owner(services, "create policy all_of on made for select to authenticated using (true)")
    (again,) = actions[2:]
    (tmp_path / "later").mkdir()
    ((result, why),) = carried(services, [again], tmp_path / "later")
    assert (result, json.loads(why.removeprefix("afterwards still: "))) == (
        Result.FAILED,
        {"differs": [
            "access to public.made, select by stranger: allowed, not denied",
            "policy public.made.all_of: not expected",
        ]},
    )  # fmt: skip
    as_owner(services, "drop policy all_of on made")
    assert carried(services, [again], tmp_path / "later") == [(Result.DONE, "")]  # as `opskit resume` looks


def test_what_people_change_besides_is_not_held_against_them_unless_it_opens_rows(
    services: Services, tmp_path: Path
) -> None:
    (made,) = files(tmp_path, "alter table documents add column more int;")
    apply = services.migrations.apply_file(made, 3, 30)
    again = services.migrations.look_again([made], people=True)
    as_owner(
        services,
        "create table captured (id int primary key, user_id uuid)",
        "alter table captured enable row level security",
        "drop policy own_delete on documents",
    )
    assert [result for result, _ in carried(services, [apply, again], tmp_path)] == [Result.DONE, Result.ALREADY]
    as_owner(services, "alter table captured disable row level security", "alter table documents drop column more")
    told = Change.known[again.name].look(services, again.arguments)["differs"]
    assert told[-1] == "column public.documents.more: missing"
    assert {line.rpartition(" by ")[2].partition(":")[0] for line in told[:-1]} == {"anonymous", "stranger"}


def test_what_is_finished_is_expected_once(services: Services, tmp_path: Path) -> None:
    (made,) = files(
        tmp_path,
        "create table made (id int primary key);\ncreate index on made (id);\nalter table made add foreign key (id)"
        " references made;\nalter table made enable row level security;",
    )
    as_owner(services, *made.texts[:3])
    finish = services.migrations.finish_file(made, [4], 3, 30)
    again = services.migrations.look_again([migrating.rest(made, [4])])
    assert [result for result, _ in carried(services, [finish, again], tmp_path)] == [Result.DONE, Result.ALREADY]


def test_what_a_failed_reindex_left_is_expected_to_be_gone(services: Services, tmp_path: Path) -> None:
    as_owner(services, "create index by_status on documents (status)")
    with pytest.raises(Faulty):
        as_owner(services, "create unique index concurrently by_status_ccnew on documents (status)")
    (made,) = files(tmp_path, "alter table documents add column more int;")
    again = services.migrations.look_again([made])
    apply = services.migrations.apply_file(made, 3, 30)
    drop = services.migrations.drop_leftover("public.documents", "public.by_status_ccnew", 60)
    results = [result for result, _ in carried(services, [drop, apply, again], tmp_path)]
    assert results == [Result.DONE, Result.DONE, Result.ALREADY]


def test_what_a_file_does_only_where_there_are_rows_is_named(services: Services, tmp_path: Path) -> None:
    applied, (result, why) = carried(services, steps(services, files(tmp_path, IF_ROWS)), tmp_path)
    assert (applied[0], result) == (Result.DONE, Result.FAILED)
    assert "access to public.documents, delete by anonymous: allowed, not denied" in why


def test_only_a_row_with_the_planned_statements_says_that_a_file_is_applied(services: Services, tmp_path: Path) -> None:
    (made,) = files(tmp_path, "create table made (id int);")
    action, apply = services.migrations.apply_file(made, 3, 30), Change.known["migrations.apply_file"]
    carried(services, [action], tmp_path)
    assert apply.done(apply.look(services, action.arguments), action.before)
    files(tmp_path, "create table other (id int);")  # the row is of another file now
    assert not apply.done(apply.look(services, action.arguments), action.before)
    as_owner(services, "update supabase_migrations.schema_migrations set statements = '{create table other (id int)}'"
             " where version = '20270101000000'")  # fmt: skip
    assert not apply.done(apply.look(services, action.arguments), action.before)  # as in a file that nobody approved


def test_the_teams_own_command_is_a_step_that_waits_until_the_ledger_has_all(
    services: Services, tmp_path: Path
) -> None:
    made = files(tmp_path, OWNED, "alter table documents add column more int;")
    command = 'supabase db push --db-url "$DATABASE_URL"'
    by_hand = services.migrations.migrate_by_hand(command, made, made)
    assert (by_hand.by_hand, by_hand.manual, by_hand.removes_access) == (command, True, False)
    actions = [by_hand, services.migrations.look_again(made)]
    first, last = (services.migrations.apply_file(one, 3, 30) for one in made)
    Change.known[first.name].do(services, first.arguments, first.before, "key")  # it stopped in the middle
    assert carried(services, actions[:1], tmp_path)[0][0] is Result.WAITING
    Change.known[last.name].do(services, last.arguments, last.before, "key")
    assert [result for result, _ in carried(services, actions, tmp_path)] == [Result.DONE, Result.ALREADY]


def test_what_cannot_be_told_apart_by_the_teams_command_is_not_planned(services: Services, tmp_path: Path) -> None:
    made = files(tmp_path, "select 1;", "drop table documents;")
    with pytest.raises(BadInput, match="applies every pending file"):
        services.migrations.migrate_by_hand("npm run db:migrate", made[:1], made)
    assert services.migrations.migrate_by_hand("npm run db:migrate", made, made).removes_access


@pytest.mark.deep  # it looks twice
def test_a_run_whose_migration_does_otherwise_than_rehearsed_does_not_end_as_done(firm: Sandbox) -> None:
    told = firm.break_with("migrations-healthy")
    (Path(told["parameters"]["folder"]) / "20251111000000_rows.sql").write_text(IF_ROWS)
    folder, outcome = look("supabase-migration-procedures", {**told["parameters"], "environment": firm.name})
    assert outcome is Outcome.PLANNED
    assert [action.name for action in plan.load(folder / "plan.json")][-1] == "migrations.look_again"
    applied, outcome = approve_and_apply(folder)
    assert outcome is Outcome.PARTLY
    ended = events(applied, "action.ended")
    assert [event["result"] for event in ended] == [Result.DONE] * 3 + [Result.FAILED]
    assert "column public.documents.found: not expected" in ended[-1]["after"]["differs"]


@pytest.mark.deep
def test_until_somebody_has_run_the_teams_command_the_plan_waits(firm: Sandbox, opskit: Opskit) -> None:
    told = firm.break_with("migrations-team-command")
    folder, outcome = look("supabase-migration-procedures", {**told["parameters"], "environment": firm.name})
    planned = plan.load(folder / "plan.json").actions
    assert (outcome, [action.manual for action in planned]) == (Outcome.PLANNED, [True, False])
    assert planned[0].by_hand == "supabase db push --linked --yes"
    applied, outcome = approve_and_apply(folder)
    assert outcome is Outcome.PARTLY
    assert [event["result"] for event in events(applied, "action.ended")] == [Result.WAITING] * 2
    firm.by_hand()
    resumed = data(opskit("resume", applied.name, "--json"))
    assert resumed["outcome"] == Outcome.VERIFIED
