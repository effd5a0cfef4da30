"""Statements within statements: what EXPLAIN, COPY, a view, a cursor or PREPARE is about is judged as any other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pglast.ast
from pglast import parse_sql
from pglast.parser import ParseError

nodes: Any = pglast.ast
AROUND = (nodes.ExplainStmt, nodes.CopyStmt, nodes.CreateTableAsStmt, nodes.ViewStmt, nodes.DeclareCursorStmt,
          nodes.PrepareStmt)  # fmt: skip
BEGINS = re.compile(r"\b(?:select|with|values|table|insert|update|delete|merge|create|declare)\b|\(", re.IGNORECASE)
AFTER = re.compile(r"\bwith\s+(?:no\s+data|data|(?:local\s+|cascaded\s+)?check\s+option)\s*;?\s*\Z", re.IGNORECASE)
LITERAL = re.compile(r"'(?:[^']|'')*'")


def innermost(text: str, statement: Any) -> tuple[str, Any]:
    """What is asked in the end, and its text: blanks stand for what is around it, so that every place remains."""
    while isinstance(statement, AROUND) and statement.query is not None:
        found = next(_candidates(text, statement.query), None)
        if found is None:
            return text, None
        text, statement = found
    return text, statement


def _candidates(text: str, wanted: Any) -> Iterator[tuple[str, Any]]:
    for begins in BEGINS.finditer(text):
        for end in _ends(text, begins.start()):
            within = re.sub(r"[^\n]", " ", text[: begins.start()]) + text[begins.start() : end]
            try:
                trees = parse_sql(within)
            except ParseError:
                continue
            if len(trees) == 1 and trees[0].stmt == wanted:
                yield within, trees[0].stmt


def _ends(text: str, start: int) -> Iterator[int]:
    """Where it may end: with the text, at a bracket that closes one before it, or ahead of a last clause."""
    yield len(text)
    if after := AFTER.search(text, start):
        yield after.start()
    bare, depth = LITERAL.sub(lambda found: "'" * len(found[0]), text), 0
    for place in range(start, len(bare)):
        depth += {"(": 1, ")": -1}.get(bare[place], 0)
        if depth < 0:
            yield place
            return


def carried_out(statement: Any) -> bool:
    """Whether all that is asked in it is asked at once: not in what is only explained, nor in a view or a cursor."""
    if isinstance(statement, nodes.ExplainStmt):
        return any(option.defname == "analyze" and not _off(option.arg) for option in statement.options or ())
    return not isinstance(statement, nodes.ViewStmt | nodes.DeclareCursorStmt)


def _off(value: Any) -> bool:
    said = getattr(value, "sval", getattr(value, "ival", getattr(value, "boolval", None)))
    return value is not None and str(said).lower() in ("off", "false", "0")
