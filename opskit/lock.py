"""One change at a time: applying, resuming and taking back exclude each other, per environment.

The lock is an advisory lock in the environment's own database, so that every machine sees it, held by an open
transaction: it is gone with its process, or with its connection. A file lock beside the records comes first; it is
what remains when the database is down and somebody insists (`--no-lock REASON`).
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opskit.database import Database
from opskit.errors import CannotTell, Refused
from opskit.provenance import operator

Lock = dict[str, Any]  # as JSON, for the record and for the kernel: `backend`, or `without` and why


@contextmanager
def alone(environment: str, database: Database, outputs: Path, purpose: str, without: str = "") -> Iterator[Lock]:
    """Hold an environment while changing it. Raises Refused, naming the holder, where somebody else does.

    `without`: why to go on although the database cannot be asked.
    """
    holder = f"opskit {purpose} {operator()}@{socket.gethostname()}"
    with ExitStack() as stack:
        stack.enter_context(_on_this_machine(environment, outputs, holder))
        try:
            backend = stack.enter_context(database.locked(holder))
        except CannotTell as error:
            if not without:
                raise Refused(
                    f"{environment} cannot be locked, so nothing was changed. {error.message}",
                    "Once it is sure that nobody else is changing anything: --no-lock REASON. "
                    "What needs the database then waits.",
                ) from None
            yield {"without": without, "because": error.message}
        else:
            yield {"backend": backend, "holder": holder}


@contextmanager
def _on_this_machine(environment: str, outputs: Path, holder: str) -> Iterator[None]:
    folder = outputs / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / environment).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refused(f"{environment} is being changed: {file.read().strip()}.", "Wait until that ended.") from None
        file.truncate(0)
        file.write(f"{holder}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        yield


@contextmanager
def attended(folder: Path) -> Iterator[None]:
    """Be seen to be at work on a run, for as long as this process lives."""
    with (folder / "run.json").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_attended(folder: Path) -> bool:
    """Whether a process on this machine is at work on a run."""
    with (folder / "run.json").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
