"""Working copies: a runbook with its parameters filled in, below `outputs/lab`, one for each investigation.

An investigation is a run that a person carries out cell by cell. Its record is where every run's is, and names its
copy; JupyterLab sees the copies alone, neither the committed runbooks nor what is sealed.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import Any

from opskit import archive, files, provenance, record
from opskit.environment import Environment
from opskit.errors import Refused
from opskit.journal import read
from opskit.runbooks import without_pictures

FOLDER = "lab"
KEY = "copy"  # of a record's head: where the copy lies, from the archive
DEEP = 3  # parts of such a place
CHECKPOINTS = ".ipynb_checkpoints"


def make(runbook: str, root: Path, outputs: Path, checked: Mapping[str, Any], given: Mapping[str, Any],
         target: Environment) -> Path:  # fmt: skip
    """Begin an investigation; answers its copy. `checked` are the parameters as validated, `given` as they came."""
    about = provenance.describe(runbook, root, checked)
    about |= {"retention_days": target.retention_days, KEY: place_of(about["run"], runbook)}
    notebook = json.loads((root / "notebooks" / f"{runbook}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = filled_in("".join(cell["source"]), given)
    notebook["metadata"]["opskit"] = {"run": about["run"]}  # whatever it will be called
    record.prepare(outputs, about)
    copy = outputs / str(about[KEY])
    copy.parent.mkdir(parents=True)
    files.write(copy, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return copy


def filled_in(source: str, given: Mapping[str, Any]) -> str:
    """A parameters cell with other values, and everything else of it as it was."""
    lines = source.splitlines(keepends=True)
    for line in reversed(ast.parse(source).body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id in given:
            value = line.value
            assert value is not None and value.end_lineno == value.lineno  # noqa: S101  # or it is no declaration
            text = lines[value.lineno - 1].encode()
            new = _spelled(given[line.target.id]).encode()
            lines[value.lineno - 1] = (text[: value.col_offset] + new + text[value.end_col_offset :]).decode()
    return "".join(lines)


def _spelled(value: Any) -> str:
    """A plain value as Python would have it in a notebook: with the quotes that the others have."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def copy_of(folder: Path, outputs: Path) -> Path | None:
    """The working copy of an investigation; None where a run is none, or its head names another file."""
    about = archive.about(folder)
    place = place_of(folder.name, str(about["runbook"]))
    return outputs / place if about.get(KEY) == place and len(Path(place).parts) == DEEP else None


def lying(folder: Path, outputs: Path) -> Path | None:
    """Where the working copy of an investigation lies, also where somebody has renamed it; None where it is gone.

    Raises Refused where nobody can tell which notebook it is.
    """
    place = copy_of(folder, outputs)
    if place is None or place.exists():
        return place
    found = _notebooks(place)
    named = [path for path in found if says(path, folder.name)]
    if found and len(named) != 1:
        seen = ", ".join(path.relative_to(place.parent).as_posix() for path in named or found)
        raise Refused(
            f"{place} is gone, and nobody can tell which of these took its place: {seen}.",
            f"Give the one that counts its name again, {place.name}.",
        )
    return named[0] if named else None


def _notebooks(place: Path) -> list[Path]:
    """What lies about where a working copy ought to."""
    return [path for path in sorted(place.parent.rglob("*.ipynb")) if CHECKPOINTS not in path.parts]


def says(notebook: Path, text: str) -> bool:
    """Whether what a notebook shows, or its head, holds a text."""
    found = _read(notebook)
    return text in json.dumps([found.get("metadata"), [cell.get("outputs") for cell in _cells(found)]])


def _read(notebook: Path) -> dict[str, Any]:
    """A notebook as JSON; an empty one where it is none."""
    try:
        found = json.loads(notebook.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _cells(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    found = notebook.get("cells")
    yield from (cell for cell in (found if isinstance(found, list) else []) if isinstance(cell, dict))


def place_of(run: str, runbook: str) -> str:
    return f"{FOLDER}/{run}/{runbook}.ipynb"


def record_beside(path: Path, outputs: Path) -> Path | None:
    """The record of the investigation in whose folder something lies, or would; None where there is none."""
    if not path.is_relative_to(outputs / FOLDER) or path == outputs / FOLDER:
        return None
    run = path.relative_to(outputs / FOLDER).parts[0]
    return next((found.parent for found in sorted(outputs.glob(f"*/{escape(run)}/run.json"))), None)


def record_of(copy: Path, outputs: Path) -> Path | None:
    """The record's folder of a working copy; None where it is none, or its record is gone."""
    folder = record_beside(copy, outputs)
    place = copy_of(folder, outputs) if folder else None
    renamed = place and not place.exists() and folder and copy in _notebooks(place) and says(copy, folder.name)
    return folder if place == copy or renamed else None


def still_open(outputs: Path) -> Iterator[Path]:
    """The records of investigations that nobody has closed, newest first."""
    runs = archive.Archive(outputs).runs()
    yield from (run for run in runs if archive.about(run).get(KEY) and not (run / record.MANIFEST).exists())


def is_saved(folder: Path, copy: Path) -> bool:
    """Whether the copy was saved since a cell of it last began or ended: later outputs are in a browser alone."""
    ran = [event["at"] for event in read(folder / record.JOURNAL) if event["event"] in ("cell.started", "cell.ended")]
    return not ran or copy.stat().st_mtime >= datetime.fromisoformat(ran[-1]).timestamp()


def tidy(outputs: Path) -> list[Path]:
    """Remove the copies of investigations that are closed: their records have them. What else lies there stays.

    So does a copy in which somebody wrote after that; answers which these are.
    """
    kept = []
    for run in archive.Archive(outputs).runs():
        if (run / record.MANIFEST).exists() and (copy := copy_of(run, outputs)):
            if copy.exists() and _sources(copy) != _sources(run / record.NOTEBOOK):
                kept.append(copy)
                continue
            copy.unlink(missing_ok=True)
            checkpoints = copy.parent / CHECKPOINTS
            (checkpoints / f"{copy.stem}-checkpoint.ipynb").unlink(missing_ok=True)
            for folder in (checkpoints, copy.parent):
                with suppress(OSError):  # it is gone, or not empty
                    folder.rmdir()
    return kept


def _sources(notebook: Path) -> list[tuple[str, str]]:
    """What is written in a notebook; a record's has its verdict besides, and lacks pictures of how it is done."""
    found = [(str(cell.get("cell_type")), cell) for cell in _cells(_read(notebook)) if not _is_verdict(cell)]
    return [(kind, _written(kind, "".join(cell.get("source", "")))) for kind, cell in found]


def _is_verdict(cell: dict[str, Any]) -> bool:
    return (cell.get("id"), cell.get("cell_type")) == ("verdict", "markdown")


def _written(kind: str, source: str) -> str:
    return without_pictures(source) if kind == "markdown" else source
