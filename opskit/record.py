"""The record of a run: its folder, written atomically and sealed with the digests of everything in it.

The only module that writes records. A record is sealed once; what was sealed is not written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opskit import files, signatures
from opskit.errors import BadInput, Refused

write = files.write  # how everything in a record is written

FORMAT = 2  # of the manifest
SMALLEST = 1 << 20  # bytes that a record needs; with less room nothing is begun
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
PRIVATE = "private"  # before-images and messages: never exported, never committed
ELSEWHERE = ("what is private in it is not here: it does not travel with git",)
JOURNAL = "journal.jsonl"
NOTEBOOK = "notebook.ipynb"


def prepare(outputs: Path, about: Mapping[str, Any]) -> Path:
    """A new folder for a run, holding who runs what. Raises BadInput where `outputs` cannot be written to."""
    folder = outputs / str(about["incident"]) / str(about["run"])
    try:
        folder.mkdir(parents=True)
        write(folder / "run.json", json.dumps(about, indent=1, ensure_ascii=False))
    except OSError as error:
        with suppress(OSError):  # nothing of it is a run
            folder.rmdir()
        raise BadInput(f"cannot write to {outputs}: {error.strerror}.", "Make it writable; nothing was run.") from None
    return folder


def check_writable(outputs: Path) -> None:
    """Raise BadInput where no record could be kept, before anything has happened."""
    place = next(folder for folder in (outputs, *outputs.parents) if folder.exists())
    probe = place / f".opskit-{os.getpid()}"
    try:
        probe.write_bytes(bytes(SMALLEST))
    except OSError as error:
        raise BadInput(
            f"cannot write to {outputs}: {error.strerror}.", "Records are kept there; make it writable, with room."
        ) from None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def seal(folder: Path, by: str) -> str:
    """Write down the digest of every file of a record, and sign that list; answers why it is unsigned, or nothing.

    Raises Refused where it is sealed already.
    """
    if (folder / MANIFEST).exists():
        raise Refused(f"{folder.name} is sealed already.")
    now = datetime.now(UTC)
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    text = _manifest(
        {
            "opskit_manifest": FORMAT,
            "incident": about["incident"],
            "run": about["run"],
            "sealed": now.isoformat(timespec="seconds"),
            "sealed_by": by,
            "private_until": (now + timedelta(days=about.get("retention_days", 90))).date().isoformat(),
            "files": digests(folder),
        }
    )
    signature, why = signatures.sign(text, signatures.RECORD)
    write(folder / MANIFEST, text)
    if signature:
        write(folder / SIGNATURE, signature)
    return why


def _manifest(content: dict[str, Any]) -> str:
    """The one spelling of a manifest: with its own digest, so that no byte of it can change unnoticed."""
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "digest": f"sha256:{own}"}, indent=1, sort_keys=True) + "\n"


def digests(folder: Path) -> dict[str, str]:
    """Path within the record -> digest of the file."""
    outside = {folder / MANIFEST, folder / SIGNATURE}
    files = (
        path for path in sorted(folder.rglob("*")) if path not in outside and (path.is_symlink() or path.is_file())
    )
    return {path.relative_to(folder).as_posix(): f"sha256:{_sha256(path)}" for path in files}


def _sha256(path: Path) -> str:
    if path.is_symlink():  # where it points to is all that it is
        return hashlib.sha256(str(path.readlink()).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: Path) -> dict[str, Any] | None:
    """A record's manifest; None where it is damaged. Raises OSError where there is none."""
    text = (folder / MANIFEST).read_bytes()
    try:
        found: dict[str, Any] = json.loads(text)
        own = {key: value for key, value in found.items() if key != "digest"}
        return found if _manifest(own).encode() == text and isinstance(found["files"], dict) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class Finding:
    """What came of verifying a record."""

    wrong: tuple[str, ...] = ()  # altered, removed, added
    purged: tuple[str, ...] = ()  # gone from private/ after its time, as the retention wants it
    signer: str = ""  # by whom it is signed, as the allowed signers name them
    unproven: tuple[str, ...] = ()


def verify(folder: Path, allowed: Path | None = None) -> Finding:
    """Whether a record is as it was sealed, and what can be said of who sealed it. Needs nothing but its folder.

    `allowed` may name a file of allowed signers; without it a signature proves no name.
    """
    try:
        sealed = manifest(folder)
    except OSError:
        return Finding(("not sealed: there is no manifest",))
    if sealed is None:
        return Finding(("the manifest itself is damaged",))
    now, then = digests(folder), sealed["files"]
    gone = [name for name in then if name not in now]
    overdue, absent = sealed["private_until"] < datetime.now(UTC).date().isoformat(), not (folder / PRIVATE).exists()
    private = tuple(name for name in gone if name.startswith(f"{PRIVATE}/") and (overdue or absent))
    purged, left = (private, ()) if overdue else ((), ELSEWHERE if private else ())
    wrong = [f"removed: {name}" for name in gone if name not in private]
    wrong += [f"added: {name}" for name in now if name not in then]
    wrong += [f"altered: {name}" for name in then if name in now and now[name] != then[name]]
    if (folder / SIGNATURE).exists():
        signer, bad, unproven = _judge(folder, sealed, allowed)
        return Finding((*wrong, *bad), purged, signer, (*unproven, *left))
    return Finding(tuple(wrong), purged, "", ("it is not signed", *left))


def _judge(folder: Path, sealed: dict[str, Any], allowed: Path | None) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(signer, what is wrong, what is unproven) of a record's signature."""
    signature = (folder / SIGNATURE).read_text(encoding="utf-8", errors="replace")
    text, at = (folder / MANIFEST).read_text(encoding="utf-8"), datetime.fromisoformat(sealed["sealed"])
    judged = signatures.judge(text, signature, signatures.RECORD, allowed, at)
    if not judged.good:
        return "", (f"the signature is not good: {judged.why}",), ()
    if not judged.who:
        return "", (), (f"it is signed by key {judged.key}, and nobody says whose that is",)
    if judged.who != sealed["sealed_by"]:
        return judged.who, (), (f"it was sealed in the name of {sealed['sealed_by']} and signed by {judged.who}",)
    return judged.who, (), ()


def purge(folder: Path) -> list[str]:
    """Remove what is private in a sealed record once its time is over; answers what was removed."""
    sealed = manifest(folder) if (folder / MANIFEST).exists() else None
    if sealed is None or sealed["private_until"] >= datetime.now(UTC).date().isoformat():
        return []
    private = folder / PRIVATE
    names = [path.relative_to(folder).as_posix() for path in sorted(private.rglob("*")) if path.is_file()]
    shutil.rmtree(private, ignore_errors=True)
    return names
