"""What lint says: one thing that is wrong, exactly where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """`line` counts in the cell, from 1; of a page that has no cells, in the file."""

    page: str
    cell: str
    line: int
    rule: str
    wrong: str
    remedy: str = ""

    @property
    def place(self) -> str:
        return ":".join(part for part in (self.page, self.cell, str(self.line)) if part)
