"""Investigations: the copy, what is noted of the work, what is saved, how one is closed; in a browser elsewhere."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import pytest
import yaml
from support import BEGIN, ENABLE, ENDPOINT, REPOSITORY, SMALL, Opskit, data, events, keep, wrong

from opskit import approval, archive, environment, provenance, record
from opskit.adopt import _sources
from opskit.commands.lab import investigate
from opskit.errors import BadInput, Refused
from opskit.lab import copies, hand, order, saving
from opskit.parameters import declared
from opskit.redaction import Redactor
from opskit.sandbox import Sandbox

SECRET = "correct-horse-battery-staple"
CELL = """from typing import Optional
from opskit.parameters import EnvironmentName, Flag, Moment, Text
environment: EnvironmentName = "sandbox"  # where to look: "sandbox", say
since: Moment = "24h"  # how far back
note: Optional[Text] = None  # für später
unmask: Flag = False  # all of it"""


@pytest.fixture
def copy(standing: Sandbox, repository: Path) -> Path:
    """A working copy of a small runbook, as `opskit lab small` makes it."""
    keep(repository, *SMALL)
    return investigate("small", {"environment": standing.name})


# The copy.


def test_values_are_filled_in_and_nothing_else_is_touched() -> None:
    given = {"since": "6h", "note": 'said "no", ärgerlich', "unmask": True}
    filled = copies.filled_in(CELL, given)
    assert filled == (
        CELL.replace('"24h"', '"6h"').replace("= None", '= "said \\"no\\", ärgerlich"').replace("= False", "= True")
    )
    fields = declared(filled).model_fields
    assert {key: fields[key].default for key in given} == given


def test_a_copy_lies_apart_from_runbooks_and_records(copy: Path, repository: Path, outputs: Path) -> None:
    assert copy.parent.parent == outputs / "lab"
    folder = copies.record_of(copy, outputs)
    assert folder and copies.copy_of(folder, outputs) == copy
    original = nbformat.read(repository / "notebooks" / "small.ipynb", as_version=4)
    assert _sources(nbformat.read(copy, as_version=4)) == _sources(original)  # but for what was filled in
    assert [run.name for run in copies.still_open(outputs)] == [copy.parent.name]


@pytest.mark.parametrize(
    "place",
    ["../../etc/passwd", "INC-1/other/notebook.ipynb", "/etc/passwd", 7, "lab/small.ipynb", "lab/../small.ipynb"],
)
def test_a_head_that_names_another_file_as_its_copy_names_none(copy: Path, outputs: Path, place: Any) -> None:
    folder = copies.record_of(copy, outputs)
    assert folder
    head = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(head | {copies.KEY: place}))
    assert copies.copy_of(folder, outputs) is None
    (folder / "manifest.json").write_text("{}")
    copies.tidy(outputs)
    assert copy.exists()


def test_what_a_person_put_beside_a_copy_outlives_it(copy: Path, outputs: Path) -> None:
    folder = copies.record_of(copy, outputs)
    assert folder
    kept = copy.parent / ".ipynb_checkpoints" / "small-checkpoint.ipynb"
    kept.parent.mkdir()
    kept.write_text("{}")
    (notes := copy.parent / "notes.md").write_text("what I saw")
    (folder / "manifest.json").write_text("{}")
    copies.tidy(outputs)
    assert list(copy.parent.rglob("*")) == [notes]
    notes.unlink()
    copies.tidy(outputs)
    assert not copy.parent.exists()


def test_what_was_run_after_the_last_save_is_noticed(copy: Path, outputs: Path) -> None:
    folder = copies.record_of(copy, outputs)
    assert folder
    assert copies.is_saved(folder, copy)
    (folder / record.JOURNAL).write_text('{"at": "2126-01-01T00:00:00.000+00:00", "event": "cell.started"}\n')
    assert not copies.is_saved(folder, copy)


