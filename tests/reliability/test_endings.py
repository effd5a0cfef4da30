"""However a run is ended, its record is true: signals, deadlines, hangs, a full disk, a clock that was set."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import scene as scenes
from scene import Said, Scene, results
from support import OPSKIT, Opskit, data, quickly
from victims import DISKS, SEALING, Accident, Linger

from opskit import approval, archive, journal, record
from opskit.actions import Action
from opskit.permit import STOPPING

Run = Callable[..., Said]
Begin = Callable[..., Any]
BEGIN = "import os, signal, sys, time\nfrom opskit import begin\nrun = begin('small')"
HERE = Path(__file__).parent
NOBODY = Path("nobody")  # allows no signer
SIGNS = pytest.mark.parametrize("sign", quickly(STOPPING, signal.SIGTERM))


def wait_for(what: Callable[[], Any], process: Any = None) -> Any:
    """What it answers, once it answers something."""
    deadline = time.monotonic() + 90
    while not (found := what()):
        assert time.monotonic() < deadline
        assert process is None or process.is_alive() or what(), "it ended too soon"
        time.sleep(0.02)
    return found


def newest(outputs: Path) -> Path:
    return archive.Archive(outputs).runs()[0]


def events(outputs: Path, kind: str | None = None) -> list[dict[str, Any]]:
    runs = archive.Archive(outputs).runs()
    found = journal.read(runs[0] / record.JOURNAL) if runs else []
    return [event for event in found if kind in (None, event["event"])]


def why(outputs: Path) -> str:
    return "; ".join(e["why"] for kind in ("interrupted", "failed") for e in events(outputs, kind))


def left_behind(outputs: Path) -> list[int]:
    """Living processes that belong to a run in there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("OPSKIT_RUN", "").startswith(str(outputs)) and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def sealed(outputs: Path, outcome: str) -> None:
    """The newest run ended as that, its record is whole, and nothing of it lives on."""
    assert events(outputs)[-1]["event"] == "run.ended"
    assert events(outputs)[-1]["outcome"] == outcome, why(outputs)
    assert record.verify(newest(outputs), NOBODY).wrong == ()
    wait_for(lambda: not left_behind(outputs))


# Signals.


@SIGNS
@pytest.mark.parametrize("moment", ["the kernel starts", "a step sleeps"])
def test_a_signal_ends_a_run(
    sign: signal.Signals, moment: str, scene: Scene, begin: Begin, outputs: Path, tmp_path: Path
) -> None:
    scene.keep("small", BEGIN, "time.sleep(600)")
    process = begin("run", "small", "--environment", scene.name, kernel=True)
    if moment == "the kernel starts":
        wait_for(lambda: left_behind(outputs), process)
        assert not events(outputs, "cell.started")
    else:
        wait_for(lambda: [e for e in events(outputs, "cell.started") if e["cell"] == "cell-1"], process)
    os.kill(process.pid, sign)
    said = scenes.end(process, tmp_path / "said")
    assert (said.exit, "interrupted" in said.out) == (1, True), said
    assert f"{sign.name} came" in why(outputs)
    sealed(outputs, "interrupted")


