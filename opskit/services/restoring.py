"""Writing a copy back into its document, so that nothing newer is overwritten and nothing older lost.

Before: every copy is kept in the record, because a restore fires the version trigger, which deletes a free user's old
versions. In one transaction: the row is locked, and must be what it was when the plan was made, content and time, with
no snapshot since; the bad body is kept as a version, and that version is seen to outlive the write. After: the stored
hash is the copy's. No text stands in a plan.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from opskit.actions import Arguments, Change
from opskit.database import Database
from opskit.errors import CannotTell, Refused

QUIET = "15 minutes"  # without an attempt to save: an open tab may hold the only newest copy

TABLES = {
    "snapshot": ("document_snapshots", "payload"),
    "version": ("document_versions", "content"),
    "branch": ("document_branches", "content"),
}
SHA = "encode(sha256(convert_to({}::text, 'UTF8')), 'hex')"
STATE = """
    select {stored} as stored, {copy} as copy, length(coalesce(d.content ->> 'html', '')) as stored_length,
           length(coalesce(c.{column} ->> 'html', '')) as copy_length, d.word_count, d.updated_at::text as updated_at,
           s.newest::text as newest_snapshot, s.newer as newer_snapshots
    from documents d left join {table} c on c.id = %(copy)s and c.document_id = d.id
    cross join lateral (
      select max(created_at) as newest, count(*) filter (where created_at > c.created_at)::int as newer
      from document_snapshots where document_id = d.id) s
    where d.id = %(document)s
"""
EVERYTHING = """
    select 'document' as kind, d.id::text as document, null as copy, d.updated_at::text as at, d.title,
           d.content as body
    from documents d where d.id = any(%(documents)s::uuid[])
    union all
    select 'snapshot', document_id::text, id::text, created_at::text, null, payload
    from document_snapshots where document_id = any(%(documents)s::uuid[])
    union all
    select 'version', document_id::text, id::text, created_at::text, title, content
    from document_versions where document_id = any(%(documents)s::uuid[])
    union all
    select 'branch', document_id::text, id::text, created_at::text, name, content
    from document_branches where document_id = any(%(documents)s::uuid[])
"""
# Attempts show in the browser's own undo history even where nothing was stored. The times in it are of the browser's
# clock, which may be slow or fast: the server's is that of the row, written before each attempt.
ATTEMPTED = f"""
    select exists (select from document_undo_history
                   where document_id = %(document)s and updated_at > now() - interval '{QUIET}')
        or exists (select from document_snapshots
                   where document_id = %(document)s and created_at > now() - interval '{QUIET}')
        or exists (select from autosave_failures
                   where created_at > now() - interval '{QUIET}' and document_id = %(document)s) as lately
"""  # noqa: S608  # our own words
# Anew where only an old version holds it, which the write's own trigger may forget.
KEEP_BAD = """
    insert into document_versions (document_id, user_id, version_number, title, content, word_count)
    select d.id, d.user_id,
           1 + coalesce((select max(version_number) from document_versions v where v.document_id = d.id), 0),
           d.title, d.content, d.word_count
    from documents d where d.id = %(document)s
      and not exists (select from document_versions v where v.document_id = d.id and v.content = d.content
                      and v.created_at > now() - interval '7 days')
"""
COPY = """
    update documents d set content = c.{column}, word_count = coalesce(
      (select v.word_count from document_versions v where v.document_id = d.id and v.content = c.{column} limit 1),
      regexp_count(regexp_replace(coalesce(c.{column} ->> 'html', ''), '<[^>]*>', ' ', 'g'), '\\S+'))
    from {table} c
"""
WRITE = COPY + "where d.id = %(document)s and c.id = %(copy)s and c.document_id = d.id"
HOLDS = f"""
    select id from document_versions
    where document_id = %(document)s and {SHA.format("content")} = %(stored)s limit 1
"""  # noqa: S608  # our own words
GO_BACK = f"""
    update documents d set content = v.content, word_count = %(words)s from document_versions v
    where d.id = %(document)s and v.id = ({HOLDS})
