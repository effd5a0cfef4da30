"""An archive with records of every kind, and what is done to it. Its fixtures are known through `conftest`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Opskit, allow, data, sealed

from opskit import record
from opskit.archive import keep

ROWS = "id,tier\n" + "".join(f"{n:04},hobbyist\n" for n in range(40))
EVENTS = ({"at": f"2026-01-01T00:00:{n:02}", "event": "check", "name": str(n)} for n in range(9))
LINES = "".join(json.dumps(event) + "\n" for event in EVENTS)
FILES = {"evidence/rows.csv": ROWS, "evidence/empty.csv": "", "journal.jsonl": LINES, "private/image.json": '{"a": 1}'}


@pytest.fixture
def place(once: Path, outputs: Path) -> Path:
    """An archive: a real run, a signed record and an unsigned one of one incident, an approval, another incident."""
    shutil.copytree(once, outputs)
    first = sealed(outputs, **FILES)
    (outputs / "INC-1" / "approvals").mkdir()
    approval = outputs / "INC-1" / "approvals" / f"{first.name}.json"
    approval.write_text('{"plan": "sha256:1"}\n')
    keep("approved", approval)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_SIGNING_KEY", str(outputs / "no key"))
        sealed(outputs, **FILES)
    sealed(outputs, "INC-2")
    return outputs


@pytest.fixture
def allowed(repository: Path, ana: Path) -> Path:
    path = repository / "parameters" / "allowed_signers"
    path.unlink(missing_ok=True)
    return allow(path, ("ana", ana))


@pytest.fixture
def signed(place: Path) -> Path:
    return next(folder for folder in (place / "INC-1").iterdir() if (folder / record.SIGNATURE).exists())


@pytest.fixture
def unsigned_one(place: Path) -> Path:
    found = (folder for folder in (place / "INC-1").iterdir() if (folder / record.MANIFEST).exists())
    return next(folder for folder in found if not (folder / record.SIGNATURE).exists())


@pytest.fixture
def verified(opskit: Opskit, place: Path, allowed: Path) -> Callable[[], list[str]]:
    """What the command finds wrong in the whole archive."""

    def call() -> list[str]:
        result = opskit("verify", place, "--json")
        found: list[str] = data(result).get("wrong", [str(data(result))])
        assert (result.exit_code == 0) == (not found)
        return found

    return call


def forge(folder: Path, by: str = "ana") -> None:
    """Change what a record says, and write a manifest that fits."""
    journal = folder / record.JOURNAL
    journal.write_text(journal.read_text().replace('"healthy"', '"unknown"').replace('"check"', '"chuck"'))
    (folder / record.MANIFEST).unlink()
    (folder / record.SIGNATURE).unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_SIGNING_KEY", "no key")
        record.seal(folder, by)


def git(place: Path, *arguments: str) -> str:
    """Git as the forger has it: with settings and a name of his own."""
    who = {f"GIT_{role}_{part}": "mallory" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *arguments], cwd=place, env={**os.environ, **who}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
