"""A runbook as its readers see it: cells, and in their prose what one would type. Pages of Markdown likewise."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from opskit.errors import BadInput

SHELLS = ("bash", "sh", "shell", "console", "zsh")
QUERIES = ("sql", "postgresql", "postgres")
BY_HAND = re.compile(r"\bby hand\b", re.IGNORECASE)
STATEMENT = re.compile(
    r"\s*(?:explain\s+(?:\([^)]*\)\s*|analyze\s+|verbose\s+)*|copy\s*\(\s*)?(select\s.*\bfrom\b|with\s+\w+\s+as\s*\(|update\s+\S+\s+(\w+\s+)?set\b|insert\s+into\b|delete\s+from\b|"
    r"(alter|create|drop|truncate)\s+(unique\s+|or\s+replace\s+)?(table|index|policy|function|trigger|view|type)\b)",
    re.IGNORECASE | re.DOTALL,
)
MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Cell:
    """One cell, and the section of the runbook in which it stands. `first` is the number of its first line."""

    id: str
    kind: str
    text: str
    section: str = ""
    tags: tuple[str, ...] = ()
    first: int = 1

    @cached_property
    def tokens(self) -> list[Token]:
        """Its prose, read as Markdown."""
        return MARKDOWN.parse(self.text) if self.kind == "markdown" else []

    @cached_property
    def tree(self) -> ast.Module | None:
        """Its code; None where it is none, or cannot be read."""
        try:
            return ast.parse(self.text) if self.kind == "code" else None
        except SyntaxError:
            return None


@dataclass(frozen=True)
class Snippet:
    """Something that a person would type, as the prose has it."""

    cell: Cell
    line: int
    language: str  # bash or sql
    text: str
    told: bool = True  # whether one is told to type it; else it is only spoken of


@dataclass(frozen=True)
class Page:
    """A notebook, or a page of Markdown."""

    path: Path
    name: str
    cells: tuple[Cell, ...]
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # of a notebook

    @property
    def notebook(self) -> bool:
        return bool(self.raw)

    def markdown(self) -> Iterator[Cell]:
        return (cell for cell in self.cells if cell.kind == "markdown")

    def code(self) -> Iterator[Cell]:
        return (cell for cell in self.cells if cell.kind == "code")

    def snippets(self, language: str) -> Iterator[Snippet]:
        for cell in self.markdown():
            yield from (snippet for snippet in _snippets(cell) if snippet.language == language)


def read(path: Path, root: Path) -> Page:
    """Raises BadInput where it is neither a notebook nor a page of Markdown."""
    name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            return Page(path, name, tuple(_parts(text)))
        raw = json.loads(text)
        return Page(path, name, tuple(_cells(raw["cells"])), raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{name}: is neither a notebook nor a page of Markdown ({type(error).__name__}).") from None


def _cells(cells: list[dict[str, Any]]) -> Iterator[Cell]:
    section = ""
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (found := re.search(r"^## +(.+?)\s*$", text, re.MULTILINE)):
            section = found[1]
        yield Cell(cell.get("id", ""), cell["cell_type"], text, section, tuple(cell["metadata"].get("tags", ())))


def _parts(text: str) -> Iterator[Cell]:
    """A page of Markdown, cut at its second headings."""
    lines, start, section, fenced = text.splitlines(), 0, "", False
    for number, line in enumerate([*lines, "## "]):
        fenced ^= line.lstrip().startswith("```")
        if line.startswith("## ") and not fenced:
            if number > start:
                yield Cell("", "markdown", "\n".join(lines[start:number]), section, first=start + 1)
            start, section = number, line.removeprefix("## ").strip()


def _snippets(cell: Cell) -> Iterator[Snippet]:
    for token in cell.tokens:
        if token.type == "fence" and token.map:
            language = _language(token.info, token.content)
            text = _typed(token.content) if token.info.strip() == "console" else token.content
            if language:
                yield Snippet(cell, cell.first + token.map[0] + 1, language, text)
        elif token.type == "inline" and token.map:
            yield from _spans(cell, token, cell.first + token.map[0])


def _spans(cell: Cell, token: Token, line: int) -> Iterator[Snippet]:
    flat, place = token.content.replace("\n", " "), 0
    told = BY_HAND.search(token.content)
    for child in token.children or ():
        if child.type != "code_inline":
            continue
        place = max(flat.find(child.content, place), place)
        at = line + token.content.count("\n", 0, place)
        if language := _language("", child.content):
            yield Snippet(cell, at, language, child.content, bool(told and told.start() < place))
        place += len(child.content)


def _language(info: str, text: str) -> str:
    """bash, sql, or nothing that is typed into either."""
    named = info.split(maxsplit=1)[0].lower() if info.strip() else ""
    if named in SHELLS:
        return "bash"
    if named in QUERIES or (not named and STATEMENT.match(text)):
        return "sql"
    return "" if named else "bash" if re.match(r"\s*(?!-)[\w./-]+(\s+\S|\s*$)", text) else ""


def _typed(text: str) -> str:
    """What is typed in a protocol of a console, also behind `> ` where it goes on; answers become empty lines."""
    typed: list[str] = []
    begun = ""
    for line in text.splitlines():
        goes_on = line.startswith("> ") and _open(begun)
        typed.append(line[2:] if line.startswith("$ ") or goes_on else "")
        begun = f"{begun}\n{typed[-1]}" if goes_on else typed[-1]
    return "\n".join(typed)


def _open(text: str) -> bool:
    """Whether a shell would wait for the rest of it."""
    try:
        shlex.split(text)
    except ValueError:  # a quote, or a backslash at its end
        return True
    fed = re.search(r"<<-?\s*['\"]?(\w+)", text)
    fed_on = fed and not re.search(rf"^\s*{fed[1]}$", text, re.MULTILINE)
    return bool(fed_on) or text.endswith(("|", "&&", " do", "then"))
