"""What two bodies of a document have in common: words lost, a difference that people can read, the same text or not.

Pure functions over bodies as the app stores them: `{"html": …, "structure": …, "metadata": …}`.
"""

from __future__ import annotations

import difflib
import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Body = Mapping[str, Any]

TAG = re.compile(r"<[^>]*>")
PARAGRAPH = re.compile(r"</(?:p|h[1-6]|li|tr|blockquote|div)>|<br\s*/?>", re.IGNORECASE)
SHOWN = 40  # lines of a difference


def words(body: Body) -> list[str]:
    """The words that a reader sees, in order."""
    return html.unescape(TAG.sub(" ", str(body.get("html") or ""))).split()


def all_words(body: Body) -> list[str]:
    """The words of the text, and those of its chapters."""
    return [*words(body), *(word for line in _told_in(body.get("structure")) for word in line.split())]


def _told_in(structure: Any) -> list[str]:
    """What people wrote in chapters: every string that is no identifier."""
    if isinstance(structure, Mapping):
        return [line for key, value in structure.items() if key != "id" for line in _told_in(value)]
    if isinstance(structure, list):
        return [line for value in structure for line in _told_in(value)]
    return [structure] if isinstance(structure, str) else []


def paragraphs(body: Body) -> list[str]:
    """The text as lines, one for each paragraph, and then what stands in its chapters."""
    parts = PARAGRAPH.split(str(body.get("html") or ""))
    lines = (" ".join(html.unescape(TAG.sub(" ", part)).split()) for part in parts)
    return [line for line in [*lines, *_told_in(body.get("structure"))] if line]


def lost(stored: Body, copy: Body) -> int:
    """How many of the copy's words are not in the stored body, each counted as often as it stands there."""
    return (Counter(all_words(copy)) - Counter(all_words(stored))).total()


def same(one: Body, other: Body) -> bool:
    """Whether two bodies are the same whatever the order of their keys, which JSONB does not keep.

    Compared is what the app's own hash covers: text, chapters and anchors.
    """
    return _told(one) == _told(other)


def _told(body: Body) -> tuple[str, Any, Any]:
    metadata = body.get("metadata") or {}
    return str(body.get("html") or ""), body.get("structure") or [], metadata.get("anchors") or []


def difference(stored: Body, copy: Body) -> list[tuple[str, str]]:
    """What restoring the copy would take away (`-`) and bring back (`+`), a paragraph a line; unchanged ones apart."""
    found = []
    for line in difflib.ndiff(paragraphs(stored), paragraphs(copy)):
        if line[0] in "-+":
            found.append((line[0], line[2:]))
    return found if len(found) <= SHOWN else [*found[:SHOWN], ("…", f"{len(found) - SHOWN} more")]


def told(names: Sequence[str], most: int = 5) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
