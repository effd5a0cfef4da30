"""What a reader must know of cells that a person ran: their order, and state that no cell shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from opskit.actions import digest
from opskit.journal import Event


def source_digest(source: str) -> str:
    return digest(source.strip())


def notes(cells: Sequence[Any], events: Sequence[Event]) -> list[str]:
    """A line for each way in which running the notebook from top to bottom may not show the same again."""
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    ran = _last_session(events)
    counts = {cell.id: cell.execution_count for cell in code if cell.execution_count}
    known = {key: n for key, n in counts.items() if not ran or (n in ran and ran[n]["cell"] in ("", key))}
    sources = {cell.id: source_digest(cell.source) for cell in code}
    again = Counter(event["cell"] for event in ran.values() if event["cell"])
    found = {
        "run out of order": _out_of_order(known),
        "run more than once, and the last time is shown": [key for key, n in again.items() if n > 1],
        "changed after it was run": [k for k, n in known.items() if n in ran and ran[n]["source"] != sources[k]],
        "run, and no longer in the notebook": [key for key in again if key not in {cell.id for cell in cells}],
        "shows what an earlier session said": [key for key in counts if key not in known],
        "not run": [cell.id for cell in code if cell.id not in counts],
    }
    return [f"{what}: {', '.join(f'`{one}`' for one in which)}" for what, which in found.items() if which]


def _last_session(events: Sequence[Event]) -> dict[int, Event]:
    """What the last kernel executed, by the number that it gave each cell."""
    begun = max((at for at, event in enumerate(events) if event["event"] == "run.begun"), default=0)
    return {e["count"]: e for e in events[begun:] if e["event"] == "cell.started" and isinstance(e.get("count"), int)}


def _out_of_order(counts: dict[str, int]) -> list[str]:
    """The cells, from the top, that were run before one above them."""

    def late() -> Iterator[str]:
        highest = 0
        for key, count in counts.items():
            if count < highest:
                yield key
            highest = max(highest, count)

    return list(late())
