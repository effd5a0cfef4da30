"""`python -m benchmarks`: one table, measured here and now."""

from __future__ import annotations

import json
import sys
import time

import click
from rich.console import Console
from rich.table import Table

from benchmarks import crowd, lost, overhead, preflight, resend
from benchmarks.measuring import Row, Skipped, machine
from benchmarks.stage import private_place

BENCHMARKS = {module.NAME: module for module in (overhead, resend, crowd, lost, preflight)}


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="How often each rival runs.")
@click.option("--only", type=click.Choice(list(BENCHMARKS)), help="Just one of the benchmarks.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def main(rounds: int, only: str | None, as_json: bool) -> None:
    """Measure opskit beside what people would use instead. Exit code 1 where something grew above its limit."""
    facts, rows, skipped = machine(), [], {}
    for name in [only] if only else BENCHMARKS:
        click.echo(f"{time.strftime('%H:%M:%S')} {name}", err=True)
        try:
            with private_place() as place:
                rows += BENCHMARKS[name].measure(place, rounds)
        except Skipped as error:
            skipped[name] = str(error)
    if as_json:
        found = {"machine": facts, "rounds": rounds, "rows": [r.data(rows) for r in rows], "skipped": skipped}
        click.echo(json.dumps(found, indent=1))
    else:
        _print(facts, rows, skipped)
    sys.exit(not all(row.kept for row in rows))


def _print(facts: dict[str, str], rows: list[Row], skipped: dict[str, str]) -> None:
    console = Console(highlight=False, soft_wrap=True, width=140)  # whole numbers, whatever reads them
    console.print("\n".join(f"{key:<20} {value}" for key, value in facts.items()) + "\n", markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("benchmark", "what", "median", "min", "max", "unit", "against", "limit"):
        table.add_column(heading, justify="right" if heading in ("median", "min", "max") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, rows))
    console.print(table)
    console.print(
        "\n" + "\n".join(f"{row.benchmark}, {row.what}: {row.note}" for row in rows if row.note), markup=False
    )
    for name, why in skipped.items():
        console.print(f"{name}: skipped. {why}", markup=False)


def _cells(row: Row, rows: list[Row]) -> list[str]:
    ratio = row.ratio(rows)
    against = f"{ratio:.2f} x {row.rival}" if ratio else ""
    limit = "" if row.limit is None else f"{'below' if row.kept else 'ABOVE'} {row.limit:g}"
    numbers = [f"{number:.2f}" for number in (row.median, min(row.values), max(row.values))]
    return [row.benchmark, row.what, *numbers, row.unit, against, limit]


main()
