"""The runner's side of a run: a kernel, papermill through our own engine, and a truthful record.

Papermill parameterises the notebook and calls the engine; the engine drives nbclient directly, because papermill's
own bookkeeping saves cells that never ran as completed and truncates the file it writes. Runner and kernel meet only
in the run's folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

# JupyterLab's dependencies bring this grammar; importing nbformat would then build it for more than a second.
# Notebooks need no format check that uses it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook
from traitlets.config import Config

from opskit import archive, disk, record
from opskit.actions import digest
from opskit.approval import Approval
from opskit.environment import Environment, Limits, all_variables, standing, variables
from opskit.journal import Journal
from opskit.lock import attended
from opskit.outcome import Outcome, classify
from opskit.permit import STOPPING, signals_as_interrupt, undisturbed
from opskit.plan import Plan
from opskit.redaction import Redactor, each, redactor
from opskit.runbooks import without_pictures
from opskit.scrub import redact_files
from opskit.spelling import sound

AGAIN = 3.0  # seconds; an interrupt that comes just before a kernel executes, or just after, is lost on it
Progress = Callable[[str, int, int], None]  # cell id, its number, how many there are
Secrets = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Approved:
    """A plan and the word for it."""

    plan: Plan
    approval: Approval


def execute(
    about: dict[str, Any],
    root: Path,
    target: Environment,
    secrets: Secrets,
    *,
    outputs: Path,
    approved: Approved | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[Path, Outcome]:
    """Run a notebook from beginning to end and seal its record. Answers the record's folder and the outcome."""
    folder = record.prepare(outputs, {**about, "retention_days": target.retention_days})
    with disk.telling(folder):
        record.write(folder / "environment.json", target.model_dump_json(indent=1))
        if approved:
            approved.plan.save(folder / "plan.json")
            approved.approval.save(folder / "approval.json")
    known = redactor(secrets, standing(target))
    journal = Journal(folder / record.JOURNAL, known)
    with disk.telling(folder), attended(folder), signals_as_interrupt(), short_folder() as runtime:
        try:
            journal.write("run.accepted", runner=os.getpid(), **{k: about[k] for k in ("run", "operator", "host")})
            inherited = _variables(variables(target) | all_variables(root), folder, secrets)
            session = Session(folder, journal, known, inherited, root, runtime, progress, target.limits)
            _papermill(root / "notebooks" / f"{about['runbook']}.ipynb", about["parameters"], session)
        except KeyboardInterrupt:
            journal.write("interrupted", why="before it began")
        except Exception as error:  # whatever it was: the record says so, and is sealed
            journal.write("failed", why=f"{type(error).__name__}: {_last_line(str(error))}")
        with undisturbed():
            outcome = close(folder, journal)
            archive.seal(folder)
    return folder, outcome


def close(folder: Path, journal: Journal, outcome: Outcome | None = None) -> Outcome:
    """Say how a run ended, by its journal unless that is known, and put the verdict on top of its notebook."""
    outcome = outcome or classify(journal.read(), archive.approved(folder))
    if found := redact_files(folder, journal.redactor):
        journal.write("redacted", files=found)
    journal.write("run.ended", outcome=outcome, exit=outcome.exit)
    _put_verdict_first(folder)
    return outcome


def _put_verdict_first(folder: Path) -> None:
    """What came of it, as the first cell after the title: whoever opens a record at night reads that first."""
    path = folder / record.NOTEBOOK
    if not path.exists():
        return
    nb = nbformat.read(path, as_version=4)
    verdict = nbformat.v4.new_markdown_cell(archive.verdict(folder), id="verdict")
    nb.cells.insert(1, verdict)
    record.write(path, nbformat.writes(nb))