def test_what_runbooks_link_to_is_where_a_copys_links_lead(outputs: Path) -> None:
    from opskit.lab import server  # noqa: PLC0415  # JupyterLab takes its time

    lab = server.Lab(REPOSITORY, outputs, outputs, {}, (), investigate)
    lab.copies.mkdir(parents=True)
    for _ in range(2):  # also where they lie already
        server._bring_documents(lab)
    copy = lab.copies / "20260101T000000000-beef" / "small.ipynb"
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        for link in re.findall(r"\]\((\.\./[^)#]+)", path.read_text()):
            assert (copy.parent.parent / link.removeprefix("../")).exists(), f"{path.name}: {link}"


def test_whatever_lies_beside_a_copy_is_cleaned_as_it_is(copy: Path, outputs: Path, standing: Sandbox) -> None:
    from opskit.lab import server  # noqa: PLC0415  # JupyterLab takes its time

    lab = server.Lab(provenance.find_root(), outputs, outputs, {}, (), investigate)
    secret = environment.resolve(environment.load(standing.name, lab.root), "read")["stripe"]
    run = copy.parent.name
    for path in (f"{run}/small.ipynb", f"{run}/Untitled.ipynb", f"{run}/more/notes.txt"):
        assert lab.redactor(path).text(f"is it {secret}?") == "is it [secret stripe read]?"
    for path in ("", "notes.txt", "[a-z]*/notes.txt", "no-such-run/x.ipynb"):
        assert lab.redactor(path).text("nothing known") == "nothing known"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-runbook"], "there is no runbook"),
        (["small", "-p", "sinse", "6h"], "unknown parameter 'sinse'"),
        (["small", "--environment", "nowhere"], "there is no environment 'nowhere'"),
        (["-p", "since", "6h"], "name one"),
    ],
)
def test_bad_input_ends_before_jupyterlab_starts(
    repository: Path, outputs: Path, opskit: Opskit, arguments: list[str], told: str
) -> None:
    keep(repository, *SMALL)
    refused = opskit("lab", *arguments)
    assert (refused.exit_code, told in refused.output) == (2, True), refused.output
    assert not (outputs / "lab").exists()


# What is noted.


def cells(*counts: int | None) -> list[Any]:
    return [
        nbformat.v4.new_code_cell(f"step = {n}", id=f"cell-{n}", execution_count=count)
        for n, count in enumerate(counts)
    ]


def ran(*pairs: tuple[int, int], changed: int | None = None) -> list[dict[str, Any]]:
    """The journal of a kernel in which cell n was run as number m, for each (m, n)."""
    return [{"event": "run.begun"}] + [
        {"event": "cell.started", "count": m, "cell": f"cell-{n}",
         "source": order.source_digest(f"step = {n}" if m != changed else "step = None")}
        for m, n in pairs
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "journal", "told"),
    [
        (cells(1, 2, 3), ran((1, 0), (2, 1), (3, 2)), []),
        (cells(1, 2, 3), [], []),
        (cells(1, 3, 2), ran((1, 0), (2, 2), (3, 1)), ["run out of order: `cell-2`"]),
        (cells(1, 3, 2), [], ["run out of order: `cell-2`"]),
        (
            cells(1, 4, 3),
            ran((1, 0), (2, 1), (3, 2), (4, 1)),
            ["run out of order: `cell-2`", "run more than once, and the last time is shown: `cell-1`"],
        ),
        (cells(1, 2), ran((1, 0), (2, 1), changed=2), ["changed after it was run: `cell-1`"]),
        (cells(1, 2), ran((1, 0), (2, 1), (3, 7)), ["run, and no longer in the notebook: `cell-7`"]),
        (cells(1, 2, 3), ran((1, 0), (2, 2)), ["shows what an earlier session said: `cell-1`, `cell-2`"]),
        (cells(1, 2, None), ran((1, 0), (2, 1)), ["not run: `cell-2`"]),
    ],
)
def test_what_a_reader_would_not_see_is_said(seen: list[Any], journal: list[Any], told: list[str]) -> None:
    assert order.notes(seen, journal) == told


def test_only_the_last_session_counts() -> None:
    assert order.notes(cells(1, 2), ran((1, 1), (2, 0)) + ran((1, 0), (2, 1))) == []


