"""Reading records: history, show, verify."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from opskit import approval, commits, journal, plan, record
from opskit import archive as records
from opskit.actions import Result
from opskit.commands import listing
from opskit.commands.answering import Reply, allowed_if_here, archive, outputs, root, verb
from opskit.commands.runs import ended, not_kept, to_finish
from opskit.errors import BadInput, Refused
from opskit.lab import copies
from opskit.lock import is_attended
from opskit.outcome import Exit, Outcome
from opskit.parameters import moment
from opskit.services import scratch

FOLLOWED = {"applies": "applied by", "resumes": "resumed by", "undoes": "taken back by"}
MOST = 2  # files that mention a text, before they are only counted


class When(click.ParamType[datetime]):
    """A moment: a time with its zone, or a span before now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return moment(value)
        except ValueError as error:
            self.fail(f"{value}: {error}")


@click.command()
@click.argument("text", required=False, default="")
@click.option("--incident", help="Only this incident's runs.")
@click.option("--runbook", help="Only this runbook's.")
@click.option("--environment", help="Only those against this environment.")
@click.option("--outcome", help="Only those that ended so, such as 'lost'.")
@click.option("--operator", help="Only this person's.")
@click.option("--since", type=When(), help="Only those begun since then, such as 7d.")
@click.option("--until", type=When(), help="Only those begun before then.")
@click.option("--rehearsals", is_flag=True, help="Also those of drills and the demo, beside others.")
@verb
def history(text: str, since: datetime | None, until: datetime | None, rehearsals: bool, **wanted: str | None) -> Reply:
    """Every run, newest first: what it found and how it ended. With TEXT: those whose record mentions it."""
    found = [
        run
        for run in archive().summaries(text, **wanted)
        if (since is None or datetime.fromisoformat(run["started"]) >= since)
        and (until is None or datetime.fromisoformat(run["started"]) < until)
    ]
    damaged = {f: why for f, why in archive().damaged().items() if wanted["incident"] in (None, f.parent.name)}
    shown = found if rehearsals or text or wanted["incident"] else _serious(found)
    lines = ([] if found else ["No such runs."]) + [f"DAMAGED: {folder}: {why}" for folder, why in damaged.items()]
    lines += ["`opskit verify` says what was changed."] if damaged else []
    lines += [
        f"Still open: {run.name}. Next: opskit lab, or opskit seal {run.name}" for run in copies.still_open(outputs())
    ]
    if left := len(found) - len(shown):
        lines += [f"{left} more, of drills and the demo: opskit history --rehearsals"]
    return Reply(found, "\n".join(lines), table=_table(shown) if shown else None)


