"""Make a record of a notebook that a person ran in JupyterLab, or plain papermill did.

The kernel kept journal, plan and evidence; what is missing is the executed notebook, the outcome and the seal. A
notebook that was edited on the way is a valid record: what differs from the committed runbook stands beside it, and in
which order its cells were run, where that was another than they stand in.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat

from opskit import archive, environment, plan, record, runner
from opskit.checks import Answer, Check, causes
from opskit.errors import BadInput, Refused
from opskit.journal import Event, Journal, read, session
from opskit.lab import copies, order
from opskit.lock import is_attended
from opskit.outcome import Outcome, classify
from opskit.redaction import redactor
from opskit.runbooks import without_pictures

RUN = re.compile(r"\brun (\d{8}T\d{9}-[0-9a-f]{4})\b")  # as `begin` says it
EDITS = "edits.diff"
PLAN, ASIDE = "plan.json", "earlier-plan.json"


def adopt(notebook: Path, outputs: Path, root: Path) -> tuple[Path, Outcome]:
    """Seal the run that this executed notebook is of. Raises BadInput where it is of none, Refused where it goes on."""
    nb = _read(notebook)
    return _keep(nb, archive.Archive(outputs).find(_run(nb, notebook)), root)


def conclude(folder: Path, outputs: Path, root: Path) -> tuple[Path, Outcome]:
    """Seal an investigation with its working copy, as it was saved. Raises as `adopt`."""
    place, copy = copies.copy_of(folder, outputs), copies.lying(folder, outputs)
    if place is None:
        raise BadInput(f"{folder.name} is no investigation of `opskit lab`.")
    if copy is None:
        raise Refused(
            f"{place} is gone.", f"Put it back; or close the investigation without: opskit seal {folder.name}"
        )
    kept = _keep(_read(copy), folder, root)
    copy.rename(place)  # a renamed one goes as the others do
    return kept


def _keep(nb: Any, folder: Path, root: Path) -> tuple[Path, Outcome]:
    if (folder / record.MANIFEST).exists():
        raise Refused(f"{folder.name} is sealed already.")
    if is_attended(folder):
        raise Refused(f"{folder.name} is still under way.", "Save the notebook, shut its kernel down, and repeat this.")
    about = archive.about(folder)
    if any(event["event"] == "run.accepted" for event in read(folder / record.JOURNAL)):
        raise Refused(f"{folder.name} was not run by hand.", f"Next: opskit seal {folder.name}")
    target = environment.load(about["environment"], root)
    known = redactor({"read": environment.resolve(target, "read")}, environment.standing(target))
    journal = Journal(folder / record.JOURNAL, known)
    _forget_what_is_no_evidence(nb)
    clean = runner.cleaned(nb, known)
    record.write(folder / record.NOTEBOOK, nbformat.writes(clean))
    record.write(folder / "environment.json", target.model_dump_json(indent=1))
    if edits := edited(clean, committed(about["runbook"], root)):
        record.write(folder / EDITS, "".join(line for lines in edits.values() for line in lines))
        journal.write("edited", cells=list(edits))
    events = journal.read()
    outcome, no_plan = _ended(folder, session(events))
    if no_plan:
        journal.write("plan.aside", why=no_plan[0])
    if disorder := [*no_plan, *order.notes(clean.cells, events)]:
        journal.write("disorder", notes=disorder)
    runner.close(folder, journal, outcome)
    archive.seal(folder)
    return folder, outcome


def _ended(folder: Path, events: list[Event]) -> tuple[Outcome, list[str]]:
    """How the last session ended, and why nobody is to approve a plan of it, if nobody is.

    Only a plan that rests on what was seen last counts; any other is set aside.
    """
    path = folder / PLAN
    made = next((event for event in reversed(events) if event["event"] == "plan"), None)
    if made and _is_current(made, path, events):
        return classify(events, archive.approved(folder)), []
    why = "what was seen, or planned, changed after `run.apply()`" if made else "`run.apply()` was not run"
    aside = f"; an earlier plan is set aside, in `{ASIDE}`" * path.exists()
    if aside:
        path.rename(folder / ASIDE)
    begun = any(event["event"] == "run.begun" for event in events)
    return Outcome.UNKNOWN, [f"no plan to approve: {why}{aside}"] * bool(begun or aside)


def _is_current(made: Event, path: Path, events: list[Event]) -> bool:
    """Whether the plan that lies there is the one that was made last, and the checks still name its causes."""
    asked = (
        Check(e["name"], Answer(e["answer"]), e["question"], e.get("cause"), required=e["required"])
        for e in archive.answers(events)
    )
    with suppress(BadInput):  # there is none, or half of one
        return plan.load(path).digest == made["digest"] and {*causes(asked)} == {*made["causes"]}
    return False


def _read(notebook: Path) -> Any:
    try:
        return nbformat.read(notebook, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise BadInput(f"{notebook}: is not a notebook: {str(error).splitlines()[0]}.") from None


def _run(nb: Any, notebook: Path) -> str:
    """The run that a notebook's own `begin` named, or that it was made for."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if found := RUN.search(json.dumps(output)):
                return found[1]
    if made_for := nb.metadata.get("opskit", {}).get("run"):
        return str(made_for)
    raise BadInput(f"{notebook}: no run was begun in it.", "Save the notebook after running its `begin` cell.")


def _forget_what_is_no_evidence(nb: Any) -> None:
    """Pictures of how it is done; and papermill's note that every cell was completed, also of those that never ran."""
    for part in (nb, *nb.cells):
        part.metadata.pop("papermill", None)
    for cell in nb.cells:
        cell.source = without_pictures(cell.source) if cell.cell_type == "markdown" else cell.source


def committed(runbook: str, root: Path) -> Any:
    """The runbook as git has it; as it lies there, outside git."""
    path = Path("notebooks", f"{runbook}.ipynb")
    found = subprocess.run(["git", "show", f"HEAD:./{path}"], cwd=root, capture_output=True, check=False)
    text = found.stdout.decode() if found.returncode == 0 else (root / path).read_text(encoding="utf-8")
    return nbformat.reads(text, as_version=4)


def edited(nb: Any, original: Any) -> dict[str, list[str]]:
    """Cell id -> what differs from the runbook, as a diff; parameters that were filled in apart."""
    now, then = _sources(nb), _sources(original)
    return {
        key: list(difflib.unified_diff(then.get(key, []), now.get(key, []), f"runbook/{key}", f"executed/{key}", n=1))
        for key in dict.fromkeys([*then, *now])
        if then.get(key) != now.get(key)
    }


def _sources(nb: Any) -> dict[str, list[str]]:
    return {
        cell.id: [f"{line}\n" for line in without_pictures(cell.source).splitlines()]
        for cell in nb.cells
        if not _only_sets_values(cell) and (cell.id, cell.cell_type) != ("verdict", "markdown")
    }


def _only_sets_values(cell: Any) -> bool:
    """Whether it is a cell of parameters, and does nothing but give names plain values."""
    if cell.cell_type != "code" or not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
        return False
    try:
        for line in ast.parse(cell.source).body:
            match line:
                case ast.Assign(targets=[ast.Name()], value=value) | ast.AnnAssign(target=ast.Name(), value=value):
                    ast.literal_eval(value or ast.Constant(None))
                case ast.ImportFrom(module="typing" | "opskit.parameters", names=names) if not any(
                    name.asname for name in names
                ):
                    pass
                case _:
                    return False
    except (SyntaxError, ValueError):
        return False
    return True