def test_the_last_answer_since_the_last_beginning_counts() -> None:
    begun = {"event": "run.begun"}
    asked = [{"event": "check", "name": name, "answer": answer} for name, answer in
             (("a", "no"), ("b", "unknown"), ("a", "no"), ("c", "no"), ("a", "yes"))]  # fmt: skip
    found = archive.answers([begun, *asked[:2], begun, *asked[2:]])
    assert [(one["name"], one["answer"]) for one in found] == [("a", "yes"), ("c", "no")]


# What is saved.


def saved(content: Any, kind: str = "notebook") -> Any:
    model = {"type": kind, "format": "json" if kind == "notebook" else "text", "content": content}
    saving.keeper(lambda path: Redactor({"stripe": SECRET}))(model=model, path="x")
    return model["content"]


def test_no_secret_is_saved_typed_shown_or_split() -> None:
    half = len(SECRET) // 2
    shown = [nbformat.v4.new_output("display_data", {"text/plain": piece}) for piece in (SECRET[:half], SECRET[half:])]
    cell = nbformat.v4.new_code_cell(f"key = '{SECRET}'", outputs=shown, metadata={"trusted": True})
    found = saved(nbformat.v4.new_notebook(cells=[cell]))
    assert SECRET not in json.dumps(found).replace('"}}, {"', "")
    assert "[secret stripe]" in found["cells"][0]["source"]
    assert SECRET[half:] not in json.dumps(found)
    assert found["cells"][0]["metadata"]["trusted"] is True
    assert saved(f"note: {SECRET}", "file") == "note: [secret stripe]"


def test_where_secrets_cannot_be_taken_out_nothing_is_saved() -> None:
    def fails(path: str) -> Redactor:
        raise BadInput("no secret for stripe")

    with pytest.raises(Exception, match="not saved"):
        saving.keeper(fails)(model={"type": "file", "format": "text", "content": "x"}, path="x")


@pytest.mark.parametrize("ends", ["well", "badly", "behind another"])
def test_whoever_reads_while_a_notebook_is_being_saved_finds_the_old_one(tmp_path: Path, ends: str) -> None:
    copy = tmp_path / "small.ipynb"
    copy.write_text("old")
    contents = saving.Contents(root_dir=str(tmp_path))
    with suppress(RuntimeError), contents.atomic_writing(str(copy)) as file:
        file.write("new")
        file.flush()
        assert copy.read_text() == "old"
        if ends == "badly":
            raise RuntimeError("the disk is full")
        if ends == "behind another":
            with contents.atomic_writing(str(copy), text=False) as another:
                another.write(b"of another tab")
            assert copy.read_text() == "of another tab"
    assert copy.read_text() == ("old" if ends == "badly" else "new")
    assert [path.name for path in tmp_path.iterdir()] == ["small.ipynb"]


# Beginning and closing.


def executed(copy: Path, outputs: Path, repository: Path) -> None:
    """What JupyterLab's kernel does with a copy, from top to bottom, and no person there to be asked."""
    folder = copies.record_of(copy, outputs)
    code = (
        "import sys, nbformat; from nbclient import NotebookClient; path = sys.argv[1]; "
        "nb = nbformat.read(path, as_version=4); NotebookClient(nb).execute(); nbformat.write(nb, path)"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_RUN", str(folder))
        patch.setenv(hand.DOOR, "/nowhere")
        subprocess.run([sys.executable, "-c", code, str(copy)], cwd=repository, check=True, timeout=120)


@pytest.mark.deep
def test_an_investigation_is_closed_with_what_its_copy_shows(
    firm: Sandbox, repository: Path, outputs: Path, opskit: Opskit
) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, BEGIN, ENDPOINT, ENABLE, "run.plan", "run.apply()")
    copy = investigate("small", {"environment": firm.name})
    run = copy.parent.name
    nb = nbformat.read(copy, as_version=4)
    nb.cells[2:2] = [nbformat.v4.new_code_cell(s, id=i) for i, s in (("seen", "seen = 1"), ("again", BEGIN))]
    nbformat.write(nb, copy)
    listed = opskit("history")
    assert "unsealed" in listed.output
    assert f"Still open: {run}" in listed.output
    executed(copy, outputs, repository)
    text = copy.read_text()
    assert "Plan of 1 actions" in text and "opskit seal" in text
    sealed = opskit("seal", run, "--json")
    assert (sealed.exit_code, data(sealed)["outcome"]) == (3, "plan awaits approval"), sealed.output
    folder = archive.Archive(outputs).find(run)
    assert (wrong(folder), events(folder, "disorder")) == ((), [])
    assert [event["cells"] for event in events(folder, "edited")] == [["seen", "again"]]
    started = [event["count"] for event in events(folder, "cell.started")]
    assert started == [1, 2, 3, 4, *range(1, 9)]  # each `begin` notes what was run before it
    assert "Still open" not in opskit("history").output
    copies.tidy(outputs)
    assert not copy.exists()
    assert opskit("approve", run, "--type", f"{firm.name} 1").exit_code == 0
    assert opskit("apply", run).exit_code == 0


