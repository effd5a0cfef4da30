"""Whether the links of a page lead somewhere: files that are there, headings in them, places in this repository."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from opskit.linting.findings import Finding
from opskit.linting.pages import MARKDOWN, Cell, Page

PLACES = re.compile(r"(?:notebooks|parameters|opskit|scripts|docs|tests)/[\w./-]+\.\w+")
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def check(page: Page, root: Path) -> Iterator[Finding]:
    for cell in page.markdown():
        for line, target in _targets(cell):
            if wrong := _broken(page, target):
                yield Finding(page.name, cell.id, line, "link", wrong, "Point it to where that is now.")
        for line, place in _places(cell):
            if not (root / place).exists():
                yield Finding(page.name, cell.id, line, "link", f"there is no {place} in this repository.")


def _targets(cell: Cell) -> Iterator[tuple[int, str]]:
    """Where its links and pictures point, and the line of each."""
    for token in cell.tokens:
        if token.type != "inline" or not token.map:
            continue
        place = 0
        for child in token.children or ():
            target = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if target:
                place = max(token.content.find(f"]({target}", place), place)
                yield cell.first + token.map[0] + token.content.count("\n", 0, place), target


def _places(cell: Cell) -> Iterator[tuple[int, str]]:
    for token in cell.tokens:
        if token.type == "inline" and token.map:
            for span in re.finditer(r"`([^`\n]+)`", token.content):
                if PLACES.fullmatch(span[1]):
                    yield cell.first + token.map[0] + token.content.count("\n", 0, span.start()), span[1]


def _broken(page: Page, target: str) -> str:
    if OUTSIDE.match(target):
        return ""
    name, _, anchor = unquote(target).partition("#")
    path = (page.path.parent / name).resolve() if name else page.path
    if not path.exists():
        return f"{name} does not exist."
    if anchor and path.suffix in (".md", ".ipynb") and anchor not in anchors(path):
        return f"{name or 'this page'} has no heading #{anchor}."
    return ""


@cache
def anchors(path: Path) -> frozenset[str]:
    """The headings of a page as links name them, in the manner of GitHub; of notebooks also in that of JupyterLab."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    found: list[str] = re.findall(r"(?:id|name)=\"([\w-]+)\"", text)
    tokens = MARKDOWN.parse(text)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(child.content for child in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found += [slug if slug not in found else f"{slug}-{found.count(slug)}", words.replace(" ", "-")]
    return frozenset(found)
