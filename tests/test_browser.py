"""`opskit lab` in a real browser: what a person sees and does there, and what becomes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import BEGIN, ENABLE, ENDPOINT, PARAMETERS, RUNBOOK, Opskit, data, events, keep, script, wrong

from opskit import archive, environment
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox

pytest.importorskip("playwright", reason="the extra `browser` is not installed")
browsing: Any = script("browsing")
pytestmark = pytest.mark.skipif(not browsing.CHROMIUM, reason="there is no Chromium here: scripts/browser installs it")


@pytest.fixture
def page() -> Iterator[Any]:
    with browsing.browser() as found:
        yield found


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """Nobody's own settings of JupyterLab."""
    return {**os.environ, "HOME": str(tmp_path / "home"), "JUPYTER_CONFIG_DIR": str(tmp_path / "home")}


def copy_in(outputs: Path) -> Path:
    (found,) = outputs.glob("lab/*/*.ipynb")
    return Path(found)


def declared(environment: str) -> str:
    head = "from opskit.parameters import EnvironmentName, Moment\n"
    return head + PARAMETERS.replace('"sandbox"', f'"{environment}"')


@pytest.fixture
def broken(firm: Sandbox, repository: Path) -> Sandbox:
    """A sandbox whose endpoint was disabled, and a small runbook for that."""
    firm.break_with("endpoint-disabled")
    keep(repository, BEGIN, ENDPOINT, f"{ENABLE}\nrun.plan", "run.apply()")
    return firm


def test_a_bad_value_is_answered_and_a_closed_investigation_is_sealed(
    broken: Sandbox, repository: Path, outputs: Path, tmp_path: Path, page: Any, surroundings: dict[str, str]
) -> None:
    with browsing.serving(tmp_path / "log", surroundings, "small", "--environment", broken.name) as address:
        page.goto(address)
        ana = browsing.Person(page, copy := copy_in(outputs))
        ana.arrives()
        ana.writes("parameters", declared("nowhere"))
        ana.runs("parameters")
        said = ana.runs("cell-0")
        assert "there is no environment 'nowhere'.\nKnown: " in said
        assert "Traceback" not in said
        ana.writes("parameters", declared(broken.name))
        ana.runs("parameters")
        assert f"small on {broken.name}, run {copy.parent.name}. Plan mode" in ana.runs("cell-0")
        secret = environment.resolve(environment.load(broken.name, repository), "read")["stripe"]
        ana.writes("cell-3", f"# my notes: {secret}")
        ana.saves()
        kept = [path.read_text() for path in (outputs / "lab").rglob("*.ipynb")]
        assert len(kept) == 2, "the copy, and JupyterLab's checkpoint of it"
        assert not any(secret in text for text in kept)
        assert "[secret stripe" in copy.read_text()
        page.goto(address.split("/lab/")[0] + "/opskit")
        page.get_by_role("button", name=f"Close {copy.parent.name}").click()
        assert "is closed and sealed: unknown." in page.get_by_role("status").inner_text()
    assert wrong(archive.Archive(outputs).find(copy.parent.name)) == ()


@pytest.mark.deep
def test_an_investigation_from_the_index_to_a_mended_endpoint(
    broken: Sandbox, repository: Path, outputs: Path, tmp_path: Path, page: Any, surroundings: dict[str, str],
    opskit: Opskit,
) -> None:  # fmt: skip
    committed = (repository / "notebooks" / "small.ipynb").read_bytes()
    with browsing.serving(tmp_path / "log", surroundings) as address:
        page.goto(address)
        page.get_by_label("Environment").select_option(broken.name)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.get_by_label("Incident", exact=True).fill("INC-7")
        page.get_by_role("button", name="Investigate with small").click()
        ana = browsing.Person(page, copy := browsing.until(lambda: copy_in(outputs), "the copy"))
        ana.arrives()
        run = copy.parent.name
        ana.writes("parameters", declared(broken.name))
        ana.runs("parameters")
        ana.runs("cell-0")

        ana.writes("cell-1", f"{ENDPOINT}\nprint('a second look')")
        assert "endpoint-disabled" in ana.runs("cell-1")
        ana.runs("cell-2")
        assert "a second look" in ana.runs("cell-1")

        ana.starts("cell-3")
        ana.answers(f"{broken.name} 7")
        ana.waits()
        assert "Nothing was done" in ana.reads()
        ana.starts("cell-3")
        ana.answers(f"{broken.name} 1")
        ana.waits()
        assert "the notebook was not saved" in ana.reads()
        ana.starts("cell-3")
        ana.saves()
        ana.answers(f"{broken.name} 1")
        ana.waits()
        assert "done and verified: 1 of 1 actions" in ana.reads()

        assert f"investigation {run} is closed" in ana.runs("cell-0")  # there is no going on with what is sealed

    assert (repository / "notebooks" / "small.ipynb").read_bytes() == committed
    closed = archive.Archive(outputs).find(run)
    (applied,) = archive.Archive(outputs).following(closed, "applies")
    ends = [archive.summary(folder)["outcome"] for folder in (closed, applied)]
    assert ends == [Outcome.PLANNED, Outcome.VERIFIED]
    assert (closed.parent.name, wrong(closed), wrong(applied)) == ("INC-7", (), ())
    assert [event["cells"] for event in events(closed, "edited")] == [["cell-1"]]
    (disorder,) = events(closed, "disorder")
    assert "run out of order: `cell-2`" in disorder["notes"]
    assert any("more than once" in note and "`cell-1`" in note for note in disorder["notes"])
    verified = data(opskit("verify", "--json"))
    assert (verified["wrong"], verified["unsealed"]) == ([], 0)
    assert not copy.exists()  # its record has everything


