"""Kill it anywhere: nothing is done twice, nothing done is forgotten, and what cannot be known is said.

A plan of twenty mixed actions is carried out by processes that are killed at every moment of every action, and of
sealing; then it is resumed. What was really done is counted in the world.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scene import Said, Scene, results
from support import Opskit, data
from victims import DOUBTFUL, MOMENTS, OPENING, RESULT, SEALING, Accident

from opskit import archive, record
from opskit.actions import Action

Run = Callable[..., Said]
SETTLED = ("done", "already so")


@dataclass
class Tally:
    """What crashes have come to, for one line at the end of a test run."""

    note: Callable[[str, object], None]

    def count(self, scene: Scene, final: Path, crashes: int, unknowable: int = 0) -> dict[str, int]:
        """Compare what a last record says with what happened; `unknowable` is how many fates truly cannot be known."""
        happened, said = scene.done(), results(final)
        invisible = ("profiles.look_again",)
        claimed = {a.id: said.get(a.id) for a in scene.actions if a.name not in invisible}
        stopped = [n for n, a in enumerate(scene.actions) if said.get(a.id) == "begun"]
        reached = scene.actions[: stopped[0]] if stopped else scene.actions
        found = {
            "crashes": crashes,
            "duplicates": sum(max(0, times - 1) for times in happened.values()),
            "forgotten": sum(_forgotten(claimed[a.id], happened[a.id]) for a in reached if a.id in claimed),
            "unknown": len(stopped),
            "unknowable": unknowable,
        }
        self.note("crashes", found)
        return found


def _forgotten(claimed: str | None, times: int) -> bool:
    """Done and not said, or said and not done, or neither."""
    return claimed not in SETTLED or times == 0


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return Tally(record_property)


def newest(outputs: Path) -> Path:
    return archive.Archive(outputs).runs()[0]


def history(opskit: Opskit) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = data(opskit("history", "--json"))
    return found


def finish(run: Run, scene: Scene, outputs: Path) -> Said:
    """The last resume, after which all that can be done is done: a person has signed."""
    scene.sign()
    return run("resume", "last", "--json")


def that_know(scene: Scene, moment: str) -> list[Action]:
    """The actions that know this moment: what a person does, or what is so already, only has a result."""
    return [a for a in scene.actions if moment in RESULT or not (a.manual or a.name == "profiles.look_again")]


# Every moment of every action. One chain of processes for each moment: each is killed one action further on.


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_each_action_in_turn(
    moment: str, scene: Scene, run: Run, opskit: Opskit, outputs: Path, tally: Tally
) -> None:
    planned = scene.plan(outputs)
    doomed = that_know(scene, moment)
    for number, action in enumerate(doomed):
        verb = ("resume", "last") if number else ("apply", planned.name)
        scene.settle()
        said = run(*verb, accident=Accident(moment, action.id))
        assert said.exit == -9, f"{action.title}: {said}"
    lost = history(opskit)[0]
    assert (lost["outcome"], lost["sealed"]) == ("lost", False)
    scene.settle()
    last = finish(run, scene, outputs)
    unknowable = int(moment in DOUBTFUL)  # the bell is the last of all
    found = tally.count(scene, newest(outputs), crashes=len(doomed), unknowable=unknowable)
    assert (found["duplicates"], found["forgotten"], found["unknown"]) == (0, 0, unknowable), last
    assert (last.exit, last.data["outcome"]) == ((5, "fate unknown") if unknowable else (0, "done and verified"))
    assert [r["outcome"] for r in history(opskit)[1:-1]] == ["lost"] * len(doomed)
    assert opskit("verify").exit_code == 0


# Every moment of sealing, of an apply and of a resume.


@pytest.mark.parametrize("moment", SEALING)
def test_killed_while_an_apply_is_sealed(
    moment: str, scene: Scene, run: Run, opskit: Opskit, outputs: Path, tally: Tally
) -> None:
    planned = scene.plan(outputs)
    scene.sign()
    said = run("apply", planned.name, accident=Accident(moment))
    assert said.exit == -9, said.out
    found = tally.count(scene, newest(outputs), crashes=1)
    assert (found["duplicates"], found["forgotten"], found["unknown"]) == (0, 0, 0)
    expected = "lost" if moment == "before the end" else "done and verified"
    assert history(opskit)[0]["outcome"] == expected
    assert opskit("seal", "last").exit_code == 0
    assert (history(opskit)[0]["outcome"], history(opskit)[0]["sealed"]) == (expected, True)
    assert opskit("verify").exit_code == 0
    last = run("resume", "last", "--json")
    assert (last.exit, last.data["outcome"]) == (0, "done and verified")
    assert tally.count(scene, newest(outputs), crashes=0)["duplicates"] == 0


@pytest.mark.parametrize(
    ("moment", "nth"), [*itertools.product(SEALING, (1, 2)), *((moment, 1) for moment in OPENING)]
)
def test_killed_while_a_resume_opens_or_seals(
    moment: str, nth: int, scene: Scene, run: Run, opskit: Opskit, outputs: Path, tally: Tally
) -> None:
    """It seals the lost run first, and then its own; what it carries over is carried whole."""
    planned = scene.plan(outputs)
    half = scene.actions[10]  # the one for a person: ten are done
    said = run("apply", planned.name, accident=Accident("before the result", half.id))
    assert said.exit == -9, said.out
    scene.sign()
    scene.settle()
    assert run("resume", "last", accident=Accident(moment, nth=nth)).exit == -9
    scene.settle()
    last = run("resume", "last", "--json")
    assert (last.exit, last.data["outcome"]) == (0, "done and verified"), last
    found = tally.count(scene, newest(outputs), crashes=2)
    assert (found["duplicates"], found["forgotten"], found["unknown"]) == (0, 0, 0)
    for folder in archive.Archive(outputs).runs():
        assert opskit("seal", folder.name).exit_code == 0
    assert opskit("verify").exit_code == 0
