"""A small living company on this machine: a real database, the app, and imitations of its vendors.

A sandbox is a background process with a folder. This module starts, finds and stops it, and speaks to it; it holds
only what the command line needs, and imports nothing heavy.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SCENARIOS = Path(__file__).with_name("scenarios")
PATIENCE = 60.0  # seconds for a start; it takes about three


class SandboxError(Exception):
    """The sandbox cannot do what it was asked; the message says why, for the person who asked."""


def root() -> Path:
    """Where sandboxes keep their folders."""
    if place := os.environ.get("OPSKIT_STATE"):
        return Path(place).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "opskit"


def start(name: str = "sandbox", seed: int = 1) -> Sandbox:
    """Start a sandbox in the background, and wait until it is ready."""
    folder = _folder(name)
    lock = _claim(folder)
    if lock is None:
        raise SandboxError(f"The sandbox {name!r} is running already. Stop it first, or choose another name.")
    try:
        _clear(folder)
        command = [sys.executable, "-m", "opskit.sandbox.daemon", str(folder), str(seed)]
        with (folder / "sandbox.log").open("wb") as log:
            # The daemon inherits the lock: as long as it lives, nobody else can hold it. It leaves us at once.
            subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock], cwd="/", check=False
            )
    finally:
        os.close(lock)
    return _await(folder)


def find(name: str = "sandbox") -> Sandbox | None:
    """The running sandbox of that name, if there is one and it is ready."""
    folder = _folder(name)
    facts = _facts(folder)
    return Sandbox(name, folder, facts) if _held(folder) and facts.get("ready") else None


def stop(name: str = "sandbox") -> bool:
    """Stop a sandbox, or clear away what is left of one that died. Says whether there was anything to do."""
    folder = _folder(name)
    if not folder.exists():
        return False
    if _held(folder):
        _end(folder)
    if (lock := _claim(folder)) is None:
        raise SandboxError(f"The sandbox {name!r} does not stop; its log is {folder / 'sandbox.log'}.")
    try:
        _clear(folder)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
    return True


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. Its methods ask the process that is the company."""

    name: str
    folder: Path
    facts: dict[str, Any]  # what sandbox.json says: pid, seed, started, addresses, …

    @property
    def environment(self) -> Path:
        """The environment file with which opskit reaches this sandbox."""
        return self.folder / "environment.yaml"

    def stop(self) -> None:
        stop(self.name)

    def status(self) -> dict[str, Any]:
        """How it is: seed, age, scenario, addresses."""
        return dict(self._ask("GET", "/status"))

    def break_with(self, scenario: str | Path, twin: bool = False) -> dict[str, Any]:
        """Break the company as a scenario says, by name or by file; answers what a drill must know to score it."""
        return dict(self._ask("POST", "/break", {"scenario": _scenario(scenario), "twin": twin}))

    def heal(self) -> None:
        """Undo the scenario: the company is again as it was before it broke."""
        self._ask("POST", "/heal")

    def by_hand(self) -> list[str]:
        """Do what the scenario says a person would do; answers what was done."""
        return list(self._ask("POST", "/by-hand"))

    def reset(self, seed: int | None = None) -> None:
        """Begin again: as at the start, or with another seed as another company."""
        self._ask("POST", "/reset", {"seed": seed})

    def state(self) -> dict[str, Any]:
        """The whole company for comparison: `database` by table and key, and each service's objects."""
        return dict(self._ask("GET", "/state"))

    def healed(self) -> list[dict[str, Any]]:
        """Each of the scenario's assertions, whether it holds (`ok`), and what was found."""
        return list(self._ask("GET", "/healed"))

    def disagreements(self) -> list[dict[str, Any]]:
        """The profiles whose billing columns differ from Stripe."""
        return list(self._ask("GET", "/disagreements"))

    def changes(self, before: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """What differs from an earlier `state`: `allowed` by the scenario's `touches`, and `stray`."""
        return dict(self._ask("POST", "/changes", {"before": before}))

    # For rehearsing bad nights, and for seeing what was really asked of the company.

    def misbehave(self, **fault: Any) -> None:
        """One more fault from now on, before all others, as a line of a scenario's `faults` would say it."""
        self._ask("POST", "/misbehave", {"fault": fault})

    def lift(self) -> None:
        """No fault is left, whoever brought it about."""
        self._ask("POST", "/lift")

    def restart_database(self) -> None:
        """Stop the database at once, ending every session, and start it again at the same address."""
        self._ask("POST", "/restart-database")

    def cut_sessions(self, application: str) -> int:
        """End the database sessions of whoever gives that name (may hold %); says how many there were."""
        return int(self._ask("POST", "/cut-sessions", {"application": application}))

    def freeze_sessions(self, application: str) -> int:
        """Let those sessions say nothing any more, without ending, until `lift` or a reset; says how many."""
        return int(self._ask("POST", "/freeze-sessions", {"application": application}))

    def traffic(self) -> list[dict[str, Any]]:
        """The latest HTTP requests since the company was last broken or reset, in the order of their arrival.

        Each with: at, service, method, path, agent, key (its idempotency key), struck (by a fault), passed (whether
        the service did what it was asked), and the status it was answered with; None where it was not, or not yet.
        """
        return list(self._ask("GET", "/traffic"))

    @contextmanager
    def statements(self) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Have the database log every statement, of everybody; calling what this gives answers those so far.

        Each with: at, session, user, application, sql, values.
        """
        self._ask("POST", "/statements/begin")
        try:
            yield lambda: list(self._ask("GET", "/statements"))
        finally:
            self._ask("POST", "/statements/end")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        token = (self.folder / "secrets" / "control").read_text()
        connection = http.client.HTTPConnection(urlsplit(self.facts["control"]).netloc, timeout=120)
        try:
            connection.request(method, path, json.dumps(body or {}), {"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SandboxError(f"The sandbox {self.name!r} does not answer: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise SandboxError(answer["error"])
        return answer["result"]


def scenarios() -> list[str]:
    """The names of the scenarios that come with opskit."""
    return sorted(path.stem for path in SCENARIOS.glob("*.yaml"))


def _scenario(given: str | Path) -> str:
    path = Path(given)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return str(path.absolute())
    return str(given)


def _folder(name: str) -> Path:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name):
        raise SandboxError(f"{name!r} is no name for a sandbox: use small letters, digits and hyphens.")
    return root() / name


def _facts(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "sandbox.json").read_text()))
    except (OSError, ValueError):
        return {}


def _claim(folder: Path) -> int | None:
    """Take the folder's lock; None when a living sandbox holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue  # somebody removed the folder in between
        except BlockingIOError:
            os.close(lock)
            return None
        if (folder / "lock").exists() and os.path.samestat(os.fstat(lock), (folder / "lock").stat()):
            return lock
        os.close(lock)


def _held(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _await(folder: Path) -> Sandbox:
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and _held(folder):
        if _facts(folder).get("ready"):
            return Sandbox(folder.name, folder, _facts(folder))
        time.sleep(0.02)
    said = (folder / "sandbox.log").read_text(errors="replace").strip()[-3000:]
    stop(folder.name)
    raise SandboxError(f"The sandbox {folder.name!r} did not start. Its log ends:\n{said}")


def _end(folder: Path) -> None:
    """End the process that holds the lock: it is ours, whatever its number was used for before."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        told, ends = None, time.monotonic() + 10
        while time.monotonic() < ends and _held(folder):
            pid = _facts(folder).get("pid")  # one that has just begun says its number a little later
            if pid and pid != told:
                os.kill(told := pid, sign)
            time.sleep(0.02)


def _clear(folder: Path) -> None:
    """Remove all but the lock, and end a database that outlived its sandbox."""
    from opskit.sandbox import postgres  # noqa: PLC0415  # heavy, and only needed here

    postgres.clean(folder / "postgres")
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
