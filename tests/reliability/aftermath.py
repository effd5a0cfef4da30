"""What a run has left behind: its record, and processes that still live."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from opskit import archive, journal, record

NOBODY = Path("nobody")  # allows no signer


def wait_for(what: Callable[[], Any], process: Any = None) -> Any:
    """What it answers, once it answers something."""
    deadline = time.monotonic() + 90
    while not (found := what()):
        assert time.monotonic() < deadline
        assert process is None or process.is_alive() or what(), "it ended too soon"
        time.sleep(0.02)
    return found


def newest(outputs: Path) -> Path:
    return archive.Archive(outputs).runs()[0]


def events(outputs: Path, kind: str | None = None) -> list[dict[str, Any]]:
    runs = archive.Archive(outputs).runs()
    found = journal.read(runs[0] / record.JOURNAL) if runs else []
    return [event for event in found if kind in (None, event["event"])]


def why(outputs: Path) -> str:
    return "; ".join(e["why"] for kind in ("interrupted", "failed") for e in events(outputs, kind))


def left_behind(outputs: Path) -> list[int]:
    """Living processes that belong to a run in there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("OPSKIT_RUN", "").startswith(str(outputs)) and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def sealed(outputs: Path, outcome: str) -> None:
    """The newest run ended as that, its record is whole, and nothing of it lives on."""
    assert events(outputs)[-1]["event"] == "run.ended"
    assert events(outputs)[-1]["outcome"] == outcome, why(outputs)
    assert record.verify(newest(outputs), NOBODY).wrong == ()
    wait_for(lambda: not left_behind(outputs))
