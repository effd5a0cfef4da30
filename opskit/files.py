"""Files that are on the disk as a whole, or not at all; and that are files, not something else by their name."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

LARGEST = 1 << 28  # bytes; nothing that opskit writes for itself to read comes near


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


def read(path: Path) -> bytes:
    """The content of a plain file.

    Raises OSError where there is none, or something else by that name: a link, or a pipe that nobody writes to.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb", closefd=True) as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        if found.st_size > LARGEST:
            raise OSError(errno.EFBIG, "it is larger than anything that opskit writes there", str(path))
        return file.read()


def keep_names(folder: Path) -> None:
    """Return only when the disk has the names of the files in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
