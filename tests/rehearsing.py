"""Migration files put down, and tried in a scratch database."""

from __future__ import annotations

from pathlib import Path

from opskit.database import Database
from opskit.services import migrations, rehearsal
from opskit.services.rehearsal import Rehearsal
from opskit.services.statements import File

OWNER = "postgres"


def files(folder: Path, *texts: str) -> list[File]:
    for number, text in enumerate(texts):
        (folder / f"2027010100000{number}_f{number}.sql").write_bytes(text.encode())
    return list(migrations.opened(folder).files)


def rehearse(target: Database, folder: Path, *texts: str, base: str = "target") -> Rehearsal:
    return rehearsal.rehearse(target, OWNER, files(folder, *texts), base)
