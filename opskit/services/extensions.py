"""Whether the target has the extensions that migrations make, and lets its schema's owner make them.

A rehearsal cannot tell: a scratch database has other ones, and there whoever rehearses may make them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pglast import ast

from opskit.database import Database, Row
from opskit.services.statements import File

# Supabase lends its owner a superuser's right for the extensions of a list, which not every server has:
# https://github.com/supabase/supautils/blob/master/docs/privileged_extensions.md
TAKES = """
    select asked.name,
           case when e.extname is not null then true
                when a.name is null then false
                else v.trusted or not v.superuser or r.rolsuper or asked.name = any(lent.names) end as takes,
           e.extname is not null as there, a.name is not null as offered
    from unnest(%(names)s::text[]) as asked (name)
    left join pg_extension e on e.extname = asked.name
    left join pg_available_extensions a on a.name = asked.name
    left join pg_available_extension_versions v on v.name = a.name and v.version = a.default_version
    left join pg_roles r on r.rolname = %(owner)s
    cross join (select regexp_split_to_array(current_setting('supautils.privileged_extensions', true), '\\s*,\\s*')
               ) as lent (names)
"""
OFFERED = {
    True: "the target offers it",
    False: "the target offers it, but not to the schema's owner",
    None: "the target offers it; whether to the schema's owner is not to be seen",
}
COLUMNS = ["file", "line", "extension", "takes", "why"]


def made(database: Database, owner: str, files: Sequence[File]) -> pd.DataFrame:
    """file, line, extension, takes (None: not to be told), why; for each extension that these files make."""
    named = [
        (file.path.name, statement.line, str(statement.node.extname))
        for file in files
        for statement in file.statements
        if isinstance(statement.node, ast.CreateExtensionStmt)
    ]
    names = sorted({name for *_, name in named})
    known = {row["name"]: row for row in database.rows(TAKES, names=names, owner=owner)} if names else {}
    rows = [(*one, known[one[-1]]["takes"], _why(known[one[-1]])) for one in named]
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)  # or None would become NaN, which is true


def _why(row: Row) -> str:
    if row["there"]:
        return "it is there"
    return OFFERED[row["takes"]] if row["offered"] else "the target does not offer it"
