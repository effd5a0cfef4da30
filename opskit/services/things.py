"""The things that statements make or take away, and those that an application asked for and did not find.

Statements are read from PostgreSQL's syntax tree, its messages by their words: that a name stands somewhere in a file
proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pglast import ast, enums

from opskit.services.catalog import Catalog
from opskit.services.statements import File, Statement

OBJECT = enums.ObjectType
RELATIONS = {OBJECT.OBJECT_TABLE, OBJECT.OBJECT_VIEW, OBJECT.OBJECT_MATVIEW, OBJECT.OBJECT_FOREIGN_TABLE}
FUNCTIONS = {OBJECT.OBJECT_FUNCTION, OBJECT.OBJECT_ROUTINE, OBJECT.OBJECT_PROCEDURE}
QUOTE = r"\\?\""  # in a line of JSON it is escaped
NAME = r"[^\"\\]+"
MISSING = tuple(  # the kind of what is missing, and how PostgreSQL says so; the first that fits
    (kind, re.compile(said))
    for kind, said in (
        (
            "column",
            rf"column {QUOTE}(?P<name>{NAME}){QUOTE} of relation {QUOTE}(?P<table>{NAME}){QUOTE} does not exist",
        ),
        ("column", rf"column {QUOTE}(?P<name>{NAME}){QUOTE} does not exist"),
        ("column", r"column (?:\S+\.)?(?P<name>\w+) does not exist"),  # of a table, or whatever a query calls it
        ("column", rf"record {QUOTE}{NAME}{QUOTE} has no field {QUOTE}(?P<name>{NAME}){QUOTE}"),
        ("relation", rf"relation {QUOTE}(?:(?P<schema>{NAME})\.)?(?P<name>{NAME}){QUOTE} does not exist"),
        ("function", r"function (?:(?P<schema>\w+)\.)?(?P<name>\w+)\([^)]*\) does not exist"),
    )
)


@dataclass(frozen=True)
class Thing:
    """A relation, a column, an index or a function; what is not said of it is empty."""

    kind: str
    name: str
    table: str = ""  # of a column
    schema: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {'.'.join(part for part in (self.schema, self.table, self.name) if part)}"

    def fits(self, other: Thing) -> bool:
        """Whether both may be the same, by all that is said of both."""
        pairs = (self.table, other.table), (self.schema, other.schema)
        same = (self.kind, self.name) == (other.kind, other.name)
        return same and all(one == two or not (one and two) for one, two in pairs)


def asked_for(message: str) -> Thing | None:
    """What a message says is not there; None where it names nothing that could be looked for."""
    for kind, said in MISSING:
        if found := said.search(message):
            return Thing(kind, **found.groupdict(default=""))
    return None


def there(catalog: Catalog) -> list[Thing]:
    """What a schema holds, as things."""
    return [_kept(kind, name) for kind, name in catalog]


def _kept(kind: str, name: str) -> Thing:
    schema, _, rest = name.partition(".")
    table, _, last = rest.rpartition(".") if kind == "column" else ("", "", rest.partition("(")[0])
    return Thing("relation" if kind in ("table", "view") else kind, last, table, schema)


def made(statement: Statement) -> list[Thing]:
    """The tables, columns and indexes that it makes; one that is there already it would leave as it is, or fail."""
    it: Any = statement.node
    match statement.node:
        case ast.CreateStmt():
            return [_relation(it.relation)]
        case ast.IndexStmt() if it.idxname:
            return [Thing("index", it.idxname, schema=it.relation.schemaname or "")]
        case ast.AlterTableStmt():
            added = [c.def_.colname for c in it.cmds if c.subtype == enums.AlterTableType.AT_AddColumn]
            return [_column(it.relation, name) for name in added]
    return []


def taken(statement: Statement) -> list[Thing]:
    """The relations, columns, indexes and functions that are not there behind it, or not by that name."""
    it: Any = statement.node
    match statement.node:
        case ast.RenameStmt(renameType=OBJECT.OBJECT_COLUMN):
            return [_column(it.relation, it.subname)]
        case ast.RenameStmt() | ast.AlterObjectSchemaStmt() if it.relation:
            kind = it.renameType if isinstance(it, ast.RenameStmt) else it.objectType
            if kind == OBJECT.OBJECT_INDEX:
                return [Thing("index", it.relation.relname, schema=it.relation.schemaname or "")]
            return [_relation(it.relation)] if kind in RELATIONS else []
        case ast.RenameStmt(renameType=kind) | ast.AlterObjectSchemaStmt(objectType=kind) if kind in FUNCTIONS:
            return [_named("function", it.object.objname)]
        case ast.AlterTableStmt():
            gone = [c.name for c in it.cmds if c.subtype == enums.AlterTableType.AT_DropColumn]
            return [_column(it.relation, name) for name in gone]
        case ast.DropStmt(removeType=kind) if kind in RELATIONS:
            return [_named("relation", names) for names in it.objects]
        case ast.DropStmt(removeType=OBJECT.OBJECT_INDEX):
            return [_named("index", names) for names in it.objects]
        case ast.DropStmt(removeType=kind) if kind in FUNCTIONS:
            return [_named("function", one.objname) for one in it.objects]
    return []


def culprit(files: Sequence[File], messages: Iterable[str], held: Catalog) -> tuple[File | None, str]:
    """Which one of the applied files took away all that these messages miss, and that is not back; else None, and why.

    It is the newest: an older one is not taken back from under those that rest on it.
    """
    found: dict[File, Thing] = {}
    for asked in dict.fromkeys(map(asked_for, messages)):
        if asked is None:
            return None, "a message names nothing that could be looked for in the files"
        takers = [(file, one) for file in files for s in file.statements for one in taken(s) if one.fits(asked)]
        if not takers:
            return None, f"no applied file is seen to take the {asked} away"
        file, one = takers[-1]
        if any(one.fits(other) for other in there(held)):
            return None, f"{file.path.name} took the {one} away, and it is there again"
        found[file] = one
    told = "; ".join(f"{file.path.name} took the {one} away" for file, one in found.items())
    if list(found) != list(files[-1:]):
        return None, f"{told or 'nothing is missed'}; the newest applied file is {_newest(files)}"
    return files[-1], told


def _newest(files: Sequence[File]) -> str:
    return files[-1].path.name if files else "not known"


def done_before(files: Iterable[File], held: Catalog, path: Collection[str]) -> list[tuple[str, int, str]]:
    """(file, line, what) of what is there already though its file is pending, where the file would do more again.

    Only of files of which a part can stay, and only what each makes by name and has not taken away itself before.
    `path`: the schemas in which its owner looks for a name without one.
    """
    standing = there(held)
    rows = []
    for file in files:
        acting = [s for s in file.statements if s.node is not None and not (s.sets or s.transaction)]
        if file.together or all(made(s) for s in acting):
            continue
        free = _sets_path(file)
        here = "public" if "public" in path and not free else ""  # where a name without a schema is
        near = standing if free else [one for one in standing if one.schema in path]
        gone: list[Thing] = []
        for s in acting:
            gone += [_at(one, here) for one in taken(s)]
            for one in made(s):
                new = any(_at(it, here).fits(other) for it in (one, _table(s)) for other in gone)
                if not new and any(one.fits(other) for other in (standing if one.schema else near)):
                    rows.append((file.path.name, s.line, str(one)))
    return rows


def _table(statement: Statement) -> Thing:
    """The table that a statement makes, or of which it makes a part."""
    it: Any = statement.node
    return _relation(it.relation)


def _at(one: Thing, schema: str) -> Thing:
    """With a schema, so that a name in another does not fit."""
    return replace(one, schema=one.schema or schema or "-")


def _sets_path(file: File) -> bool:
    """Whether it says itself where a name without a schema is looked for."""
    setting = (ast.VariableSetStmt, ast.SelectStmt, ast.DoStmt)
    return any(isinstance(s.node, setting) and "search_path" in s.text.lower() for s in file.statements)


def _relation(relation: Any) -> Thing:
    return Thing("relation", relation.relname, schema=relation.schemaname or "")


def _column(relation: Any, name: str) -> Thing:
    return Thing("column", name, relation.relname, relation.schemaname or "")


def _named(kind: str, names: Any) -> Thing:
    parts = [one.sval for one in names]
    return Thing(kind, parts[-1], schema=parts[-2] if len(parts) > 1 else "")