class Door:
    """The socket through which a kernel asks for its plan to be carried out."""

    def __init__(self, repository: Path, outputs: Path, runtime: Path) -> None:
        from opskit.lab import server  # noqa: PLC0415  # JupyterLab takes its time

        self.lab = server.Lab(repository, outputs, runtime, {}, (), investigate)
        self.handler = partial(server._carry_out, self.lab)

    def asks(self, copy: Path, typed: str, saved: bool = True) -> str:
        """What is answered to somebody who typed that."""
        asked = {"run": copy.parent.name, "typed": typed, "removals": False, "since": time.time() + (0 if saved else 9)}
        if saved:
            copy.touch()
            asked["since"] -= 9
        return asyncio.run(self._asks(json.dumps(asked)))

    async def _asks(self, line: str) -> str:
        async with await asyncio.start_unix_server(self.handler, self.lab.door):
            reader, writer = await asyncio.open_unix_connection(self.lab.door)
            writer.write(f"{line}\n".encode())
            said = await reader.read()
            writer.close()
        return said.decode()


@pytest.fixture
def live(firm: Sandbox, repository: Path) -> str:
    """Production, which is that sandbox, with an endpoint that was disabled."""
    firm.break_with("endpoint-disabled")
    keep(repository, *SMALL)
    target = yaml.safe_load(firm.environment.read_text()) | {"name": "live", "production": True}
    (repository / "parameters" / "environments" / "live.yaml").write_text(yaml.safe_dump(target))
    return "live"


@pytest.mark.deep
def test_in_production_a_colleague_approves_before_the_door_opens(
    live: str, repository: Path, outputs: Path, opskit: Opskit, monkeypatch: pytest.MonkeyPatch, bo: Path
) -> None:
    executed(copy := investigate("small", {"environment": live}), outputs, repository)
    folder = archive.Archive(outputs).find(copy.parent.name)
    with TemporaryDirectory(prefix="opskit-") as runtime:
        door = Door(repository, outputs, Path(runtime))
        assert "was not saved" in door.asks(copy, f"{live} 1", saved=False)
        assert "in production another person approves" in door.asks(copy, f"{live} 1")
        assert archive.summary(folder)["outcome"] == archive.UNSEALED  # and it is still open
        with monkeypatch.context() as as_bo:
            as_bo.setenv("OPSKIT_OPERATOR", "bo")
            as_bo.setenv("OPSKIT_SIGNING_KEY", str(bo))
            assert opskit("approve", folder.name, "--type", f"{live} 1").exit_code == 0
        word = approval.load(place := archive.Archive(outputs).approval(folder))
        assert word
        replace(word, plan="sha256:of-another-plan").save(place)
        assert "in production another person approves" in door.asks(copy, f"{live} 1")
        assert not (folder / "manifest.json").exists()
        word.save(place)
        assert "done and verified: 1 of 1 actions" in door.asks(copy, "")
    (applied,) = archive.Archive(outputs).following(folder, "applies")
    assert (wrong(folder), wrong(applied)) == ((), ())


