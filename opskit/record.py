"""The record of a run: its folder, written atomically and sealed with the digests of everything in it.

The only module that writes records. A record is sealed once; what was sealed is not written again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opskit.errors import BadInput, Refused

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
NOTEBOOK = "notebook.ipynb"


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
