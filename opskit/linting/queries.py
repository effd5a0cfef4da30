"""The SQL of a page, wherever it stands: in code, in blocks of SQL, and behind psql. With what people write where a
value, or a name, is not known yet.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pglast
from pglast.parser import ParseError

from opskit.linting import shell
from opskit.linting.pages import STATEMENT, Cell, Page

ASKED = {"read", "first", "rows"}  # verbs of a database that take SQL
NAME = "opskit_placeholder"  # stands where a name is not known yet
ELLIPSIS = re.compile(r"…|\.\.\.")
LITERAL = re.compile(r"'(?:[^']|'')*'")
COMMENT = re.compile(rf"({LITERAL.pattern})|--[^\n]*")  # what looks like one within a literal is none
UNKNOWN = re.compile(
    r"'(\[[^\]']*\]|<[^>']*>|\{[A-Za-z_ ]+\}|\$\{?\w+\}?|[^']*(?:xxx|XXX|Replace|…|\.\.\.|[Yy]our[-_])[^']*)'"
)
TYPED = re.compile(r"\b(interval|date|time|timestamp|timestamptz)\s*$", re.IGNORECASE)
EXAMPLE = {"interval": "'1 hour'", "date": "'2026-01-01'", "time": "'12:00'"}
BARE = re.compile(r"(?<![\w\])\[])\[[A-Za-z][\w .-]*\]|<[A-Za-z][\w -]*>|\{[a-z_]+\}")
NAMES_FOLLOW = re.compile(r"\b(from|join|into|update|table|on|column|index|policy|trigger)\s*$", re.IGNORECASE)
PSQL = re.compile(r"(?<![:\w]):(['\"]?)([A-Za-z_]\w*)\1(?!\w)")
PYTHON = re.compile(r"%\((\w+)\)s|%s")
FORMATTED = re.compile(r"\{\w*\}")
SHELL = re.compile(r"\$(\{\w+\}|[A-Za-z_]\w*(?!\w|\$)|\([^()]*\))")  # what the shell puts in, where nothing quotes it
COPIED = re.compile(r"^\s*\\(copy\b.*)$", re.MULTILINE | re.IGNORECASE)
COPY = re.compile(
    r"(?P<what>copy\s+(?:\(.*\)|[\w.\"]+\s*(?:\([^()]*\))?)\s*)\b(?P<way>to|from)\s+"
    rf"(?:program\s+)?(?:{LITERAL.pattern}|[^\s'(;]+)(?P<how>[^;]*);?\s*",
    re.IGNORECASE,
)
ON_ITS_LINE = re.compile(r"^\s*\\.*$", re.MULTILINE)
AT_THE_END = re.compile(rf"({LITERAL.pattern}|--[^\n]*)|\\(?:g\w*|watch|crosstabview)\b[^\n]*")


@dataclass(frozen=True)
class Query:
    """One statement. `text` has `$1` where a value is not known; lines are the page's."""

    cell: Cell
    line: int
    text: str
    block: tuple[str, ...] = field(repr=False)  # all the statements that are typed together, this one among them
    told: bool = True
    number: int = 0  # of this one in the block

    def at(self, place: int) -> int:
        """The line of a place in its text."""
        return self.line + self.text.count("\n", 0, place)


def queries(page: Page) -> Iterator[Query]:
    names = {name for cell in page.code() for name in _sent_by_name(cell)}
    for cell in page.code():
        for line, text in _in_code(cell, names):
            yield from _cut(cell, line, [unknowns(text, PYTHON)])
    for snippet in page.snippets("sql"):
        yield from _cut(snippet.cell, snippet.line, [unknowns(_without_meta(snippet.text), PSQL)], snippet.told)
    for snippet in page.snippets("bash"):
        for command in shell.commands(snippet.text, snippet.line):
            if command.words[0] == "psql":
                texts = [unknowns(_without_meta(_put_in(text)), PSQL) for text in _given(command.words)]
                yield from _cut(snippet.cell, command.line, texts, snippet.told)
                fed = unknowns(_without_meta(_put_in(command.fed)), PSQL)
                yield from _cut(snippet.cell, command.fed_line, [fed], snippet.told)


def _sent(cell: Cell) -> Iterator[ast.expr]:
    """What is handed to a database."""
    for node in ast.walk(cell.tree) if cell.tree else ():
        match node:
            case ast.Call(func=ast.Attribute(attr=verb, value=ast.Attribute(attr="database")), args=[first, *_]) if (
                verb in ASKED
            ):
                yield first


def _sent_by_name(cell: Cell) -> Iterator[str]:
    yield from (first.id for first in _sent(cell) if isinstance(first, ast.Name))


