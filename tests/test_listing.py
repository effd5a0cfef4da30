"""Lists on terminals of any width: what one copies is whole, and no word is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Opskit, data, sealed

from opskit import record, runbooks
from opskit.commands import answering
from opskit.journal import Journal

INCIDENT = "2026-11-23-supabase-migration-procedures-of-the-longest-night"
OUTCOME = "done but not all verified"


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda number: monkeypatch.setattr(answering.people, "_width", number)


def run(outputs: Path, name: str, **head: str) -> str:
    """A run of nine actions that nobody sealed."""
    about = {"incident": INCIDENT, "run": name, "runbook": "small", "environment": "sandbox", "operator": "ana",
             "started": "2026-11-23T03:10:00+00:00", "host": "here", "parameters": {}, **head}  # fmt: skip
    journal = Journal(record.prepare(outputs, about) / record.JOURNAL)
    journal.write("plan", digest="sha256:0", actions=9, removals=0, manual=0, causes=["schema-drift", "lock-timeout"])
    if "applies" in head:
        journal.write("action.begun", action="one", name="small.do")
    journal.write("run.ended", outcome=OUTCOME, exit=5)
    return name


@pytest.fixture
def pair(outputs: Path) -> list[str]:
    """A run that looked, and one that carried its plan out."""
    first = run(outputs, "20261123T031000000-aaaa")
    return [run(outputs, "20261123T032000000-bbbb", applies=first), first]


@pytest.mark.parametrize("width", [80, 100])
def test_history_breaks_no_word_on_a_narrow_terminal(
    opskit: Opskit, columns: Callable[[int], None], pair: list[str], width: int
) -> None:
    columns(width)
    lines = opskit("history").stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines if line.split()[0] in pair] == pair
    assert len(lines) == 1 + 3 * len(pair)  # each follows the other, or is followed by it
    assert sum(f"{OUTCOME} 0/9; not sealed: schema-" in line for line in lines) == 2
    shown = [line.strip() for line in lines]
    (incident,) = {line for line in shown if line.startswith("2026-")}
    assert incident == INCIDENT if width == 100 else INCIDENT.startswith(incident.removesuffix("…"))
    assert "applied by …0000-bbbb" in shown and "applies …0000-aaaa" in shown
    assert data(opskit("history", "--json"))[0]["incident"] == INCIDENT


def test_where_there_is_room_history_has_a_line_for_each_run(
    opskit: Opskit, columns: Callable[[int], None], pair: list[str]
) -> None:
    columns(200)
    heading, *lines = (line.split() for line in opskit("history").stdout.splitlines())
    assert heading == ["run", "outcome", "causes", "done", "incident"]
    assert [(line[0], line[-1]) for line in lines] == [(name, INCIDENT) for name in pair]


def test_what_a_search_found_is_whole(opskit: Opskit, columns: Callable[[int], None], outputs: Path) -> None:
    sealed(outputs, incident=INCIDENT, run="20261123T031000000-aaaa", **{"seen-by-hand.txt": "needle"})
    columns(80)
    assert opskit("history", "needle").stdout.splitlines()[-1].strip() == "in seen-by-hand.txt"


def test_rehearsals_do_not_crowd_out_what_happened(opskit: Opskit, pair: list[str], outputs: Path) -> None:
    for incident in ("drill-endpoint-disabled-7", "demo-12"):
        sealed(outputs, incident=incident)
    shown = opskit("history").stdout
    assert all(name in shown for name in pair)
    assert "drill-endpoint" not in shown
    assert "2 more, of drills and the demo: opskit history --rehearsals" in shown
    assert "drill-endpoint-disabled-7" in opskit("history", "--rehearsals").stdout
    assert "drill-endpoint-disabled-7" in opskit("history", "--incident", "drill-endpoint-disabled-7").stdout
    assert len(data(opskit("history", "--json"))) == 4


def test_where_there_is_nothing_else_rehearsals_are_shown(opskit: Opskit, outputs: Path) -> None:
    sealed(outputs, incident="demo-12")
    shown = opskit("history").stdout
    assert "demo-12" in shown
    assert "--rehearsals" not in shown


@pytest.mark.parametrize("width", [60, 70, 80, 120])
def test_the_catalogue_breaks_no_word(opskit: Opskit, columns: Callable[[int], None], width: int) -> None:
    columns(width)
    shown = opskit("runbooks").stdout
    assert max(map(len, shown.splitlines())) <= width
    for book in runbooks.catalogue(answering.root()):
        for said in (book.name, book.priority, *(book.facts[key] for key in ("Respond within", "Owner"))):
            assert said in shown
