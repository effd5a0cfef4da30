"""Files are applied in their order or not at all: behind one that was not applied, none is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import events

from opskit import archive, plan
from opskit.actions import Result
from opskit.commands.runs import look
from opskit.commands.sandbox import approve_and_apply
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox

RUNBOOK = "supabase-migration-procedures"
pytestmark = pytest.mark.deep  # each looks several times, and rehearses


def looked(firm: Sandbox, told: dict[str, Any], **given: str) -> tuple[Path, list[Any]]:
    """A run that only looks, and what it would apply."""
    folder, _ = look(RUNBOOK, {**told["parameters"], "environment": firm.name, **given})
    path = folder / "plan.json"
    planned = plan.load(path).actions if path.exists() else []
    return folder, [action for action in planned if action.name == "migrations.apply_file"]


def test_behind_a_file_that_was_edited_since_none_is_applied(firm: Sandbox) -> None:
    told = firm.break_with("migrations-healthy")
    folder, (first, second) = looked(firm, told)
    assert (list(first.after), list(second.after)) == ([], [first.id])
    path = Path(first.arguments["path"])
    path.write_text(path.read_text() + "select 1;")
    applied, outcome = approve_and_apply(folder)
    assert outcome is not Outcome.VERIFIED
    assert [event["result"] for event in events(applied, "action.ended")] == [
        Result.STALE,
        Result.WAITING,
        Result.WAITING,
    ]


def test_where_the_histories_differ_nothing_is_applied_that_is_not_asked_for(firm: Sandbox) -> None:
    told = firm.break_with("migrations-healthy")
    late = Path(told["parameters"]["folder"]) / "20250101000000_late.sql"
    late.write_text("set lock_timeout = '2s';\ncomment on table documents is 'What people write';")
    folder, planned = looked(firm, told)
    assert (archive.summary(folder)["causes"], planned) == (["history-mismatch"], [])
    folder, planned = looked(firm, told, versions="20250101000000")
    assert [action.arguments["version"] for action in planned] == ["20250101000000"]
    (late.parent / "20251103090000_again.sql").write_text("select 1;")
    assert looked(firm, told, versions="20250101000000")[1] == []


def test_while_a_question_is_open_nothing_is_applied(firm: Sandbox) -> None:
    told = firm.break_with("migrations-healthy")
    blocked = Path(told["parameters"]["folder"]) / "20251120000000_blocked.sql"
    blocked.write_text("select cron.schedule('a', '* * * * *', 'select 1');")
    assert looked(firm, told)[1] == []


def test_an_extension_that_the_target_does_not_offer_is_the_files_fault(firm: Sandbox) -> None:
    told = firm.break_with("migrations-healthy")
    asking = Path(told["parameters"]["folder"]) / "20251120000000_asking.sql"
    asking.write_text("create extension not_on_the_target;")
    folder, planned = looked(firm, told)
    assert (archive.summary(folder)["causes"], planned) == (["file-fails"], [])
    (mend,) = plan.load(folder / "plan.json").actions
    assert (mend.name, mend.arguments["path"]) == ("migrations.mend_file", str(asking))
    assert "not_on_the_target: the target does not offer it" in mend.arguments["why"]
