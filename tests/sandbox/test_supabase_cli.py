"""Supabase's own command-line tool against the sandbox: it lists, refuses and applies as the sandbox does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from migration_company import FOUND, REPAIRS, repair
from npm import REPOSITORY, tool

from opskit.sandbox import Sandbox, catalog, migrations, supabase
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.serving import Serving, faulty
from opskit.sandbox.supabase import SupabaseStore
from opskit.sandbox.world import World

PACKAGE = "supabase@3.1.0"
PLACE = REPOSITORY / "node_modules" / ".supabase"  # npm leaves names with a dot alone
NEW = "20251103090000_new.sql"
SHIPPED = sorted(name.partition("_")[0] for name in migrations.shipped())
LEDGER = "select version, name, statements from supabase_migrations.schema_migrations order by version"

TEXTS = {
    "plain": "alter table documents add column slug text;\n\ncreate index s on documents (slug)",
    "comments": """
        -- Names; one each.
        set lock_timeout = '2s';
        /* a; b */ alter table documents add slug text; -- so
        select 1 -- the end;
    """,
    "quotes": """
        insert into subscription_tier_limits values ('x;''y', 1), (E'a\\';b', 2);
        create table "odd;name" (id int default ';');;
        comment on table "odd;name" is 'a;b'
    """,
    "dollars": """
        create function f() returns text language plpgsql as $x$ begin perform 1; return $$a;b$$; end $x$;
        do $$ begin create table done (id int); end $$;
    """,
    "atomic": "create function g() returns int begin atomic; select 1; end;\nselect g();",
    "end comment": "create table tags (id int);\n-- the end\n",
    "carriage returns": "create table tags (\r\n  id int\r\n);\r\ncreate index t on tags (id);\r\n",
    "empty": "-- nothing yet\n",
    "umlauts": '-- Größe; Maß\ncreate table größen ("maß;" text default \'ü;\');\ncreate index on größen ("maß;");',
    "concurrently": "create index concurrently d on documents (title);\nalter table documents add column slug text;",
    "fails": "create table tags (id int);\nalter table nope add x int;",
    "fails after concurrently": """
        create table tags (id int);
        create index concurrently tags_id on tags (id);
        create table labels (id int);
        alter table nope add x int;
    """,
    "unique concurrently": "create unique index concurrently u on subscription_tier_limits ((1));",
    "not ours": "alter table auth.users add column nickname text;",
    "no syntax": "create table tags (id int);\ncreate tabel labels (id int);",
}


def sampled(names: Iterable[str]) -> list[Any]:
    """One of three is quick; `make test-deep` tries them all."""
    return [pytest.param(name, marks=[pytest.mark.deep] if number % 3 else []) for number, name in enumerate(names)]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


def called(tool: Path, home: Path, *arguments: str, **variables: str) -> Said:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "SUPABASE_NO_UPDATE_NOTIFIER": "1",
        "DO_NOT_TRACK": "1",
        **variables,
    }
    done = subprocess.run(
        [str(tool), *arguments],
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tool(PACKAGE, "supabase", PLACE, tmp_path_factory.getbasetemp().parent / "npm-supabase.lock")


@pytest.fixture(scope="module")
def world(cluster: Postgres) -> Iterator[World]:
    """The Management API, served."""
    serving = Serving(["supabase"])
    world = World(1, cluster, addresses=serving.addresses)
    world.secrets["supabase"] = "sbp_" + "a" * 40
    world.supabase = SupabaseStore(world)
    supabase.populate(world)
    late = datetime.now(UTC) - timedelta(minutes=5)
    world.supabase.log(late, "canceling statement due to lock timeout", "ERROR", "55P03", migrations.OWNER)
    serving.serve("supabase", faulty(world, "supabase", supabase.application(world)))
    serving.await_ready()
    yield world
    serving.stop()


@pytest.fixture
def ask(installed: Path, world: World, tmp_path: Path) -> Run:
    """The tool, told that Supabase is on this machine."""
    address, profile = world.addresses["supabase"], tmp_path / "profile.yaml"
    profile.write_text(f"name: here\napi_url: {address}\ndashboard_url: {address}\nproject_host: supabase.co\n")

    def cli(*arguments: str) -> Said:
        target = [f"--remote={world.supabase.ref}", "--profile", str(profile), "--output-format", "json"]
        return called(installed, tmp_path, *arguments, *target, SUPABASE_ACCESS_TOKEN=world.secrets["supabase"])

    return cli


@pytest.fixture
def run(installed: Path, database: Postgres, tmp_path: Path) -> Run:
    migrations.write(migrations.shipped(), tmp_path)

    def cli(*arguments: str, as_json: bool = True) -> Said:
        target = ["--workdir", str(tmp_path), f"--remote={database.dsn(migrations.OWNER)}"]
        return called(installed, tmp_path, *arguments, *target, *["--output-format", "json"][: 2 * int(as_json)])

    return cli


def hold(folder: Path, changed: dict[str, str | None]) -> migrations.Files:
    """The shipped files, and others in the place of some of them."""
    files = {name: text for name, text in {**migrations.shipped(), **changed}.items() if text is not None}
    migrations.write(files, folder)
    return files


def found(database: Postgres) -> tuple[list[Any], dict[str, Any]]:
    """The ledger and the schema."""
    with database.connect() as connection:
        return connection.execute(LEDGER).fetchall(), catalog.objects(connection)


def pushed(database: Postgres, files: migrations.Files) -> bool:
    """Push as a scenario does; whether it went well."""
    with database.connect() as connection:
        try:
            migrations.push(connection, files)
        except (migrations.Refused, psycopg.Error):
            return False
    return True


def test_folder_and_ledger_agree(run: Run) -> None:
    listed = run("migration", "list").data["migrations"]
    assert [(one["local"], one["remote"]) for one in listed] == [(version, version) for version in SHIPPED]
    assert run("db", "push", "--dry-run").data["upToDate"] is True


def test_a_dry_run_names_what_is_pending_and_changes_nothing(run: Run, database: Postgres, tmp_path: Path) -> None:
    hold(tmp_path, {NEW: TEXTS["plain"], "notes.txt": "no migration", "hello.sql": "select 1;"})
    before = found(database)
    told = run("db", "push", "--dry-run", as_json=False)
    assert (told.code, NEW in told.err) == (0, True)
    assert "Skipping migration hello.sql" in told.err
    assert found(database) == before
    assert run("migration", "list").data["migrations"][-1]["remote"] in ("", None)


def test_nothing_is_pushed_unless_somebody_says_yes(run: Run, database: Postgres, tmp_path: Path) -> None:
    hold(tmp_path, {NEW: TEXTS["plain"]})
    before = found(database)
    assert run("db", "push").code != 0
    assert found(database) == before


@pytest.mark.parametrize("name", sampled(TEXTS))
def test_a_push_of_ours_is_a_push_of_theirs(run: Run, database: Postgres, tmp_path: Path, name: str) -> None:
    files = hold(tmp_path, {NEW: TEXTS[name]})
    well = pushed(database, files)
    ours = found(database)
    database.restore("fresh")
    said = run("db", "push", "--yes")
    assert (said.code == 0) == well, said
    theirs = found(database)
    assert theirs == ours
    assert well == (theirs[0][-1][0] == NEW.partition("_")[0])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"20251006113348_document_branches.sql": None, NEW: "select 1"}, "not found in local migrations directory"),
        ({"20250901000000_late.sql": "select 1"}, "inserted before the last migration"),
    ],
    ids=["unknown", "late"],
)
def test_both_refuse_a_ledger_that_tells_another_story(
    run: Run, database: Postgres, tmp_path: Path, changed: dict[str, str | None], said: str
) -> None:
    files = hold(tmp_path, changed)
    before = found(database)
    refused = run("db", "push", "--yes", as_json=False)
    assert refused.code != 0
    assert said in refused.err
    assert not pushed(database, files)
    assert found(database) == before


def test_what_we_push_leaves_them_nothing_to_do(run: Run, database: Postgres, tmp_path: Path) -> None:
    assert pushed(database, hold(tmp_path, {NEW: TEXTS["comments"]}))
    assert run("db", "push", "--dry-run").data["upToDate"] is True
    last = run("migration", "list").data["migrations"][-1]
    assert last["local"] == last["remote"] == NEW.partition("_")[0]


def test_it_reads_the_backups(ask: Run, world: World) -> None:
    told = ask("backups", "list").data
    assert [one["id"] for one in told["backups"]] == [one.id for one in reversed(world.supabase.backups)]
    assert told["pitr_enabled"] is False


def test_it_finds_an_error_in_the_logs(ask: Run, world: World) -> None:
    found = ask("logs", "--service", "postgres", "--search", "LOCK timeout", "--since", "3h")
    assert found.code == 0, found
    assert [one["id"] for one in found.data] == [world.supabase.logs[-1].id]
    by_state = "select id from logs where log_attributes['parsed.sql_state_code'] = '55P03' limit 5"
    assert ask("logs", "--sql", by_state).data == [{"id": world.supabase.logs[-1].id}]
    assert len(ask("logs", "--since", "3h").data) >= 3
    assert ask("logs", "--level", "error", "--since", "3h").data == found.data


def test_it_reads_the_database_over_the_api(ask: Run, database: Postgres) -> None:
    counted = ask("db", "query", "--read-only", "select count(*)::int as tiers from subscription_tier_limits")
    assert counted.code == 0, counted
    assert "4" in counted.out
    assert ask("db", "query", "--read-only", "drop table subscription_tier_limits").code != 0


JUDGED = {  # what it says of a scenario when it is asked to push
    "migrations-healthy": "Finished supabase db push",
    "migrations-drift": "Remote database is up to date",  # it does not look
    "migrations-invalid-index": "Remote database is up to date",
    "migrations-constraint-against-data": "SQLSTATE 23514",
    "migrations-lock-timeout": "SQLSTATE 55P03",
    "migrations-partial-apply": "SQLSTATE 42P07",
    "migrations-history-mismatch": "not found in local migrations directory",
    "migrations-history-and-constraint": "not found in local migrations directory",
    "migrations-postgres-down": "failed to connect",
}


def push_as_owner(tool: Path, company: Sandbox, home: Path) -> Said:
    """With opskit's credential, which may become the owner."""
    place = yaml.safe_load(company.environment.read_text())["services"]["database"]
    password = (company.folder / "secrets" / "database_change").read_text()
    address = place["address"].replace("//", f"//{place['change']['user']}:{password}@")
    target = f"--remote={address}&options=-c%20role%3D{place['owner']}"
    return called(tool, home, "db", "push", "--yes", "--workdir", str(company.folder), target)


@pytest.mark.parametrize("name", sampled(JUDGED))
def test_a_scenario_is_what_it_says(installed: Path, company: Sandbox, tmp_path: Path, name: str) -> None:
    company.break_with(FOUND[name])
    said = push_as_owner(installed, company, tmp_path)
    assert JUDGED[name] in said.out + said.err
    assert (said.code == 0) == (said.out != "")


@pytest.mark.parametrize("name", sampled(name for name in REPAIRS if name in JUDGED))
def test_a_repaired_scenario_leaves_nothing_to_push(
    installed: Path, company: Sandbox, tmp_path: Path, name: str
) -> None:
    company.break_with(FOUND[name])
    repair(company, name)
    assert "Remote database is up to date" in push_as_owner(installed, company, tmp_path).out
