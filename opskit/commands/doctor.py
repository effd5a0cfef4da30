"""Would everything work there tonight?"""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from opskit import doctor as examination
from opskit import environment
from opskit.commands.answering import Reply, allowed, root, verb
from opskit.outcome import Exit


@click.command()
@click.option("--environment", "target", default="sandbox", show_default=True, help="Which environment to look at.")
@verb
def doctor(target: str) -> Reply:
    """Reachability, rights, pins and clock of an environment, before the night it matters. Touches nothing."""
    found = list(examination.examine(environment.load(target, root()), allowed()))
    table = Table(box=None, show_header=False)
    for finding in found:
        mark = {True: "✓", False: "✗", None: "?"}[finding.good]
        table.add_row(mark, finding.what, finding.said)
    bad = [finding for finding in found if finding.good is False]
    text = f"{len(bad)} of {len(found)} would fail tonight." if bad else "Everything would work tonight."
    return Reply([asdict(finding) for finding in found], text, Exit(bool(bad)), table)
