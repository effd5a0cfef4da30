"""The record of a run: its folder, written atomically and sealed with the digests of everything in it.

The only module that writes records. A record is sealed once; what was sealed is not written again.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from opskit.errors import BadInput, Refused
from opskit.redaction import Redactor, Stream

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
NOTEBOOK = "notebook.ipynb"
PIECE = 1_000_000  # characters read at a time


def prepare(outputs: Path, about: Mapping[str, Any]) -> Path:
    """A new folder for a run, holding who runs what. Raises BadInput where `outputs` cannot be written to."""
    folder = outputs / str(about["incident"]) / str(about["run"])
    try:
        folder.mkdir(parents=True)
        write(folder / "run.json", json.dumps(about, indent=1, ensure_ascii=False))
    except OSError as error:
        raise BadInput(f"cannot write to {outputs}: {error.strerror}.", "Make it writable; nothing was run.") from None
    return folder


def check_writable(outputs: Path) -> None:
    """Raise BadInput where no record could be kept, before anything has happened."""
    place = next(folder for folder in (outputs, *outputs.parents) if folder.exists())
    probe = place / f".opskit-{os.getpid()}"
    try:
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise BadInput(
            f"cannot write to {outputs}: {error.strerror}.", "Records are kept there; make it writable."
        ) from None


def write(path: Path, text: str) -> None:
    """Replace a file as a whole: a crash or a full disk leaves the old one, never half of the new."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def seal(folder: Path) -> str:
    """Write down the digest of every file of a record, and answer the digest of that list."""
    if (folder / MANIFEST).exists():
        raise Refused(f"{folder.name} is sealed already.")
    text = json.dumps({"opskit_manifest": 1, "files": digests(folder)}, indent=1, sort_keys=True)
    write(folder / MANIFEST, text)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Path within the record -> digest of the file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST)
    return {
        path.relative_to(folder).as_posix(): "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def verify(folder: Path) -> list[str]:
    """What is no longer as it was sealed: a line for each altered, removed or added file. Empty: all is."""
    try:
        sealed: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except OSError:
        return ["not sealed: there is no manifest"]
    except (ValueError, KeyError, TypeError):
        return ["the manifest itself is damaged"]
    now = digests(folder)
    removed = [f"removed: {name}" for name in sealed if name not in now]
    added = [f"added: {name}" for name in now if name not in sealed]
    return removed + added + [f"altered: {name}" for name in sealed if name in now and now[name] != sealed[name]]
