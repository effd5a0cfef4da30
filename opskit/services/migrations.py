"""The team's migration folder beside the target's ledger: what is applied, what is pending, what does not fit.

The rules are the Supabase CLI's: a file's version is its leading digits, compared as text; the ledger is
`supabase_migrations.schema_migrations`, which holds no times.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from opskit.database import Database
from opskit.errors import BadInput
from opskit.services import statements
from opskit.services.statements import File

NAME = re.compile(r"([0-9]+)_(.*)\.sql")
DIGITS = 14  # of a version that sorts as a time
PENDING = "pending"
KEPT = "select to_regclass('supabase_migrations.schema_migrations') is not null as kept"
LEDGER = """
    select version, coalesce(name, '') as name, coalesce(statements, '{}') as statements
    from supabase_migrations.schema_migrations order by version collate "C"
"""


@dataclass(frozen=True)
class Folder:
    """The migrations in one folder, in the order in which they are applied."""

    path: Path
    files: tuple[File, ...]
    skipped: tuple[str, ...]  # names that the CLI passes over

    def chosen(self, versions: str, pending: Sequence[File]) -> list[File]:
        """Those of the pending files that are asked for. Raises BadInput for a version that is not pending."""
        if versions.strip() == PENDING:
            return list(pending)
        wanted = [version.strip() for version in versions.split(",") if version.strip()]
        known = {file.version for file in pending}
        if missing := [version for version in wanted if version not in known]:
            raise BadInput(f"versions: {', '.join(missing)} not pending in {self.path}.", "Pending: " + _some(known))
        return [file for file in pending if file.version in wanted]


def read(path: str | Path) -> Folder:
    """What lies in a migrations folder. Raises BadInput where there is no folder or no migration in it."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise BadInput(
            f"folder: {folder} is no folder.", "Give the path of the team's supabase/migrations, from a fresh checkout."
        )
    found, skipped = [], []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name.encode()):
        match = NAME.fullmatch(entry.name)
        if match and not entry.is_dir():
            found.append((entry, match[1], match[2]))
        elif entry.suffix == ".sql":
            skipped.append(entry.name)
    if not found:
        raise BadInput(
            f"folder: {folder} holds no migration.",
            f"Files are called <{DIGITS} digits>_<name>.sql; others are skipped.",
        )
    found.sort(key=lambda one: (one[1], one[0].name))
    return Folder(folder, tuple(statements.read(*one) for one in found), tuple(skipped))


@dataclass(frozen=True)
class Alignment:
    """The folder against the ledger. All is well where nothing but `pending` and `skipped` holds anything."""

    pending: list[File]
    unknown: list[str]  # in the ledger, without a file: `db push` refuses
    late: list[str]  # pending, and older than the newest applied one: `db push` refuses
    repeated: list[str]  # several files of one version
    mixed: list[str]  # versions that do not have 14 digits: as text they sort wrongly
    changed: list[str]  # applied with other statements than the file now has
    renamed: list[tuple[str, str]]  # (in the ledger, pending): the same migration under two versions
    skipped: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[tuple[str, str, str]]:
        """(what, version, then) for each thing that does not fit."""
        told: tuple[tuple[str, Iterable[str], str], ...] = (
            (
                "in the ledger, no file",
                self.unknown,
                "find its file in git first; compare the schema; repair only then",
            ),
            ("older than the newest applied", self.late, "give it a newer version, or apply it by its number"),
            ("two files of one version", self.repeated, "rename one; only one of them can be in the ledger"),
            ("not 14 digits", self.mixed, "versions are compared as text: rename what is pending"),
            ("applied as something else", self.changed, "never edit an applied file: put it back, write a new one"),
            ("renamed", [f"{a} → {b}" for a, b in self.renamed], "the same migration: repair the ledger, after a look"),
        )
        return [(what, version, then) for what, versions, then in told for version in versions]

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.problems, columns=["problem", "version", "then"])


@dataclass
class Migrations:
    """The ledger of the target database."""

    database: Database
    owner: str | None = None  # the role that owns the schema, where the change user is only a member of it

    def ledger(self) -> pd.DataFrame:
        """version, name, statements, as applied; empty where there is no ledger yet."""
        if not self.database.rows(KEPT)[0]["kept"]:
            return pd.DataFrame([], columns=["version", "name", "statements"])
        return self.database.read(LEDGER)

    def align(self, folder: Folder) -> Alignment:
        return align(folder, self.ledger())


def align(folder: Folder, ledger: pd.DataFrame) -> Alignment:
    """What of a folder is applied and what is not, and where the two disagree."""
    applied: dict[str, Any] = {str(row.version): row for row in ledger.itertuples()}
    of_version = {file.version: file for file in folder.files}
    newest = max(applied, default="")
    pending = [file for file in folder.files if file.version not in applied]
    unknown = [version for version in applied if version not in of_version]
    times = Counter(file.version for file in folder.files)
    return Alignment(
        pending=pending,
        unknown=unknown,
        late=[file.version for file in pending if file.version < newest],
        repeated=[version for version, count in times.items() if count > 1],
        mixed=[version for version in sorted({*of_version, *applied}) if len(version) != DIGITS],
        changed=[v for v, row in applied.items() if v in of_version and _differs(of_version[v], row.statements)],
        renamed=[
            (version, file.version)
            for version in unknown
            for file in pending
            if file.name and file.name == applied[version].name
        ],
        skipped=list(folder.skipped),
    )


def _differs(file: File, applied: Sequence[str]) -> bool:
    """Whether more than white space differs: versions of the CLI cut differently. An empty row tells nothing."""
    return bool(applied) and _core(file.texts) != _core(applied)


def _core(texts: Iterable[str]) -> str:
    return re.sub(r"[\s;]+", "", "".join(texts))


def _some(versions: Iterable[str]) -> str:
    found = sorted(versions)
    return (", ".join(found[:5]) + (" …" if len(found) > 5 else "") or "none") + "."
