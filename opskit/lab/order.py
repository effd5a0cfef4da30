"""What a reader must know of cells that a person ran: their order, and state that no cell shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from opskit.actions import digest
from opskit.journal import Event, session


def source_digest(source: str) -> str:
    return digest(source.strip())


def notes(cells: Sequence[Any], events: Sequence[Event]) -> list[str]:
    """A line for each way in which running the notebook from top to bottom may not show the same again."""
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    ran = {event["count"]: event for event in _started(session(events))}
    counts = {cell.id: cell.execution_count for cell in code if cell.execution_count}
    known = {key: n for key, n in counts.items() if not ran or (n in ran and ran[n]["cell"] in ("", key))}
    sources = {cell.id: source_digest(cell.source) for cell in code}
    silent = {cell.id for cell in code if not cell.outputs}  # others were still running when this was saved
    unnumbered = _run_at_all([cell for cell in code if cell.id not in counts], sources, _started(events))
    again = Counter(event["cell"] for event in ran.values() if event["cell"])
    found = {
        "run out of order": _out_of_order(known),
        "run more than once, and the last time is shown": [key for key, n in again.items() if n > 1],
        "changed after it was run": [k for k, n in known.items() if n in ran and ran[n]["source"] != sources[k]],
        "run, and not in the notebook now": [key for key in again if key not in {cell.id for cell in cells}],
        "shows what an earlier session said": [key for key in counts if key not in known],
        "run outside the notebook, or shown by no cell now": [
            f"In[{n}]"
            for n, event in ran.items()
            if not event["cell"] and n not in counts.values() and event["source"] not in sources.values()
        ],
        "run, and what it said is not here": [key for key in unnumbered if key in silent],
        "not run": [cell.id for cell in code if cell.id not in counts and cell.id not in unnumbered],
    }
    return [f"{what}: {', '.join(f'`{one}`' for one in which)}" for what, which in found.items() if which]


def _started(events: Sequence[Event]) -> list[Event]:
    """What kernels executed; each gave it a number."""
    return [event for event in events if event["event"] == "cell.started" and isinstance(event.get("count"), int)]


def _run_at_all(cells: Sequence[Any], sources: dict[str, str], started: Sequence[Event]) -> list[str]:
    """Those of some cells that were run at some time; of what ran before `begin` only the source is known."""
    known = {event["cell"] for event in started}
    unnamed = {event["source"] for event in started if not event["cell"]}
    return [cell.id for cell in cells if cell.id in known or sources[cell.id] in unnamed]


def _out_of_order(counts: dict[str, int]) -> list[str]:
    """The cells, from the top, that were run before one above them."""

    def late() -> Iterator[str]:
        highest = 0
        for key, count in counts.items():
            if count < highest:
                yield key
            highest = max(highest, count)

    return list(late())