@pytest.fixture
def hearing() -> Iterator[None]:
    """As started from a shell, even where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hearing")
def test_a_terminal_that_closes_ends_a_run(scene: Scene, outputs: Path) -> None:
    scene.keep("small", BEGIN, "time.sleep(600)")
    terminal, ours = os.openpty()
    process = subprocess.Popen(
        [OPSKIT, "run", "small", "--environment", scene.name],
        stdin=ours, stdout=ours, stderr=ours, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # its controlling terminal
    )  # fmt: skip
    os.close(ours)
    wait_for(lambda: [e for e in events(outputs, "cell.started") if e["cell"] == "cell-1"])
    os.close(terminal)
    process.wait(60)
    assert "SIGHUP came" in why(outputs)
    sealed(outputs, "interrupted")


@pytest.mark.usefixtures("hearing")
def test_under_nohup_a_terminal_that_closes_ends_nothing() -> None:
    said = "from opskit.permit import STOPPING; print(*STOPPING)"
    for words, heard in (([], True), (["nohup"], False)):
        done = subprocess.run([*words, sys.executable, "-c", said], capture_output=True, text=True, check=True)
        assert (str(int(signal.SIGHUP)) in done.stdout.split()) is heard


def test_a_signal_before_the_kernel_starts_ends_a_run(
    scene: Scene, begin: Begin, outputs: Path, tmp_path: Path
) -> None:
    scene.keep("small", BEGIN, "time.sleep(600)")
    process = begin("run", "small", "--environment", scene.name, kernel=True)
    wait_for(lambda: events(outputs, "run.accepted"), process)
    os.kill(process.pid, signal.SIGTERM)
    assert scenes.end(process, tmp_path / "said").exit == 1
    sealed(outputs, "interrupted")


def test_a_second_signal_does_not_wait(scene: Scene, begin: Begin, outputs: Path, tmp_path: Path) -> None:
    scene.limit(grace_seconds=600)
    scene.keep("small", BEGIN, DEAF)
    process = begin("run", "small", "--environment", scene.name, kernel=True)
    wait_for(lambda: (tmp_path / "deaf").exists(), process)
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: (tmp_path / "heard").exists(), process)
    os.kill(process.pid, signal.SIGINT)
    assert scenes.end(process, tmp_path / "said").exit == 1
    assert "SIGINT came; the kernel had to be killed" in why(outputs)
    sealed(outputs, "interrupted")


DEAF = """from pathlib import Path
place = Path(os.environ["OPSKIT_OUTPUTS"]).parent
(place / "deaf").touch()
while True:
    try:
        time.sleep(0.05)
    except KeyboardInterrupt:
        (place / "heard").touch()"""


@pytest.fixture
def lingering(scene: Scene, outputs: Path) -> tuple[str, list[str]]:
    """A planned run of three actions, the second of which lasts until somebody asks to stop; their ids."""
    first, last = scene.of("test.put")
    actions = [first, scene.file(Linger, "slow"), last]
    return scene.plan(outputs, actions).name, [action.id for action in actions]


def lingers(scene: Scene) -> bool:
    return (scene.files / "slow.lingers").exists()


@SIGNS
def test_a_signal_lets_the_action_in_flight_finish(
    sign: signal.Signals, scene: Scene, begin: Begin, run: Run, outputs: Path, tmp_path: Path,
    lingering: tuple[str, list[str]],
) -> None:  # fmt: skip
    planned, (first, slow, _) = lingering
    process = begin("apply", planned, "--json", kernel=True)
    wait_for(lambda: lingers(scene), process)
    os.kill(process.pid, sign)
    said = scenes.end(process, tmp_path / "said")
    assert (said.exit, said.data["outcome"]) == (5, "interrupted midway")
    assert results(newest(outputs)) == {first: "done", slow: "done"}  # the third was not begun
    sealed(outputs, "interrupted midway")
    scene.settle()
    said = run("resume", "last", "--json")
    assert (said.exit, said.data["outcome"]) == (0, "done and verified")
    assert [(scene.files / f"{name}.log").read_text() for name in ("a", "slow", "b")] == ["put\n"] * 3


def test_a_signal_during_the_last_action_comes_too_late(
    scene: Scene, begin: Begin, outputs: Path, tmp_path: Path
) -> None:
    planned = scene.plan(outputs, [scene.file(Linger, "slow")])
    process = begin("apply", planned.name, "--json", kernel=True)
    wait_for(lambda: lingers(scene), process)
    os.kill(process.pid, signal.SIGTERM)
    assert scenes.end(process, tmp_path / "said").exit == 0
    sealed(outputs, "done and verified")


def test_an_apply_that_began_nothing_is_interrupted_and_resumed(
    scene: Scene, begin: Begin, run: Run, outputs: Path, tmp_path: Path, lingering: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OPSKIT_TEST_LINGER", "0")
    process = begin("apply", lingering[0], kernel=True)
    wait_for(lambda: left_behind(outputs), process)
    os.kill(process.pid, signal.SIGTERM)
    assert scenes.end(process, tmp_path / "said").exit == 1
    sealed(outputs, "interrupted")
    assert list(scene.files.iterdir()) == []
    scene.settle()
    assert run("resume", "last").exit == 0


@SIGNS
def test_a_signal_ends_resume_and_undo_between_two_actions(
    sign: signal.Signals, scene: Scene, begin: Begin, run: Run, outputs: Path, tmp_path: Path,
    lingering: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    planned, (first, slow, _) = lingering
    assert run("apply", planned, accident=Accident("before the intent", slow)).exit == -9
    scene.settle()
    process = begin("resume", "last", "--json")
    wait_for(lambda: lingers(scene), process)
    os.kill(process.pid, sign)
    said = scenes.end(process, tmp_path / "said")
    assert (said.exit, said.data["outcome"]) == (5, "interrupted midway")
    assert results(newest(outputs)) == {first: "done", slow: "done"}
    sealed(outputs, "interrupted midway")
    assert run("resume", "last").exit == 0

    (scene.files / "slow.lingers").unlink()
    typed = f"{scene.name} 3"
    process = begin("undo", "last", "--type", typed, "--json")
    wait_for(lambda: lingers(scene), process)
    os.kill(process.pid, sign)
    said = scenes.end(process, tmp_path / "said")
    assert (said.exit, said.data["outcome"]) == (5, "interrupted midway")
    assert [(scene.files / name).exists() for name in ("a", "slow", "b")] == [True, False, False]
    sealed(outputs, "interrupted midway")
    monkeypatch.setenv("OPSKIT_TEST_LINGER", "0")
    said = run("undo", "last", "--type", typed, "--json")
    assert (said.exit, said.data["outcome"]) == (0, "taken back")


@pytest.mark.parametrize("moment", ["before the end", "before the seal", "before the history"])
def test_a_signal_while_a_record_is_sealed_changes_nothing(
    moment: str, scene: Scene, run: Run, opskit: Opskit, outputs: Path
) -> None:
    planned = scene.plan(outputs, scene.of("test.put"))
    too_late = Accident(moment, "", ("asked to stop",))
    assert run("apply", planned.name, accident=too_late).exit == 0
    assert run("resume", "last", accident=too_late).exit == 0
    sealed(outputs, "done and verified")
    assert opskit("verify").exit_code == 0


# Deadlines, and kernels that do not obey.

ENDINGS = {
    "the whole run takes too long": ({"run_minutes": 0.1}, "time.sleep(600)", "the run's 0.1 minutes were over"),
    "a step sleeps": ({"step_minutes": 0.05}, "time.sleep(600)", "step cell-1 gave no sign of life"),
    "a step will not hear of it": ({"step_minutes": 0.05}, DEAF, "the kernel had to be killed"),
    "the kernel was stopped": ({"step_minutes": 0.05}, "os.kill(os.getpid(), signal.SIGSTOP)", "had to be killed"),
    "it hangs in C": (
        {"step_minutes": 0.05},
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nimport ctypes\nctypes.CDLL(None).sleep(600)",
        "had to be killed",
    ),
}


@pytest.mark.parametrize("ending", quickly(ENDINGS, "the whole run takes too long", "a step sleeps", "it hangs in C"))
def test_time_is_limited(ending: str, scene: Scene, run: Run, outputs: Path) -> None:
    limits, cell, expected = ENDINGS[ending]
    scene.limit(grace_seconds=1, **limits)
    scene.keep("small", BEGIN, cell, "print('never')")
    said = run("run", "small", "--environment", scene.name, kernel=True)
    assert said.exit == 1
    assert expected in why(outputs)
    assert expected in said.out
    sealed(outputs, "interrupted")
    assert "cell-2" not in {e["cell"] for e in events(outputs, "cell.started")}


@pytest.mark.parametrize(("cell", "said"), [("sys.exit()", "SystemExit"), ("os._exit(0)", "the kernel died")])
def test_a_kernel_that_leaves_is_an_error(cell: str, said: str, scene: Scene, run: Run, outputs: Path) -> None:
    scene.keep("small", BEGIN, cell, "print('never')")
    assert run("run", "small", "--environment", scene.name, kernel=True).exit == 1
    assert said in why(outputs)
    sealed(outputs, "error")


def test_a_step_that_says_something_lives(scene: Scene, run: Run, outputs: Path) -> None:
    scene.limit(step_minutes=0.05)
    scene.keep(
        "small",
        BEGIN,
        "for n in range(50):\n    print(n, flush=True)\n    time.sleep(0.1)",
        'run.check("well", True, "Well?")',
        "run.apply()",
    )
    assert run("run", "small", "--environment", scene.name, kernel=True).exit == 0


# Disks.

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


# Clocks.


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