"""  # noqa: S608  # our own words


def state(database: Database, document: str, kind: str, copy: str) -> dict[str, Any]:
    """The document and the copy as they are now: hashes and lengths, no text. Hashes say what is stored, to the key."""
    rows = database.rows(_state(kind), document=document, copy=copy)
    if not rows:
        raise CannotTell(f"database: document {document} does not exist.")
    return rows[0]


def _state(kind: str) -> str:
    table, column = TABLES[kind]
    shas = {"stored": SHA.format("d.content"), "copy": SHA.format(f"c.{column}")}
    return STATE.format(table=table, column=column, **shas)


class PreserveCopies(Change):
    name = "documents.preserve_copies"
    title = "Keep every copy of {count} documents in the record, before anything else"
    only_looks = True
    in_database = True

    def image(self, services: Any, of: Arguments) -> Any:
        return services.database.rows(EVERYTHING, documents=of["documents"])

    def look(self, services: Any, of: Arguments) -> Any:
        return {"kept": False}  # of an earlier run we know nothing: copies are kept anew

    def look_after(self, services: Any, of: Arguments, before: Any) -> Any:
        return {"kept": True}  # they were on disk before the action was begun

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["kept"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        """Nothing more to do: the image is what this is about."""

    def by_hand(self, of: Arguments, before: Any) -> str:
        ids = ",".join(of["documents"])
        query = f"select * from $t where document_id = any('{{{ids}}}')"  # noqa: S608  # for a person
        export = f'psql "$DATABASE_URL" -c "copy ({query}) to stdout csv header" > $t.csv'
        return f"for t in {' '.join(table for table, _ in TABLES.values())}; do {export}; done"


class RunAgain(Change):
    """Done once none of them is stored worse than a copy: a tab has stored its text, or a later run restored it."""

    name = "documents.run_again"
    title = "By hand: run again after {until}; {count} documents wait for 15 minutes without an attempt to save them"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        worse = services.documents.at_risk(datetime.fromisoformat(of["since"])).document
        return {"worse": sorted({*worse} & {*of["documents"]})}

    def done(self, now: Any, before: Any) -> bool:
        return not now["worse"]

    def by_hand(self, of: Arguments, before: Any) -> str:
        where = f" --environment {of['environment']}" if of.get("environment") else ""
        incident = f" --incident {of['incident']}" if of.get("incident") else ""
        return f"opskit run autosave-incidents{where}{incident} -p since {of['since']}"


class Restore(Change):
    """Undone by writing back the bad body, which is kept as a version."""

    name = "documents.restore"
    title = "Document {document:.8}: write its {kind} back, {words} words"
    right = (
        "update (content, word_count) on documents; insert, delete on document_versions; "
        "select on document_snapshots, document_branches, document_undo_history, autosave_failures, user_profiles"
    )
    in_database = True
    undo_means = "the bad text goes back into {count} documents; this runbook sees no reason for that, and leaves it"

    def look(self, services: Any, of: Arguments) -> Any:
        found = state(services.database, of["document"], of["kind"], of["copy"])
        del found["updated_at"]  # it moves with every write; doing and undoing compare it, where it matters
        return found

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["stored"] == before["copy"] and now["stored_length"] == before["copy_length"])

    def image(self, services: Any, of: Arguments) -> Any:
        return services.database.rows(EVERYTHING, documents=[of["document"]])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        table, column = TABLES[of["kind"]]
        values = {"document": of["document"], "copy": of["copy"], "stored": before["stored"]}
        with services.database.transaction() as cursor:
            self._hold(cursor, of, before["stored"])
            now = cursor.execute(_state(of["kind"]), values).fetchone()
            if now != {**before, "updated_at": of["updated_at"]}:
                raise Refused(f"document {of['document']} was saved since the plan was made; not touched.")
            cursor.execute(KEEP_BAD, values)
            cursor.execute(WRITE.format(table=table, column=column), values)
            if not cursor.execute(HOLDS, values).fetchone():
                raise Refused(f"document {of['document']}: no version would keep what it was; not touched.")

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        with services.database.transaction() as cursor:
            self._hold(cursor, of, after["stored"])
            values = {"document": of["document"], "stored": before["stored"], "words": before["word_count"]}
            cursor.execute(GO_BACK, values)
            if cursor.rowcount != 1:
                raise Refused(f"document {of['document']}: no version holds what it was; not touched.")

    def _hold(self, cursor: Any, of: Arguments, stored: str) -> None:
        """Lock the row. Raises Refused where it is not what it should be, or somebody is writing in it."""
        values = {"document": of["document"]}
        cursor.execute("select id from documents where id = %(document)s for update", values)
        found = cursor.execute(
            f"select {SHA.format('content')} as stored from documents where id = %(document)s",  # noqa: S608  # our own
            values,
        ).fetchone()
        if found is None or found["stored"] != stored:
            raise Refused(f"document {of['document']} has changed since it was read; not touched.")
        if cursor.execute(ATTEMPTED, values).fetchone()["lately"]:
            raise Refused(
                f"document {of['document']}: somebody tried to save it less than {QUIET} ago; ask them first."
            )

    def by_hand(self, of: Arguments, before: Any) -> str:
        table, column = TABLES[of["kind"]]
        where = f"d.id = '{of['document']}' and c.id = '{of['copy']}' and c.document_id = d.id"
        where += f" and d.updated_at = '{of['updated_at']}'"
        since = before["newest_snapshot"] or "-infinity"
        where += f" and not exists (select from document_snapshots where document_id = d.id and created_at > '{since}')"
        quiet, keep, write = (
            " ".join(sql.replace("%(document)s", f"'{of['document']}'").split())
            for sql in (ATTEMPTED, KEEP_BAD, COPY.format(table=table, column=column))
        )
        # One statement: the bad body is kept as a version, and nobody tried to save it lately.
        return f'psql "$DATABASE_URL" -c "with kept as ({keep}) {write} where {where} and not ({quiet})"'
