"""What a postmortem says. Its words and its order stand in `templates/postmortem.md.j2`; here is what they are fed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from opskit import record
from opskit.actions import Result
from opskit.reports import page, timeline
from opskit.reports.incident import TAKEN_BACK, UNTRIED, Fate, Incident, Record, load

HEAD = 50  # changes told one by one; the rest is counted


def render(incident: Incident, chart: str, link: str, alarms: Sequence[str] = ()) -> str:
    """The postmortem in Markdown. `link` is the way from its folder to what a run left, with {} for the run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    jinja = Environment(  # noqa: S701  # it makes Markdown, guarded by `plain`
        loader=FileSystemLoader(page.TEMPLATES), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    jinja.filters |= {"plain": page.plain, "utc": utc, "span": timeline.span, "differs": differs, "many": many}
    text = jinja.get_template("postmortem.md.j2").render(
        incident=incident,
        alarms=alarms,
        chart=chart,
        links={one.number: _link(link, one) for one in incident.records},
        timeline=timeline.moments(incident),
        impact=list(impact(incident.telling)),
        advice=list(advice(incident.telling)),
        drafts=drafts(incident),
        made=[fate for fate in incident.fates if fate.word == Result.DONE],
        back=[fate for fate in incident.fates if fate.word == TAKEN_BACK],
        left=[fate for fate in incident.fates if fate.word != Result.DONE],
        open=[fate for fate in incident.fates if fate.open],
        tried=[fate for fate in incident.fates if fate.open and fate.word not in UNTRIED],
        counts=counts,
        HEAD=HEAD,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def alarms(incident: Incident) -> Iterator[str]:
    """What a reader must know before anything else."""
    for given in incident.approvals:
        if given["break_glass"]:
            by = (given["countersigned"] or {}).get("approver", "somebody")
            after = f"Countersigned by {by}." if given["countersigned"] else "NOT COUNTERSIGNED YET."
            who, why = given["approver"], given["break_glass"].rstrip(".")
            yield f"Break-glass: {who} approved the plan of #{given['of']} alone: {why}. {after}"
    for one in incident.records:
        if not one.digest:
            outcome = one.found["outcome"]
            yield f"Record #{one.number} was never sealed (its run: {outcome}): nothing proves what it says."
        elif one.trouble:
            yield f"Record #{one.number} is not as it was sealed: {one.trouble}."
        if one.edited:
            yield f"Record #{one.number} was run by hand, and differs from its runbook in {one.edited}."
        yield from (f"Of record #{one.number}, run by hand: {note.replace('`', '')}." for note in one.disorder)


def _link(pattern: str, one: Record) -> str:
    """To a run's page or notebook; where it had no notebook, to its head."""
    exists = pattern.endswith(".html") or (one.folder / record.NOTEBOOK).exists()
    return (pattern if exists else "../{}/run.json").format(one.name)


def impact(telling: Record) -> Iterator[str]:
    """The tables of the Impact section, as Markdown; of one that goes on in an evidence file, only where that is."""
    from bs4 import BeautifulSoup  # noqa: PLC0415  # nbconvert brings it; most commands do without

    for data in (output.get("data", {}) for cell in telling.section("Impact") for output in cell.get("outputs", [])):
        soup = BeautifulSoup(page.text(data.get("text/html")), "html.parser")
        title, note = soup.find("b"), soup.find("small")
        rows = [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in soup.find_all("tr")]
        told = f"**{page.plain(title.get_text())}**" if title else ""
        if note and "evidence/" in note.get_text():
            yield f"{told}: {page.plain(re.sub(r'the first [0-9]+ here, ', '', note.get_text()))}"
        elif rows:
            yield f"{told}\n\n{table(rows[0], rows[1:])}"
        elif title:
            yield page.plain(soup.get_text())


def advice(telling: Record) -> Iterator[str]:
    """What the Prevention section's prose asks for, in Markdown: the rows of its tables and the items of its lists."""
    for cell in telling.section("Prevention"):
        lines = page.text(cell["source"]).splitlines() if cell["cell_type"] == "markdown" else []
        rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines if line.startswith("|")]
        yield from (": ".join(filter(None, map(str.strip, row))) for row in rows[2:])
        yield from (line[2:].strip() for line in lines if re.match(r"[-*] ", line))


def drafts(incident: Incident) -> dict[tuple[str, str], list[int]]:
    """Name and digest of each drafted message, with the records that hold it."""
    found: dict[tuple[str, str], list[int]] = {}
    for one in incident.records:
        files = (load(one.folder / record.MANIFEST) or {}).get("files", {})
        for name in dict.fromkeys(event["name"] for event in one.told("draft")):
            found.setdefault((name, files.get(f"private/{name}.txt", "")), []).append(one.number)
    return found


def counts(fates: Sequence[Fate]) -> str:
    """How many of each kind, for a plan too long to read line by line."""
    counted = Counter((fate.action.name, fate.word) for fate in fates)
    return "; ".join(f"{number} `{name}` {word}" for (name, word), number in counted.items())


def differs(fate: Fate) -> str:
    """The values that a change has changed; nothing where it keeps no state."""
    before, after = dict(_leaves(fate.action.before)), dict(_leaves(fate.after))
    found = [(key, before[key], now) for key, now in after.items() if key in before and before[key] != now]
    told = [f"{key.rpartition('.')[2]}: {_short(was)} → {_short(now)}" for key, was, now in found[:2]]
    return "; ".join(told) + (f"; and {len(found) - 2} more" if len(found) > 2 else "")


def _leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(state, dict):
        for key, value in state.items():
            yield from _leaves(value, f"{path}.{key}")
    elif not isinstance(state, list):
        yield path, state


def _short(value: Any) -> str:
    text = "nothing" if value is None else re.sub(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d):.*", r"\1 \2", str(value))
    return text if len(text) <= 24 else f"{text[:23]}…"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [map(page.plain, head), ["---"] * len(head), *(map(page.plain, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def utc(when: datetime, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return f"{when.astimezone(UTC):{form}}"


def many(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)} {'was' if number == 1 else 'were'}"
