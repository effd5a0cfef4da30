"""Where the measuring happens: a folder of its own for sandboxes and records, and the commands that people type."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opskit import sandbox as company
from opskit.journal import read

ROOT = Path(__file__).parents[1]
RUNBOOK = "stripe-webhook-replay"
OPSKIT = [sys.executable, "-c", "from opskit.cli import main; main()"]  # what the console script does
FINE = (0, 3)  # done, and: a plan awaits approval


@contextmanager
def private_place() -> Iterator[Path]:
    """A folder that takes whatever a benchmark writes, gone afterwards. The repository is only read."""
    with tempfile.TemporaryDirectory(prefix="opskit-bench-") as folder:
        place = Path(folder)
        for part in ("notebooks", "parameters"):
            shutil.copytree(ROOT / part, place / part)
        for name, value in (("STATE", "state"), ("OUTPUTS", "outputs"), ("ROOT", "")):
            os.environ[f"OPSKIT_{name}"] = str(place / value)
        os.environ["IPYTHONDIR"] = str(place / "ipython")
        yield place


@contextmanager
def living(name: str) -> Iterator[company.Sandbox]:
    found = company.start(f"{name}-{os.getpid()}")
    try:
        yield found
    finally:
        found.stop()


def timed(command: Sequence[str], env: Mapping[str, str] | None = None, fine: Sequence[int] = FINE) -> float:
    """Seconds that a command takes. Raises where it fails."""
    begun = time.perf_counter()
    run(command, env, fine)
    return time.perf_counter() - begun


def run(command: Sequence[str], env: Mapping[str, str] | None = None, fine: Sequence[int] = FINE) -> str:
    done = subprocess.run(command, cwd=os.environ["OPSKIT_ROOT"], env=env, capture_output=True, text=True, check=False)
    if done.returncode not in fine:
        words = " ".join(command)
        raise RuntimeError(f"{words} ended with {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def opskit(*arguments: str) -> Any:
    """What an opskit command answers with --json."""
    return json.loads(run([*OPSKIT, *arguments, "--json"]))["data"]


def journal(folder: str | Path) -> list[dict[str, Any]]:
    return list(read(Path(folder) / "journal.jsonl"))
