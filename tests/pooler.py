"""pgbouncer before a sandbox's database; it hands a connection on after each transaction, or each session."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import script

from opskit.sandbox import Sandbox

judges = script("judges")

ACCESSES = ("read", "change")
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
CONFIG = """
[databases]
postgres = host=127.0.0.1 port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {free}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {place}/users
pool_mode = {mode}
default_pool_size = 2
ignore_startup_parameters = extra_float_digits
server_tls_sslmode = disable
logfile = {place}/log
pidfile =
"""


def judge(name: str) -> Path:
    """A program that Debian has. Its absence may be skipped over."""
    found: Path | None = judges.find(name)
    if found is None:
        pytest.skip(f"{name} is missing: python scripts/judges.py")
    return found


@contextmanager
def pooler(firm: Sandbox, mode: str) -> Iterator[int]:
    """Its port, once it listens."""
    program, free = judge("pgbouncer"), free_port()
    address = yaml.safe_load(firm.environment.read_text())["services"]["database"]["address"]
    port = address.rpartition(":")[2].partition("/")[0]
    with tempfile.TemporaryDirectory(prefix="opskit-pooler-") as folder:
        place = Path(folder)
        words = {access: (firm.folder / "secrets" / f"database_{access}").read_text().strip() for access in ACCESSES}
        (place / "users").write_text("".join(f'"opskit_{access}" "{word}"\n' for access, word in words.items()))
        (place / "ini").write_text(CONFIG.format(port=port, free=free, place=place, mode=mode))
        nobody = ["unshare", "--user", "--map-user=65534"] if os.geteuid() == 0 else []  # it refuses to be root
        environ = {**os.environ, "LD_LIBRARY_PATH": str(judges.libraries())}
        with subprocess.Popen([*nobody, str(program), "-q", str(place / "ini")], env=environ, **QUIET) as process:
            try:
                _await(process, free, place / "log")
                yield free
            finally:
                process.terminate()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text() if log.exists() else "pgbouncer did not start"
        assert time.monotonic() < deadline, "pgbouncer does not listen"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def behind(firm: Sandbox, port: int, direct: bool = False) -> dict[str, Any]:
    """The sandbox's environment, its database reached through the pooler; with `direct` it knows the other way."""
    content: dict[str, Any] = yaml.safe_load(firm.environment.read_text())
    database = content["services"]["database"]
    if direct:
        database["direct"] = database["address"]
    database["address"] = f"postgresql://127.0.0.1:{port}/postgres?sslmode=disable"
    return {**content, "name": "pooled"}
