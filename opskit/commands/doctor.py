"""Would everything work there tonight?"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import click
from rich.table import Table

from opskit import doctor as examination
from opskit import environment, runbooks
from opskit.commands.answering import Reply, allowed, root, verb
from opskit.outcome import Exit


@click.command()
@click.option("--environment", "target", default="sandbox", show_default=True, help="Which environment to look at.")
@verb
def doctor(target: str) -> Reply:
    """Reachability, rights, pins and clock of an environment, and which runbooks would fail there. Touches nothing."""
    from opskit.linting.tonight import tonight  # noqa: PLC0415  # the parsers are nobody else's business

    needs = partial(tonight, runbooks.catalogue(root()))
    found = list(examination.examine(environment.load(target, root()), allowed(), needs))
    table = Table(box=None, show_header=False)
    for finding in found:
        mark = {True: "✓", False: "✗", None: "?"}[finding.good]
        table.add_row(mark, finding.what, finding.said)
    bad = [finding for finding in found if finding.good is False]
    text = f"{len(bad)} of {len(found)} would fail tonight." if bad else "Everything would work tonight."
    if failing := sorted({finding.what for finding in bad if finding.what.startswith("runbook ")}):
        text += f" Of the runbooks: {', '.join(name.removeprefix('runbook ') for name in failing)}."
    return Reply([asdict(finding) for finding in found], text, Exit(bool(bad)), table)
