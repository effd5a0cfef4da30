"""The record of a run: its folder, written atomically and sealed with the digests of everything in it.

The only module that writes records. A record is sealed once; what was sealed is not written again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath
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
EMPTY = "an empty folder"  # which git does not carry
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
    about = json.loads(files.read(folder / "run.json"))
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
    found = (path for path in sorted(folder.rglob("*")) if path not in outside)
    return {path.relative_to(folder).as_posix(): digest for path in found if (digest := _digest(path))}


def _digest(path: Path) -> str:
    """Of whatever bears that name; empty for a folder that holds something, since that is seen by what it holds."""
    kind = stat.S_IFMT(path.lstat().st_mode)
    if kind == stat.S_IFREG:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if kind == stat.S_IFLNK:  # where it points to is all that it is
        return f"sha256:{hashlib.sha256(os.fsencode(path.readlink())).hexdigest()}"
    if kind == stat.S_IFDIR:
        return "" if any(path.iterdir()) else EMPTY
    return "no file, no link and no folder"


def manifest(folder: Path) -> dict[str, Any] | None:
    """A record's manifest; None where it is damaged. Raises OSError where there is none."""
    text = files.read(folder / MANIFEST)
    try:
        found: dict[str, Any] = json.loads(text)
        own = {key: value for key, value in found.items() if key != "digest"}
        said = {key: found[key] for key in ("incident", "run", "sealed_by")} | found["files"]
        dated = datetime.fromisoformat(found["sealed"]).tzinfo and date.fromisoformat(found["private_until"])
        whole = dated and all(isinstance(value, str) for value in said.values())
        return found if whole and _manifest(own).encode() == text else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
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
    except FileNotFoundError:
        return Finding(("not sealed: there is no manifest",))
    except OSError as error:
        return Finding((f"the manifest cannot be read: {error.strerror}",))
    if sealed is None:
        return Finding(("the manifest itself is damaged",))
    now, then = digests(folder), sealed["files"]
    gone = [name for name in then if name not in now and then[name] != EMPTY]
    overdue, absent = sealed["private_until"] < datetime.now(UTC).date().isoformat(), not (folder / PRIVATE).exists()
    private = tuple(name for name in gone if name.startswith(f"{PRIVATE}/") and (overdue or absent))
    purged, left = (private, ()) if overdue else ((), ELSEWHERE if private else ())
    wrong = [f"removed: {_one_line(name)}" for name in gone if name not in private]
    emptied = {parent.as_posix() for name in gone for parent in PurePosixPath(name).parents}  # told by what is gone
    wrong += [
        f"added: {_one_line(name)}" for name in now if name not in then and not (name in emptied and now[name] == EMPTY)
    ]
    wrong += [f"altered: {_one_line(name)}" for name in then if name in now and now[name] != then[name]]
    if os.path.lexists(folder / SIGNATURE):
        signer, bad, unproven = _judge(folder, sealed, allowed)
        return Finding((*wrong, *bad), purged, signer, (*unproven, *left))
    return Finding(tuple(wrong), purged, "", ("it is not signed", *left))


def _one_line(name: str) -> str:
    """A name must not look like lines of our own answer."""
    return name.replace("\n", "\\n")


def _judge(folder: Path, sealed: dict[str, Any], allowed: Path | None) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(signer, what is wrong, what is unproven) of a record's signature."""
    try:
        signature = files.read(folder / SIGNATURE).decode(errors="replace")
    except OSError as error:
        return "", (f"the signature cannot be read: {error.strerror}",), ()
    text, at = files.read(folder / MANIFEST).decode(), datetime.fromisoformat(sealed["sealed"])
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
