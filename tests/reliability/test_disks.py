"""A disk that is full or refuses: nothing begins that could not be written down, and what has begun is told truly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from scene import BEGIN, Said, Scene
from support import quickly
from victims import DISKS, SEALING, Accident

from opskit.actions import Action

HERE = Path(__file__).parent
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


class Machine:
    """Where records lie on a small disk; see `small_disk`."""

    def __init__(self) -> None:
        command = [*NAMESPACE, sys.executable, str(HERE / "small_disk.py")]
        surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent)))}
        self._process = subprocess.Popen(
            command, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._disk = self._place = Path()

    def mount(self, disk: Path, place: Path) -> None:
        """A new disk, and a place for what is said."""
        disk.mkdir()
        place.mkdir()
        self._disk, self._place = disk, place
        self.step("mount")

    def step(self, name: str, *words: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([name, str(self._disk), *words]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def run(self, *words: object, accident: Accident | None = None, kernel: bool = False) -> Said:
        described = asdict(accident) if accident else None
        place = self._place
        code = self.step("run", dict(os.environ), str(place), [str(word) for word in words], described, kernel)
        said = Said(code, (place / "out").read_text(), (place / "err").read_text())
        assert "Traceback" not in said.err + said.out, said.err
        return said

    def begun(self) -> set[str]:
        """The actions whose intent stands in some journal there."""
        lines = self.step("journals")
        found = (line for text in lines for line in text.splitlines() if '"action.begun"' in line)
        return {json.loads(line)["action"] for line in found if line.endswith("}")}

    def end(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def another_machine() -> Iterator[Machine]:
    if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")
    found = Machine()
    yield found
    found.end()


@pytest.fixture
def machine(
    another_machine: Machine, scene: Scene, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    another_machine.mount(outputs, tmp_path / "said")
    return another_machine


def three(scene: Scene, machine: Machine, tmp_path: Path) -> tuple[str, list[Action]]:
    """A planned run of three actions on the machine's disk, and those."""
    first, last = scene.of("test.put")
    actions = [first, scene.of("profiles.reconcile")[0], last]
    folder = scene.plan(tmp_path / "elsewhere", actions, archive_of=machine.step("archive"))
    machine.step("copy", str(tmp_path / "elsewhere"))
    return folder.name, actions


def times(scene: Scene, actions: Sequence[Action]) -> list[int]:
    happened = scene.done()
    return [happened[action.id] for action in actions]


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_without_a_place_for_records_nothing_begins(disk: str, scene: Scene, machine: Machine, tmp_path: Path) -> None:
    scene.keep("small", BEGIN, "run.apply()")
    planned, actions = three(scene, machine, tmp_path)
    machine.step(disk)
    for words in (("run", "small", "--environment", scene.name), ("apply", planned)):
        said = machine.run(*words)
        assert said.exit == 2
        assert f"cannot write to {tmp_path / 'outputs'}" in said.err
        assert "Records are kept there; make it writable, with room." in said.err
    assert times(scene, actions) == [0, 0, 0]
    machine.step("empty")
    assert machine.run("apply", planned).exit == 0


REFUSALS = [(d, m) for d in DISKS for m in ("before the intent", "in the action", "before the end", "before the seal")]


SOME = (
    ("full", "before the intent"), ("full", "before the seal"), ("read-only", "in the action"),
    ("broken", "before the intent"), ("beyond its quota", "in the action"),
)  # fmt: skip


@pytest.mark.parametrize(("disk", "moment"), quickly(REFUSALS, *SOME))
def test_a_disk_that_refuses_in_an_apply(
    disk: str, moment: str, scene: Scene, machine: Machine, tmp_path: Path
) -> None:
    """Nothing is changed without its line; what was done is said; with room again, a resume finishes."""
    planned, actions = three(scene, machine, tmp_path)
    struck = actions[1].id if moment not in SEALING else ""
    said = machine.run("apply", planned, accident=Accident(moment, struck, (disk,)))
    assert said.exit == 1, said
    assert f"cannot write to {tmp_path / 'outputs'}" in said.err
    assert "of 3 actions were begun" in said.err
    assert "Make room there, then: opskit" in said.err
    happened = times(scene, actions)
    begun = machine.begun()
    assert all(action.id in begun for action, n in zip(actions, happened, strict=True) if n)
    machine.step("empty")
    verb = re.search(r"then: opskit (\w+) (\S+)", said.err)
    assert verb is not None
    ended = verb[1] == "seal"
    outcome = json.loads(machine.run("history", "--json").out)["data"][0]["outcome"]
    assert outcome == ("done and verified" if ended else "lost")
    scene.settle()
    assert machine.run(verb[1], verb[2]).exit == 0
    assert times(scene, actions) == [1, 1, 1]
    assert machine.run("verify").exit == 0


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_a_disk_that_refuses_in_a_resume(disk: str, scene: Scene, machine: Machine, tmp_path: Path) -> None:
    planned, actions = three(scene, machine, tmp_path)
    assert machine.run("apply", planned, accident=Accident("before the intent", actions[0].id)).exit == -9
    scene.settle()
    said = machine.run("resume", "last", accident=Accident("before the result", actions[1].id, (disk,)))
    assert said.exit == 1
    assert "of 3 actions were begun" in said.err
    machine.step("empty")
    scene.settle()
    resumed = machine.run("resume", "last")
    assert resumed.exit == 0 or "went on from" not in resumed.err, resumed
    machine.run("seal", "last")
    assert times(scene, actions) == [1, 1, 1]
    assert machine.run("verify").exit == 0


def test_a_disk_that_fills_up_in_a_run(scene: Scene, machine: Machine, tmp_path: Path) -> None:
    """With a real kernel: the notebook itself fills it."""
    scene.keep("small", BEGIN, "import victims\nvictims.fill(victims.Path(os.environ['OPSKIT_OUTPUTS']))", *["1"] * 40)
    said = machine.run("run", "small", "--environment", scene.name, kernel=True)
    assert said.exit == 1
    assert "No space left on device" in said.err + said.out
    machine.step("empty")
    (found,) = json.loads(machine.run("history", "--json").out)["data"]
    assert found["outcome"] in ("lost", "error")


def test_a_disk_that_fills_up_in_a_real_apply(scene: Scene, machine: Machine, tmp_path: Path) -> None:
    planned, actions = three(scene, machine, tmp_path)
    said = machine.run("apply", planned, accident=Accident("in the action", actions[1].id, ("full",)), kernel=True)
    assert said.exit in (1, 5)
    assert "No space left on device" in said.err + said.out
    machine.step("empty")
    scene.settle()
    assert machine.run("resume", "last").exit == 0
    assert times(scene, actions) == [1, 1, 1]