def test_a_reader_is_told_of_disorder_wherever_they_look(copy: Path, outputs: Path, opskit: Opskit) -> None:
    nb = nbformat.read(copy, as_version=4)
    first, second = [cell for cell in nb.cells if cell.cell_type == "code"][:2]
    first.execution_count, second.execution_count = 2, 1
    nbformat.write(nb, copy)
    run, told = copy.parent.name, f"run out of order: `{second.id}`"
    assert f"Mind: {told}" in opskit("seal", run).output
    assert f"by hand: {told}" in opskit("show", run).output
    folder = archive.Archive(outputs).find(run)
    assert told in nbformat.read(folder / "notebook.ipynb", as_version=4).cells[1].source
    assert opskit("report", folder.parent.name).exit_code == 0
    (report,) = folder.parent.rglob("*.md")
    assert f"run by hand: {told.replace('`', '')}" in report.read_text()


def test_one_that_was_never_begun_is_closed_as_unknown(copy: Path, outputs: Path, opskit: Opskit) -> None:
    sealed = opskit("seal", copy.parent.name)
    assert sealed.exit_code == 6, sealed.output
    assert wrong(archive.Archive(outputs).find(copy.parent.name)) == ()


def test_one_whose_copy_is_gone_is_closed_as_lost(copy: Path, outputs: Path, opskit: Opskit) -> None:
    copy.unlink()
    sealed = opskit("seal", copy.parent.name)
    assert (sealed.exit_code, "Sealed as: lost" in sealed.output) == (0, True), sealed.output
    folder = archive.Archive(outputs).find(copy.parent.name)
    assert [event["problem"] for event in events(folder, "finding")] == ["its notebook is gone: small.ipynb"]
    assert wrong(folder) == ()


def test_what_is_still_open_is_not_carried_out(planned: Path, outputs: Path, opskit: Opskit, standing: Sandbox) -> None:
    folder = copies.record_of(investigate("small", {"environment": standing.name}), outputs)
    assert folder
    (folder / "plan.json").write_bytes((planned / "plan.json").read_bytes())
    refused = opskit("apply", folder.name)
    assert (refused.exit_code, f"Close it first: opskit seal {folder.name}" in refused.output) == (4, True), (
        refused.output
    )


def test_what_a_person_fills_in_counts_and_the_incident_stays(copy: Path, outputs: Path, standing: Sandbox) -> None:
    folder = copies.record_of(copy, outputs)
    assert folder
    about = archive.about(folder)
    model = declared(CELL.replace("since", "incident").replace("Moment", "Text").replace('"24h"', "None", 1)
                     .replace("incident: Text", "incident: Optional[Text]"))  # fmt: skip
    filled = hand.filled_in(folder, dict(about), model(environment="production", incident=None))
    assert (filled["environment"], archive.about(folder)["parameters"]["environment"]) == ("production", "production")
    with pytest.raises(BadInput, match="no environment 'nowhere'"):
        hand.filled_in(folder, dict(about), model(environment="nowhere"))
    assert archive.about(folder)["environment"] == "production"  # or nothing more could be saved
    with pytest.raises(BadInput, match="was begun for incident"):
        hand.filled_in(folder, dict(about), model(incident="INC-9"))
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(Refused, match="is closed"):
        hand.filled_in(folder, dict(about), model())


def test_a_kernel_inherits_nothing_that_can_change_things(
    monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path
) -> None:
    from opskit.commands import lab  # noqa: PLC0415
    from opskit.lab import server  # noqa: PLC0415  # JupyterLab takes its time

    target = environment.load("production", repository)
    read, change = (
        {c.secret.env for c in target.credentials(access).values() if c.secret.env} for access in ("read", "change")
    )
    assert read and change - read
    for name in read | change:
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    seen: dict[str, Any] = {}

    def serve(here: Any, *_: Any) -> None:
        import os  # noqa: PLC0415

        seen.update(environ=set(os.environ), held=set(here.held), redactor=here.redactor())

    monkeypatch.setattr(server, "serve", serve)
    for name in ("OPSKIT_DOOR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_PATH"):
        monkeypatch.setenv(name, "")
    lab._serve(None, 0, browser=False)
    assert read <= seen["environ"]
    assert not (change - read) & seen["environ"]
    assert seen["held"] == change - read
    for name in read | change:
        assert SECRET not in seen["redactor"].text(f"x {SECRET}-{name} y")
