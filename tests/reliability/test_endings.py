"""However a run is ended, its record is true: signals, deadlines, a kernel that hangs or leaves."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scene as scenes
from aftermath import events, left_behind, newest, sealed, wait_for, why
from scene import BEGIN, Said, Scene, results
from support import OPSKIT, Opskit, quickly
from victims import Accident, Linger

from opskit.permit import STOPPING

Run = Callable[..., Said]
Begin = Callable[..., Any]
SIGNS = pytest.mark.parametrize("sign", quickly(STOPPING, signal.SIGTERM))


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
