"""What only people can do about migrations. Each of these looks whether it was done."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from opskit.actions import Arguments, Change
from opskit.services import migrating, offenders, statements

LINK = Path("../.temp/project-ref")  # beside the folder: where the Supabase CLI keeps what it is linked to
CONFIG = Path("../config.toml")
REF = re.compile("[a-z]{20}")
GATES = (".github/workflows/*", ".gitlab-ci.yml", ".circleci/config.yml", ".pre-commit-config.yaml", "package.json")


def linked(folder: str | Path) -> str | None:
    """The project that the CLI would push this folder to; None: none."""
    place = Path(folder).expanduser()
    try:
        return (place / LINK).read_text(encoding="utf-8").strip() or _configured(place)
    except (OSError, UnicodeDecodeError):
        return _configured(place)


def _configured(place: Path) -> str | None:
    """The project that the configuration names. `project_id` may also be a name that counts on one machine only."""
    try:
        named = str(tomllib.loads((place / CONFIG).read_text(encoding="utf-8")).get("project_id", ""))
    except (OSError, ValueError):
        return None
    return named if REF.fullmatch(named) else None


def linted_before_merge(folder: str | Path) -> bool | None:
    """Whether what the folder's repository runs before a merge names squawk; None where it is in no repository."""
    for place in Path(folder).expanduser().resolve().parents:
        if (place / ".git").exists():
            gates = [path for pattern in GATES for path in place.glob(pattern) if path.is_file()]
            return any(b"squawk" in path.read_bytes() for path in gates)
    return None


class FindFile(Change):
    name = "migrations.find_file"
    title = "By hand: bring back the file of {version}, which the ledger has and the folder has not"
    manual = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"found": any(Path(of["folder"]).glob(f"{of['version']}_*.sql"))}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["found"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        return (
            f"git log --all --oneline -- 'supabase/migrations/{of['version']}_*' || supabase migration fetch --linked"
        )


class MigrateByHand(Change):
    """The team's own command, into which nobody can look: done once the ledger has each file as it was planned."""

    name = "migrations.migrate_by_hand"
    title = "By hand: {count} pending files, with the team's own command"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return [migrating.Apply().look(services, one) for one in of["files"]]

    def done(self, now: Any, before: Any) -> bool:
        return all(migrating.Apply().done(*one) for one in zip(now, before, strict=True))

    def by_hand(self, of: Arguments, before: Any) -> str:
        return str(of["command"])


class MendRows(Change):
    name = "migrations.mend_rows"
    title = "By hand: decide about the rows of {table} that do not have: {asks}"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"offenders": offenders.again(services.database, of["query"])}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["offenders"] == 0)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"""psql "$DATABASE_URL" -c '{of["query"].replace("select count(*) as count", "select *", 1)}'"""


class CaptureDrift(Change):
    name = "migrations.capture_drift"
    title = "By hand: write a migration of what was changed without one, and enter it as applied; or take it back"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        from opskit.services.migrations import opened  # noqa: PLC0415  # which plans these steps

        folder = opened(of["folder"])
        pending = services.migrations.align(folder).pending
        return {"drift": len(services.migrations.drift(folder, pending))}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["drift"] == 0)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return "supabase db pull --linked && supabase migration repair --linked --status applied VERSION"


class CloseAccess(Change):
    name = "migrations.close_access"
    title = "By hand: close what others than its owners get at, with a migration forward"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"open": len(services.migrations.exposed())}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["open"] == 0)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return "supabase migration new close_access && supabase db push --linked --yes"


class MendFile(Change):
    name = "migrations.mend_file"
    title = "By hand: mend {path}: {why}"
    manual = True

    def look(self, services: Any, of: Arguments) -> Any:
        path = Path(of["path"])
        found = statements.read(path, "", "") if path.is_file() else None
        return {"file": migrating.digest(found)}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["file"] != before["file"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f'psql "$SCRATCH_DATABASE_URL" -1 -f {of["path"]}'


class Restore(Change):
    name = "migrations.restore"
    title = (
        "By hand, with the CTO's word: restore the project to {at} UTC; what was written in the {loses} since is lost"
    )
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"in_ledger": migrating.kept(services.database, of["version"])}

    def done(self, now: Any, before: Any) -> bool:
        return not now["in_ledger"]

    def by_hand(self, of: Arguments, before: Any) -> str:
        keep = 'pg_dump "$DATABASE_URL" -Fc -f failed.dump'  # what is there now, before it is gone
        if of["any"]:
            return f"{keep} && supabase backups restore --project-ref {of['project']} -t {of['unix']}"
        return (
            f"{keep} && supabase backups list --project-ref {of['project']}  # then restore that one in the dashboard"
        )
