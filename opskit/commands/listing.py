"""Lists that read well however narrow the terminal is: a table where it fits, else a few lines for each entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from opskit.commands import answering
from opskit.spelling import printable

ENDLESS = 10_000  # columns: how wide a table would like to be

Rows = Iterable[Sequence[str]]


def fitting(columns: Sequence[str], rows: Rows, narrow_columns: Sequence[str], narrow_rows: Rows) -> Table:
    """The table, or its narrow form where the terminal has no room for it: there, a line that is too long ends in …."""
    wide = _table(columns, rows)
    console = answering.people
    if console.measure(wide, options=console.options.update_width(ENDLESS)).maximum <= console.width:
        return wide
    return _table(narrow_columns, narrow_rows, no_wrap=True, overflow="ellipsis")


def _table(columns: Sequence[str], rows: Rows, **cut: Any) -> Table:
    """A table whose first column, which is what one copies, is always whole."""
    found = Table(box=None, header_style="bold")
    for number, column in enumerate(columns):
        found.add_column(column, no_wrap=not number, overflow="fold")
    for first, *others in rows:
        found.add_row(Text(printable(first)), *(Text(printable(cell), **cut) for cell in others))
    return found


def shortened(text: str, room: int) -> str:
    """`text` in one line, in as many characters as there is room for."""
    line = " ".join(text.split())
    return line if len(line) <= room else f"{line[: max(room, 1) - 1].rstrip()}…"
