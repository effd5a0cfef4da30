"""The run's append-only log of intents and results, on disk before anything else happens.

One line of JSON per event. Two processes write it, the kernel and the runner; each line is one `write` to a file
opened for appending, so lines never mix. A crash can tear the last line: `read` then ignores it, because an event
that was not wholly written had not been announced.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opskit.redaction import Redactor

Event = dict[str, Any]


class Journal:
    """Writes events to `path`; `redactor` sees each before the disk does."""

    def __init__(self, path: Path, redactor: Redactor | None = None) -> None:
        self.path = path
        self.redactor = redactor or Redactor({})

    def write(self, event: str, **data: Any) -> None:
        """Append `event` and return only when the disk has it. Raises OSError where it does not take the whole line."""
        entry = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        line = json.dumps(self.redactor.tree(entry | data), ensure_ascii=False, default=str) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if torn(self.path):
                line = "\n" + line
            raw = line.encode(errors="backslashreplace")  # half a surrogate pair stays JSON
            if os.write(handle, raw) < len(raw):  # a full disk takes what fits; half a line announces nothing
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self) -> list[Event]:
        return list(read(self.path))


def torn(path: Path) -> bool:
    """Whether the last line lacks its end: its writer died while writing."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read(path: Path) -> Iterator[Event]:
    """The events at `path` in order, without torn lines; nothing if there is no journal."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "event" in entry:
            yield entry
