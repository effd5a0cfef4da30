"""Versions that a switched-off trigger did not write, added from the snapshots."""

from __future__ import annotations

from typing import Any

from opskit.actions import Arguments, Change
from opskit.database import Database
from opskit.errors import CannotTell, Refused

# Since a moment, because pruned snapshots and a free user's forgotten versions leave older ones unequal anyway.
UNVERSIONED = """
    select s.document_id::text as document, s.user_id::text as user_id, count(*)::int as missing
    from document_snapshots s
    where s.created_at >= %(since)s
      and not exists (select from document_versions v where v.document_id = s.document_id and v.content = s.payload)
      and exists (select from documents d
                  where d.id = s.document_id and d.updated_at >= s.created_at - interval '5 seconds')
    group by 1, 2 order by 3 desc, 1 limit 5000
"""
STATE = """
    select (select coalesce(max(version_number), 0) from document_versions
            where document_id = %(document)s) as versions,
           (select count(*)::int from document_snapshots s
            where s.document_id = %(document)s and s.created_at >= %(since)s
            and not exists (select from document_versions v
                            where v.document_id = s.document_id and v.content = s.payload)) as missing
    from documents where id = %(document)s
"""
ADD = """
    insert into document_versions (document_id, user_id, version_number, title, content, word_count, created_at)
    select d.id, d.user_id, %(versions)s + row_number() over (order by s.at), d.title, s.payload,
           regexp_count(regexp_replace(coalesce(s.payload ->> 'html', ''), '<[^>]*>', ' ', 'g'), '\\S+'), s.at
    from documents d join (
      select document_id, payload, min(created_at) as at from document_snapshots s
      where s.document_id = %(document)s and s.created_at >= %(since)s
        and not exists (select from document_versions v where v.document_id = s.document_id and v.content = s.payload)
      group by 1, 2) s on s.document_id = d.id
"""
LOCK = "select id from documents where id = %(document)s for update"
REMOVE = """
    delete from document_versions
    where document_id = %(document)s and version_number > %(before)s and version_number <= %(after)s
"""
TRIGGER = """
    select tgname, tgenabled::text as enabled from pg_trigger
    where tgrelid = 'documents'::regclass and not tgisinternal and tgname = 'documents_version'
"""


def state(database: Database, document: str, since: str) -> dict[str, Any]:
    """How many versions a document has, and how many of its snapshots none of them holds."""
    rows = database.rows(STATE, document=document, since=since)
    if not rows:
        raise CannotTell(f"database: document {document} does not exist.")
    return rows[0]


class Backfill(Change):
    name = "documents.backfill_versions"
    title = "Document {document:.8}: add the missing versions from its snapshots"
    right = "insert, delete on document_versions; update (content) on documents; select on document_snapshots"
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return state(services.database, of["document"], of["since"])

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["missing"] == 0)

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        with services.database.transaction() as cursor:
            cursor.execute(LOCK, of)
            if cursor.execute(STATE, of).fetchone() != before:
                raise Refused(f"document {of['document']} was saved since the plan was made; not touched.")
            cursor.execute(ADD, {**of, **before})

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        with services.database.transaction() as cursor:
            cursor.execute(LOCK, of)
            values = {"document": of["document"], "before": before["versions"], "after": after["versions"]}
            cursor.execute(REMOVE, values)

    def by_hand(self, of: Arguments, before: Any) -> str:
        query = f"select * from document_snapshots where document_id = '{of['document']}'"  # noqa: S608  # for a person
        return f'psql "$DATABASE_URL" -c "{query}"'


class EnableTrigger(Change):
    name = "documents.enable_trigger"
    title = "By hand, as the table's owner: switch the version trigger on again"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"enabled": [row["enabled"] for row in services.database.rows(TRIGGER)]}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["enabled"] == ["O"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        return 'psql "$OWNER_DATABASE_URL" -c "alter table documents enable trigger documents_version"'