@pytest.mark.deep
def test_nothing_that_its_person_sees_is_lost_by_closing(
    broken: Sandbox, outputs: Path, tmp_path: Path, page: Any, surroundings: dict[str, str]
) -> None:
    with browsing.serving(tmp_path / "log", surroundings, "small", "--environment", broken.name) as address:
        page.goto(address)
        index = page.context.browser.new_page()
        ana = browsing.Person(page, copy := copy_in(outputs))
        run = copy.parent.name

        start = f"{address.split('/lab/')[0]}/opskit?{address.split('?')[1]}"

        def closes(role: str) -> str:
            index.goto(start)
            index.get_by_role("button", name=f"Close {run}").click()
            return str(index.get_by_role(role).inner_text())

        ana.arrives()
        for cell in ("parameters", "cell-0", "cell-1", "cell-2"):
            ana.runs(cell)
        ana.saves()
        assert "`run.apply()` was not run" in closes("alert")
        ana.starts("cell-3")
        ana.saves()
        assert "is still running, or waits for an answer" in closes("alert")
        ana.answers("")
        ana.waits()
        assert "was not saved since its last cell ran" in closes("alert")
        ana.saves()
        renamed = copy.with_name("my-night.ipynb")
        copy.rename(renamed)  # in a terminal, say
        index.goto(start)
        assert str(index.get_by_role("link", name=f"Go on with {run}").get_attribute("href")).endswith(renamed.name)
        renamed.rename(copy)
        assert "is closed and sealed: plan awaits approval." in closes("status")
    folder = archive.Archive(outputs).find(run)
    (shown,) = [cell for cell in json.loads((folder / "notebook.ipynb").read_text())["cells"] if cell["id"] == "cell-3"]
    assert "not approved" in json.dumps(shown["outputs"])
    assert wrong(folder) == ()


@pytest.mark.deep
def test_a_whole_runbook_from_top_to_bottom_heals_the_company(
    firm: Sandbox, outputs: Path, tmp_path: Path, page: Any, surroundings: dict[str, str]
) -> None:
    truth = firm.break_with("endpoint-disabled")
    given = [word for pair in truth["parameters"].items() for word in ("-p", *pair)]
    with browsing.serving(tmp_path / "log", surroundings, RUNBOOK, *given, "--environment", firm.name) as address:
        page.goto(address)
        ana = browsing.Person(page, copy := copy_in(outputs))
        ana.arrives()
        ana.runs_all_above("resolution-apply")
        ana.starts("resolution-apply")
        asked = page.get_by_text("To do that: save the notebook").inner_text()
        ana.saves()
        ana.answers(asked.split("then type: ")[1].splitlines()[0])
        ana.waits(3 * browsing.PATIENCE)
        assert "done and verified" in ana.reads()
    closed = archive.Archive(outputs).find(copy.parent.name)
    assert (events(closed, "edited"), wrong(closed)) == ([], ())
    (disorder,) = events(closed, "disorder")
    assert [note.split(":")[0] for note in disorder["notes"]] == ["not run"]  # what comes after the apply
    assert all(one["ok"] for one in firm.healed())


@pytest.mark.deep
def test_what_was_left_for_tomorrow_goes_on_where_it_was(
    broken: Sandbox, outputs: Path, tmp_path: Path, page: Any, surroundings: dict[str, str], opskit: Opskit
) -> None:
    with browsing.serving(tmp_path / "log", surroundings, "small", "--environment", broken.name) as address:
        page.goto(address)
        ana = browsing.Person(page, copy := copy_in(outputs))
        ana.arrives()
        ana.runs("parameters")
        ana.runs("cell-0")
        ana.runs("cell-1")
        ana.saves()
    run = copy.parent.name
    assert f"Still open: {run}" in opskit("history").output
    with browsing.serving(tmp_path / "log", surroundings) as address:
        page.goto(address)
        page.get_by_role("link", name=f"Go on with {run}").click()
        ana.arrives()
        assert "endpoint-disabled" in ana.reads_of("cell-1")  # what was seen yesterday is still there
        ana.runs("parameters")
        ana.runs("cell-0")
        ana.saves()
    closed = opskit("seal", run)
    assert closed.exit_code == 6, closed.output
    folder = archive.Archive(outputs).find(run)
    assert len(events(folder, "run.begun")) == 2
    (disorder,) = events(folder, "disorder")
    assert "shows what an earlier session said: `cell-1`" in disorder["notes"]
    assert wrong(folder) == ()
