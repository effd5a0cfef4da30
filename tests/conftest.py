"""What the tests share: places of their own, one living sandbox, and the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings
from losing import losses
from support import REPOSITORY, SMALL, Opskit, everything, keep, make_key, restore

from opskit import sandbox
from opskit.cli import main
from opskit.database import Database
from opskit.services import Services, saving

SEED = 7

settings.register_profile("opskit", database=None, deadline=None)  # leaves nothing behind, measures nothing
settings.load_profile("opskit")


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def ana(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SSH key of Ana, who runs the tests. Nobody's own keys are used."""
    return make_key(tmp_path_factory.mktemp("keys") / "ana")


@pytest.fixture(scope="session")
def bo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SSH key of Bo, a colleague."""
    return make_key(tmp_path_factory.mktemp("keys") / "bo")


@pytest.fixture
def unsigned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has a key, neither named nor in the usual places."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.delenv("OPSKIT_SIGNING_KEY")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_DIR", str(home / "none"))
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))


@pytest.fixture(autouse=True)
def places(
    request: pytest.FixtureRequest, state: Path, ana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing lands in the repository or in somebody's home. The sandbox's own tests have places of their own."""
    if REPOSITORY / "tests" / "sandbox" in request.path.parents:
        return
    monkeypatch.setenv("OPSKIT_STATE", str(state))
    monkeypatch.setenv("OPSKIT_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("OPSKIT_ROOT", str(REPOSITORY))
    monkeypatch.setenv("OPSKIT_OPERATOR", "ana")
    monkeypatch.setenv("OPSKIT_SIGNING_KEY", str(ana))
    monkeypatch.setenv("IPYTHONDIR", str(state / "ipython"))
    for name in ("OPSKIT_RUN", "OPSKIT_SECRETS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture(scope="session")
def standing(state: Path) -> Iterator[sandbox.Sandbox]:
    """The sandbox of this test process, for tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_STATE", str(state))
        found = sandbox.start(f"test-{os.getpid()}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}", SEED)
    yield found
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_STATE", str(state))
        found.stop()


@pytest.fixture
def firm(standing: sandbox.Sandbox) -> Iterator[sandbox.Sandbox]:
    """The sandbox for tests that do something to it; it is forgotten afterwards."""
    yield standing
    standing.reset(SEED)


@pytest.fixture
def services(firm: sandbox.Sandbox) -> Iterator[Services]:
    """Everything that a run may look at and change there."""
    found = everything(firm.name)[1]
    yield found
    found.database.close()


@pytest.fixture
def truncated(firm: sandbox.Sandbox, services: Services) -> pd.DataFrame:
    """Documents that the sanitiser emptied, an author's own cut among them, and some that are still being written."""
    told = firm.break_with("autosave-truncation")
    found = losses(services)
    assert set(found.document) == {
        *told["actors"]["lost_documents"],
        *told["actors"]["at_work_documents"],
        *told["actors"]["authors_documents"],
    }
    assert set(found[found.because == ""].document) == set(told["actors"]["authors_documents"])
    quiet = found[saving.restorable(found, datetime.now(UTC), blocked=False)]
    assert set(quiet.document) == set(told["actors"]["lost_documents"])
    return quiet


@pytest.fixture(scope="module")
def target(standing: sandbox.Sandbox, state: Path) -> Iterator[Database]:
    """The sandbox's database, for rehearsals of what is not done there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_STATE", str(state))
        found = everything(standing.name)[1].database
    yield found
    found.close()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a team's repository holds, to add to and to spoil."""
    root = tmp_path / "repository"
    for name in ("notebooks", "parameters"):
        shutil.copytree(REPOSITORY / name, root / name)
    monkeypatch.setenv("OPSKIT_ROOT", str(root))
    return root


@pytest.fixture(scope="session")
def once(standing: sandbox.Sandbox, ana: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The outputs of one run that ended in a plan of one action, kept to be copied."""
    place = tmp_path_factory.mktemp("once")
    for name in ("notebooks", "parameters"):
        shutil.copytree(REPOSITORY / name, place / "repository" / name)
    keep(place / "repository", *SMALL)
    surroundings = {
        **os.environ,
        "OPSKIT_ROOT": str(place / "repository"),
        "OPSKIT_OUTPUTS": str(place / "outputs"),
        "OPSKIT_STATE": str(standing.folder.parent),
        "OPSKIT_OPERATOR": "ana",
        "OPSKIT_SIGNING_KEY": str(ana),
    }
    standing.break_with("endpoint-disabled")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("opskit")), "run", "small", "--environment", standing.name],
        env=surroundings, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    standing.reset(SEED)
    assert done.returncode == 3, done.stdout + done.stderr
    yield place / "outputs"


@pytest.fixture
def planned(once: Path, outputs: Path, repository: Path) -> Path:
    """A sealed run with a plan of one action, and the repository that it was made with."""
    restore(once, outputs)
    keep(repository, *SMALL)
    (folder,) = (path.parent for path in outputs.glob("*/*/run.json"))
    return folder


@pytest.fixture
def opskit() -> Opskit:
    """The command line in this process; every error but our own exit is a failure of the test."""

    def call(*arguments: object, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert "Traceback" not in result.output
        return result

    return call


_started: list[str] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        _started.append(str(arguments[1]))


sys.addaudithook(_listen)


@pytest.fixture
def kernels() -> Callable[[], list[str]]:
    """The kernels that this process has started since the test began."""
    before = len(_started)
    return lambda: [command for command in _started[before:] if "ipykernel" in command]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What crashes have come to, in one line: tests note it as a property named `crashes`."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    found = [value for report in reports for name, value in report.user_properties if name == "crashes"]
    if found:
        total = {key: sum(one[key] for one in found) for key in found[0]}
        terminalreporter.write_line(
            "\nCrashes: {crashes}; duplicates {duplicates}, forgotten {forgotten}, fate unknown {unknown}, "
            "of which {unknowable} truly cannot be known.".format(**total)
        )
