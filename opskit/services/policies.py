"""Row-level security: whom it lets do what with a document, told in two ways.

While looking, the policies are evaluated as they stand: each expression is asked in a read-only statement of a real
row, with the claims of its owner, of a stranger, and of nobody. A scratch copy would need a credential that creates
things, and `set role` one that changes them as any user; a reading credential has neither. What an expression reads
from other tables would be seen here without their own policies: such a policy is left open (None), not guessed.

Once changes are allowed, a real save is rehearsed on the target as each of the three, and rolled back every time.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from opskit.actions import Action, Arguments, Change
from opskit.database import Database
from opskit.errors import CannotTell, Denied, Faulty, Refused

WHO = ("owner", "stranger", "anonymous")
STRANGER = "00000000-0000-4000-8000-000000000000"
# What a save does, in its order: the table, the command, and whether a denial is silent (no row, no error).
SAVE = (
    ("documents", "SELECT"),
    ("document_snapshots", "INSERT"),
    ("documents", "UPDATE"),
    ("document_versions", "INSERT"),
)
POLICIES = """
    select policyname, permissive, roles::text[] as roles, cmd, qual, with_check from pg_policies
    where schemaname = 'public' and tablename = %(table)s and cmd in (%(command)s, 'ALL')
"""
STANDING = """
    select c.relrowsecurity as secured, has_table_privilege('authenticated', c.oid, %(command)s) as authenticated,
           has_table_privilege('anon', c.oid, %(command)s) as anon
    from pg_class c where c.oid = to_regclass('public.' || %(table)s)
"""
OTHER_TABLES = re.compile(r"\bfrom\b", re.IGNORECASE)
KEY = {"documents": "id", "document_snapshots": "document_id", "document_versions": "document_id"}
SAVED = """
    update documents set content = content || '{"opskit": "a rehearsed save, rolled back"}', title = title
    where id = %(document)s
"""
SNAPSHOT = """
    insert into document_snapshots (document_id, user_id, autosave_hash, payload)
    select id, user_id, 'a rehearsed save, rolled back', content from documents where id = %(document)s
"""
# What the schema asks of a save's rows, in one word: constraints, columns and their defaults, the code of triggers.
RULES = """
    with tables as (select oid from pg_class where oid in
      ('public.documents'::regclass, 'public.document_snapshots'::regclass, 'public.document_versions'::regclass)),
    rules as (
      select conrelid::text || conname || pg_get_constraintdef(c.oid) as rule
      from pg_constraint c join tables t on t.oid = conrelid
      union all
      select attrelid::text || attname || attnotnull || coalesce(pg_get_expr(adbin, adrelid), '')
      from pg_attribute a join tables t on t.oid = attrelid
      left join pg_attrdef on adrelid = attrelid and adnum = attnum where attnum > 0 and not attisdropped
      union all
      select tgrelid::text || tgname || tgenabled::text || prosrc
      from pg_trigger g join tables t on t.oid = tgrelid join pg_proc p on p.oid = tgfoid where not tgisinternal)
    select md5(string_agg(rule, ';' order by rule)) as rules from rules
