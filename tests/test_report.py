"""Postmortems and pages of records: what the records say, and nothing that they do not."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support import RUNBOOK, Opskit, data, sealed
from test_page import Page, harmless
from test_runs import SMALL, keep, look

from opskit import record
from opskit.actions import Action
from opskit.archive import Archive, countersignature
from opskit.plan import Plan
from opskit.reports.incident import read
from opskit.reports.timeline import span
from opskit.sandbox import Sandbox

START = datetime(2026, 11, 23, 3, 20, tzinfo=UTC)
IMPACT = (
    "<p><b>Who is hit</b></p><table><tr><th>effect</th><th>profiles</th></tr><tr><td>out</td><td>7</td></tr></table>"
)
PREVENTION = "## Prevention\n\n| do | where |\n|---|---|\n| keep every event | table `events` |\n\n- alert on silence\n"
JUDGING = re.compile(r"\b(fault|mistake|careless|blame|guilty|should have|failed to|human error)\b", re.IGNORECASE)
ENABLE = Action("stripe.enable_endpoint", {"endpoint": "we_1"}, {"status": "disabled"}, "Enable endpoint we_1")
MEND = Action(
    "profiles.reconcile", {"profile": "p"}, {"profile": {"tier": "free", "n": 1}}, "Profile p becomes hobbyist"
)


class Night:
    """Records of one incident, made by hand: an event a second, a run every ten minutes."""

    def __init__(self, outputs: Path, incident: str = "INC-7", detected: str | None = "2026-11-23T03:05:00+00:00"):
        self.outputs, self.incident, self.detected, self.runs = outputs, incident, detected, 0

    def run(self, *events: dict[str, Any], plan: list[Action] | None = None, seal: bool = True, **head: Any) -> Path:
        began = START + timedelta(minutes=10 * self.runs)
        self.runs += 1
        about = {
            "run": f"{began:%Y%m%dT%H%M%S}000-000{self.runs}",
            "incident": self.incident,
            "runbook": RUNBOOK,
            "environment": "production",
            "operator": "ana",
            "parameters": {"detected_at": self.detected},
            "started": began.isoformat(),
            "started_local": began.astimezone().isoformat(),
        }
        folder = record.prepare(self.outputs, about | head)
        told = [{"event": "run.accepted"}, *events]
        lines = [{"at": (began + timedelta(seconds=n)).isoformat(), **event} for n, event in enumerate(told)]
        (folder / record.JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
        if plan is not None:
            Plan({"environment": "production"}, plan).save(folder / "plan.json")
        cells = [markdown("## Impact"), shown(IMPACT), markdown(PREVENTION)]
        (folder / record.NOTEBOOK).write_text(
            json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
        )
        if seal:
            record.seal(folder, "ana")
        return folder

    def approve(self, looked: Path, applied: Path | None = None, **more: Any) -> None:
        given = {
            "plan": "sha256:0",
            "environment": "production",
            "actions": 2,
            "removals": 0,
            "approver": "ben",
            "at": (START + timedelta(minutes=5)).isoformat(),
            "expires": (START + timedelta(minutes=65)).isoformat(),
        } | more
        for path in filter(
            None, (looked.parent / "approvals" / f"{looked.name}.json", applied and applied / "approval.json")
        ):
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(given))

    def whole(self) -> None:
        """Looked, approved, applied, looked again: all well."""
        looked = self.run(
            check("endpoint-enabled", "no", cause="endpoint-disabled"),
            planned(2),
            ended("plan awaits approval"),
            plan=[ENABLE, MEND],
        )
        done = carried(ENABLE, "done", {"status": "enabled"})
        done += carried(MEND, "done", {"profile": {"tier": "hobbyist", "n": 1}})
        done += [ended("done and verified")]
        applied = self.run(*done, plan=[ENABLE, MEND], applies=looked.name, seal=False)
        self.approve(looked, applied)
        record.seal(applied, "ana")
        self.run(
            check("endpoint-enabled", "yes", cause="endpoint-disabled"),
            check("prevention-log", "no", required=False),
            ended("healthy"),
        )


def markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": source[3:9].strip().lower(), "metadata": {}, "source": source}


def shown(markup: str) -> dict[str, Any]:
    output = {"output_type": "display_data", "metadata": {}, "data": {"text/html": markup, "text/plain": "-"}}
    return {
        "cell_type": "code",
        "id": "one",
        "metadata": {},
        "execution_count": 1,
        "source": "pass",
        "outputs": [output],
    }


def check(
    name: str, answer: str, cause: str | None = None, because: str = "seen", required: bool = True
) -> dict[str, Any]:
    return {
        "event": "check",
        "name": name,
        "answer": answer,
        "question": f"Is {name} so",
        "cause": cause,
        "because": because,
        "required": required,
    }


def planned(actions: int) -> dict[str, Any]:
    return {
        "event": "plan",
        "digest": "sha256:0",
        "actions": actions,
        "removals": 0,
        "manual": 0,
        "causes": ["endpoint-disabled"],
    }


def ended(outcome: str) -> dict[str, Any]:
    return {"event": "run.ended", "outcome": outcome}


def carried(action: Action, result: str, after: Any = None, why: str = "") -> list[dict[str, Any]]:
    begun = {"event": "action.begun", "action": action.id, "name": action.name, "before": action.before}
    return [
        begun,
        {
            "event": "action.ended",
            "action": action.id,
            "name": action.name,
            "result": result,
            "why": why,
            "after": after,
        },
    ]


def told(opskit: Opskit, outputs: Path, incident: str = "INC-7") -> str:
    """The Markdown of a fresh report."""
    assert opskit("report", incident).exit_code == 0
    return (outputs / incident / "report" / "postmortem.md").read_text()


def section(prose: str, title: str) -> str:
    return prose.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_a_postmortem_tells_the_night_from_its_records(opskit: Opskit, outputs: Path) -> None:
    Night(outputs).whole()
    prose = told(opskit, outputs)
    assert "2 approved changes were made, verified by 2026-11-23 03:30 UTC, 25 min 5 s after it was detected." in prose
    assert "| out | 7 |" in section(prose, "Impact")
    assert "Response clock: cannot be told" in section(
        prose, "Detection and response"
    )  # these records name no priority
    assert "`endpoint-disabled`" in section(prose, "Causes")
    assert "Asked again in #3: yes." in section(prose, "Causes")
    assert "| Enable endpoint we_1 | status: disabled → enabled | 03:30:02 | #2 |" in section(prose, "What was changed")
    assert "ben approved the plan of #1" in section(prose, "What was changed")
    assert "All that was planned is done." in section(prose, "What was not changed")
    assert "- [ ] Is prevention-log so" in section(prose, "Prevention")
    assert "- [ ] keep every event: table `events`" in section(prose, "Prevention")
    assert "- [ ] alert on silence" in section(prose, "Prevention")
    assert "| Is prevention-log so | prevention; no when last asked | _blank_ |" in section(prose, "Action items")


@pytest.mark.parametrize(
    ("detected", "clock"),
    [
        ("2026-11-23T03:05:00+00:00", "kept**, 45 min to spare"),
        ("2026-11-23T02:05:00+00:00", "missed**, 15 min too late"),
        (None, "cannot be told.** No record says when it was detected"),  # that a run began is no answer
    ],
)
def test_the_response_clock_is_kept_or_missed(opskit: Opskit, outputs: Path, detected: str, clock: str) -> None:
    rated = {"event": "priority", "priority": "HIGH", "because": "so", "detected": "2026-11-23T03:20:00+00:00"}
    Night(outputs, detected=detected).run(rated, ended("healthy"))
    assert f"Response clock: {clock}" in told(opskit, outputs)


def test_every_form_loads_nothing_and_names_every_record(opskit: Opskit, outputs: Path) -> None:
    Night(outputs).whole()
    found = data(opskit("report", "INC-7", "--json"))
    pages = {kind: Path(path).read_text() for kind, path in found["paths"].items()}
    nbformat.validate(nbformat.reads(pages["notebook"], as_version=4))
    assert harmless(pages["page"]) == []
    assert [a["href"] for a in Page(pages["page"]).all("a") if str(a.get("href")).startswith("../")] == [
        f"../pages/{one['run']}.html" for one in found["records"]
    ]
    for one in found["records"]:
        assert one["digest"].removeprefix("sha256:") in pages["markdown"]
        assert harmless((outputs / "INC-7" / "pages" / f"{one['run']}.html").read_text()) == []
    links = re.findall(r"\]\(([^)]+)\)", pages["markdown"])
    assert links
    assert all((outputs / "INC-7" / "report" / link).resolve().exists() for link in links)
    assert opskit("verify").exit_code == 0  # the records were left as they were


def test_blanks_are_marked_and_nobody_is_judged(opskit: Opskit, outputs: Path) -> None:
    Night(outputs).whole()
    prose = told(opskit, outputs)
    html = (outputs / "INC-7" / "report" / "postmortem.html").read_text()
    assert prose.count("_blank") > 15
    assert html.count("<mark>blank") == prose.count("_blank")
    assert not JUDGING.search(prose)
    without_facts = re.sub(r"(?m)^\|.*$", "", prose)  # names stand in tables of facts
    assert "ana" not in re.findall(r"\w+", without_facts)


def test_what_was_not_done_is_told_with_its_reason(opskit: Opskit, outputs: Path) -> None:
    night = Night(outputs)
    stale, waits, lost, never = (Action("x.do", {"n": n}, None, f"Do {n}") for n in ("stale", "waits", "lost", "never"))
    actions = [ENABLE, stale, waits, lost, never]
    looked = night.run(check("a", "no", cause="c"), planned(5), ended("plan awaits approval"), plan=actions)
    begun = carried(lost, "")[0]
    applied = night.run(
        *carried(ENABLE, "done"), *carried(stale, "stale", why="changed since it was planned"),
        *carried(waits, "waits for a person"), begun, plan=actions, applies=looked.name, seal=False,
    )  # fmt: skip
    night.approve(looked, applied)
    left = section(told(opskit, outputs), "What was not changed")
    assert "| Do stale | **stale**: changed since it was planned | #2 |" in left
    assert "| Do waits | **waits for a person** | #2 |" in left
    assert "| Do lost | **fate unknown**: it was begun, and its end was not recorded | #2 |" in left
    assert "| Do never | **approved, not begun** | #2 |" in left
    prose = told(opskit, outputs)
    assert "> **Record #2 was never sealed (its run: lost)" in prose
    assert "| Do waits | waits for a person | _blank_ |" in section(prose, "Action items")


def test_what_was_taken_back_no_longer_counts_as_changed(opskit: Opskit, outputs: Path) -> None:
    night = Night(outputs)
    night.whole()
    undone = [{"event": "undo.ended", "action": a.id, "name": a.name, "result": "done"} for a in (MEND, ENABLE)]
    carried_over = [{**event, "carried_over": True} for event in carried(ENABLE, "done")]
    night.run(*carried_over, *undone, ended("taken back"), plan=[ENABLE, MEND], undoes="x")
    prose = told(opskit, outputs)
    assert "2 changes were made and taken back again; none of them all stands." in prose
    assert "Nothing that stands." in section(prose, "What was changed")
    assert "found all well" not in prose


def test_a_break_glass_approval_is_loud_until_it_is_countersigned(opskit: Opskit, outputs: Path) -> None:
    night = Night(outputs)
    looked = night.run(check("a", "no", cause="c"), planned(1), ended("plan awaits approval"), plan=[ENABLE])
    night.approve(looked, break_glass="nobody else awake", approver="ana")
    prose = told(opskit, outputs)
    alarm = "Break-glass: ana approved the plan of #1 alone: nobody else awake. NOT COUNTERSIGNED YET."
    assert f"> **{alarm}**" in prose
    assert f'<p class="alarm" role="note">{alarm}</p>' in (looked.parent / "report" / "postmortem.html").read_text()
    assert "Countersign the approval of #1" in section(prose, "Action items")
    word = json.loads((looked.parent / "approvals" / f"{looked.name}.json").read_text())
    second = word | {"approver": "cleo", "at": (START + timedelta(hours=9)).isoformat()}
    countersignature(looked.parent, word["plan"]).write_text(json.dumps(second))
    prose = told(opskit, outputs)
    assert "Countersigned by cleo." in prose
    assert "NOT COUNTERSIGNED" not in prose
    assert "Countersign the approval" not in prose


def test_an_altered_record_is_named(opskit: Opskit, outputs: Path) -> None:
    Night(outputs).whole()
    folder = next(outputs.glob("INC-7/*0001"))
    (folder / "plan.json").write_text("{}")
    assert "> **Record #1 is not as it was sealed: altered: plan.json.**" in told(opskit, outputs)
    assert (
        "This record is not as it was sealed: altered: plan.json"
        in (outputs / f"INC-7/pages/{folder.name}.html").read_text()
    )


def test_what_somebody_wrote_is_kept(opskit: Opskit, outputs: Path) -> None:
    Night(outputs).whole()
    told(opskit, outputs)
    first = outputs / "INC-7" / "report" / "postmortem.md"
    untouched = data(opskit("report", "INC-7", "--json"))
    assert untouched["paths"]["markdown"] == str(first)
    assert untouched["kept"] == []
    first.write_text(first.read_text().replace("_blank: draft, in review or final?_", "final"))
    again = data(opskit("report", "INC-7", "--json"))
    assert again["kept"] == [str(first)]
    assert again["paths"]["markdown"] == str(first.with_name("postmortem-2.md"))
    assert "| **Status** | final |" in first.read_text()
    assert "(timeline-2.svg)" in first.with_name("postmortem-2.md").read_text()
    assert "Left as somebody has edited it" in opskit("report", "INC-7").output


def test_a_rehearsal_is_marked_as_one(opskit: Opskit, outputs: Path) -> None:
    Night(outputs, incident="drill-1").whole()
    assert "**This was a rehearsal, on a sandbox.**" in told(opskit, outputs, "drill-1")


def test_a_plan_of_ten_thousand_stays_readable(opskit: Opskit, outputs: Path) -> None:
    night = Night(outputs)
    many = [Action("x.do", {"n": n}, {"n": n}, f"Do {n}") for n in range(10_000)]
    looked = night.run(planned(10_000), plan=many)
    events = [event for action in many[:9_000] for event in carried(action, "done", {"n": -1})]
    applied = night.run(*events, plan=many, applies=looked.name, seal=False)
    night.approve(looked, applied, actions=10_000)
    prose = told(opskit, outputs)
    assert "9000 `x.do` done" in section(prose, "What was changed")
    assert "And 8950 more" in section(prose, "What was changed")
    assert "And 950 more" in section(prose, "What was not changed")
    assert all(path.stat().st_size < 200_000 for path in (outputs / "INC-7" / "report").iterdir())


def test_markup_from_the_data_stays_text(opskit: Opskit, outputs: Path) -> None:
    evil = "a|b <script>alert(1)</script> ![x](https://elsewhere.example/p.png)\n## Not a section"
    night = Night(outputs)
    night.run(check("a", "no", cause="c", because=evil), planned(1), plan=[Action("x.do", {}, {"s": evil}, evil)])
    prose = told(opskit, outputs)
    assert "<script>" not in prose
    assert "\n## Not" not in prose
    assert "![x](" not in prose
    assert harmless((outputs / "INC-7" / "report" / "postmortem.html").read_text()) == []


def test_an_incident_that_is_not_there(opskit: Opskit, outputs: Path) -> None:
    Night(outputs).run(ended("healthy"))
    result = opskit("report", "INC-8")
    assert result.exit_code == 2
    assert "INC-7" in result.output
    assert opskit("report", "last").exit_code == 0


def test_a_broken_record_still_makes_a_report(opskit: Opskit, outputs: Path) -> None:
    night = Night(outputs)
    folder = night.run(seal=False)
    (folder / record.NOTEBOOK).unlink()
    (folder / record.JOURNAL).write_text('{"at": "2026')
    (folder / "plan.json").write_text('{"made_for": ')
    assert "Nothing was changed." in told(opskit, outputs)
    assert opskit("export", folder.name).exit_code == 0


# Pages of records.


def test_the_page_of_a_record_stands_beside_it_and_says_what_proves_it(opskit: Opskit, outputs: Path) -> None:
    folder = Night(outputs).run(ended("healthy"))
    path = Path(data(opskit("export", folder.name, "--json"))["page"])
    assert path == outputs / "INC-7" / "pages" / f"{folder.name}.html"
    assert hashlib.sha256((folder / record.MANIFEST).read_bytes()).hexdigest() in path.read_text()
    assert f"opskit verify INC-7/{folder.name}" in path.read_text()
    assert record.verify(folder).wrong == ()


def test_a_page_goes_where_it_is_asked_to_but_never_into_the_record(
    opskit: Opskit, outputs: Path, tmp_path: Path
) -> None:
    folder = Night(outputs).run(ended("healthy"))
    assert opskit("export", "last", "--to", tmp_path / "elsewhere" / "page.html").exit_code == 0
    assert (tmp_path / "elsewhere" / "page.html").exists()
    assert opskit("export", "last", "--to", folder / "page.html").exit_code == 2
    assert record.verify(folder).wrong == ()


def test_a_record_without_a_notebook_has_a_page_too(opskit: Opskit, outputs: Path) -> None:
    night = Night(outputs)
    undone = {"event": "undo.ended", "action": ENABLE.id, "name": ENABLE.name, "result": "done"}
    folder = night.run(undone, ended("taken back"), plan=[ENABLE], undoes="x", seal=False)
    (folder / record.NOTEBOOK).unlink()
    page = Path(data(opskit("export", folder.name, "--json"))["page"]).read_text()
    assert "taken back" in page
    assert "Enable endpoint we_1" in page
    assert "never sealed" in page


DRAFT = 'run.draft("message-users", f"Dear Ana & Ben,\\nyour plan is {chr(114)}ight again.")'  # whole only when it ran


def test_a_real_night(opskit: Opskit, firm: Sandbox, repository: Path, outputs: Path) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, *SMALL, DRAFT, 'run.rate("HIGH", "nobody can pay")')
    _, planned_in, found = look(opskit, firm)
    opskit("approve", "last", "--type", f"{firm.name} {found['actions']}")
    assert opskit("apply", "last").exit_code == 0
    said = data(opskit("report", "last", "--json"))
    assert said["causes"] == ["endpoint-disabled"]
    assert list(said["fates"].values()) == ["done"]
    assert said["verified"]
    incident = read(Archive(outputs), planned_in.parent.name)
    assert [one.kind for one in incident.records] == ["looked", "applied"]
    assert incident.detected is None, "nobody said when"
    assert [f"applied {planned_in.name})" in Path(page).read_text() for page in said["pages"]].count(True) == 1
    assert "right again" in (planned_in / "private" / "message-users.txt").read_text()
    for path in map(Path, [said["paths"]["page"], *said["pages"]]):
        assert harmless(path.read_text()) == []
        assert "right again" not in path.read_text()
        assert "message-users" in path.read_text()
    assert opskit("verify").exit_code == 0


def test_a_span_that_lies_before_has_a_minus() -> None:
    assert [span(timedelta(seconds=n)) for n in (-11, 0, 3700)] == ["-11 s", "0 s", "1 h 1 min"]


def test_a_page_counts_the_rows_that_it_leaves_out(opskit: Opskit, outputs: Path) -> None:
    folder = sealed(outputs, **{"private/a.json": "{}", "private/b.json": "{}", "private/page-cto.txt": "call me"})
    written = Path(data(opskit("export", folder.name, "--json"))["page"])
    assert "private/: rows as they were before (2), messages to people (1)" in written.read_text()
    assert "call me" not in written.read_text()


def test_a_page_is_not_written_over_another_record(opskit: Opskit, outputs: Path) -> None:
    one, other = sealed(outputs), sealed(outputs)
    result = opskit("export", one.name, "--to", other / "journal.jsonl")
    assert result.exit_code == 2
    assert "lies among the records" in result.stderr
    assert opskit("verify").exit_code == 0
