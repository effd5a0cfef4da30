"""Reading records: history, show, verify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from rich.table import Table

from opskit import archive as records
from opskit import commits, journal, plan, record
from opskit.commands.answering import Reply, allowed, archive, outputs, verb
from opskit.errors import Refused
from opskit.lock import is_attended
from opskit.outcome import Exit


@click.command()
@click.option("--incident", help="Only this incident's runs.")
@verb
def history(incident: str | None) -> Reply:
    """Every run, newest first: what it found and how it ended."""
    found = [s for s in archive().summaries() if incident in (None, s["incident"])]
    table = Table(box=None, header_style="bold")
    for column in ("run", "outcome", "causes", "done", "incident"):
        table.add_column(column, no_wrap=column == "run", overflow="fold")
    for s in found:
        done = f"{s['done']}/{s['actions']}" if s["actions"] else ""
        table.add_row(s["run"], s["outcome"], ", ".join(s["causes"]), done, s["incident"])
    return Reply(found, "" if found else "No runs yet.", table=table if found else None)


@click.command()
@click.argument("run", metavar="RUN")
@verb
def show(run: str) -> Reply:
    """One run: its head, its checks, its actions, and where its record is."""
    folder = archive().find(run)
    events = list(journal.read(folder / record.JOURNAL))
    answers = [e for e in events if e["event"] == "check"]
    results = [e for e in events if e["event"] == "action.ended"]
    found = {**records.about(folder), **records.summary(folder), "checks": answers, "results": results}
    lines = [
        f"{key:<12} {found[key]}"
        for key in ("run", "incident", "runbook", "environment", "operator", "started", "outcome")
    ]
    lines += [f"{'causes':<12} {', '.join(found['causes'])}", ""]
    lines += [f"{e['answer']:<8} {e['question']}  {e['because']}" for e in answers if e["required"]]
    titles = {a.id: a.title for a in plan.load(folder / "plan.json")} if (folder / "plan.json").exists() else {}
    begun = {e["action"]: "fate unknown" for e in events if e["event"] == "action.begun"}
    ended = (
        begun
        | {e["action"]: e["result"] for e in results}
        | {e["action"]: "taken back" for e in events if e["event"] == "undo.ended" and e["result"] == "done"}
    )
    lines += [""] + [f"{ended.get(key, 'planned'):<18} {title}" for key, title in titles.items()]
    lines += ["", f"Record: {folder}"]
    return Reply(found, "\n".join(lines))


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path, exists=True))
@verb
def verify(path: Path | None) -> Reply:
    """Prove that records are as they were sealed; name whatever is not, and whatever cannot be proven."""
    place = path.absolute() if path else outputs()
    single = (place / "run.json").exists() or (place / record.MANIFEST).exists()
    folders = [place] if single else records.Archive(place).runs()
    sealed = {folder: record.verify(folder, allowed()) for folder in folders if (folder / record.MANIFEST).exists()}
    wrong = [f"{folder}: {line}" for folder, found in sealed.items() for line in found.wrong]
    doubts = [f"{n} records: {line}" for line, n in Counter(d for f in sealed.values() for d in f.unproven).items()]
    purged = sum(len(found.purged) for found in sealed.values())
    if single or not commits.head(place):
        doubts.append("whether records were added or removed: this is not an archive with a history")
    else:
        wrong += _beside_history(place, sealed)
        doubts += commits.unproven(place)
    good = sum(not found.wrong for found in sealed.values())
    lines = [*wrong, f"{good} of {len(sealed)} records are as they were sealed."]
    lines += [f"{purged} private files were purged by policy."] if purged else []
    if left := len(folders) - len(sealed):
        lines += [
            f"{left} runs were never sealed, so nothing can be said of them: by hand, by plain papermill, or lost."
        ]
    lines += ["Not proven:", *(f"  {line}" for line in doubts)] if doubts else []
    data = {"wrong": wrong, "verified": good, "unsealed": left, "purged": purged, "unproven": doubts}
    return Reply(data, "\n".join(lines), Exit(bool(wrong) or (path is not None and not sealed)))


def _beside_history(place: Path, sealed: Mapping[Path, record.Finding]) -> Iterator[str]:
    """What differs between the records on disk and those in the archive's history."""
    yield from commits.trouble(place)
    known = set(commits.records(place))
    for folder in sealed:
        name = folder.relative_to(place).as_posix()
        if name not in known:
            yield f"{folder}: added: it is not in the archive's history; `opskit seal {folder.name}` puts it there"
        for file in (record.MANIFEST, record.SIGNATURE):
            if name in known and commits.committed(place, f"{name}/{file}") != _content(folder / file):
                yield f"{folder}: altered: {file} is not the one in the archive's history"
    for name in sorted(known - {folder.relative_to(place).as_posix() for folder in sealed}):
        yield f"{place / name}: removed: it is in the archive's history"


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@click.command()
@click.argument("run", metavar="RUN")
@verb
def seal(run: str) -> Reply:
    """Close a run that nobody closed: one whose process died, or that was not yet put into the archive's history."""
    folder = archive().find(run)
    if is_attended(folder):
        raise Refused(f"{folder.name} is still under way.", "Wait until it ended, or shut its kernel down.")
    outcome = records.finish(folder)
    records.seal(folder)
    return Reply({"run": folder.name, "outcome": outcome}, f"Sealed as: {outcome}\nRecord: {folder}")


@click.command()
@verb
def purge() -> Reply:
    """Remove what is private in sealed records (before-images, messages) once its retention is over."""
    gone = {folder.name: found for folder in archive().runs() if (found := record.purge(folder))}
    text = f"{sum(map(len, gone.values()))} private files of {len(gone)} records were removed."
    return Reply(gone, text)
