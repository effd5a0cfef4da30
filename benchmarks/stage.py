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

from benchmarks.measuring import Skipped
from opskit import sandbox as company
from opskit.journal import read

ROOT = Path(__file__).parents[1]
RUNBOOK = "stripe-webhook-replay"
OPSKIT = [sys.executable, "-c", "from opskit.cli import main; main()"]  # what the console script does
FINE = (0, 3)  # done, and: a plan awaits approval
PEOPLE = 6  # the run looked at all there is, and the rest is for people


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


def watched(runbook: str, *arguments: str) -> tuple[float, dict[str, float], dict[str, Any]]:
    """`opskit run`: its seconds, the peak memory of runner and kernel in MB, and what the command answered.

    Raises Skipped where the memory of a process cannot be seen.
    """
    if not Path("/proc/self/status").exists():
        raise Skipped("the peak memory of a process is read from /proc, and there is none.")
    command = [*OPSKIT, "run", runbook, *arguments, "--json"]
    begun = time.perf_counter()
    runner = subprocess.Popen(command, cwd=os.environ["OPSKIT_ROOT"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    peaks = {"runner": 0.0, "kernel": 0.0}
    before, kernel = _runs(), None
    while runner.poll() is None:
        kernel = kernel or _kernel(_runs() - before)
        for name, pid in (("runner", runner.pid), ("kernel", kernel)):
            peaks[name] = max(peaks[name], _peak(pid) if pid else 0.0)
        time.sleep(0.05)
    seconds = time.perf_counter() - begun
    found = json.loads(runner.communicate()[0])["data"]
    if runner.returncode not in (*FINE, PEOPLE):
        why = [event["why"] for event in journal(found["folder"]) if "why" in event] if "folder" in found else found
        raise RuntimeError(f"opskit run ended with {runner.returncode}: {why}")
    return seconds, peaks, found


def _runs() -> set[Path]:
    return set(Path(os.environ["OPSKIT_OUTPUTS"]).glob("*/*/journal.jsonl"))


def _kernel(journals: set[Path]) -> int | None:
    """The kernel's process, as the run's journal names it."""
    for path in journals:
        for event in read(path):
            if event["event"] == "run.begun":
                return int(event["kernel"])
    return None


def _peak(pid: int) -> float:
    """The most memory that a process has held so far, in MB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), default=0.0)
