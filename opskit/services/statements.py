"""The statements of a migration file, found by PostgreSQL's own parser.

A file is cut where the Supabase CLI cuts it, so that what we write into the ledger is what the CLI would write: a
comment goes with the statement after it, and what stands behind the last statement is a piece of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pglast import ast, enums, parse_sql, parser

LARGEST = 50 * 1024 * 1024  # bytes; nobody reviews more, and data belongs into a backfill
META = re.compile(r"^[ \t]*\\(\S*)", re.MULTILINE)  # a psql meta-command has a line of its own
HEAD = 60  # characters of a statement that name it to a person

TRANSACTION = enums.TransactionStmtKind
OPENS = {TRANSACTION.TRANS_STMT_BEGIN, TRANSACTION.TRANS_STMT_START}
CLOSES = {TRANSACTION.TRANS_STMT_COMMIT, TRANSACTION.TRANS_STMT_ROLLBACK, TRANSACTION.TRANS_STMT_PREPARE}
SETS = re.compile(r"select\s+(pg_catalog\.)?set_config\('[^']*', *'[^']*', *false\)", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """One statement of a file, as the CLI would send and store it."""

    file: str
    number: int  # in its file, from 1
    line: int  # on which its first word stands
    text: str
    node: Any = field(default=None, compare=False, repr=False)  # None: there is nothing but a comment

    @property
    def head(self) -> str:
        """Its beginning in one line, without the comment before it."""
        words = " ".join(self.bare.split())
        return words if len(words) <= HEAD else f"{words[: HEAD - 1]}…"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def alone(self) -> bool:
        """Whether the CLI sends it by itself, because PostgreSQL refuses it in a transaction."""
        match self.node:
            case ast.IndexStmt(concurrent=True) | ast.DropStmt(concurrent=True):
                return True
            case ast.ReindexStmt(params=params):
                return any(p.defname == "concurrently" for p in params or ())
            case ast.VacuumStmt(is_vacuumcmd=True) | ast.AlterSystemStmt() | ast.ClusterStmt():
                return True
        return False

    @property
    def transaction(self) -> bool:
        """Whether it begins or ends a transaction of the file's own."""
        return isinstance(self.node, ast.TransactionStmt) and self.node.kind in OPENS | CLOSES

    @property
    def closes(self) -> bool:
        """Whether it ends the transaction that it is sent in."""
        return isinstance(self.node, ast.TransactionStmt) and self.node.kind in CLOSES

    @property
    def rolls_back(self) -> bool:
        """Whether nothing stays of the transaction that it is sent in."""
        return self.closes and self.node.kind == TRANSACTION.TRANS_STMT_ROLLBACK

    @property
    def sets(self) -> bool:
        """Whether all it does is to set something for the rest of the session."""
        if isinstance(self.node, ast.VariableSetStmt):
            return not self.node.is_local and self.node.name != "TRANSACTION"
        return SETS.fullmatch(self.bare.rstrip("; \n")) is not None

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent a second time, though nobody sees that it was sent before: nothing is added by that.

        A GRANT on all that a schema holds is none: it would reach what was made since.
        """
        match self.node:
            case None | ast.CommentStmt() | ast.VacuumStmt(is_vacuumcmd=False) | ast.NotifyStmt(conditionname="pgrst"):
                return True
            case ast.GrantStmt(targtype=enums.GrantTargetType.ACL_TARGET_OBJECT):
                return True
            case ast.VariableSetStmt(is_local=True, name=str(name)):
                return name.endswith("_timeout")
        return self.sets

    @property
    def bare(self) -> str:
        """Its text without the comment before it."""
        return re.sub(r"\A(\s+|--[^\n]*(\n|\Z)|/\*.*?\*/)+", "", self.text, flags=re.DOTALL)


@dataclass(frozen=True)
class File:
    """One migration: a file whose name the CLI accepts. `trouble` says why it cannot be sent at all, and where."""

    path: Path
    version: str
    name: str
    statements: tuple[Statement, ...] = ()
    trouble: str = ""

    @cached_property
    def alone(self) -> bool:
        """Whether it holds a statement that commits what stands before it."""
        return any(statement.alone for statement in self.statements)

    @cached_property
    def together(self) -> bool:
        """Whether nothing stays of it where it fails."""
        return not any(statement.alone or statement.transaction for statement in self.statements)

    @property
    def texts(self) -> list[str]:
        """What the CLI writes into the ledger."""
        return [statement.text for statement in self.statements]


def read(path: Path, version: str, name: str) -> File:
    """A migration as it lies there. What cannot be sent is no error: it is this file's trouble."""
    try:
        text = _text(path)
        return File(path, version, name, tuple(split(text, path.name)))
    except ValueError as error:
        return File(path, version, name, trouble=str(error))


def same(file: File, applied: Sequence[str]) -> bool:
    """Whether nothing but white space differs: versions of the CLI cut differently."""
    return _core(file.texts) == _core(applied)


def _core(texts: Iterable[str]) -> str:
    return re.sub(r"[\s;]+", "", "".join(texts))


def _text(path: Path) -> str:
    """Raises ValueError naming the file, and the line where there is one."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{path.name}: holds {size / 1024**2:.0f} MB; at most {LARGEST // 1024**2} are read")
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path.name}:{line}: is not UTF-8 text; save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path.name}:{_line(text, text.index(chr(0)))}: holds a zero byte; it is no text")
    return text


def split(text: str, file: str) -> list[Statement]:
    """The statements in `text`. Raises ValueError naming file and line of what is no SQL that can be sent."""
    try:
        trees = parse_sql(text)
    except parser.ParseError as error:
        raise ValueError(_unparsable(text, file, error)) from None
    found: list[Statement] = []
    end = 0
    for tree, stop in zip(trees, _stops(text, trees), strict=True):
        piece = text[end:stop].lstrip("; \t\r\n")
        start = stop - len(piece)
        found.append(_statement(text, file, len(found) + 1, start, piece.rstrip(), tree.stmt))
        end = stop
    if rest := text[end:].strip("; \t\r\n"):
        found.append(Statement(file, len(found) + 1, _line(text, text.index(rest, end)), rest))
    return found


def _stops(text: str, trees: Any) -> list[int]:
    """Where each statement ends, before its semicolon: a length of 0 means that it ends with the text."""
    return [tree.stmt_location + tree.stmt_len if tree.stmt_len else len(text) for tree in trees]


def _statement(text: str, file: str, number: int, start: int, piece: str, node: Any) -> Statement:
    made = Statement(file, number, 0, piece, node)
    line = _line(text, start + len(piece) - len(made.bare))
    if isinstance(node, ast.CopyStmt) and not node.filename:
        raise ValueError(f"{file}:{line}: COPY from or to the client works in psql only; write INSERTs")
    return Statement(file, number, line, piece, node)


def _unparsable(text: str, file: str, error: Any) -> str:
    """What is wrong, and on which line. Where a text ends in mid-statement there is no place, so its last line."""
    said, place = error.args[0], error.args[1] if len(error.args) > 1 else None
    place = len(text.rstrip()) if place is None else place
    line = _line(text, place)
    meta = next((m for m in META.finditer(text) if _line(text, m.start(1)) == line), None)
    if meta:
        return f"{file}:{line}: \\{meta[1]} is a command of psql, which is not SQL; take it out"
    if copy := re.search(r"\bcopy\b[^;]*\bfrom\s+stdin\b[^;]*;", text[:place], re.IGNORECASE):
        return f"{file}:{_line(text, copy.start())}: COPY from stdin works in psql only; write INSERTs"
    return f"{file}:{line}: {said}"


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
