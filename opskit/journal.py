"""The run's append-only log of intents and results, on disk before anything else happens.

One line of JSON per event. Two processes write it, the kernel and the runner; each line is one `write` to a file
opened for appending, so lines never mix. A crash can tear the last line: `read` then ignores it, because an event
that was not wholly written had not been announced.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opskit import files, masking
from opskit.errors import Refused
from opskit.files import keep_names
from opskit.redaction import Redactor

Event = dict[str, Any]
PROSE = ("because", "why", "problem")  # of an event; no state, which is compared again later
DEEPEST = 50
LARGEST = 10**4000  # of a whole number: Python itself reads back none of much more digits


class Journal:
    """Writes events to `path`; `redactor` sees each before the disk does."""

    def __init__(self, path: Path, redactor: Redactor | None = None) -> None:
        self.path = path
        self.redactor = redactor or Redactor({})

    def write(self, event: str, **data: Any) -> None:
        """Append `event` and return only when the disk has it. Raises OSError where it does not take the whole line."""
        entry = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        prose = {key: masking.addresses(data[key]) for key in PROSE if isinstance(data.get(key), str)}
        line = json.dumps(self.redactor.tree(entry | plain(data | prose)), ensure_ascii=False, allow_nan=False) + "\n"
        raw = line.encode(errors="backslashreplace")  # half a surrogate pair stays JSON
        if (self.path.parent / "manifest.json").exists():
            raise Refused(f"run {self.path.parent.name} is closed, and its record is sealed.", "Begin another.")
        is_new = not self.path.exists()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if torn(self.path):
                raw = b"\n" + raw  # where the other process is just writing, an empty line comes of it, which is none
            if os.write(handle, raw) < len(raw):  # a full disk takes what fits; half a line announces nothing
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(handle)
        finally:
            os.close(handle)
        if is_new:  # that there is such a file is known to its folder alone
            keep_names(self.path.parent)

    def read(self) -> list[Event]:
        return list(read(self.path))

    def told(self, kind: str) -> list[Event]:
        """The events of one kind, so far."""
        return [event for event in self.read() if event["event"] == kind]


def torn(path: Path) -> bool:
    """Whether the last line lacks its end: its writer died while writing."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read(path: Path) -> Iterator[Event]:
    """The events at `path` in order, without lines that are not whole; nothing if there is no journal."""
    try:
        content = files.read(path)
    except FileNotFoundError:
        return
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line.strip(b"\0").decode())  # a machine that lost power leaves zeros
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("event"), str):
            yield entry


def session(events: Sequence[Event]) -> list[Event]:
    """What happened since the run was last begun: a person begins again, and only what was seen since then counts."""
    begun = max((at for at, event in enumerate(events) if event["event"] == "run.begun"), default=0)
    return list(events[begun:])


def plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """`value` as JSON can hold it, whatever it is: an event must not be lost over a detail."""
    match value:
        case None | bool() | str():
            return value
        case int() if abs(value) < LARGEST:
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping() | list() | tuple() | set() | frozenset() if id(value) in within or len(within) >= DEEPEST:
            return "(nested too deeply, or within itself)"
        case Mapping():
            within = (*within, id(value))
            return {str(plain(key, within)): plain(item, within) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item, (*within, id(value))) for item in value]
    try:
        return str(value)
    except Exception:  # somebody else's object
        return f"({type(value).__name__})"
