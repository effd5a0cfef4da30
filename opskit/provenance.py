"""Who runs what, where, with which code: the head of every record."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import opskit
from opskit.actions import digest
from opskit.errors import BadInput
from opskit.spelling import sound

PACKAGES = ("httpx", "ipykernel", "jupyterlab", "matplotlib", "nbclient", "nbformat", "pandas", "papermill", "psycopg")


def find_root(start: Path | None = None) -> Path:
    """The repository with the runbooks: the nearest folder upwards that holds `notebooks` and `parameters`."""
    here = (start or Path(os.environ.get("OPSKIT_ROOT") or Path.cwd())).resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "parameters").is_dir():
            return folder
    raise BadInput(
        f"no runbooks at or above {here}.", "Run this in the repository that holds notebooks/ and parameters/."
    )


def outputs(root: Path) -> Path:
    """Where records are kept: OPSKIT_OUTPUTS where set, else the repository's outputs/."""
    place = os.environ.get("OPSKIT_OUTPUTS")
    return Path(place).absolute() if place else root / "outputs"


def archive(outputs: Path) -> str:
    """The name of an archive as it lies here: no copy and no clone of it has the same."""
    note = outputs / ".locks" / "archive"
    if not note.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        note.open("a").close()
    born = note.stat()
    return f"{born.st_mtime_ns:x}-{born.st_ino:x}"


def notebook_digest(path: Path) -> str:
    """Of a notebook's cells, without outputs and metadata: what was reviewed is what runs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return digest([[c.get("id"), c["cell_type"], "".join(c["source"])] for c in cells])


@cache
def code() -> str:
    """The version of opskit that runs here, and a digest of its source: an edited copy is another one."""
    package = Path(opskit.__file__).parent
    sources = sorted(p for p in package.rglob("*.py") if "sandbox" not in p.relative_to(package).parts)
    found = digest([[p.relative_to(package).as_posix(), p.read_text(encoding="utf-8")] for p in sources])
    return f"{opskit.__version__}+{found[7:19]}"


def commit(root: Path) -> str | None:
    """The git commit of the repository, with `+changes` where the work tree differs; None outside git."""
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "notebooks", "opskit", "parameters")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def operator() -> str:
    """Who runs opskit: OPSKIT_OPERATOR where set, else the account's name."""
    return sound(os.environ.get("OPSKIT_OPERATOR") or getpass.getuser())


def describe(runbook: str, root: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The head of a run's record; `given` are its validated parameters as JSON."""
    now = datetime.now(UTC)
    return {
        "run": f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}-{secrets.token_hex(2)}",
        "incident": given.get("incident") or f"{now:%Y-%m-%d}-{runbook}",
        "runbook": runbook,
        "notebook": notebook_digest(root / "notebooks" / f"{runbook}.ipynb"),
        "opskit": code(),
        "commit": commit(root),
        "environment": given.get("environment") or "sandbox",
        "parameters": dict(given),
        "operator": operator(),
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "packages": packages(),
        "started": now.isoformat(timespec="seconds"),
        "started_local": now.astimezone().isoformat(timespec="seconds"),
        "root": str(root),
        "archive": archive(outputs(root)),
    }
