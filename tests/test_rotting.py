"""Our own runbooks, with one thing at a time made wrong: lint says so, in that cell, on that line."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support import REPOSITORY

from opskit.commands import linting
from opskit.linting import lint, pages
from opskit.linting.lint import Reality
from opskit.linting.pages import Cell, Page

NOTEBOOKS = sorted(path for path in (REPOSITORY / "notebooks").glob("*.ipynb") if "template" not in path.name)
KINDS = {  # what may rot, the shape of it in a line, and where such a line stands
    "table": (r"(?<=from )(ai_\w+|user_profiles|documents|document_\w+|autosave_failures)\b", "code"),
    "column": (
        r"(?<![\w.])(created_at|failure_type|selected_model|latency_ms|subscription_tier|document_id)\b(?= )",
        "code",
    ),
    "function": (r"\b(count|date_bin|percentile_cont|coalesce|jsonb_build_object)(?=\()", "code"),
    "service": (r"(?<=run\.)(stripe|vercel|sentry|tasks|profiles|documents|migrations|database)(?=\.\w+\()", "code"),
    "verb": (r"(?<=run\.)(?:stripe|vercel|tasks|profiles|documents|migrations)\.(\w+)(?=\()", "code"),
    "cause": (r"(?<=cause=\")([\w-]+)(?=\")", "code"),
    "cause asked for": (r"(?<=run\.found\(\")([\w-]+)(?=\"\))", "code"),
    "keyword": (r"run\.check\(.*\b(cause|because|required)(?==)", "code"),
    "role": (r"(?<=\| )(lead|CTO|CFO)\b(?=[ ,])", "markdown"),
    "import": (r"(?<=^from opskit\.)(contacts|display|errors|journal|services)\b", "code"),
    "flag": (r"(?<= )--(environment|since|live|json|linked|project-ref|customer|limit|status-code|query)\b", "told"),
    "command": (r"(?<=`)(?:vercel|stripe|supabase|opskit) (\w+)", "told"),
    "column by hand": (r"(?<=where )(document_id|id|user_id|xact_start|tablename|proname)\b", "told"),
    "table by hand": (r"(?<=from )(documents|document_\w+|ai_\w+|pg_\w+)\b", "told"),
    "endpoint": (r"(?<=/)(models|responses|summary|balance)\b", "told"),
    "link": (r"(?<=\]\(\.\./)(docs/\w+|README)\b", "markdown"),
    "section": (r"(?<=^## )(Symptoms|Impact|Diagnosis|Resolution|Prevention|Escalation)$", "markdown"),
}
SQL = {"table", "column", "function"}
SAMPLE, MANY = 1, 15  # of each kind, in the quick test and in the deep one


@pytest.fixture(scope="module")
def reality() -> Iterator[Reality]:
    with linting._reality() as found:
        yield found


def spots(page: Page) -> Iterator[tuple[str, Cell, re.Match[str]]]:
    """Everything in a runbook that could rot in one of these ways."""
    for cell in page.cells:
        for kind, (shape, where) in KINDS.items():
            for found in re.finditer(shape, cell.text, re.MULTILINE):
                line = cell.text[cell.text.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0]
                stands = {"code": cell.kind == "code", "markdown": cell.kind == "markdown"}
                stands["told"] = cell.kind == "markdown" and "`" in line and "by hand" in cell.text.lower()
                if stands[where] and not (kind in SQL and "run." in line and "read(" not in line):
                    yield kind, cell, found


def rotten(page: Page, cell: Cell, found: re.Match[str]) -> Page:
    """The same page in which one word is another."""
    start, end = found.span(1)
    word = found[1][:-1] + ("x" if found[1][-1] != "x" else "z")
    text = cell.text[:start] + word + cell.text[end:]
    raw = json.loads(json.dumps(page.raw))
    for one in raw["cells"]:
        if one["id"] == cell.id:
            one["source"] = text
    return Page(page.path, page.name, tuple(pages._cells(raw["cells"])), raw)


def measured(reality: Reality, most: int) -> tuple[Counter[str], Counter[str], list[Any]]:
    tried, seen, missed = Counter[str](), Counter[str](), []
    for path in NOTEBOOKS:
        page = pages.read(path, REPOSITORY)
        places = list(spots(page))
        random.Random(path.stem).shuffle(places)
        here_tried = Counter[str]()
        for kind, cell, found in places:
            if tried[kind] >= most or here_tried[kind] > most / len(NOTEBOOKS):
                continue
            tried[kind] += 1
            here_tried[kind] += 1
            line = cell.text.count("\n", 0, found.start(1)) + 1
            said = lint.lint(rotten(page, cell, found), reality)
            here = [one for one in said if (one.cell, one.line) == (cell.id, line)]
            if here or (kind == "section" and said):  # what is missing has no line
                seen[kind] += 1
            else:
                missed.append((kind, path.stem, cell.id, line, found[1], [(o.cell, o.line, o.rule) for o in said]))
    return tried, seen, missed


def shown(tried: Counter[str], seen: Counter[str], missed: list[Any]) -> float:
    print(f"\n{'made wrong':<16} times  seen")
    for kind in KINDS:
        print(f"{kind:<16} {tried[kind]:>5} {seen[kind]:>5}")
    for one in missed:
        print("not seen:", *one)
    share = seen.total() / tried.total()
    print(f"recall {share:.3f} of {tried.total()}")
    return share


def test_what_is_made_wrong_in_our_own_runbooks_is_seen_where_it_stands(reality: Reality) -> None:
    tried, seen, missed = measured(reality, SAMPLE)
    assert set(tried) == set(KINDS)  # or this test sees less than it says
    assert shown(tried, seen, missed) == 1.0


@pytest.mark.deep
def test_so_it_is_in_many_places(reality: Reality) -> None:
    assert shown(*measured(reality, MANY)) > 0.97
