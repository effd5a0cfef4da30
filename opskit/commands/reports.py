"""What outlives an incident: its postmortem, and pages of its records that anybody can open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from opskit import record
from opskit.commands.answering import Reply, allowed, archive, require_elsewhere, verb
from opskit.errors import BadInput
from opskit.reports import incident as incidents


@click.command()
@click.argument("incident", metavar="INCIDENT")
@verb
def report(incident: str) -> Reply:
    """Write the postmortem of an incident from all its records: notebook, Markdown and a page to read offline."""
    from opskit.reports import files as reports  # noqa: PLC0415  # brings the chart's and the page's libraries

    name = archive().find("last").parent.name if incident == "last" else incident
    found = incidents.read(archive(), name, allowed())
    for place in (found.folder / "pages", found.folder / "report"):
        if place.is_symlink():
            raise BadInput(f"{place} is a link, and what is written there would end up elsewhere.", "Remove it.")
    pages = [_export(one, _beside(one.folder)) for one in found.records]
    written = reports.write(found)
    facts = {
        "incident": found.name,
        "rehearsal": found.rehearsal,
        "records": [
            {"run": o.name, "outcome": o.found["outcome"], "digest": o.digest, "seal": o.seal} for o in found.records
        ],
        "detected": found.detected,
        "priority": found.priority,
        "respond_by": found.respond_by,
        "responded": found.records[0].began,
        "verified": found.verified,
        "causes": [cause["cause"] for cause in found.causes],
        "fates": {fate.action.id: fate.word for fate in found.fates},
        "prevention": {check["name"]: check["answer"] for check in found.prevention},
    }
    paths = {kind: str(getattr(written, kind)) for kind in ("notebook", "markdown", "page", "chart")}
    lines = [f"Left as somebody has edited it: {path}" for path in written.kept]
    lines += [f"{kind.capitalize():<9} {path}" for kind, path in paths.items()]
    lines += [f"Pages     {len(pages)}, one for each record, in {found.folder / 'pages'}"]
    data = {
        **facts,
        "paths": paths,
        "pages": [str(path) for path in pages],
        "kept": [str(path) for path in written.kept],
    }
    return Reply(data, "\n".join(lines))


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="Where to; by default, beside the record.")
@verb
def export(run: str, to: Path | None) -> Reply:
    """Write a record as one HTML page that needs no network. Its private part stays behind."""
    folder = archive().find(run)
    if to:
        require_elsewhere(to)
    path = _export(incidents.of(folder, allowed()), to or _beside(folder))
    data: dict[str, Any] = {"run": folder.name, "page": str(path)}
    return Reply(data, f"Page: {path}")


def _beside(folder: Path) -> Path:
    return folder.parent / "pages" / f"{folder.name}.html"


def _export(one: incidents.Record, path: Path) -> Path:
    from opskit.reports import export as pages  # noqa: PLC0415  # brings nbconvert, half a second

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        record.write(path, pages.of(one))
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}.") from None
    return path
