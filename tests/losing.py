"""Texts that were lost, looked for and put back, in a real database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from support import as_bash_reads

from opskit.actions import Action, Result, carry_out
from opskit.journal import Journal
from opskit.services import Services, saving

SINCE = datetime.now(UTC) - timedelta(hours=24)


def losses(services: Services) -> pd.DataFrame:
    log = services.vercel.log(SINCE, "/api/documents/*/autosave")
    found = services.documents.compared(services.documents.at_risk(SINCE))
    return saving.explained(found, log.assign(document=log.path.str.split("/").str[3]))


def done(services: Services, journal: Journal, *actions: Action) -> list[Result]:
    return [result for _, result, _ in carry_out(actions, services, journal)]


def restore(services: Services, row: Any) -> Action:
    return services.documents.restore(row.document, row.kind, row.copy, int(row.words_lost))


def stored(services: Services, document: str) -> str:
    rows = services.database.rows("select content ->> 'html' as html from documents where id = %(id)s", id=document)
    return str(rows[0]["html"])


def write(services: Services, sql: str, *values: Any) -> None:
    with services.database.transaction() as cursor:
        cursor.execute(sql, values)


def by_hand(action: Action, folder: Path) -> str:
    """The statement that psql gets once bash has read the line."""
    return as_bash_reads(action.by_hand, folder)[3]


WRITE_ON = "update documents set content = content || jsonb_build_object('html', %s::text) where id = %s"
