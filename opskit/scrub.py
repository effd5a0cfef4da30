"""Take secrets out of the files that a notebook wrote by itself, before its record is sealed."""

from __future__ import annotations

import codecs
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from opskit.redaction import Redactor, Stream

PIECE = 1_000_000  # characters read at a time


def redact_files(folder: Path, redactor: Redactor) -> list[str]:
    """Take known secrets out of files that a notebook wrote itself, and out of their names; answer which they were.

    Bytes that are no text stay as they are. What is compressed or encrypted cannot be seen into; links are left alone.
    """
    everything = sorted(folder.rglob("*"), reverse=True)  # what a folder holds comes before it
    held = {path for path in everything if path.is_file() and not path.is_symlink() and _redact_file(path, redactor)}
    named = {path for path in everything if _redact_name(path, redactor)}
    return sorted(redactor.text(path.relative_to(folder).as_posix()) for path in held | named)


def _redact_file(path: Path, redactor: Redactor) -> bool:
    """Rewrite a file as a whole if it holds a secret; piece by piece, for it may be large."""
    encoding = _encoding(path)
    looking = Stream(redactor)
    for _ in _pieces(path, encoding, looking):
        pass
    if not looking.found:
        return False
    part = path.with_name(f".{os.getpid()}.part")
    try:
        with part.open("w", newline="", **encoding) as file:
            file.writelines(_pieces(path, encoding, Stream(redactor)))
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return True


def _pieces(path: Path, encoding: Mapping[str, Any], stream: Stream) -> Iterator[str]:
    with path.open(newline="", **encoding) as file:
        while text := file.read(PIECE):
            yield stream.feed(text)
    yield stream.flush()


def _encoding(path: Path) -> dict[str, Any]:
    """How to read a file as text, so that writing it again gives the same bytes."""
    with path.open("rb") as file:
        wide = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(file.read(2))
    if wide and path.stat().st_size % 2 == 0:
        return {"encoding": wide, "errors": "surrogatepass"}
    return {"encoding": "utf-8", "errors": "surrogateescape"}


def _redact_name(path: Path, redactor: Redactor) -> bool:
    name = redactor.text(path.name)
    if name == path.name:
        return False
    free = (path.with_name(f"{name}{number or ''}") for number in count())
    path.rename(next(place for place in free if not place.exists()))
    return True
