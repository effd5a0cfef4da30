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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# JupyterLab's dependencies bring this grammar; importing nbformat would then build it for more than a second.
# Notebooks need no format check that uses it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook
from traitlets.config import Config

from opskit import archive, record
from opskit.actions import digest
from opskit.environment import Environment, all_variables, variables
from opskit.journal import Journal
from opskit.outcome import Outcome, classify
from opskit.plan import Approval, Plan
from opskit.redaction import Redactor, each
from opskit.spelling import sound

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
    folder = record.prepare(outputs, about)
    record.write(folder / "environment.json", target.model_dump_json(indent=1))
    if approved:
        approved.plan.save(folder / "plan.json")
        approved.approval.save(folder / "approval.json")
    redactor = Redactor({f"{s} {access}": v for access, found in secrets.items() for s, v in found.items()})
    journal = Journal(folder / record.JOURNAL, redactor)
    journal.write("run.accepted", runner=os.getpid(), **{k: about[k] for k in ("run", "operator", "host")})
    with terminated_as_interrupt(), short_folder() as runtime:
        inherited = _variables(variables(target) | all_variables(root), folder, secrets)
        session = Session(folder, journal, redactor, inherited, root, runtime, progress)
        try:
            _papermill(root / "notebooks" / f"{about['runbook']}.ipynb", about["parameters"], session)
        except Exception as error:  # whatever it was: the record says so, and is sealed
            journal.write("failed", why=f"{type(error).__name__}: {_last_line(str(error))}")
    return folder, close(folder, journal)


def close(folder: Path, journal: Journal) -> Outcome:
    """Classify a run by its journal, say so there, and seal the record."""
    outcome = classify(journal.read(), archive.approved(folder))
    journal.write("run.ended", outcome=outcome, exit=outcome.exit)
    _put_verdict_first(folder)
    record.seal(folder)
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


class OpskitEngine(Engine):  # type: ignore[misc]  # papermill has no types
    """Executes a notebook with nbclient, and keeps journal and notebook on disk true after every cell."""

    @classmethod
    def execute_notebook(cls, nb: NotebookNode, kernel_name: str, *_: Any, session: Session, **__: Any) -> NotebookNode:
        nb.metadata.pop("papermill", None)  # it would claim that every cell was completed, whatever happens
        for cell in nb.cells:
            cell.metadata.pop("papermill", None)
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
    stopped: list[int] = []  # signals that ended it

    def interruptible(notebook: NotebookNode) -> None:
        """Let a signal end the notebook first: nbclient would take the kernel away under its own feet."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(sign: int) -> None:
            stopped.append(sign)
            if task:
                task.cancel()

        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, stop, sign)

    def started(cell: NotebookNode, cell_index: int) -> None:
        session.progress(cell.id, cell_index + 1, total)
        session.journal.write("cell.started", cell=cell.id, source=digest(cell.source))

    def executed(cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        session.journal.write("cell.ended", cell=cell.id, status=execute_reply["content"]["status"])
        save(nb, session)

    client = NotebookClient(
        nb,
        timeout=None,
        kernel_name=kernel_name,
        extra_arguments=["--HistoryManager.enabled=False"],  # or every cell would be remembered outside the record
        on_notebook_start=interruptible,
        on_cell_execute=started,
        on_cell_executed=executed,
        config=Config(KernelManager={"transport": "ipc", "connection_file": str(session.runtime / "k.json")}),
    )
    try:
        # Output of a cell's child processes also goes to the kernel's own streams, raw: nobody must see those.
        client.execute(
            env=session.variables, cwd=str(session.root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except CellExecutionError as error:
        kind = "refused" if error.ename == "Refused" else "failed"
        session.journal.write(kind, why=f"{error.ename}: {_last_line(error.evalue)}")
    except CellTimeoutError as error:
        session.journal.write("failed", why=str(error).split("\n", 1)[0])
    except (DeadKernelError, asyncio.CancelledError):
        if stopped:
            session.journal.write("interrupted")
        else:
            session.journal.write("failed", why="the kernel died")
    except KeyboardInterrupt:
        session.journal.write("interrupted")
        client._cleanup_kernel()


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def save(nb: NotebookNode, session: Session) -> None:
    """Write the executed notebook, redacted once more: pieces that were sent apart stand together now."""
    copy = joined(nb)
    for cell in copy["cells"]:
        across_outputs(cell.get("outputs", []), session.redactor)
    clean = nbformat.from_dict(each(copy, lambda text: session.redactor.text(sound(text))))
    record.write(session.folder / record.NOTEBOOK, nbformat.writes(clean))


def joined(nb: NotebookNode) -> Any:
    """The notebook with neighbouring pieces of one stream put together, so that no secret hides in the seam."""
    copy = json.loads(json.dumps(nb))
    for cell in copy["cells"]:
        outputs: list[dict[str, Any]] = []
        for output in cell.get("outputs", []):
            last = outputs[-1] if outputs else {}
            if output["output_type"] == "stream" and last.get("name") == output["name"]:
                last["text"] += output["text"]
            else:
                outputs.append(output)
        if "outputs" in cell:
            cell["outputs"] = outputs
    return copy


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
def terminated_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: the run ends as `interrupted`, with its record sealed and its kernel gone."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A private folder with a short path, gone afterwards: the kernel's sockets lie in it, and names are limited."""
    folder = Path(tempfile.mkdtemp(prefix="opskit-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
