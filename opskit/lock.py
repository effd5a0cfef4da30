"""One change at a time: applying, resuming and taking back exclude each other, per environment.

The lock is a file lock beside the records, free as soon as its process is gone. It holds on one machine; two machines
that change the same environment do not see each other yet.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from opskit.errors import Refused
from opskit.provenance import operator


@contextmanager
def alone(environment: str, outputs: Path) -> Iterator[None]:
    """Hold an environment while changing it. Raises Refused, naming the holder, where somebody else does."""
    folder = outputs / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / environment).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refused(
                f"{environment} is being changed by {file.read().strip()}.", "Wait until that ended."
            ) from None
        file.truncate(0)
        file.write(f"{operator()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        yield
