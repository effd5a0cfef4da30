"""The command line. `opskit --help` lists the verbs; each module in `commands` holds one group of them."""

from __future__ import annotations

import click

from opskit import __version__
from opskit.commands import catalogue, doctor, lab, linting, new, records, reports, runs, sandbox
from opskit.commands.answering import Verbs


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="opskit")
def main() -> None:
    """Runbooks that run: look, plan, approve, apply, and keep the evidence.

    RUN is a run's id, an unambiguous prefix of one, or `last`.

    \b
    Exit codes: 0 healthy, or done and verified    1 error            2 bad input
                3 a plan awaits approval           4 refused          5 partly applied, or fate unknown
                6 no plan can help: unknown, or only people can
    """


for command in (
    catalogue.list_runbooks,
    catalogue.describe,
    runs.run,
    runs.show_plan,
    runs.approve,
    runs.apply,
    runs.resume,
    runs.undo,
    records.history,
    records.show,
    reports.report,
    reports.export,
    records.verify,
    records.seal,
    records.purge,
    lab.lab,
    new.new,
    linting.lint,
    doctor.doctor,
    sandbox.sandbox,
    sandbox.drill,
    sandbox.demo,
):
    main.add_command(command)
