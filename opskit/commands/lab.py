"""JupyterLab, ready to investigate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from opskit import environment
from opskit.commands import answering
from opskit.commands.answering import Reply, outputs, root, verb
from opskit.commands.asking import accepted, asked
from opskit.lab import copies


@click.command()
@click.argument("runbook", required=False)
@click.option("-f", "files", multiple=True, type=click.Path(path_type=Path), help="A YAML file with parameters.")
@click.option("-p", "pairs", multiple=True, nargs=2, metavar="NAME VALUE", help="One parameter.")
@click.option("--incident", help="The incident this investigation belongs to.")
@click.option("--environment", "target", help="Where to look; see parameters/environments.")
@click.option("--port", default=8888, show_default=True, help="On this machine; the next free one, where it is taken.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open a browser.")
@verb
def lab(
    runbook: str | None,
    files: tuple[Path, ...],
    pairs: tuple[tuple[str, str], ...],
    incident: str,
    target: str,
    port: int,
    browser: bool,
) -> Reply:
    """JupyterLab, ready to investigate: on an index of the runbooks, or on a copy of one, its parameters filled in.

    Ctrl-C ends it. Go on tomorrow with `opskit lab`; close an investigation there, or with `opskit seal RUN`.
    """
    given = asked(files, pairs, incident, target)
    copy = investigate(runbook, given) if runbook else None
    if runbook is None and given:
        raise click.UsageError("Parameters are a runbook's: name one.")
    for run in copies.still_open(outputs()):
        if copy is None or run.name != copy.parent.name:
            answering.people.print(f"Still open: {run.name}, {run.parent.name}", markup=False)
    _serve(copy, port, browser)
    kept = copies.tidy(outputs())
    left = [run.name for run in copies.still_open(outputs())]
    lines = [f"Still open: {name}. Next: opskit lab, or opskit seal {name}" for name in left]
    lines += [f"Changed after its record was sealed, and therefore kept: {path}" for path in kept]
    return Reply({"open": left, "kept": kept}, "\n".join(lines))


def investigate(runbook: str, given: dict[str, Any]) -> Path:
    """Begin an investigation: a copy of a runbook, and a record. Raises BadInput as `opskit run` does."""
    checked, target, _ = accepted(runbook, given)
    return copies.make(runbook, root(), outputs(), checked, given, target)


def _serve(copy: Path | None, port: int, browser: bool) -> None:
    from opskit.lab.server import Lab, serve  # noqa: PLC0415  # brings JupyterLab, seconds that no other verb should cost
    from opskit.runner import short_folder  # noqa: PLC0415

    targets = environment.known(root())
    known = tuple(environment.standing(target) for target in targets)
    reading = {c.secret.env for target in targets for c in target.credentials("read").values()}
    changing = {c.secret.env for target in targets for c in target.credentials("change").values()} - reading
    with short_folder() as runtime:
        held = {name: os.environ.pop(name) for name in changing if name and name in os.environ}
        here = Lab(root(), outputs(), runtime, held, known, investigate)
        os.environ |= here.surroundings
        serve(here, copy, port, browser)