def _variables(secret: set[str], folder: Path, secrets: Secrets) -> dict[str, str]:
    """The kernel's environment: ours without any variable that holds a secret, and what it may have handed over."""
    kept = {key: value for key, value in os.environ.items() if key not in secret}
    handed = {"OPSKIT_RUN": str(folder), "OPSKIT_SECRETS": json.dumps({k: dict(v) for k, v in secrets.items()})}
    return {**kept, **handed, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


@dataclass(frozen=True)
class Session:
    """What the engine needs to know of the run it serves."""

    folder: Path
    journal: Journal
    redactor: Redactor
    variables: dict[str, str]
    root: Path
    runtime: Path
    progress: Progress
    limits: Limits


class OpskitEngine(Engine):  # type: ignore[misc]  # papermill has no types
    """Executes a notebook with nbclient, and keeps journal and notebook on disk true after every cell."""

    @classmethod
    def execute_notebook(cls, nb: NotebookNode, kernel_name: str, *_: Any, session: Session, **__: Any) -> NotebookNode:
        nb.metadata.pop("papermill", None)  # it would claim that every cell was completed, whatever happens
        for cell in nb.cells:
            cell.metadata.pop("papermill", None)
            if cell.cell_type == "markdown":
                cell.source = without_pictures(cell.source)
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell.id = "injected-parameters"
        try:
            _drive(nb, kernel_name, session)
        finally:
            save(nb, session)
        return nb


papermill_engines.register("opskit", OpskitEngine)


def _drive(nb: NotebookNode, kernel_name: str, session: Session) -> None:
    total = len(nb.cells)
    ending = Ending(session)

    def started(cell: NotebookNode, cell_index: int) -> None:
        ending.forbid_if_asked()
        session.progress(cell.id, cell_index + 1, total)
        session.journal.write("cell.started", cell=cell.id, source=digest(cell.source))
        ending.sign_of_life(cell.id)

    def executed(cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        session.journal.write("cell.ended", cell=cell.id, status=execute_reply["content"]["status"])
        save(nb, session)

    client: Client = Client(
        nb,
        timeout=None,  # ours, in Ending, knows a long step from a dead one
        kernel_name=kernel_name,
        extra_arguments=["--HistoryManager.enabled=False"],  # or every cell would be remembered outside the record
        on_notebook_start=lambda notebook: ending.forbid_if_asked(),
        on_cell_execute=started,
        on_cell_executed=executed,
        config=Config(KernelManager={"transport": "ipc", "connection_file": str(session.runtime / "k.json")}),
    )
    client.starting, client.heard, client.at_work = ending.watch, ending.sign_of_life, ending.at_work
    client.leaving = ending.over
    try:
        # Output of a cell's child processes also goes to the kernel's own streams, raw: nobody must see those.
        client.execute(
            env=session.variables, cwd=str(session.root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except CellExecutionError as error:
        _stopped_by(error, ending, session.journal)
    except (DeadKernelError, asyncio.CancelledError):
        if client.km:  # it was still being started
            client._cleanup_kernel()
        if ending.why:
            session.journal.write("interrupted", why=ending.why)
        else:
            session.journal.write("failed", why="the kernel died")
    else:
        if ending.why:
            session.journal.write("interrupted", why=ending.why)
    finally:
        ending.unwatch()


def _stopped_by(error: CellExecutionError, ending: Ending, journal: Journal) -> None:
    said = f"{error.ename}: {_last_line(error.evalue)}"
    if error.ename in ("KeyboardInterrupt", "Interrupted"):
        journal.write("interrupted", why=f"{ending.why or 'interrupted'}; {_last_line(error.evalue) or 'in a step'}")
    else:
        journal.write("refused" if error.ename == "Refused" else "failed", why=said)


class Client(NotebookClient):
    """Tells when its kernel starts, and of every message that a cell sends: it is alive."""

    starting: Callable[[Any], None] = staticmethod(lambda _: None)
    heard: Callable[[], None] = staticmethod(lambda: None)
    at_work: Callable[[], None] = staticmethod(lambda: None)
    leaving: Callable[[], None] = staticmethod(lambda: None)

    async def _async_cleanup_kernel(self) -> None:
        self.leaving()
        await super()._async_cleanup_kernel()

    async def async_start_new_kernel(self, **how: Any) -> None:
        self.starting(self)  # nbclient has just taken the signals, and would let them be lost meanwhile
        await super().async_start_new_kernel(**how)

    def process_message(self, message: dict[str, Any], *cell: Any) -> Any:
        self.heard()
        if message["msg_type"] == "execute_input":
            self.at_work()
        return super().process_message(message, *cell)


class Ending:
    """Ends a notebook before its time: on a signal, at the run's deadline, or when a step shows no sign of life.

    First the kernel is interrupted, which lets an action in flight finish and be written down. Only a kernel that
    does not heed that, or a second signal, is killed.
    """

    def __init__(self, session: Session) -> None:
        self.why = ""
        self._limits = session.limits
        self._journal = session.journal.path
        self._deadline = time.monotonic() + session.limits.run_minutes * 60
        self._alive = time.monotonic()
        self._written = 0  # bytes of the journal: an action that takes its time shows there
        self._cell = ""
        self._over = False
        self._started = self._busy = False  # the kernel; it hears an interrupt only while it executes
        self._grace = session.limits.grace_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None

    def sign_of_life(self, cell: str = "") -> None:
        self._cell = cell or self._cell
        self._alive = time.monotonic()

    def forbid_if_asked(self) -> None:
        """No further cell begins once an end was asked for."""
        self._started, self._busy = True, False
        if self.why:
            self._main.cancel()

    def at_work(self) -> None:
        """The kernel has begun to execute a cell."""
        self._busy = True
        if self.why:
            self._interrupt()

    def watch(self, client: Client) -> None:
        """Begin; called in the loop that drives the notebook."""
        main = asyncio.current_task()
        assert main is not None  # noqa: S101  # nbclient calls this from its own task
        self._client, self._main, self._loop = client, main, asyncio.get_running_loop()
        for sign in STOPPING:
            self._loop.add_signal_handler(sign, self.end, f"{sign.name} came")
        self._look()

    def over(self) -> None:
        """The notebook has ended; what comes now comes too late."""
        self._over = True
        for timer in (self._timer, self._again):
            if timer:
                timer.cancel()

    def unwatch(self) -> None:
        self.over()
        for sign in STOPPING:
            self._loop.remove_signal_handler(sign)  # or the loop, which lives on, keeps what comes for the next run
            signal.signal(sign, signal.SIG_IGN)  # asyncio gives them back as it knows them, not as we had them

    def _look(self) -> None:
        if (size := self._journal.stat().st_size) != self._written:
            self._written = size
            self.sign_of_life()
        minutes = self._limits.step_minutes
        if time.monotonic() > self._deadline:
            self.end(f"the run's {self._limits.run_minutes:g} minutes were over")
        elif time.monotonic() - self._alive > minutes * 60:
            self.end(f"step {self._cell} gave no sign of life for {minutes:g} minutes")
        else:
            self._timer = self._loop.call_later(0.5, self._look)

    def end(self, why: str) -> None:
        if self._over:
            return
        if self.why:  # asked for a second time
            self._kill()
            return
        self.why = why
        if self._timer:
            self._timer.cancel()
        if not self._started:  # there may be no kernel yet that heeds us; nothing will begin in it
            return
        self._timer = self._loop.call_later(self._grace, self._kill)
        if self._busy:
            self._interrupt()

    def _interrupt(self) -> None:
        kernel: Any = self._client.km
        if kernel:
            self._interrupting = self._loop.create_task(kernel.interrupt_kernel())
            self._again = self._loop.call_later(AGAIN, self._interrupt)

    def _kill(self) -> None:
        self.why += "; the kernel had to be killed"
        self._client.shutdown_kernel = "immediate"
        self._main.cancel()


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def save(nb: NotebookNode, session: Session) -> None:
    """Write the executed notebook, redacted once more: pieces that were sent apart stand together now."""
    record.write(session.folder / record.NOTEBOOK, nbformat.writes(cleaned(nb, session.redactor)))


def cleaned(nb: NotebookNode, redactor: Redactor) -> NotebookNode:
    """A notebook without a secret, also in the seam between two outputs, and with text that can be written."""
    cells = [json.loads(_cleaned(json.dumps(cell), redactor)) for cell in nb.cells]
    rest = each({key: value for key, value in nb.items() if key != "cells"}, lambda text: redactor.text(sound(text)))
    clean: NotebookNode = nbformat.from_dict({**rest, "cells": cells})
    return clean


@lru_cache(maxsize=200)
def _cleaned(cell: str, redactor: Redactor) -> str:
    """One cell, as JSON: after each step the whole notebook is written anew, and most of it is as it was."""
    copy = json.loads(cell)
    if "outputs" in copy:
        copy["outputs"] = joined(copy["outputs"])
        across_outputs(copy["outputs"], redactor)
    return json.dumps(each(copy, lambda text: redactor.text(sound(text))))


def joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A cell's outputs with neighbouring pieces of one stream put together, so that no secret hides in the seam."""
    found: list[dict[str, Any]] = []
    for output in outputs:
        last = found[-1] if found else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            found.append(output)
    return found


def across_outputs(outputs: list[dict[str, Any]], redactor: Redactor) -> None:
    """Take out secrets that begin in one output of a cell and end in a later one, whichever way one reads them.

    A reader sees one form of each display, beside the streams; or only one of the streams.
    """
    forms = {form for output in outputs for form in output.get("data", {})} | {"text/plain"}
    for form in sorted(forms):
        _across([place for output in outputs if (place := _shown(output, form))], redactor)
    for name in ("stdout", "stderr"):
        _across([(output, "text") for output in outputs if output.get("name") == name], redactor)


def _across(places: list[tuple[Any, str]], redactor: Redactor) -> None:
    for (holder, key), text in zip(places, redactor.across([holder[key] for holder, key in places]), strict=True):
        holder[key] = text


def _shown(output: dict[str, Any], form: str) -> tuple[Any, str] | None:
    """Where the text lies that a reader of `form` sees of an output."""
    if output["output_type"] == "stream":
        return output, "text"
    data = output.get("data", {})
    found = [key for key in (form, "text/plain", *data) if isinstance(data.get(key), str)]
    return (data, found[0]) if found else None


def _papermill(notebook: Path, given: dict[str, Any], session: Session) -> None:
    with suppress(PapermillExecutionError):  # the engine has journalled it already
        execute_notebook(
            str(notebook), None, parameters=given, engine_name="opskit", progress_bar=False, session=session
        )


@contextmanager
def short_folder() -> Iterator[Path]:
    """A private folder with a short path, gone afterwards: the kernel's sockets lie in it, and names are limited."""
    folder = Path(tempfile.mkdtemp(prefix="opskit-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
