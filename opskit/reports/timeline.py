"""The course of an incident: what happened when, in words and as one chart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any

from opskit import display
from opskit.reports.incident import Incident, Record, at

MOST = 20  # single changes told in words, for each run
LANES = {"looked": "#33608c", "applied": "#5b8c5a", "resumed": "#d9a441", "took back": "#c8553d"}
STOPS = {"refused": "Refused", "failed": "Stopped", "interrupted": "Interrupted"}


@dataclass(frozen=True)
class Moment:
    """One line of the timeline."""

    at: datetime
    zone: tzinfo
    what: str
    who: str = ""
    number: int | None = None  # of the record that tells it

    @property
    def utc(self) -> str:
        return f"{self.at.astimezone(UTC):%H:%M:%S}"

    @property
    def local(self) -> str:
        there = self.at.astimezone(self.zone)
        return f"{there:%H:%M:%S}" if there.date() == self.at.astimezone(UTC).date() else f"{there:%H:%M:%S, %d %b}"

    @property
    def day(self) -> str:
        return f"{self.at.astimezone(UTC):%Y-%m-%d}"

    @property
    def offset(self) -> str:
        return self.at.astimezone(self.zone).isoformat()[-6:]


def moments(incident: Incident) -> list[Moment]:
    """Everything worth a line, in order."""
    first = incident.records[0].zone
    found = [moment for one in incident.records for moment in _of_run(one)]
    if incident.detected:
        found.append(Moment(incident.detected, first, "Detected"))
    if incident.respond_by:
        found.append(Moment(incident.respond_by, first, f"Respond by: the clock of a {incident.priority} incident"))
    for given in incident.approvals:
        when, zone = datetime.fromisoformat(given["at"]), incident.records[given["of"] - 1].zone
        what = f"Approved the plan of #{given['of']}: {_actions(given)}"
        if given.get("break_glass"):
            what += f", alone, by break-glass: {given['break_glass']}"
        found.append(Moment(when, zone, what, given["approver"], given["of"]))
        if signed := given["countersigned"]:
            later = datetime.fromisoformat(str(signed.get("at") or given["at"]))
            found.append(
                Moment(later, zone, f"Countersigned #{given['of']}", str(signed.get("approver", "")), given["of"])
            )
    return sorted(found, key=lambda moment: moment.at)


def _of_run(one: Record) -> Iterator[Moment]:
    began = {"looked": "Began to look", "applied": "Began to apply", "resumed": "Resumed", "took back": "Began to undo"}
    yield Moment(one.began, one.zone, f"{began[one.kind]}: `{one.head['runbook']}`", one.head["operator"], one.number)
    for event in one.events:
        if said := _said(one, event):
            yield Moment(at(event), one.zone, said, "", one.number)
    yield from _changes(one)
    word = "Ended" if one.told("run.ended") else "Nothing more was recorded"
    yield Moment(one.ended, one.zone, f"{word}: {one.found['outcome']}", "", one.number)


def _said(one: Record, event: dict[str, Any]) -> str:
    """What one event is worth telling. What an apply diagnoses once more has been told."""
    match event:
        case {"event": "check", "answer": "no", "cause": str(cause)} if one.looked:
            return f"Named the cause `{cause}`"
        case {"event": "plan", "actions": int(n)} if one.looked and n:
            return f"Proposed a plan of {_actions(event)}"
        case {"event": "finding", "problem": problem}:
            return f"Could not look: {problem}"
        case {"event": "refused" | "failed" | "interrupted" as kind}:
            return f"{STOPS[kind]}: {event['why']}" if event.get("why") else STOPS[kind]
    return ""


def _changes(one: Record) -> Iterator[Moment]:
    """The changes of a run: its first and its last, and each that did not go as planned."""
    titles = {action.id: action.title for action in one.plan}
    ended = [e for e in one.events if e["event"] in ("action.ended", "undo.ended") and e["action"] in titles]
    odd = [e for e in ended if e["result"] not in ("done", "already so")]
    told = ended[:1] + odd[:MOST]
    for event in {id(event): event for event in told}.values():
        word = event["result"].capitalize() if event["event"] == "action.ended" else f"Taking back, {event['result']}"
        why = f" ({event['why']})" if event.get("why") else ""
        yield Moment(at(event), one.zone, f"{word}: {titles[event['action']]}{why}", "", one.number)
    if len(ended) > 1:
        counts = ", ".join(f"{n} {word}" for word, n in Counter(e["result"] for e in ended).items())
        yield Moment(at(ended[-1]), one.zone, f"Last of {len(ended)} changes: {counts}", "", one.number)


def _actions(of: dict[str, Any]) -> str:
    removals = f", {of['removals']} of which take access away" if of.get("removals") else ""
    return f"{of['actions']} action{'s' * (of['actions'] != 1)}{removals}"


# The chart.


def chart(incident: Incident) -> str:
    """The same as SVG: one lane for each kind of run, and the clock above them."""
    times = {moment.at for moment in moments(incident)} | {one.ended for one in incident.records}
    place, pauses = _scale(sorted(times), incident.records)
    figure, axes = display.canvas(f"{incident.name}, UTC{'; pauses (//) are shortened' if pauses else ''}")
    kinds = {one.kind for one in incident.records} | ({"approved"} if incident.approvals else set())
    lanes: list[str] = [*filter(kinds.__contains__, ("took back", "resumed", "applied", "approved", "looked"))]
    lanes += ["clock"] * bool(incident.detected)
    figure.set_size_inches(8, 0.9 + 0.42 * len(lanes))
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(-0.6, len(lanes) - 0.4)
    for one in incident.records:
        _draw_run(axes, one, lanes.index(one.kind), place)
    for given in incident.approvals:
        axes.plot(place(datetime.fromisoformat(given["at"])), lanes.index("approved"), "D", color="#1c2128", ms=6)
    _draw_clock(axes, incident, len(lanes) - 1, place)
    for when, length in pauses:
        axes.text(place(when), -0.5, f"// {span(length)}", ha="center", va="bottom", fontsize=7, color="#5d6673")
    _label(axes, sorted(times), place)
    return display.svg(figure)


def _draw_run(axes: Any, one: Record, lane: int, place: Callable[[datetime], float]) -> None:
    left, right = place(one.began), place(one.ended)
    axes.barh(lane, max(right - left, 0.006), left=left, height=0.5, color=LANES[one.kind], alpha=0.8)
    axes.text(left - 0.004, lane, f"#{one.number}", ha="right", va="center", fontsize=8)
    ended = [e for e in one.events if e["event"] in ("action.ended", "undo.ended")]
    for result, color, low, high in (("good", "#14181d", -0.25, 0.25), ("odd", "#c8553d", -0.4, 0.4)):
        hits = {
            round(place(at(e)) * 300) / 300
            for e in ended
            if (e["result"] in ("done", "already so")) is (result == "good")
        }
        axes.vlines(sorted(hits), lane + low, lane + high, colors=color, linewidth=0.8 if result == "good" else 2)


def _draw_clock(axes: Any, incident: Incident, lane: int, place: Callable[[datetime], float]) -> None:
    for when, word, color, above in (
        (incident.detected, "detected", "#5d6673", 0.15),
        (incident.respond_by, "respond by", "#c8553d", -0.2),
    ):
        if when:
            x = place(when)
            axes.axvline(x, color=color, linewidth=1, linestyle="--")
            side, pad = ("left", 0.006) if x < 0.85 else ("right", -0.006)
            axes.text(x + pad, lane + above, word, ha=side, va="center", fontsize=8)


def _scale(
    times: list[datetime], runs: Sequence[Record]
) -> tuple[Callable[[datetime], float], list[tuple[datetime, timedelta]]]:
    """Where a moment stands, from 0 to 1, and the long pauses between runs, which take less room than time."""
    import numpy as np  # noqa: PLC0415  # comes with the chart

    gaps = [(early, late - early) for early, late in pairwise(times)]
    idle = [not any(one.began < early + much and early < one.ended for one in runs) for early, much in gaps]
    lengths, at_rest = np.array([much.total_seconds() for _, much in gaps]), np.array(idle, dtype=bool)
    most = max(float(lengths[~at_rest].sum()) / 4, 1.0)
    shown = np.where(at_rest, np.minimum(lengths, most), lengths)
    ends = np.concatenate([[0.0], np.cumsum(shown)])
    ends /= ends[-1] or 1.0
    seconds = [when.timestamp() for when in times]
    pauses = [gap for gap, rest in zip(gaps, idle, strict=True) if rest and gap[1].total_seconds() > most]
    return lambda when: float(np.interp(when.timestamp(), seconds, ends)), [(a + much / 2, much) for a, much in pauses]


def _label(axes: Any, times: list[datetime], place: Callable[[datetime], float]) -> None:
    """Real times under the axis, as many as fit beside each other."""
    form, ticks = "%H:%M:%S" if times[-1] - times[0] < timedelta(hours=20) else "%d %b\n%H:%M", list[datetime]()
    for when in times:
        if not ticks or place(when) - place(ticks[-1]) > 0.085:
            ticks.append(when)
    axes.set_xticks([place(when) for when in ticks], [f"{when.astimezone(UTC):{form}}" for when in ticks])
    axes.set_xlim(-0.05, 1.03)


def span(of: timedelta) -> str:
    """A length of time in its two largest units; what lies before, with a minus."""
    if of < timedelta():
        return f"-{span(-of)}"
    seconds = round(of.total_seconds())
    parts = [
        (seconds // 86400, "d"),
        (seconds % 86400 // 3600, "h"),
        (seconds % 3600 // 60, "min"),
        (seconds % 60, "s"),
    ]
    first = next((n for n, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number) or "0 s"