def _serious(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that are no rehearsals; those, where there is nothing else."""
    return [run for run in found if not run["incident"].startswith(records.REHEARSALS)] or found


def _table(found: list[dict[str, Any]]) -> Table:
    """A line for each run, or a few where the terminal is narrow: how it ended and why, what of, and what followed."""
    rows, narrow, followers = [], [], archive().followers()
    for run in found:
        done = run["taken_back"] if "undoes" in run["follows"] else run["done"]
        share, causes = f"{done}/{run['actions']}" if run["actions"] else "", ", ".join(run["causes"])
        loud, linked, mentions = _loud(run), _linked(run, followers), _mentions(run)
        outcome = "; ".join([run["outcome"], *loud, *linked, *mentions])
        rows.append((run["run"], outcome, causes, share, run["incident"]))
        ended = "; ".join([f"{run['outcome']} {share}".strip(), *loud])
        said = [f"{ended}: {causes}" if causes not in ("", ended) else ended, run["incident"], "; ".join(linked)]
        narrow.append((run["run"], "\n".join(filter(None, [*said, "; ".join(mentions)]))))
    columns = ("run", "outcome", "causes", "done", "incident")
    return listing.fitting(columns, rows, ("run", "outcome, causes, incident"), narrow)


def _loud(run: dict[str, Any]) -> list[str]:
    """What a reader must not miss."""
    return ["BREAK GLASS"] * bool(run["break_glass"]) + ["not sealed"] * (not run["sealed"])


def _linked(run: dict[str, Any], followers: Mapping[str, list[tuple[str, str]]]) -> list[str]:
    """The runs that it follows, and those that follow it."""
    follows = [f"{how} …{other[-9:]}" for how, other in run["follows"].items()]
    followed = [f"{FOLLOWED[how]} …{other[-9:]}" for how, other in followers.get(run["run"], ())]
    return [*follows, *followed]


def _mentions(run: dict[str, Any]) -> list[str]:
    """The files that mention what was looked for."""
    more = [f"and {len(run['mentions']) - MOST} more files"] if len(run["mentions"]) > MOST else []
    return [f"in {name}" for name in run["mentions"][:MOST]] + more


@click.command()
@click.argument("run", metavar="RUN")
@verb
def show(run: str) -> Reply:
    """One run: its head, its checks, its actions, and where its record is."""
    folder = archive().find(run)
    events = list(journal.read(folder / record.JOURNAL))
    answers = records.answers(events)
    results = [e for e in events if e["event"] == "action.ended"]
    undone = {e["action"]: e for e in events if e["event"] == "undo.ended"}
    approved = records.approved(folder) is not None
    found = {
        **records.about(folder),
        **records.summary(folder),
        "checks": answers,
        "results": results,
        "undone": [*undone.values()],
    }
    lines = [
        f"{key:<12} {found[key]}"
        for key in ("run", "incident", "runbook", "environment", "operator", "started", "outcome")
    ]
    lines += [f"{'causes':<12} {', '.join(found['causes'])}"]
    lines += [f"{how:<12} {other}, of {_whose(found)}" for how, other in found["follows"].items()]
    lines += [f"{'BREAK GLASS':<12} {found['break_glass']}"] if found["break_glass"] else []
    lines += [f"{'sealed':<12} {'yes' if found['sealed'] else 'no'}, {'signed' if found['signed'] else 'unsigned'}", ""]
    lines += [f"{e['answer']:<8} {e['question']}  {e['because']}" for e in answers if e["required"]]
    titles = {a.id: a.title for a in plan.load(folder / "plan.json")} if (folder / "plan.json").exists() else {}
    begun = {e["action"]: "fate unknown" for e in events if e["event"] == "action.begun"}
    ended = begun | {e["action"]: e["result"] for e in results} | {key: _undone(e) for key, e in undone.items()}
    whys = {e["action"]: f" ({e['why']})" for e in [*results, *undone.values()] if e.get("why")}
    lines += [""] + [f"{ended.get(key, 'planned'):<20} {title}{whys.get(key, '')}" for key, title in titles.items()]
    lines += ["", *(f"why: {why}" for why in records.reasons(folder))]
    lines += [f"by hand: {note}" for note in records.disorder(folder)]
    lines += [f"not seen: {e['problem']}" for e in events if e["event"] == "finding"]
    lines += [f"Record: {folder}"]
    if found["outcome"] == Outcome.LOST:
        lines += [f"Its process died. Next: {to_finish(folder) if approved else f'opskit seal {folder.name}'}"]
    return Reply(found, "\n".join(lines))


def _undone(event: Mapping[str, Any]) -> str:
    """How an undo ended for one change."""
    back = event["result"] in (Result.DONE, Result.ALREADY)
    return "taken back" if back else f"not taken back, {event['result']}"


def _whose(found: dict[str, Any]) -> str:
    before = found.get("after") or {}
    return f"{before.get('operator', found['operator'])} on {before.get('host', found['host'])}"


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path, exists=True))
@verb
def verify(path: Path | None) -> Reply:
    """Prove that records are as they were sealed; name whatever is not, and whatever cannot be proven."""
    place, signers = path.absolute() if path else outputs(), allowed_if_here()
    single = any(os.path.lexists(place / name) for name in ("run.json", record.MANIFEST))
    folders = [place] if single else records.Archive(place).everything()
    sealed = {f: record.verify(f, signers) for f in folders if os.path.lexists(f / record.MANIFEST)}
    wrong = [f"{folder}: {line}" for folder, found in sealed.items() for line in found.wrong]
    damaged = {folder: why for folder in folders if (why := records.damage(folder))}
    wrong += [f"{folder}: damaged: {why}" for folder, why in damaged.items() if folder not in sealed]
    doubts = [f"{f}: it cannot be read ({why})" for f, why in damaged.items() if f in sealed and not sealed[f].wrong]
    doubts += [f"{n} records: {line}" for line, n in Counter(d for f in sealed.values() for d in f.unproven).items()]
    purged = sum(len(found.purged) for found in sealed.values())
    if single or not commits.head(place):
        doubts.append("whether records were added or removed: this is not an archive with a history")
        wrong += [] if single else commits.trouble(place)
    else:
        wrong += _beside_history(place, sealed)
        doubts += commits.unproven(place, signers)
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
    known = commits.files(place)
    recorded = {name.removesuffix(f"/{record.MANIFEST}") for name in known if name.endswith(f"/{record.MANIFEST}")}
    for folder in sealed:
        name = folder.relative_to(place).as_posix()
        if named := _misnamed(folder):
            yield f"{folder}: it is {named}, under another name"
        if name not in recorded:
            yield f"{folder}: added: it is not in the archive's history; `opskit seal {folder.name}` puts it there"
            continue
        for file in (record.MANIFEST, record.SIGNATURE):
            if known.get(f"{name}/{file}", "") != commits.digest(folder / file):
                yield f"{folder}: altered: {file} is not the one in the archive's history"
    for name in sorted(recorded - {folder.relative_to(place).as_posix() for folder in sealed}):
        yield f"{place / name}: removed: it is in the archive's history"
    here = {folder.name for folder in records.Archive(place).everything()}
    for note in sorted(place.glob("*/approvals/*.begun.json")):
        if (run := records.noted(note)) not in here:
            yield f"{note.parents[1] / run}: missing: it began to carry out the plan of {note.name.split('.')[0]}"
    approvals = {path.relative_to(place).as_posix() for path in place.glob("*/approvals/*.json")}
    for name in sorted(approvals | {name for name in known if "/approvals/" in name}):
        if known.get(name, "") != commits.digest(place / name):
            what = "added" if name not in known else "altered" if name in approvals else "removed"
            yield f"{place / name}: {what}: it is not as in the archive's history"


def _misnamed(folder: Path) -> str:
    """What a record says that it is, where that is not what its folder says."""
    try:
        head = record.manifest(folder) or {}
    except OSError:
        return ""
    own = f"{head.get('incident')}/{head.get('run')}"
    return own if head and own != f"{folder.parent.name}/{folder.name}" else ""


def _unkept(folder: Path) -> Iterator[Path]:
    """What was said of a run's plan and is not in the history; never what would replace something there."""
    word = approval.load(archive().approval(folder))
    places = [archive().approval(folder)] * bool(word and approval.is_signed(word)) + [archive().begun(folder)]
    yield from (place for place in places if place.exists() and not commits.knows(outputs(), place))


@click.command()
@click.argument("left", metavar="RUN|NOTEBOOK")
@verb
def seal(left: str) -> Reply:
    """Close what nobody closed: a run whose process died, or a notebook run by hand or by plain papermill."""
    if Path(left).suffix == ".ipynb":
        from opskit.adopt import adopt  # noqa: PLC0415  # brings papermill, a second that other verbs should not cost

        return ended(*adopt(Path(left), outputs(), root()))
    folder = archive().find(left)
    copy = None if (folder / record.MANIFEST).exists() else copies.copy_of(folder, outputs())
    if copy and copies.lying(folder, outputs()):
        from opskit.adopt import conclude  # noqa: PLC0415  # as above

        return ended(*conclude(folder, outputs(), root()))
    if records.summary(folder)["outcome"] == records.UNSEALED and not copy:
        raise BadInput(f"{folder.name} was run by hand.", "Give the notebook, as saved: opskit seal NOTEBOOK")
    if is_attended(folder):
        raise Refused(f"{folder.name} is still under way.", "Wait until it ended, or shut its kernel down.")
    if copy:
        journal.Journal(folder / record.JOURNAL).write("finding", problem=f"its notebook is gone: {copy.name}")
    outcome = records.finish(folder)
    why = records.seal(folder) or records.keep(f"{folder.name} approved", *_unkept(folder))
    text = f"Sealed as: {outcome}\nRecord: {folder}" + not_kept(why)
    return Reply({"run": folder.name, "outcome": outcome, "not_in_history": why}, text, Exit(bool(why)))


@click.command()
@verb
def purge() -> Reply:
    """Remove what is private in sealed records (before-images, messages) once its retention is over.

    The scratch database that rehearsals of migrations begin with goes too; the next one makes another.
    """
    kept = [folder for folder in archive().runs() if records.is_kept(folder)]  # or somebody may have dated it back
    gone = {folder.name: found for folder in kept if (found := record.purge(folder))}
    text = f"{sum(map(len, gone.values()))} private files of {len(gone)} records were removed."
    text += "\nThe scratch database of rehearsals was removed." if scratch.purge() else ""
    return Reply(gone, text)
