"""The kernel's side of an investigation: which cells a person runs is noted, and a plan can be carried out from here.

A kernel that a person works in holds no credential that can change anything. What is to be done is therefore handed to
the process that serves JupyterLab, through a socket that only this person can open; it calls the same commands as a
person would in a terminal: `opskit approve`, `seal`, `apply`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from IPython import get_ipython
from pydantic import BaseModel

from opskit import environment, files
from opskit.display import say
from opskit.errors import BadInput, Refused
from opskit.journal import Journal
from opskit.lab.order import source_digest
from opskit.lock import attended
from opskit.plan import Plan

Noting = tuple[str, Callable[[Any], None]]
DOOR = "OPSKIT_DOOR"  # names the socket, in the kernels of `opskit lab`
_cells: dict[int, str] = {}  # the number of an execution in this kernel: which cell it was
_noting: list[Noting] = []  # what this kernel calls before and after each cell


def filled_in(folder: Path, about: dict[str, Any], given: BaseModel) -> dict[str, Any]:
    """The head of an investigation, with the parameters that its person has filled in by now.

    Raises Refused where it is closed, and BadInput for another incident than it was begun for, or no environment.
    """
    if is_closed(folder):
        raise Refused(f"investigation {about['run']} is closed, and its record is sealed.", "Open another: opskit lab")
    values = given.model_dump(mode="json")
    if values.get("incident") not in (None, about["incident"]):
        raise BadInput(
            f"this investigation was begun for incident {about['incident']!r}.",
            f"Leave it so, or open another: opskit lab {about['runbook']} --incident {values['incident']}",
        )
    target = environment.load(values.get("environment") or "sandbox", Path(about["root"]))
    about |= {"parameters": values, "environment": target.name, "retention_days": target.retention_days}
    files.write(folder / "run.json", json.dumps(about, indent=1, ensure_ascii=False))
    return about


def watch(shell: Any, journal: Journal) -> None:
    """Note each cell as it is run, also those before `begin`: the number that it gets, and a digest of its source.

    And when it ended: what it said until then may be in its person's browser alone.
    """

    def note(count: int, source: str) -> None:
        journal.write("cell.started", cell=_cells.get(count, ""), count=count, source=source_digest(source))

    def before(info: Any) -> None:
        if info.store_history and not info.silent:
            number = len(shell.history_manager.input_hist_raw)  # of what is about to be run
            _cells[number] = info.cell_id or ""
            note(number, info.raw_cell)

    def after(result: Any) -> None:
        if result is not None and result.info.store_history and not result.info.silent:
            journal.write("cell.ended", count=result.execution_count)

    unwatch(shell)
    for count, source in enumerate(shell.history_manager.input_hist_raw[1:], 1):
        note(count, source)
    for when, do in (("pre_run_cell", before), ("post_run_cell", after)):
        shell.events.register(when, do)
        _noting.append((when, do))


def unwatch(shell: Any) -> None:
    """Note nothing any more: another `begin` does, or the investigation is closed."""
    while _noting:
        shell.events.unregister(*_noting.pop())


def offer(folder: Path, plan: Plan, at_work: ExitStack) -> None:
    """Ask the person whether to close the investigation and carry its plan out. `at_work` shows that we are on it.

    Where there is nobody to ask, or they want something else, nothing is done, and it is said how to go on.
    """
    typed, since, expected = "", time.time(), f"{plan.made_for['environment']} {len(plan)}"
    in_full = expected + (" with removals" if plan.removals else "")
    if door := os.environ.get(DOOR, "") * bool(_noting):  # a terminal of JupyterLab may start runs of its own
        with suppress(EOFError, NotImplementedError):  # nobody is there
            typed = " ".join(_ask(plan, in_full).split())
    if door and typed == in_full:
        what = {"run": folder.name, "plan": plan.digest, "typed": expected, "since": since}
        what["removals"] = bool(plan.removals)
        at_work.close()
        _pass_on(door, what)
        if is_closed(folder):
            unwatch(get_ipython())
        else:
            at_work.enter_context(attended(folder))
        return
    wrong = f"{typed!r} is not {in_full!r}. " if typed else ""
    first = f"opskit seal {folder.name}, then " if door else ""
    say(f"Nothing was done: not approved. {wrong}Next: {first}opskit approve {folder.name}")


def is_closed(folder: Path) -> bool:
    """Whether a run's record is sealed: nothing is added to it any more."""
    return (folder / "manifest.json").exists()


def _ask(plan: Plan, expected: str) -> str:
    removals = f" {len(plan.removals)} of them take access away from users." if plan.removals else ""
    print(  # noqa: T201  # to the person
        f"{len(plan)} actions on {plan.made_for['environment']}.{removals} Carrying them out closes this notebook.\n"
        f"To do that: save the notebook (Ctrl+S), then type: {expected}\n"
        "To leave it for now: press Enter."
    )
    return input("> ")


def _pass_on(door: str, what: dict[str, Any]) -> None:
    """Hand it over, and show what is said of it as it goes."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(door)
        line.sendall(json.dumps(what).encode() + b"\n")
        for said in line.makefile(encoding="utf-8", errors="replace"):
            print(said, end="", flush=True)  # noqa: T201  # as it goes
