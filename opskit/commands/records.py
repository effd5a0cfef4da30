"""Reading records: history, show, verify."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from opskit import archive as records
from opskit import journal, plan, record
from opskit.commands.answering import Reply, archive, verb
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
    ended = {e["action"]: e["result"] for e in results} | {
        e["action"]: "taken back" for e in events if e["event"] == "undo.ended" and e["result"] == "done"
    }
    lines += [""] + [f"{ended.get(key, 'planned'):<18} {title}" for key, title in titles.items()]
    lines += ["", f"Record: {folder}"]
    return Reply(found, "\n".join(lines))


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path, exists=True))
@verb
def verify(path: Path | None) -> Reply:
    """Prove that records are as they were sealed; name whatever is not."""
    folders = (records.Archive(path).runs() or [path]) if path else archive().runs()
    sealed = [folder for folder in folders if (folder / record.MANIFEST).exists()]
    trouble = {str(folder): found for folder in sealed if (found := record.verify(folder))}
    lines = [f"{folder}: {line}" for folder, found in trouble.items() for line in found]
    lines += [f"{len(sealed) - len(trouble)} of {len(sealed)} records are as they were sealed. None is signed."]
    if left := len(folders) - len(sealed):
        lines += [
            f"{left} runs were never sealed, so nothing can be said of them: by hand, by plain papermill, or lost."
        ]
    data = {"altered": trouble, "verified": len(sealed), "unsealed": left}
    bad = bool(trouble) or (path is not None and not sealed)
    return Reply(data, "\n".join(lines), Exit(bad))
