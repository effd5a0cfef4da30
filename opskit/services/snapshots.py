"""Accounts that hold as many snapshots as their plan allows: none of their documents can be saved any more."""

from __future__ import annotations

from typing import Any

from opskit.actions import Arguments, Change
from opskit.database import Database
from opskit.errors import Refused

SPARED = 5  # the newest of each document, whatever its age

# Only accounts that wrote since a moment: counting everybody's snapshots would read them all.
FULL = """
    with writers as (
      select user_id from document_undo_history where updated_at >= %(since)s
      union select user_id from autosave_failures where created_at >= %(since)s
      union select user_id from documents where updated_at >= %(since)s
    )
    select p.id::text as user_id, p.subscription_tier, l.max_document_snapshots as cap, c.used
    from writers w join user_profiles p on p.id = w.user_id
    join subscription_tier_limits l on l.tier = p.subscription_tier
    cross join lateral (select count(*)::int as used from document_snapshots s where s.user_id = p.id) c
    where c.used >= l.max_document_snapshots order by 1
"""
OF = (
    "select id::text as document from documents where user_id = %(user)s and id = any(%(documents)s::uuid[]) order by 1"
)
STATE = "select count(*)::int as used, max(created_at)::text as newest from document_snapshots where user_id = %(user)s"
OLDEST = f"""
    select id from (
      select id, created_at, row_number() over (partition by document_id order by created_at desc) as age
      from document_snapshots where user_id = %(user)s and document_id <> all(%(spared)s::uuid[])) s
    where age > {SPARED} order by created_at limit %(surplus)s
"""  # noqa: S608  # our own number
IMAGE = f"select * from document_snapshots where id in ({OLDEST})"  # noqa: S608  # as above
DELETE = f"delete from document_snapshots where id in ({OLDEST})"  # noqa: S608  # as above


def state(database: Database, user: str) -> dict[str, Any]:
    return database.rows(STATE, user=user)[0]


def _values(of: Arguments, used: int) -> dict[str, Any]:
    """What the statements take: the account, how many are too many, and the documents whose copies all stay."""
    return {"user": of["user"], "surplus": max(used - of["keep"], 0), "spared": of.get("spared", [])}


class Prune(Change):
    name = "snapshots.prune"
    title = "Account {user:.8}: delete its oldest snapshots, down to {keep}"
    right = "delete on document_snapshots"
    final = "what was deleted lies whole in this record's private/ folder, for a person to insert again"
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return state(services.database, of["user"])

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["used"] < before["used"])

    def image(self, services: Any, of: Arguments) -> Any:
        used = state(services.database, of["user"])["used"]
        return services.database.rows(IMAGE, **_values(of, used))

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        with services.database.transaction() as cursor:
            if cursor.execute(STATE, of).fetchone() != before:
                raise Refused(f"account {of['user']} saved something since the plan was made; not touched.")
            cursor.execute(DELETE, _values(of, before["used"]))
            if not cursor.rowcount:
                raise Refused(
                    f"account {of['user']}: each snapshot may be a good copy, or is one of the newest; not touched."
                )

    def by_hand(self, of: Arguments, before: Any) -> str:
        values = _values(of, before["used"])
        spared = "{" + ",".join(values["spared"]) + "}"
        query = " ".join(IMAGE.split()).replace("%(user)s", f"'{of['user']}'").replace("%(spared)s", f"'{spared}'")
        query = query.replace("%(surplus)s", str(values["surplus"]))
        return f'psql "$DATABASE_URL" -c "copy ({query}) to stdout csv header" > snapshots.csv  # then delete those ids'
