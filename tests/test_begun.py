"""A file of which an earlier run committed a part is not begun anew: the journals of this machine tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import events, everything

from opskit import archive
from opskit.actions import Action, Change, Result, carry_out
from opskit.commands.runs import look
from opskit.errors import CannotTell
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, begun, migrating, migrations
from opskit.services.statements import File

VERSION = "20270101000000"
TWO = "update tally set n = n + 1;\ncommit;\nupdate tally set n = n + 1;\nselect 1 / (select n - 3 from tally);"


@pytest.fixture
def services(firm: Sandbox) -> Services:
    found = everything(firm.name)[1]
    with found.database.session() as session:
        session.execute("set role postgres")
        session.execute("create table tally (n int)")
        session.execute("insert into tally values (1)")
    return found


def file(folder: Path, text: str, version: str = VERSION) -> File:
    (folder / f"{version}_made.sql").write_text(text)
    return next(one for one in migrations.opened(folder).files if one.version == version)


def record(outputs: Path, run: str, environment: str, resumes: str = "") -> Journal:
    """A run of which nothing is there but its head and its journal."""
    place = outputs / "incident" / run
    place.mkdir(parents=True)
    head = {"run": run, "environment": environment} | ({"resumes": resumes} if resumes else {})
    (place / "run.json").write_text(json.dumps(head))
    return Journal(place / "journal.jsonl")


def carried(services: Services, action: Action, journal: Journal) -> Result:
    ((_, result, _),) = carry_out([action], services, journal)
    return result


def resumed(old: Journal, new: Journal) -> Journal:
    told = [event | {"carried_over": True} for event in old.read()]
    new.path.write_text("".join(json.dumps(event) + "\n" for event in told))
    return new


def test_what_a_run_committed_of_a_file_is_told_until_the_file_is_applied_or_taken_back(
    services: Services, firm: Sandbox, tmp_path: Path, outputs: Path
) -> None:
    made = file(tmp_path, TWO)
    action = services.migrations.apply_file(made, 1, 30)
    first = record(outputs, "1", firm.name)
    assert begun.unfinished(outputs, firm.name, [made]) == []
    assert carried(services, action, first) is Result.FAILED
    assert begun.unfinished(outputs, firm.name, [made]) == [
        (made.path.name, "1", "statements [1, 2]", "opskit resume 1")
    ]
    assert begun.unfinished(outputs, "another", [made]) == []
    second = resumed(first, record(outputs, "2", firm.name, "1"))
    assert carried(services, action, second) is Result.FAILED
    third = resumed(second, record(outputs, "3", firm.name, "2"))
    assert begun.unfinished(outputs, firm.name, [made])[0][3] == "opskit resume 3"
    edited = file(tmp_path, TWO.replace("- 3", "- 7"))
    assert begun.unfinished(outputs, firm.name, [edited])[0][3].startswith("edited since: put it back")
    with services.database.session() as session:
        session.execute("set role postgres")
        session.execute("update tally set n = 5")
    file(tmp_path, TWO)
    assert carried(services, action, third) is Result.DONE
    assert begun.unfinished(outputs, firm.name, [made]) == []


@pytest.mark.parametrize(("text", "told"), [(TWO, True), ("update tally set n = n + 1;\nselect n from tally;", False)])
def test_a_run_that_died_leaves_a_doubt_unless_the_ledger_tells(
    services: Services, firm: Sandbox, tmp_path: Path, outputs: Path, text: str, told: bool
) -> None:
    action = services.migrations.apply_file(made := file(tmp_path, text), 1, 30)
    intent = {"name": action.name, "arguments": action.arguments, "before": action.before, "key": "key"}
    record(outputs, "1", firm.name).write("action.begun", action=action.id, **intent)
    found = begun.unfinished(outputs, firm.name, [made])
    doubt = (made.path.name, "1", "nothing that was seen; of the next nobody knows", "opskit resume 1")
    assert found == ([doubt] if told else [])


def test_of_a_file_that_failed_as_a_whole_nothing_is_told(
    services: Services, firm: Sandbox, tmp_path: Path, outputs: Path
) -> None:
    made = file(tmp_path, "create table made (id int);\nselect 1 / 0;")
    assert carried(services, services.migrations.apply_file(made, 1, 30), record(outputs, "1", firm.name)) is (
        Result.FAILED
    )
    assert begun.unfinished(outputs, firm.name, [made]) == []


def test_a_record_that_cannot_be_read_is_no_proof_that_nothing_was_begun(tmp_path: Path, outputs: Path) -> None:
    record(outputs, "1", "sandbox").write("action.begun", action="a", name=migrating.Apply.name)
    with pytest.raises(CannotTell, match="nobody sees what it began"):
        begun.unfinished(outputs, "sandbox", [file(tmp_path, TWO)])


@pytest.mark.deep
def test_a_file_of_which_a_part_is_committed_is_not_planned_anew_but_resumed(
    firm: Sandbox, outputs: Path, services: Services
) -> None:
    told: dict[str, Any] = firm.break_with("migrations-healthy")
    with services.database.session() as session:
        session.execute("set role postgres")
        session.execute("create table if not exists tally (n int)")
        session.execute("delete from tally; insert into tally values (1)")
    made = file(Path(told["parameters"]["folder"]), TWO)
    action = services.migrations.apply_file(made, 1, 30)
    assert carried(services, action, record(outputs, "20200101T000000000-0000", firm.name)) is Result.FAILED
    folder, _ = look("supabase-migration-procedures", {**told["parameters"], "environment": firm.name, "do": "apply"})
    assert archive.summary(folder)["causes"] == ["partial-apply"]
    assert "opskit resume 20200101T000000000-0000" in str(archive.answers(events(folder)))
    assert not any(title.startswith("Apply") for title in archive.planned(folder))
    assert Change.known[action.name].look(services, action.arguments)["in_ledger"] is False
