"""Whether the people of the Escalation table are among the contacts: who is called at night has to have a number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from markdown_it.token import Token

from opskit.linting.findings import Finding
from opskit.linting.pages import Cell, Page

SECTION = "Escalation"
WHOM = re.compile(r"(to )?(whom|who|role|call|page|tell|notify|contact|escalate to)s?", re.IGNORECASE)
BETWEEN = re.compile(r"[,;/+&>→]|\b(?:and|or|then|else|if|when|for|after|within)\b")
ASIDE = re.compile(r"[:(\u2013\u2014].*|\s-\s.*", re.DOTALL)  # says how, or what
SHORT = re.compile(r"[A-Z]{2,5}")  # a title such as CTO; P0 and 24/7 are none
CHIEF = re.compile(r"C[A-Z]{1,2}O|VP|SRE|DBA|DPO")  # so is this, also where it is not the first of the cell
OFFICE = re.compile(
    r"(?:[\w&-]+ ){0,3}(?:lead|head|chief|officer|manager|director|engineer|on-call|counsel|founder|president)"
    r"|(?:head|director|vp|chief) of [\w -]+",
    re.IGNORECASE,
)
SPOKEN = {"whoever", "who", "is", "are", "a", "an", "any", "each", "every", "no", "not", "another", "their", "by", "as"}
WORD = re.compile(r"[A-Za-z][A-Za-z-]+")
NOBODY = {"nobody", "none", "somebody", "someone", "anybody", "anyone", "everybody", "everyone", "people", "you", "us",
          "them", "staff", "all", "both", "same", "ditto", "see", "nothing", "public", "press",
          "customer", "user", "writer", "author", "owner", "reporter",
          "stripe", "supabase", "vercel", "sentry", "openai", "anthropic", "deepseek", "slack"}  # fmt: skip


def roles(root: Path) -> dict[str, str] | None:
    """The roles of `parameters/contacts.yaml`, each with its name; None where there are none that could be read."""
    try:
        found = yaml.safe_load((root / "parameters" / "contacts.yaml").read_text(encoding="utf-8"))["contacts"]
        return {str(one["role"]): str(one.get("name") or "") for one in found}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError):
        return None


def check(page: Page, known: Mapping[str, str]) -> Iterator[Finding]:
    folded = {one.casefold() for one in (*known, *known.values(), *_owner(page))}
    for cell in page.markdown():
        if cell.section == SECTION:
            for line, text in _whom(cell):
                for role in _named(_without(folded, text)):
                    if not {role.casefold(), role.casefold().removesuffix("s")} & folded:
                        near = difflib.get_close_matches(role, known, 1)
                        remedy = f"The nearest is {near[0]}." if near else f"There are: {', '.join(sorted(known))}."
                        wrong = f"{role} is not among parameters/contacts.yaml."
                        yield Finding(page.name, cell.id, line, "role", wrong, remedy)


def _owner(page: Page) -> list[str]:
    """Of the title block: whoever runs it is there already."""
    title = next(page.markdown(), None)
    return re.findall(r"^\|\s*\**Owner\**\s*\|\s*(.+?)\s*\|", title.text if title else "", re.MULTILINE)


def _whom(cell: Cell) -> Iterator[tuple[int, str]]:
    """The line and text of each cell that says whom to call."""
    columns: list[str] = []
    row: list[Any] = []
    for token in cell.tokens:
        if token.type == "tr_open":
            row = []
        elif token.type == "inline" and token.map and token.level > 3:  # of a table
            row.append((cell.first + token.map[0], token))
        elif token.type == "thead_close":
            columns = [inline.content.strip() for _, inline in row]
        elif token.type == "tr_close" and columns:
            for name, (line, inline) in zip(columns, row, strict=False):
                if WHOM.fullmatch(name.strip("* ")) and (text := _plain(inline)):
                    yield line, text


def _plain(inline: Token) -> str:
    """Its words; "" where it is a link, which leads to somebody by itself."""
    parts = inline.children or []
    return "" if any(one.type == "link_open" for one in parts) else "".join(one.content for one in parts)


def _without(known: Iterable[str], text: str) -> str:
    """The same without those that are known by a name which itself looks like two."""
    for name in known:
        text = re.sub(re.escape(name), "", text, flags=re.IGNORECASE) if BETWEEN.search(name) else text
    return text


def _named(text: str) -> Iterator[str]:
    """What of a cell is evidently somebody's office, and no sentence about people."""
    parts = [ASIDE.sub("", part).strip(" .") for part in BETWEEN.split(text)]
    for place, part in enumerate(parts):
        alone = place == 0 and (SHORT.fullmatch(part) or (WORD.fullmatch(part) and not _of_many(part)))
        office = OFFICE.fullmatch(part) and not SPOKEN & set(part.casefold().split())
        if alone or office or CHIEF.fullmatch(part):
            yield re.sub(r"^(the|our|your)\s+", "", part, flags=re.IGNORECASE)


def _of_many(word: str) -> bool:
    """Users, writers, customers: those who are told, and not called."""
    return word.casefold() in NOBODY or (word.casefold().endswith("s") and not word.isupper())
