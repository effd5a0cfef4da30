"""Users' documents: which of them may be stored worse than a copy that still exists, and the actions that help.

One search finds them, and works in the database: only what may have lost something is fetched, and no text. It begins
with the documents that somebody wrote in since a moment, and reads their copies through the app's own indexes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from opskit.actions import Action
from opskit.database import Database
from opskit.errors import CannotTell
from opskit.services import restoring, snapshots, texts, versioning

COPIES = {
    "snapshot": "select payload as body from document_snapshots where id = %(copy)s and document_id = %(document)s",
    "version": "select content as body from document_versions where id = %(copy)s and document_id = %(document)s",
    "branch": "select content as body from document_branches where id = %(copy)s and document_id = %(document)s",
}
MOST_COPIES = 500  # snapshots, and versions, since a moment, that one search reads of each document
BEFORE = 25  # the newest from before: what a text may have come from, or gone back to
MOST = 5000  # documents that one search reports; how many there are is told in any case

# A sign is what makes us doubt: `never-stored`, the newest snapshot is newer than the document and differs (one
# of this minute belongs to a save that may still be under way, and the one before it is looked at); `shrunk`,
# from one copy to the next more than half was gone, and is still; `jumped-back`, it goes on from an older copy as if
# the texts saved after that had never been. For each the copy from before the loss, and since when it is lost; and
# `written_on`, whether what is stored is no longer what the loss had left, and `own_structure`, whether chapters or
# anchors stand in it that would be gone with it. When a text was stored, `updated_at` does not tell: a new title moves
# it, and a browser's slow clock may have set it. The newest copy of that very text does; without one we cannot know,
# and doubt (not `dated`). `touched`: the row was written after that copy, and no copy shows what.
PLAIN = "btrim(regexp_replace(regexp_replace(coalesce(b.body ->> 'html', ''), '<[^>]*>', ' ', 'g'), '\\s+', ' ', 'g'))"
# Compared is what the app's own hash covers, as in `texts.same`; `rest` is the part of it that no reader of text sees.
PARTS = """coalesce(b ->> 'html', '') as html, coalesce(nullif(b ->> 'structure', '[]'), '') as structure,
           coalesce(nullif(b #>> '{metadata,anchors}', '[]'), '') as anchors"""
SEEN = """md5(concat(html, chr(10), structure, anchors)) as text, length(html) as size, length(structure) as chapters,
         nullif(md5(concat(structure, anchors)), md5('')) as rest"""
ACTIVE = """
with active as (
  select document_id as id from document_snapshots where created_at >= %(since)s
  union select document_id from document_undo_history where updated_at >= %(since)s
  union select document_id from autosave_failures where created_at >= %(since)s and document_id is not null
  union select id from documents where updated_at >= %(since)s and not is_folder
"""
SEARCH = (
    """
{active}), stored as materialized (
  select id, created_at, updated_at, {seen}
  from (select d.id, d.created_at, d.updated_at, {parts}
        from active join documents d using (id), lateral (select d.content as b) body where not d.is_folder
        offset 0) once  -- long texts are unpacked no more often than they are named
), kept as materialized (
  select id, copy, kind, at, {seen} from (select d.id, c.copy, c.kind, c.at, {parts} from stored d cross join lateral (
    (select s.id as copy, 'snapshot' as kind, s.created_at as at, s.payload as b
     from document_snapshots s where s.document_id = d.id and s.created_at >= %(since)s
     order by s.created_at desc limit %(copies)s)
    union all
    (select s.id, 'snapshot', s.created_at, s.payload
     from document_snapshots s where s.document_id = d.id and s.created_at < %(since)s
     order by s.created_at desc limit %(before)s)
    union all
    (select v.id, 'version', v.created_at, v.content
     from (select *, count(*) filter (where created_at < %(since)s) over (order by version_number desc) as older
           from (select id, created_at, version_number, content from document_versions
                 where document_id = d.id order by version_number desc limit %(copies)s) newest) v
     where v.created_at >= %(since)s or v.older <= %(before)s)
    union all
    (select b.id, 'branch', b.created_at, b.content from document_branches b where b.document_id = d.id and b.is_main)
  ) c offset 0) once
), dated as materialized (
  select d.*, coalesce(same.at, d.updated_at) as written_at, greatest(same.at, d.updated_at) as moved_at,
         same.at is not null or d.updated_at <= d.created_at as dated
  from stored d left join (
    select k.id, max(k.at) as at from kept k join stored s on s.id = k.id and s.text = k.text group by 1
  ) same using (id)
), stepwise as (
  select k.*, lead(size) over w as next_size, lead(size + chapters) over w as next_whole, lead(at) over w as next_at,
         lead(text) over w as next_text, lead(rest) over w as next_rest
  from kept k window w as (partition by id order by at, (kind = 'version'))
), dropped as materialized (
  select s.id, s.moved_at, s.size, {plain} as plain
  from dated s join documents d using (id), lateral (select d.content as body) b
  where exists (select from kept n where n.id = s.id and n.size > s.size and n.at < s.moved_at)
), texts as materialized (  -- each text once: several copies hold it
  select d.id, c.text, {plain} as plain
  from dropped d join (select distinct on (id, text) * from kept where kind <> 'branch') c on c.id = d.id
  cross join lateral (
    select payload as body from document_snapshots where c.kind = 'snapshot' and id = c.copy
    union all select content from document_versions where c.kind = 'version' and id = c.copy) b
), read as materialized (  -- `before`: the stored text goes on from it; `turns`: it no longer does from the next one
  select *, before and not coalesce(lead(before) over (partition by id order by at, (kind = 'version')), true) as turns
  from (select d.id, c.copy, c.kind, c.at, c.size, md5(t.plain) as mark, t.plain = '' as nothing,
               starts_with(d.plain, t.plain) as before,
               t.plain = d.plain as stored, starts_with(t.plain, d.plain) as after
        from dropped d join kept c on c.id = d.id and c.kind <> 'branch'
        join texts t on t.id = c.id and t.text is not distinct from c.text) r
), last as materialized (  -- the last text that is not the stored one: only that one may have been jumped back from
  select distinct on (id) id, mark from read where not stored order by id, at desc, (kind = 'version') desc
), signs as (
  select * from (
    select distinct on (d.id) d.id, 'never-stored' as sign, k.copy, k.kind, k.at, k.at as lost_at,
           k.size + k.chapters as size, k.text, null as left_with, false as own_structure, d.dated,
           d.updated_at > k.at + interval '5 seconds' as touched
    from dated d join kept k on k.id = d.id and k.kind = 'snapshot' and k.at < now() - interval '1 minute'
    order by d.id, k.at desc
  ) newest where exists (
    select from dated d where d.id = newest.id and newest.text <> d.text
      and (newest.at > d.written_at + interval '5 seconds' or not d.dated))
  union all
  select * from (
    select distinct on (d.id) d.id, 'shrunk', s.copy, s.kind, s.at, coalesce(s.next_at, d.moved_at),
           s.size + s.chapters, s.text, coalesce(s.next_text, ''),
           d.rest is distinct from s.rest and (d.rest is not null or s.next_text is null or s.next_rest is not null),
           true, false
    from dated d join stepwise s on s.id = d.id
    where s.size > 200 and d.size < s.size * 0.5 and coalesce(s.next_size, d.size) < s.size * 0.5
      or s.size + s.chapters > 200 and d.size + d.chapters < (s.size + s.chapters) * 0.5
      and coalesce(s.next_whole, d.size + d.chapters) < (s.size + s.chapters) * 0.5
    order by d.id, s.at desc
  ) fallen
  union all
  select * from (
    select distinct on (d.id)
           d.id, 'jumped-back', newer.copy, newer.kind, newer.at, d.moved_at, newer.size, newer.mark, null,
           false, true, false
    from dropped d
    join read older on older.id = d.id and older.turns and not older.nothing
    join last on last.id = d.id
    join read newer on newer.id = d.id and newer.mark = last.mark and newer.at > older.at and newer.at < d.moved_at
      and newer.size > d.size and (older.stored or not newer.after)
    where 3 <= (select count(distinct r.mark) from read r
                where r.id = d.id and r.at > older.at and r.at <= newer.at and not r.before)
      and not exists (  -- it had grown until the last step: who cuts a text down goes back through shorter ones
        select from read r where r.id = d.id and r.at > older.at and not r.stored and r.mark <> newer.mark
          and (r.at > newer.at or r.size > newer.size))
    order by d.id, newer.at desc
  ) back
), chosen as (
  select distinct on (s.id) s.* from signs s where s.lost_at >= %(since)s
  order by s.id, array_position(array['never-stored', 'shrunk', 'jumped-back'], s.sign)
), attempted as (
  select c.id, least(max(h.updated_at), now()) as at
  from chosen c join document_undo_history h on h.document_id = c.id group by 1  -- see restoring.ATTEMPTED
)
select d.id::text as document, d.user_id::text as user_id, c.sign, c.kind, c.copy::text as copy, c.at as copied_at,
       c.lost_at, s.size + s.chapters as stored_length, c.size as copy_length,
       coalesce(c.left_with <> s.text, false) as written_on, c.own_structure, c.dated,
       c.touched,
       d.updated_at, count(*) over () as found,
       greatest(d.updated_at, c.lost_at, a.at,
                (select max(created_at) from document_snapshots s where s.document_id = d.id),
                (select max(created_at) from autosave_failures f
                 where f.document_id = d.id and f.created_at >= %(since)s)) as last_attempt
from chosen c join documents d on d.id = c.id join stored s on s.id = c.id left join attempted a on a.id = c.id
order by c.lost_at, d.id limit %(most)s
""".replace("{active}", ACTIVE.strip("\n"))
    .replace("{plain}", PLAIN)
    .replace("{seen}", SEEN)
    .replace("{parts}", PARTS)
)
# Documents with more copies since a moment than one search reads of each: what came before those is out of its sight.
NOT_READ_WHOLE = f"""{ACTIVE})
select a.id::text as document from active a
where exists (select from document_snapshots where document_id = a.id and created_at >= %(since)s offset %(copies)s)
   or (select count(*) from (
         select created_at from document_versions where document_id = a.id
         order by version_number desc limit %(copies)s + 1) v where created_at >= %(since)s) > %(copies)s
order by 1
"""  # noqa: S608  # our own words
COLUMNS = (
    "document",
    "user_id",
    "sign",
    "kind",
    "copy",
    "copied_at",
    "lost_at",
    "stored_length",
    "copy_length",
    "written_on",
    "own_structure",
    "dated",
    "touched",
    "updated_at",
    "found",
    "last_attempt",
)


class Documents:
    """Documents, their copies, and what is done for them."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def at_risk(self, since: datetime) -> pd.DataFrame:
        """Every document whose stored text may be worse than a copy that still exists; one row each, without text."""
        return pd.DataFrame(
            self.database.rows(SEARCH, since=since, most=MOST, copies=MOST_COPIES, before=BEFORE), columns=COLUMNS
        )

    def not_read_whole(self, since: datetime) -> list[str]:
        """Documents with so many copies since a moment that `at_risk` read only the newest of them."""
        rows = self.database.rows(NOT_READ_WHOLE, since=since, copies=MOST_COPIES)
        return [str(row["document"]) for row in rows]

    def bodies(self, document: str, kind: str, copy: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is stored, and what the copy holds."""
        stored = self.database.rows("select content as body from documents where id = %(id)s", id=document)
        kept = self.database.rows(COPIES[kind], copy=copy, document=document)
        if not stored or not kept:
            raise CannotTell(f"database: document {document} or its {kind} is no longer there.")
        return stored[0]["body"] or {}, kept[0]["body"] or {}

    def owner(self, document: str) -> str:
        """Whose a document is."""
        return str(
            self.database.first("select user_id::text as owner from documents where id = %(id)s", id=document).owner
        )

    def exists(self, document: str) -> bool:
        """Whether there is such a document."""
        return bool(self.database.first("select exists (select from documents where id = %(id)s)", id=document).exists)

    def compared(self, risky: pd.DataFrame) -> pd.DataFrame:
        """The same rows with `words_lost`, how much of the copy's text that is, and `words_only_stored`."""
        rows = risky[["document", "kind", "copy"]].itertuples(index=False, name=None)
        pairs = [self.bodies(*map(str, row)) for row in rows]
        lost = [texts.lost(*pair) for pair in pairs]
        only_stored = [texts.lost(copy, stored) for stored, copy in pairs]
        share = [n / max(len(texts.all_words(copy)), 1) for n, (_, copy) in zip(lost, pairs, strict=True)]
        return risky.assign(words_lost=lost, share_lost=[round(one, 2) for one in share], words_only_stored=only_stored)

    def difference(self, document: str, kind: str, copy: str) -> pd.DataFrame:
        """A readable difference: what restoring would take away (-) and bring back (+)."""
        return pd.DataFrame(texts.difference(*self.bodies(document, kind, copy)), columns=["", "text_excerpt"])

    # What a plan may ask for. Each of these only describes; nothing happens.

    def preserve_copies(self, documents: Sequence[str]) -> Action:
        """Keep every copy of these documents in the record, before anything else is done to them."""
        return restoring.PreserveCopies().plan({"documents": sorted(documents)}, None, count=str(len(documents)))

    def restore(self, document: str, kind: str, copy: str, words_lost: int) -> Action:
        """Write a copy of a document back into it, if nobody has written in it since."""
        now = restoring.state(self.database, document, kind, copy)
        of = {"document": document, "kind": kind, "copy": copy, "updated_at": now.pop("updated_at")}
        return restoring.Restore().plan(of, now, words=str(words_lost))

    def run_again(self, documents: Sequence[str], since: datetime, until: datetime, about: Mapping[str, str]) -> Action:
        """Have a person run the runbook again, once these may be restored; `about`: environment and incident."""
        of = {"documents": sorted(documents), "since": since.isoformat(), **about}
        before = {"worse": of["documents"]}
        return restoring.RunAgain().plan(of, before, count=str(len(documents)), until=f"{until:%H:%M} UTC")

    def unversioned(self, since: datetime) -> pd.DataFrame:
        """Documents with snapshots since a moment that no version holds: document, user_id, missing."""
        return pd.DataFrame(
            self.database.rows(versioning.UNVERSIONED, since=since), columns=["document", "user_id", "missing"]
        )

    def backfill_versions(self, document: str, since: datetime) -> Action:
        """Add the versions that a switched-off trigger did not write, from the snapshots."""
        of = {"document": document, "since": since.isoformat()}
        return versioning.Backfill().plan(of, versioning.state(self.database, document, of["since"]))

    def enable_trigger(self) -> Action:
        """Have the table's owner switch the version trigger on."""
        return versioning.EnableTrigger().plan({}, {"enabled": ["D"]})

    def full_accounts(self, since: datetime) -> pd.DataFrame:
        """Accounts, of those that wrote since a moment, that hold as many snapshots as their plan allows."""
        rows = self.database.rows(snapshots.FULL, since=since)
        return pd.DataFrame(rows, columns=["user_id", "subscription_tier", "cap", "used"])

    def prune_snapshots(self, user: str, cap: int, doubtful: Sequence[str] = ()) -> Action:
        """Take an account's oldest snapshots away, down to nine tenths of its cap; none of `doubtful` documents."""
        mine = self.database.rows(snapshots.OF, user=user, documents=list(doubtful))
        of = {"user": user, "keep": int(cap * 0.9), "spared": [row["document"] for row in mine]}
        return snapshots.Prune().plan(of, snapshots.state(self.database, user))
