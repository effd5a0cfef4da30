"""The vendors' own command-line tools, as npm has them: judges, fetched once and kept where git does not look."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def tool(package: str, name: str, place: Path, lock: Path) -> Path:
    """The tool, fetched once for all test processes. Its absence may be skipped over, but never in CI.

    Each has a place of its own: npm takes out of a place whatever it was not asked for this time.
    """
    absent = pytest.fail if os.environ.get("CI") else pytest.skip
    found = place / "node_modules" / ".bin" / name
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not found.exists():
            npm = shutil.which("npm")
            if npm is None:
                absent(f"npm is missing, so the command-line tool {name} is too")
            place.mkdir(parents=True, exist_ok=True)
            command = [npm, "install", "--no-save", "--no-package-lock", "--prefix", str(place), package]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
            if not found.exists():
                absent(f"{package} could not be installed: {done.stderr.strip()[-300:]}")
    return found
