"""A clock that was set: approvals, `last`, and the order of a journal do not rest on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from aftermath import newest
from scene import Said, Scene
from support import Opskit, data
from victims import Accident

from opskit import approval, archive, record

Run = Callable[..., Said]


def test_an_approval_from_the_future_or_the_past_is_refused(scene: Scene, opskit: Opskit, outputs: Path) -> None:
    planned = scene.plan(outputs, [scene.of("test.put")[0]])
    kept = archive.Archive(outputs).approval(planned)
    word = approval.load(kept)
    assert word is not None
    for shift, expected in ((timedelta(hours=2), "still to come"), (-timedelta(hours=2), "the approval expired")):
        at, ends = (datetime.fromisoformat(t) + shift for t in (word.at, word.expires))
        replace(word, at=at.isoformat(), expires=ends.isoformat()).save(kept)
        said = opskit("apply", planned.name)
        assert said.exit_code == 4
        assert expected in said.stderr
    assert list(scene.files.iterdir()) == []


def test_when_the_clock_went_back_last_is_not_taken_for_the_newest(scene: Scene, run: Run, outputs: Path) -> None:
    """Runs are ordered by their ids, which are times. That one lies in the future is said; each is found by its id."""
    ahead = scene.plan(outputs, started="21260101T000000000-beef")
    said = run("run", "crashes", "--environment", scene.name, kernel=True)
    assert (
        f"The clock went back: `last` means {ahead.name}, which is still to come. Name runs by their ids." in said.out
    )
    assert archive.Archive(outputs).find("last") == ahead


def test_a_journal_is_read_in_its_own_order_whatever_its_clock_said(
    scene: Scene, run: Run, opskit: Opskit, outputs: Path
) -> None:
    actions = [*scene.of("test.put"), *scene.of("profiles.reconcile")[:2]]
    planned = scene.plan(outputs, actions)
    assert run("apply", planned.name, accident=Accident("before the result", actions[2].id)).exit == -9
    path = newest(outputs) / record.JOURNAL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    backwards = (line | {"at": f"2001-01-01T00:{59 - n:02}:00.000+00:00"} for n, line in enumerate(lines))
    path.write_text("".join(json.dumps(line) + "\n" for line in backwards))
    assert data(opskit("history", "--json"))[0]["outcome"] == "lost"
    scene.settle()
    assert run("resume", "last").exit == 0
    happened = scene.done()
    assert [happened[action.id] for action in actions] == [1, 1, 1, 1]
