"""Files that are on the disk as a whole, or not at all; and that are files, not something else by their name."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LARGEST = 1 << 28  # bytes; nothing that opskit writes for itself to read comes near


def write(path: Path, pieces: str | Iterable[str]) -> None:
    """Replace a file as a whole: a crash or a full disk leaves the old one, never half of the new."""
    with replacing(path, "w") as file:
        file.writelines([pieces] if isinstance(pieces, str) else pieces)


@contextmanager
def replacing(path: Path, mode: str) -> Iterator[IO[Any]]:
    """A file to write to that takes the place of `path` when all is written; until then nobody sees any of it."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # its own: two may be writing at once
    try:
        with part.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
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
