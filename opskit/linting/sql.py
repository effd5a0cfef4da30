"""Whether the SQL of a page would work, and could ever find what it looks for. Nothing of it is carried out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pglast.ast
from pglast import parse_sql
from pglast.keywords import TYPE_FUNC_NAME_KEYWORDS, UNRESERVED_KEYWORDS
from pglast.parser import ParseError

from opskit.database import Database
from opskit.errors import ServiceError, Unreachable
from opskit.linting import blocks, shapes
from opskit.linting.findings import Finding
from opskit.linting.inner import carried_out, innermost
from opskit.linting.pages import Page
from opskit.linting.queries import LITERAL, NAME, Query, highest, queries
from opskit.linting.schema import Schema
from opskit.linting.writes import writes

LOOKING = ("Symptoms", "Impact", "Diagnosis")
TRIES = 8
RULES = {"42P01": "name", "42703": "name", "42883": "name", "42704": "name", "3F000": "name", "42P02": "name",
         "42601": "syntax", "22P02": "never", "42501": "right"}  # fmt: skip
SHOUTED = re.compile(r"[A-Z][A-Z_0-9]+")
KEYWORDS = {*UNRESERVED_KEYWORDS, *TYPE_FUNC_NAME_KEYWORDS}
COMPARED = re.compile(  # what follows is a value
    r"([-+=<>]\s*|\b(i?like|limit|offset|between|between\s+\S+\s+and)\s+|\b(in|any|values)\s*\([^()]*)\Z", re.IGNORECASE
)
SYSTEM = ("pg_", "information_schema.")
KEPT = ("AT_DropColumn", "AT_AlterColumnType", "AT_SetNotNull", "AT_DropNotNull", "AT_ColumnDefault")
MADE = re.compile(
    r"create\s+(?:or\s+replace\s+)?(?:temp\w*\s+|unlogged\s+|materialized\s+)?(?:table|view|type|function|sequence)\s+"
    r"(?:if\s+not\s+exists\s+)?([\w.]+)|\binto\s+temp\w*\s+(?:table\s+)?(\w+)",
    re.IGNORECASE,
)

nodes: Any = pglast.ast  # each part is there where its kind of node has it
UNDERSTOOD = (nodes.SelectStmt, nodes.InsertStmt, nodes.UpdateStmt, nodes.DeleteStmt, nodes.MergeStmt)
Verdict = tuple[str, int, str]  # rule, where in the statement, what is wrong


def check(page: Page, database: Database, schema: Schema) -> Iterator[Finding]:
    for query in queries(page):
        for rule, place, wrong in _judge(query, database, schema):
            yield Finding(page.name, query.cell.id, query.at(place), rule, wrong)


def _judge(query: Query, database: Database, schema: Schema) -> Iterator[Verdict]:
    text = query.text
    try:
        trees = parse_sql(text)
    except ParseError as error:
        yield from _unparsable(query, error)
        return
    for tree in trees:
        yield from _told_to(query, tree.stmt)
        inside, asked = innermost(text, tree.stmt)
        at_once = carried_out(tree.stmt)
        yield from (one for one in shapes.judge(asked, schema) if at_once or one[0] != "unbounded")
        if isinstance(asked, UNDERSTOOD):
            yield from prepared(inside, database, query.block, shouting(inside, schema))
        if not isinstance(tree.stmt, UNDERSTOOD):
            yield from _definition(tree.stmt, query, schema)
    if blocks.impostor(query.block, query.number):
        yield "impostor", 0, "sets a user's claims, but no role: the tables' owner asks, and no policy applies to it."


def held(text: str, database: Database, schema: Schema, block: tuple[str, ...] = ()) -> Iterator[Verdict]:
    """What this database says of a statement that is true of another: names, types, values that it does not allow."""
    said = list(prepared(text, database, block))
    yield from said
    if any(rule == "never" for rule, *_ in said):  # the server's own word for the same
        return
    try:
        trees = parse_sql(text)
    except ParseError:
        return
    for tree in trees:
        yield from shapes.judge(tree.stmt, schema)


def _unparsable(query: Query, error: Any) -> Iterator[Verdict]:
    place = error.args[1] if len(error.args) > 1 and error.args[1] is not None else len(query.text.rstrip())
    word = re.match(r"\w*", query.text[place:])
    template = word and SHOUTED.fullmatch(word[0]) and query.text.lower().count(word[0].lower()) and word[0] != "FROM"
    if not (template and not re.match(r"\s*[A-Z]+\b", query.text)):  # TABLE, where the rest is written small
        yield "syntax", place, f"is no SQL: {error.args[0]}."


def _told_to(query: Query, statement: Any) -> Iterator[Verdict]:
    """A write, where one only looks."""
    if query.cell.section not in LOOKING or not query.told:
        return
    found = writes(statement, blocks.temporary(query.block))
    if found and (found.lasting or not blocks.taken_back(query.block, query.number)):
        yield "write", 0, f"{found.what} changes something, in a section that only looks."


def shouting(text: str, schema: Schema) -> bool:
    """Whether it writes names in capitals: several that are there, and none small. Else capitals stand for values."""
    known = {part for table, columns in schema.columns.items() for part in (table.rpartition(".")[2], *columns)}
    bare = LITERAL.sub("''", text)
    spelled = [m for m in re.finditer(r"(?<![\w$])[A-Za-z_]\w*", bare) if m[0].lower() in known - KEYWORDS]
    loud = {m[0] for m in spelled if SHOUTED.fullmatch(m[0]) and not COMPARED.search(bare[: m.start()])}
    return len(loud) > 1 and not any(m[0].islower() for m in spelled)


def prepared(text: str, database: Database, block: tuple[str, ...] = (), shouted: bool = False) -> Iterator[Verdict]:
    """What the server says of a statement, once what only stands for something is taken for that."""
    for _ in range(TRIES):
        try:
            database.prepare(text)
            return
        except Unreachable:
            raise
        except ServiceError as error:
            place = max(error.position - 1, 0)
            said = error.message.removeprefix("database: ")
            again = _once_more(text, place, error.sqlstate or "", said, shouted)
            if again == text:
                if NAME not in said and not _made_here(said, block):
                    yield RULES.get(error.sqlstate or "", "type"), place, re.sub(r" \(SQLSTATE.*", ".", said)
                return
            if not again:
                return
            text = again


def _once_more(text: str, place: int, sqlstate: str, said: str, shouted: bool) -> str:
    """The statement as it may be meant; the same where it means what it says; "" where it has no name yet."""
    if sqlstate in ("42P18", "42P08") and (found := re.search(r"parameter \$(\d+)", said)):
        return re.sub(rf"\${found[1]}\b(?!::)", f"${found[1]}::text", text)
    word = re.match(r"'\{\s*([A-Z_0-9]+)[A-Z_0-9,\s]*\}'|'?(\w+)'?", text[place:])  # also '{ID, ID}'
    named = shouted and word and "'" not in word[0] and not COMPARED.search(text[:place])
    if word and SHOUTED.fullmatch(word[1] or word[2]) and not named:
        if sqlstate == "42P01":
            return ""
        if sqlstate in ("42703", "22P02", "22007"):
            return f"{text[:place]}${highest(text) + 1}{text[place + len(word[0]) :]}"
    return text


def _made_here(said: str, block: tuple[str, ...]) -> bool:
    """Whether what is missing is made by a statement that comes with it."""
    made = _made(block)
    return any(f'"{name}"' in said or f" {name}(" in said for name in made)


def _made(block: tuple[str, ...]) -> set[str]:
    return {name.lower() for text in block for names in MADE.findall(text) for name in names if name}


def _definition(statement: Any, query: Query, schema: Schema) -> Iterator[Verdict]:
    """Tables and columns that a change of the schema takes for granted."""
    relation, columns = _about(statement)
    shouted = shouting(query.text, schema)
    if relation is None or relation == NAME or relation.startswith(SYSTEM):
        return
    if SHOUTED.fullmatch(_spelled(query.text, relation)) and not shouted:
        return
    if relation not in schema.columns:
        if relation not in _made(query.block):
            yield "name", max(query.text.find(relation), 0), f'relation "{relation}" does not exist.'
        return
    for column in columns:
        stands_for = SHOUTED.fullmatch(_spelled(query.text, column)) and not shouted
        if column not in schema.columns[relation] and not stands_for:
            wrong = f'column "{column}" of relation "{relation}" does not exist.'
            yield "name", max(query.text.find(column), 0), wrong


def _spelled(text: str, name: str) -> str:
    found = re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)
    return found[0] if found else name


def _about(statement: Any) -> tuple[str | None, list[str]]:
    """The table that a definition is about, and those of its columns that must be there."""
    match statement:
        case nodes.AlterTableStmt(relation=relation, cmds=cmds, missing_ok=False):
            changed = [c for c in cmds if c.subtype.name in KEPT and not c.missing_ok]
            return _name(relation), [c.name for c in changed]
        case nodes.IndexStmt(relation=relation, indexParams=params):
            return _name(relation), [p.name for p in params or () if p.name]
        case nodes.RenameStmt(relation=nodes.RangeVar() as relation, missing_ok=False):
            column = statement.renameType.name == "OBJECT_COLUMN"
            return _name(relation), [statement.subname] if column and statement.subname else []
        case nodes.CreatePolicyStmt(table=relation) | nodes.AlterPolicyStmt(table=relation):
            return _name(relation), []
        case nodes.CreateTrigStmt(relation=relation):
            return _name(relation), []
        case nodes.TruncateStmt(relations=[relation, *_]):
            return _name(relation), []
        case nodes.CopyStmt(relation=nodes.RangeVar() as relation, attlist=columns):
            return _name(relation), [column.sval for column in columns or ()]
    return None, []


def _name(relation: Any) -> str:
    schema = f"{relation.schemaname}." if relation.schemaname not in (None, "public") else ""
    return f"{schema}{relation.relname}"
