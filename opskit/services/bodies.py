"""What a migration runs: its statements, and those in their WITH, in its DO blocks and in functions that it calls.

Whoever asks says which functions are known: those that pending files make, and those that the target has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pglast import ast, parse_plpgsql, parse_sql, parser
from pglast.visitors import Skip, Visitor

from opskit.services.statements import File, Statement, split

RUNS = (  # what runs all that stands in it; a view, a rule, a default or a policy waits for somebody else
    ast.CallStmt, ast.CopyStmt, ast.CreateTableAsStmt, ast.DeclareCursorStmt, ast.DeleteStmt, ast.ExplainStmt,
    ast.InsertStmt, ast.MergeStmt, ast.PrepareStmt, ast.SelectStmt, ast.UpdateStmt,
)  # fmt: skip
DYNAMIC = {"PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors"}  # whose `query` is an expression that gives a statement
CHANGES = re.compile(r"\b(delete|update)\b")
ASSIGNED = re.compile(r"[^:=]*:?=")  # what stands before the expression that is assigned
STATEMENT, ASSIGNMENT = 0, 3  # how a query in PL/pgSQL is to be read: from 3 on as an assignment, else as an expression


@dataclass(frozen=True)
class Part:
    """One statement that is run, wherever it stands. Without a node: nobody can say which it will be."""

    line: int  # of its file
    text: str
    node: Any
    file: str = ""


Functions = dict[str, list[Part]]  # by name: it may stand for several


def functions(files: Iterable[File]) -> Functions:
    """Those that these files make."""
    made: Functions = {}
    for one in (statement for file in files for statement in file.statements):
        if isinstance(one.node, ast.CreateFunctionStmt):
            made.setdefault(_name(one.node), []).append(_part(one))
    return made


def there(known: Iterable[Mapping[str, Any]], files: Sequence[File]) -> list[File]:
    """Of the target's functions, those that these files may call, and those that those call; each as if a file made it.

    `known`: called, place, definition.
    """
    texts = [one.text.lower() for file in files for one in file.statements]
    found: list[File] = []
    left = list(known)
    while new := [one for one in left if any(one["called"].lower() in text for text in texts)]:
        left = [one for one in left if one not in new]
        texts = [one["definition"].lower() for one in new]
        found += map(_of_target, new)
    return found


def _of_target(one: Mapping[str, Any]) -> File:
    name = f"{one['place']} (on the target)"
    try:
        statements = split(one["definition"], name)
    except ValueError:  # newer than our parser: nobody can say here what it does
        called = one["called"].replace('"', '""')
        statements = split(f'create function "{called}"() returns int language unreadable as $$$$', name)
    return File(Path(name), "", name, tuple(statements))


def run(sent: Iterable[Statement], known: Functions) -> list[Part]:
    """What these statements run, each once."""
    made = dict(known)
    found: list[Part] = []
    todo = [_part(one) for one in sent if one.node is not None]
    while todo:
        part = todo.pop(0)
        found.append(part)
        if isinstance(part.node, ast.DoStmt):
            todo += _body(part, part.node.args)
        inner, called = _inside(part, made)
        found += [replace(part, node=node) for node in inner]
        for function in (one for name in called for one in made.pop(name, ())):
            todo += _body(function, function.node.options)
    return found


def _part(one: Statement) -> Part:
    return Part(one.line, one.bare, one.node, one.file)


def _name(of: Any) -> str:
    return str(of.funcname[-1].sval)


def _inside(part: Part, made: Iterable[str]) -> tuple[list[Any], list[str]]:
    """The changes that a statement holds in its WITH, and the functions that it calls.

    One that can hold neither is not gone through: it may be 100,000 rows.
    """
    node, text = part.node, part.text.lower()
    inner: list[Any] = []
    called: list[str] = []

    class Inside(Visitor):
        def visit_FuncCall(self, _: Any, call: Any) -> None:  # noqa: N802  # pglast names it
            called.append(_name(call))

        def visit_DeleteStmt(self, _: Any, change: Any) -> None:  # noqa: N802
            if change is not node:
                inner.append(change)

        visit_UpdateStmt = visit_MergeStmt = visit_DeleteStmt  # noqa: N815

        def visit_ExplainStmt(self, _: Any, explain: Any) -> Any:  # noqa: N802
            return None if any(option.defname == "analyze" for option in explain.options or ()) else Skip

    if isinstance(node, RUNS) and (CHANGES.search(text) or any(name.lower() in text for name in made)):
        Inside()(node)
    return inner, called


def _body(part: Part, options: Any) -> Iterator[Part]:
    """The statements in a DO block or a function."""
    yield from (replace(one, file=part.file) for one in _statements(part, options))


def _statements(part: Part, options: Any) -> Iterator[Part]:
    said = {option.defname: option.arg for option in options or ()}
    if "as" not in said:  # BEGIN ATOMIC: its text is not kept
        yield from (Part(part.line, part.text, node) for group in part.node.sql_body for node in group)
        return
    text = _text(said["as"])
    first = part.line + part.text[: max(part.text.find(text), part.text.find(text.replace("'", "''")), 0)].count("\n")
    try:
        match said["language"].sval.lower() if "language" in said else "plpgsql":
            case "plpgsql":
                for line, query, mode, built in _queries(parse_plpgsql(part.text), 1, built=False):
                    yield from _read(first + line - 1, query, mode, built)
            case "sql":
                yield from (Part(first + one.line - 1, one.bare, one.node) for one in split(text, "") if one.node)
            case _:
                yield Part(part.line, part.text, None)
    except (parser.ParseError, ValueError):
        yield Part(part.line, part.text, None)


def _text(written: Any) -> str:
    return str(written[0].sval if isinstance(written, tuple) else written.sval)


def _queries(tree: Any, line: int, built: bool) -> Iterator[tuple[int, str, int, bool]]:
    """(line, query, how it is to be read, whether it only gives the statement) of all in a body of PL/pgSQL."""
    if isinstance(tree, list):
        for one in tree:
            yield from _queries(one, line, built)
    elif isinstance(tree, dict):
        line = tree.get("lineno", line)
        for key, value in tree.items():
            if key == "PLpgSQL_expr":
                yield line, value["query"], value["parseMode"], built
            elif key in DYNAMIC:
                yield from _queries(value.pop("query"), value["lineno"], True)
                yield from _queries(value, line, False)
            else:
                yield from _queries(value, line, built or key == "dynquery")


def _read(line: int, query: str, mode: int, built: bool) -> Iterator[Part]:
    if mode >= ASSIGNMENT:
        query = ASSIGNED.sub("", query, count=1)
    read: Any = parse_sql(query if mode == STATEMENT else f"select {query}")
    if not built:
        yield from (Part(line, query, one.stmt) for one in read)
        return
    match read[0].stmt.targetList:
        case [ast.ResTarget(val=ast.A_Const(val=ast.String(sval=str() as text)))]:
            yield from (Part(line, text, one.stmt) for one in parse_sql(text))
        case _:
            yield Part(line, query, None)
