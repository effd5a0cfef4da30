"""Files that are on the disk as a whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, pieces: str | Iterable[str]) -> None:
    """Replace a file as a whole: a crash or a full disk leaves the old one, never half of the new."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)  # of a process that died; or a link that would lead us elsewhere
    try:
        with part.open("x", encoding="utf-8") as file:
            file.writelines([pieces] if isinstance(pieces, str) else pieces)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    keep_names(path.parent)


def keep_names(folder: Path) -> None:
    """Return only when the disk has the names of the files in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
