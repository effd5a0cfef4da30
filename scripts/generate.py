"""Rewrites the generated regions of README.md from the code, so that neither can say something the other does not.

    python scripts/generate.py            # rewrite
    python scripts/generate.py --check    # fail where a region is stale

A region stands between `<!-- generated: NAME -->` and `<!-- end -->`; each function below in REGIONS writes one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click

from opskit import rights, runbooks
from opskit.cli import main as opskit
from opskit.outcome import EXITS, Exit
from opskit.priorities import RESPONSE, span

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
REGION = re.compile(r"(?P<head><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<tail><!-- end -->)", re.DOTALL)

# What the team wants runbooks for. One whose notebook exists is told from the notebook, the others are told as missing.
WANTED = {
    "autosave-incidents": ("Autosave incidents", "CRITICAL"),
    "ai-worker-failures": ("AI worker failures", "HIGH"),
    "stripe-webhook-replay": ("Stripe webhook replay", "HIGH"),
    "supabase-migration-procedures": ("Supabase migration procedures", "MEDIUM"),
}
EXAMPLES = {
    "CRITICAL": "data lost, service down",
    "HIGH": "a feature broken, payments or access wrong",
    "MEDIUM": "slow, or planned work",
    "LOW": "small bugs, cosmetics",
}
THEN = {
    Exit.OK: "nothing: all is well",
    Exit.ERROR: "read the message, and `opskit show last`",
    Exit.BAD_INPUT: "correct what the message names; nothing was started",
    Exit.PLANNED: "`opskit plan last`, then approve or leave it",
    Exit.REFUSED: "the message says why: not approved, expired, stale, or the wrong target",
    Exit.PARTLY: "`opskit show last`, then `opskit resume last` or `opskit undo last`",
    Exit.PEOPLE: "escalate: what stands in the record is for people to do or find out",
}


def catalogue() -> Iterator[str]:
    known = {book.name: book for book in runbooks.catalogue(ROOT)}
    rows = [
        (
            priority_order(book.priority),
            f"[{book.title}](notebooks/{book.name}.ipynb)",
            book.priority,
            book.facts.get("Respond within", ""),
            book.facts.get("Owner", ""),
            book.facts.get("Last updated", ""),
        )
        for book in known.values()
    ]
    rows += [
        (priority_order(priority), title, priority, span(RESPONSE[priority]), "", "not yet")
        for name, (title, priority) in WANTED.items()
        if name not in known
    ]
    heads = ("Runbook", "Priority", "Respond within", "Owner", "Last updated")
    yield from table(heads, [row[1:] for row in sorted(rows)])


def commands() -> Iterator[str]:
    yield from table(("Command", "Does"), [(f"`{line}`", text) for line, text in verbs(opskit, "opskit")])


def exits() -> Iterator[str]:
    outcomes = {code: [str(o) for o, e in EXITS.items() if e is code] or ["bad input"] for code in Exit}
    yield from table(("Exit code", "Outcome", "Then"), [(int(c), ", ".join(outcomes[c]), THEN[c]) for c in Exit])


def needed_rights() -> Iterator[str]:
    """By runbook, mode and service."""
    for book in runbooks.catalogue(ROOT):
        needed = sorted(rights.needed(book), key=lambda right: (right[0] != "plan", right[1]))
        rows = [
            (mode, service, "<br>".join(right for *_, right in found))
            for (mode, service), found in groupby(needed, key=lambda right: right[:2])
        ]
        yield f"**{book.title}**"
        yield ""
        yield from table(("To", "Service", "Least rights"), rows)
        yield ""


def priorities() -> Iterator[str]:
    rows = [(level, f"within {span(within)}", EXAMPLES[level]) for level, within in RESPONSE.items()]
    yield from table(("Level", "Respond", "For example"), rows)


REGIONS = {
    "catalogue": catalogue,
    "commands": commands,
    "exits": exits,
    "rights": needed_rights,
    "priorities": priorities,
}


def verbs(group: click.Group, said: str) -> Iterator[tuple[str, str]]:
    """Every command below a group, as it is typed, with the first paragraph of its help."""
    for name in group.commands:  # in the order in which the code lists them
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield f"{said} {name} …", first(command)
            yield from verbs(command, f"{said} {name}")
        elif not command.hidden:
            context = click.Context(command, info_name=name)
            arguments = [p.make_metavar(context) for p in command.params if isinstance(p, click.Argument)]
            yield " ".join([said, name, *arguments]), first(command)


def first(command: click.Command) -> str:
    """The first paragraph of its help."""
    return (command.help or "").split("\n\n", 1)[0].replace("\n", " ")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield line(heads)
    yield "|" + "---|" * len(heads)
    yield from map(line, rows)


def line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def priority_order(priority: str) -> int:
    return list(RESPONSE).index(priority)


def rewritten(text: str) -> str:
    """The text with every region as the code has it now. Raises KeyError for a region that nothing writes."""
    return REGION.sub(lambda m: m["head"] + "\n".join(REGIONS[m["name"]]()) + "\n" + m["tail"], text)


def main() -> None:
    before = README.read_text(encoding="utf-8")
    missing = set(REGIONS) - {m["name"] for m in REGION.finditer(before)}
    if missing:
        sys.exit(f"README.md has no region for {', '.join(sorted(missing))}.")
    after = rewritten(before)
    if "--check" in sys.argv[1:]:
        stale = [
            m["name"] for m, now in zip(REGION.finditer(before), REGION.finditer(after), strict=True) if m[0] != now[0]
        ]
        if stale:
            sys.exit(f"README.md is stale in {', '.join(stale)}. Run: python scripts/generate.py")
    elif after != before:
        README.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
