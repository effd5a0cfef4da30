"""A wrong target is refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import events, everything

from opskit import archive
from opskit.commands.runs import look
from opskit.errors import CannotTell, Refused
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox
from opskit.services import migration_steps, pins

HERE, ELSEWHERE = "abcdefghijklmnopqrst", "zyxwvutsrqponmlkjihg"


@pytest.mark.parametrize(
    ("link", "config", "found"),
    [
        (None, None, None),
        (f"{HERE}\n", None, HERE),
        (None, f'project_id = "{HERE}"\n', HERE),
        (None, 'project_id = "quillfolio"\n', None),  # what `supabase init` writes: the folder's own name
        (HERE, f'project_id = "{ELSEWHERE}"\n', HERE),  # the tool asks its link first
        (None, "project_id = \n", None),
        ("\n", f'project_id = "{HERE}"\n', HERE),
    ],
)
def test_the_project_that_a_folder_is_linked_to(
    tmp_path: Path, link: str | None, config: str | None, found: str | None
) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / ".temp").mkdir()
    if link is not None:
        (tmp_path / ".temp" / "project-ref").write_text(link)
    if config is not None:
        (tmp_path / "config.toml").write_text(config)
    assert migration_steps.linked(tmp_path / "migrations") == found


def ignore(name: str, error: CannotTell) -> None:
    """A pin that cannot be seen is another test's."""


def test_whether_files_are_linted_before_they_are_merged(tmp_path: Path) -> None:
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    assert migration_steps.linted_before_merge(folder) is None  # in no repository
    (tmp_path / ".git").touch()  # as a worktree has it
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    gate = tmp_path / ".github" / "workflows" / "ci.yml"
    gate.write_text("jobs: {test: {steps: [{run: npm test}]}}")
    assert migration_steps.linted_before_merge(folder) is False
    gate.write_text("jobs: {lint: {steps: [{run: squawk supabase/migrations/*.sql}]}}")
    assert migration_steps.linted_before_merge(folder) is True


def test_services_that_name_two_projects_are_refused(firm: Sandbox) -> None:
    target, services = everything(firm.name)
    database = target.services.database.model_copy(update={"address": f"postgresql://db.{HERE}.supabase.co/postgres"})
    pinned = target.pins.model_copy(update={"supabase_ref": HERE})
    for project, refused in ((HERE, False), (ELSEWHERE, True)):
        supabase = (target.services.supabase or database).model_copy(update={"project": project})
        named = target.services.model_copy(update={"database": database, "supabase": supabase})
        given = target.model_copy(update={"pins": pinned, "services": named})
        if refused:
            with pytest.raises(Refused, match=f"supabase_ref is {HERE},{ELSEWHERE}, not {HERE}"):
                pins.compare(given, services, ignore)
        else:
            pins.compare(given, services, ignore)


def test_a_folder_of_another_project_ends_the_run_before_it_reads(firm: Sandbox) -> None:
    told = firm.break_with("migrations-wrong-target")
    asked = len(firm.traffic())
    with firm.statements() as log:
        folder, outcome = look("supabase-migration-procedures", {**told["parameters"], "environment": firm.name})
        statements = " ".join(entry["sql"] for entry in log() if entry["user"].startswith("opskit"))
    assert outcome is Outcome.REFUSED
    assert archive.summary(folder)["causes"] == ["wrong-target"]
    assert "nothing was read" in events(folder, "refused")[0]["why"]
    assert "pg_control_system" in statements  # the pins were compared, or this test sees nothing
    assert "schema_migrations" not in statements
    assert not [one for one in firm.traffic()[asked:] if one["service"] == "supabase"]
