"""Whom the policies let save, told by looking and by a save that is rehearsed."""

from __future__ import annotations

from pathlib import Path

import pytest
from losing import done, losses, stored
from support import everything, stronger

from opskit.actions import Result
from opskit.errors import Faulty
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services
from opskit.services.policies import rehearsed

# Saves that never became the document; and the policies behind it.


def test_the_policies_tell_what_a_rehearsed_save_shows(firm: Sandbox, services: Services, tmp_path: Path) -> None:
    def owner() -> dict[tuple[str, str], bool | None]:
        matrix = services.policies.matrix(**sample)
        assert not matrix[matrix.who != "owner"].allowed.any()
        rows = matrix[matrix.who == "owner"]
        return dict(zip(zip(rows.table, rows.command, strict=True), rows.allowed, strict=True))

    told = firm.break_with("autosave-silent-zero-row")
    sample = {"document": told["actors"]["unsaved_documents"][0], "owner": told["actors"]["unsaved"][0]}
    assert owner()[("documents", "UPDATE")] is False
    assert owner()[("documents", "SELECT")] is True
    assert rehearsed(services.database, **sample) == {"owner": 0, "stranger": 0, "anonymous": 0}
    mend = services.policies.mend_by_hand(**sample, advice="mend it", command="psql")
    journal = Journal(tmp_path / "journal.jsonl")
    assert done(services, journal, mend) == [Result.WAITING]
    found = losses(services)
    assert set(found.document) == set(told["actors"]["unsaved_documents"])
    assert set(found.because) == {"answered 200, and no row was changed"}
    firm.by_hand()
    before = stored(services, sample["document"])
    assert all(owner().values())
    assert rehearsed(services.database, **sample)["owner"] == 1
    assert stored(services, sample["document"]) == before  # rolled back
    assert done(services, journal, mend) == [Result.DONE]


@pytest.mark.parametrize(
    "denial",
    [
        "drop policy own_insert on document_snapshots",
        "alter policy own_update on documents with check (false)",
    ],
)
def test_a_step_by_hand_waits_while_any_part_of_a_save_is_denied(
    firm: Sandbox, services: Services, tmp_path: Path, denial: str
) -> None:
    query = "select id::text as document, user_id::text as owner from documents where not is_folder limit 1"
    sample = services.database.rows(query)[0]
    mend = services.policies.mend_by_hand(**sample, advice="mend it", command="psql")
    assert done(services, Journal(tmp_path / "well.jsonl"), mend) == [Result.DONE]
    firm.break_with(stronger("autosave-healthy", tmp_path, sql=[denial]))
    services.database.close()
    again = everything(firm.name)[1]
    sample = again.database.rows(query)[0]
    mend = again.policies.mend_by_hand(**sample, advice="mend it", command="psql")
    assert done(again, Journal(tmp_path / "journal.jsonl"), mend) == [Result.WAITING]
    again.database.close()


def test_looking_cannot_rehearse_a_save(firm: Sandbox, services: Services) -> None:
    sample = services.database.rows("select id::text as document, user_id::text as owner from documents limit 1")[0]
    with pytest.raises(Faulty, match="cannot execute UPDATE in a read-only transaction"):
        services.database.rows("update documents set title = title where id = %(document)s", **sample)