"""


@dataclass
class Policies:
    """The policies of the tables that a save touches."""

    database: Database

    def matrix(self, document: str, owner: str) -> pd.DataFrame:
        """table, command, who, allowed (None: cannot be told while looking), why; for a document of that owner."""
        rows = [
            (table, command, who, *self._allowed(table, command, who, document, owner))
            for table, command in SAVE
            for who in WHO
        ]
        return pd.DataFrame(rows, columns=["table", "command", "who", "allowed", "why"]).astype({"allowed": object})

    def _allowed(self, table: str, command: str, who: str, document: str, owner: str) -> tuple[bool | None, str]:
        standing = self.database.rows(STANDING, table=table, command=command)
        role = "anon" if who == "anonymous" else "authenticated"
        if not standing or not standing[0][role]:
            return False, f"{role} has no right to {command.lower()}"
        if not standing[0]["secured"]:
            return True, "row-level security is off"
        found = self.database.rows(POLICIES, table=table, command=command)
        mine = [policy for policy in found if {"public", role} & set(policy["roles"])]
        verdicts = [self._one(policy, table, command, who, document, owner) for policy in mine]
        granting = [v for p, v in zip(mine, verdicts, strict=True) if p["permissive"] == "PERMISSIVE"]
        limiting = [v for p, v in zip(mine, verdicts, strict=True) if p["permissive"] != "PERMISSIVE"]
        names = ", ".join(policy["policyname"] for policy in mine) or "no policy"
        return _both(_any(granting), _all(limiting)), names

    def _one(self, policy: Any, table: str, command: str, who: str, document: str, owner: str) -> bool | None:
        """Whether one policy lets the row pass: as it is, and as it would be written."""
        asked = [policy["with_check"] or policy["qual"]] if command == "INSERT" else [policy["qual"]]
        if command == "UPDATE" and policy["with_check"]:
            asked.append(policy["with_check"])
        return _all([self._passes(one, table, who, document, owner) for one in asked if one])

    def _passes(self, expression: str, table: str, who: str, document: str, owner: str) -> bool | None:
        if re.search(rf"\bfrom\s+(public\.)?{table}\b", expression, re.IGNORECASE):
            return False  # a policy that reads its own table: infinite recursion, 42P17
        if OTHER_TABLES.search(expression):
            return None
        subject = {"owner": owner, "stranger": STRANGER}.get(who)
        claims = {"sub": subject, "role": "authenticated"} if subject else {"role": "anon"}
        # The expression is the database's own; it is evaluated, as it would be, on a row of this document.
        query = (
            "with claims as materialized (select set_config('request.jwt.claims', %(claims)s, true) as said) "  # noqa: S608
            f"select coalesce(({expression.replace('%', '%%')}), false) as passes "
            f"from claims cross join public.{table} where {table}.{KEY[table]} = %(document)s limit 1"
        )
        try:
            rows = self.database.rows(query, claims=json.dumps(claims), document=document)
        except Faulty:
            return False  # an expression that fails denies, loudly
        return bool(rows[0]["passes"]) if rows else None

    def definitions(self) -> pd.DataFrame:
        """The policies of the tables that a save touches, as they stand."""
        tables = [table for table, _ in SAVE]
        return self.database.read(
            """
            select tablename, policyname, cmd, permissive, roles::text[] as roles, qual, with_check from pg_policies
            where schemaname = 'public' and tablename = any(%(tables)s) order by 1, 2
        """,
            tables=tables,
        )

    def mend_by_hand(self, document: str, owner: str, advice: str, command: str) -> Action:
        """Have a person mend what keeps saves out; a rehearsed save then shows whether it is."""
        of = {"document": document, "owner": owner, "advice": advice, "command": command}
        return MendSaving().plan(of, {"saved": {"owner": 0, "stranger": 0, "anonymous": 0}})

    def mend_rule_by_hand(self, document: str, owner: str) -> Action:
        """Have a person mend the rule of the schema that refuses saves, of this document among them."""
        rules = self.database.rows(RULES)[0]["rules"]
        return MendRule().plan({"document": document, "owner": owner}, {"saved": {"owner": 0}, "rules": rules})


def _any(verdicts: list[bool | None]) -> bool | None:
    return True if True in verdicts else None if None in verdicts else False


def _all(verdicts: list[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _both(one: bool | None, other: bool | None) -> bool | None:
    return _all([one, other])


def rehearsed(database: Database, document: str, owner: str) -> dict[str, Any]:
    """How many rows a save of the owner, of a stranger, and of nobody changes; each is rolled back. Errors as text.

    The owner's save keeps a snapshot, too, as the app does.
    """
    found: dict[str, Any] = {}
    for who, role, subject in (
        ("owner", "authenticated", owner),
        ("stranger", "authenticated", STRANGER),
        ("anonymous", "anon", None),
    ):
        claims = {"sub": subject, "role": role} if subject else {"role": role}
        try:
            with database.rehearsal() as cursor:
                cursor.execute("select set_config('row_security', 'on', true)")
                cursor.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
                cursor.execute("select set_config('role', %s, true)", (role,))
                cursor.execute(SAVED, {"document": document})
                found[who] = cursor.rowcount
                if who == "owner":
                    cursor.execute(SNAPSHOT, {"document": document})
        except Refused as error:  # this run may change nothing
            raise CannotTell(error.message) from None
        except Faulty as error:
            found[who] = error.message
        except Denied as error:  # the policies' answer, or the grants'
            found[who] = error.message
    return found


class MendSaving(Change):
    """Done once the owner's save changes one row and keeps a snapshot, and nobody else's changes any.

    A rehearsal on the target says so.
    """

    name = "policies.mend_by_hand"
    title = "By hand: {advice}"
    right = "membership of authenticated and anon, to rehearse a save"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"saved": rehearsed(services.database, of["document"], of["owner"])}

    def done(self, now: Any, before: Any) -> bool:
        saved = now["saved"]
        return bool(saved["owner"] == 1 and saved["stranger"] != 1 and saved["anonymous"] != 1)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return str(of["command"])


class MendRule(Change):
    """Done once the rules are others than they were, and the owner's whole save passes them in a rehearsal.

    Both, for a rule may look at what is typed, which a rehearsal of the stored text does not show.
    """

    name = "policies.mend_rule_by_hand"
    title = "By hand: as the owner of the tables, let what the schema asks accept what the app saves"
    right = "membership of authenticated and anon, to rehearse a save"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        saved = rehearsed(services.database, of["document"], of["owner"])
        return {"saved": saved, "rules": services.database.rows(RULES)[0]["rules"]}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["saved"]["owner"] == 1 and now["rules"] != before["rules"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        return (
            'psql "$OWNER_DATABASE_URL" -f TAKE_BACK.sql  # drop the rule that the log\'s line names, or give its '
            "column a default; where a deploy mends it instead, run again once it is live"
        )