def _in_code(cell: Cell, names: set[str]) -> Iterator[tuple[int, str]]:
    """What is sent to a database, itself or by one of these names, and whatever else is evidently a statement."""
    sent = list(_sent(cell))
    for node in ast.walk(cell.tree) if cell.tree else ():
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in names:
                sent.append(value)
    seen = {id(part) for node in sent for part in ast.walk(node)}
    yield from ((node.lineno, text) for node in sent if (text := _text(node)))
    for node in ast.walk(cell.tree) if cell.tree else ():
        if isinstance(node, ast.JoinedStr):
            seen |= {id(part) for part in node.values}
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in seen:
            text = _text(node)
            if text and STATEMENT.match(text) and _parses(unknowns(text, PYTHON)):
                yield node.lineno, text


def _text(node: Any) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(str(v.value) if isinstance(v, ast.Constant) else "[value]" for v in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{_text(left)}{_text(right)}" if _text(left) and _text(right) else ""
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return FORMATTED.sub("[value]", text)
    return ""


def _parses(text: str) -> bool:
    try:
        pglast.parse_sql(text)
    except ParseError:
        return False
    return True


def _given(words: tuple[str, ...]) -> list[str]:
    """What psql is given with -c."""
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "--command" or re.fullmatch(r"-[A-Za-z]*c", word):
            found.append(after)
        elif word.startswith("--command="):
            found.append(word.partition("=")[2])
    return found


def _without_meta(text: str) -> str:
    """Without psql's own commands; `\\copy` does what `copy` does, and `\\gx` ends a statement as `;` does."""
    text = COPIED.sub(lambda found: f"{_to_the_server(found[1])};", text)
    return AT_THE_END.sub(lambda found: found[1] or ";", ON_ITS_LINE.sub("", text))


def _to_the_server(copy: str) -> str:
    """What `\\copy` has the server do: its files, and programs, are on this side."""
    if not (found := COPY.fullmatch(copy)):
        return copy
    return f"{found['what']}{found['way']} {'stdout' if found['way'].lower() == 'to' else 'stdin'}{found['how']}"


def _put_in(text: str) -> str:
    """With a name for what the shell puts in, where it stands outside quotes of SQL."""
    pieces = re.split(f"({LITERAL.pattern})", text)
    return "".join(piece if n % 2 else SHELL.sub("[value]", piece) for n, piece in enumerate(pieces))


def unknowns(text: str, named: re.Pattern[str]) -> str:
    """The same, with parameters for values that are not known, and as many lines. A comment's quotes are none."""
    text = COMMENT.sub(lambda found: found[1] or "", text)
    numbers: dict[str, int] = {}
    own = highest(text)

    def number(found: re.Match[str]) -> str:
        return f"${numbers.setdefault(found[0], own + len(numbers) + 1)}"

    def literal(found: re.Match[str]) -> str:
        if UNKNOWN.fullmatch(found[0]):
            typed = TYPED.search(found.string[: found.start()])
            return EXAMPLE.get(typed[1].lower(), "'2026-01-01 12:00'") if typed else number(found)
        return re.sub(r"\[[A-Za-z]\w*\]|<[a-z]\w*>", "1", found[0])

    def bare(found: re.Match[str]) -> str:
        return NAME if NAMES_FOLLOW.search(found.string[: found.start()]) else number(found)

    if named is PSQL:
        text = re.sub(r":'(\w+)'", lambda m: number(m), text)
    text = LITERAL.sub(literal, text)
    pieces = re.split(f"({LITERAL.pattern})", text)
    for place in range(0, len(pieces), 2):
        pieces[place] = BARE.sub(bare, named.sub(number, pieces[place]))
    return "".join(pieces).replace("%%", "%" if named is PYTHON else "%%")


def renumbered(text: str) -> str:
    """The same, with parameters from 1 on, as a server wants them."""
    numbers: dict[str, str] = {}
    return re.sub(r"\$\d+\b", lambda m: numbers.setdefault(m[0], f"${len(numbers) + 1}"), text)


def highest(text: str) -> int:
    """The highest number of a parameter."""
    return max((int(n) for n in re.findall(r"\$(\d+)\b", text)), default=0)


def _cut(cell: Cell, line: int, texts: list[str], told: bool = True) -> Iterator[Query]:
    """A query for each statement of texts that are sent one after the other; an open bracket keeps the rest whole."""
    found: list[tuple[int, str]] = []
    for text in texts:
        try:
            slices = list(pglast.split(text, with_parser=False, only_slices=True))
        except ParseError:
            slices = []
        slices.append(slice(slices[-1].stop if slices else 0, len(text)))  # whatever was left open
        for part in slices:
            piece = text[part]
            bare = re.sub(r"\A(\s+|--[^\n]*(\n|\Z)|/\*.*?\*/)+", "", piece, flags=re.DOTALL)
            if bare.strip(" ;\n"):
                start = part.start + len(piece) - len(bare)
                found.append((line + text.count("\n", 0, start), bare))
    block = tuple(text for _, text in found)
    for number, (at, text) in enumerate(found):
        if not ELLIPSIS.search(LITERAL.sub("", text)):
            yield Query(cell, at, renumbered(text), block, told, number)
