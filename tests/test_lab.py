"""Investigations: the copy, what is noted of the work, what is saved, how one is closed; in a browser elsewhere."""

from __future__ import annotations

import asyncio
import base64
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
from jupyter_server.services.contents.handlers import validate_model
from support import BEGIN, ENABLE, ENDPOINT, REPOSITORY, SMALL, Opskit, data, events, keep, wrong
from tornado.web import HTTPError

from opskit import approval, archive, environment, journal, plan, provenance, record
from opskit.actions import Action
from opskit.adopt import _sources
from opskit.commands.lab import investigate
from opskit.errors import BadInput, Refused
from opskit.lab import copies, hand, order, saving
from opskit.parameters import declared
from opskit.redaction import Redactor
from opskit.sandbox import Sandbox

PLANNING = (BEGIN, ENDPOINT, ENABLE, "run.plan", "run.apply()")
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


def test_what_a_person_put_beside_a_copy_outlives_it(copy: Path, outputs: Path, opskit: Opskit) -> None:
    kept = copy.parent / ".ipynb_checkpoints" / "small-checkpoint.ipynb"
    kept.parent.mkdir()
    kept.write_text("{}")
    (notes := copy.parent / "notes.md").write_text("what I saw")
    assert opskit("seal", copy.parent.name).exit_code == 6
    assert copies.tidy(outputs) == []
    assert list(copy.parent.rglob("*")) == [notes]
    notes.unlink()
    copies.tidy(outputs)
    assert not copy.parent.exists()


@pytest.mark.parametrize("changed", ["a cell", "a note", "where nothing was sealed of it"])
def test_what_is_written_after_closing_is_kept_and_said(
    copy: Path, outputs: Path, opskit: Opskit, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opskit.commands import lab  # noqa: PLC0415

    nb = nbformat.read(copy, as_version=4)
    if changed.startswith("where"):
        copy.unlink()
    opskit("seal", copy.parent.name)
    if changed == "a note":
        nb.cells.append(nbformat.v4.new_markdown_cell("My notes, after I closed it"))
    else:
        nb.cells[-1].source += "\n# what I saw since"
    nbformat.write(nb, copy)
    monkeypatch.setattr(lab, "_serve", lambda *_, **__: None)
    assert f"Changed after its record was sealed, and therefore kept: {copy}" in opskit("lab").output
    assert nbformat.read(copy, as_version=4).cells[-1].source == nb.cells[-1].source


def test_what_a_cell_said_after_closing_is_not_kept(copy: Path, outputs: Path, opskit: Opskit) -> None:
    opskit("seal", copy.parent.name)
    nb = nbformat.read(copy, as_version=4)
    nb.cells[-1].outputs = [nbformat.v4.new_output("stream", text="done and verified")]
    nbformat.write(nb, copy)
    assert copies.tidy(outputs) == []
    assert not copy.exists()


@pytest.mark.parametrize("event", ["cell.started", "cell.ended"])
def test_what_was_run_after_the_last_save_is_noticed(copy: Path, outputs: Path, event: str) -> None:
    folder = copies.record_of(copy, outputs)
    assert folder
    assert copies.is_saved(folder, copy)
    (folder / record.JOURNAL).write_text(
        '{"at": "2026-01-01T00:00:00.000+00:00", "event": "cell.started"}\n'
        f'{{"at": "2126-01-01T00:00:00.000+00:00", "event": "{event}"}}\n'
    )
    assert not copies.is_saved(folder, copy)


def test_a_renamed_notebook_is_still_the_investigations(copy: Path, outputs: Path, opskit: Opskit) -> None:
    renamed = copy.rename(copy.with_name("my-night.ipynb"))
    folder = copies.record_of(renamed, outputs)
    assert folder, "a kernel started for it knows its record"
    nbformat.write(nbformat.v4.new_notebook(), copy.with_name("Untitled.ipynb"))
    assert copies.lying(folder, outputs) == renamed
    sealed = opskit("seal", copy.parent.name)
    assert (sealed.exit_code, "Sealed as: lost" in sealed.output) == (6, False), sealed.output
    assert (folder / record.NOTEBOOK).exists()
    copies.tidy(outputs)
    assert [path.name for path in copy.parent.iterdir()] == ["Untitled.ipynb"]


@pytest.mark.parametrize("several", [True, False])
def test_where_nobody_can_tell_which_notebook_it_is_nothing_is_sealed(
    copy: Path, outputs: Path, opskit: Opskit, several: bool
) -> None:
    nb = nbformat.read(copy.rename(copy.with_name("b.ipynb")), as_version=4)
    if not several:
        del nb.metadata["opskit"]  # nobody knows what it is
    for name in ("a.ipynb", "b.ipynb"):
        nbformat.write(nb, copy.with_name(name))
    refused = opskit("seal", copy.parent.name)
    assert (refused.exit_code, "a.ipynb, b.ipynb" in refused.output) == (4, True), refused.output
    folder = archive.Archive(outputs).find(copy.parent.name)
    assert not (folder / "manifest.json").exists()
    copy.with_name("b.ipynb").rename(copy)
    assert opskit("seal", copy.parent.name).exit_code == 6
    assert wrong(folder) == ()


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


def unnamed(journal: list[dict[str, Any]], *counts: int) -> list[dict[str, Any]]:
    """The same, where nobody knows which cell some of them were: run before `begin`, or from a console."""
    return [event | {"cell": ""} if event.get("count") in counts else event for event in journal]


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
        (cells(1, 2), ran((1, 0), (2, 1), (3, 7)), ["run, and not in the notebook now: `cell-7`"]),
        (cells(1, 2, 3), ran((1, 0), (2, 2)), ["shows what an earlier session said: `cell-1`, `cell-2`"]),
        (cells(1, 2, None), ran((1, 0), (2, 1)), ["not run: `cell-2`"]),
        (
            cells(1, None, None),
            ran((1, 0), (2, 1)),
            ["run, and what it said is not here: `cell-1`", "not run: `cell-2`"],
        ),
        (cells(None, 2), unnamed(ran((1, 0), (2, 1)), 1), ["run, and what it said is not here: `cell-0`"]),
        (
            cells(1, 3),
            unnamed(ran((1, 0), (2, 9), (3, 1)), 1, 2),
            ["run outside the notebook, or shown by no cell now: `In[2]`"],
        ),
        (cells(2, 3), unnamed(ran((1, 0), (2, 0), (3, 1)), 1, 2), []),
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


def uploaded(text: str | bytes) -> dict[str, Any]:
    """As JupyterLab's file browser sends any file, notebooks too."""
    raw = text.encode() if isinstance(text, str) else text
    return {"type": "file", "format": "base64", "content": base64.b64encode(raw).decode()}


def half_and_half() -> str:
    """A notebook in which no output holds the whole of a secret."""
    half = len(SECRET) // 2
    shown = [nbformat.v4.new_output("display_data", {"text/plain": piece}) for piece in (SECRET[:half], SECRET[half:])]
    return str(nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=shown)])))


@pytest.mark.parametrize(
    ("name", "content", "secret"),
    [
        ("notes.txt", f"key {SECRET}, ü".encode(), SECRET.encode()),
        ("wide.txt", f"key {SECRET}".encode("utf-16"), SECRET.encode("utf-16")[2:]),
        ("raw.bin", b"\xff\xfe" + SECRET.encode(), SECRET.encode()),  # neither UTF-8 nor UTF-16
        ("x.ipynb", half_and_half().replace('"1"', f'"# {SECRET}"').encode(), SECRET.encode()),
        ("seam.ipynb", half_and_half().encode(), SECRET[len(SECRET) // 2 :].encode()),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_what_is_uploaded_is_saved_without_secrets(
    tmp_path: Path, name: str, content: bytes, secret: bytes, pieces: int
) -> None:
    contents = saving.Contents(root_dir=str(tmp_path))
    contents.register_pre_save_hook(saving.keeper(lambda path: Redactor({"stripe": SECRET})))
    size = -(-len(content) // pieces)
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    for number, part in enumerate(parts, 1):
        chunk = {"chunk": number if number < len(parts) else -1} if len(parts) > 1 else {}
        told = asyncio.run(contents.save({**uploaded(part), **chunk}, name))
        validate_model(told)  # or JupyterLab answers with an error
        assert number == len(parts) or not any(tmp_path.iterdir())
    kept = (tmp_path / name).read_bytes()
    assert secret not in kept
    assert "[secret stripe]" in kept.decode("utf-16" if name == "wide.txt" else "utf-8", "replace")


def test_what_holds_no_secret_is_saved_as_it_is(tmp_path: Path) -> None:
    contents = saving.Contents(root_dir=str(tmp_path))
    contents.register_pre_save_hook(saving.keeper(lambda path: Redactor({"stripe": SECRET})))
    for name, raw in (("a.png", bytes(range(256))), ("b.ipynb", half_and_half().replace(SECRET[-9:], "x").encode())):
        asyncio.run(contents.save(uploaded(raw), name))
        assert (tmp_path / name).read_bytes() == raw


def test_an_upload_that_lacks_a_piece_or_is_too_large_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = saving.Contents(root_dir=str(tmp_path))
    monkeypatch.setattr(saving, "LARGEST", 10)
    for chunks, told in (((1, 3), "is missing"), ((2,), "is missing"), ((-1,), "is missing"), ((1, 2, -1), "larger")):
        with pytest.raises(HTTPError, match=told):
            for chunk in chunks:
                asyncio.run(contents.save({**uploaded("1234"), "chunk": chunk}, "x.txt"))
    assert not any(tmp_path.iterdir())


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
    keep(repository, *PLANNING)
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

    def asks(self, copy: Path, typed: str, saved: bool = True, shown: str = "") -> str:
        """What is answered to somebody who typed that, and who was shown the plan of that digest, or the run's own."""
        folder = copies.record_beside(copy, self.lab.outputs)
        assert folder
        asked = {"run": copy.parent.name, "typed": typed, "removals": False, "since": time.time() + (0 if saved else 9)}
        asked["plan"] = shown or plan.load(folder / "plan.json").digest
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
    keep(repository, *PLANNING)
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
        assert "has another plan by now" in door.asks(copy, f"{live} 1", shown="sha256:shown")
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


@pytest.fixture
def offered(copy: Path, outputs: Path, standing: Sandbox) -> tuple[Path, Path, plan.Plan]:
    """The record of an investigation whose kernel has just shown a plan, its copy, and that plan."""
    folder = copies.record_of(copy, outputs)
    assert folder
    made_for = dict.fromkeys(plan.MADE_FOR, "") | {"run": folder.name, "environment": standing.name, "operator": "ana"}
    proposed = plan.Plan(made_for, [Action("t.none", {"id": "1"}, None, "Look at it", manual=True)])
    note(folder, "run.begun")
    note(folder, "plan", digest=proposed.digest, actions=1, removals=0, manual=1, causes=["unknown"])
    proposed.save(folder / "plan.json")
    return folder, copy, proposed


def note(folder: Path, event: str, **data: Any) -> None:
    journal.Journal(folder / record.JOURNAL).write(event, **data)


def shows(copy: Path, text: str) -> None:
    nb = nbformat.read(copy, as_version=4)
    nb.cells[-1].outputs = [nbformat.v4.new_output("display_data", {"text/plain": text})]
    nbformat.write(nb, copy)


def test_only_the_plan_that_was_shown_is_carried_out(
    offered: tuple[Path, Path, plan.Plan], repository: Path, outputs: Path, opskit: Opskit
) -> None:
    folder, copy, shown = offered
    shows(copy, repr(shown))
    other = plan.Plan(shown.made_for, [Action("t.none", {"id": "2"}, None, "Another", manual=True)])
    other.save(folder / "plan.json")  # of a second kernel
    with TemporaryDirectory(prefix="opskit-") as runtime:
        door = Door(repository, outputs, Path(runtime))
        typed = f"{shown.made_for['environment']} 1"
        assert "another plan by now" in door.asks(copy, typed, shown=shown.digest)
        shown.save(folder / "plan.json")
        shows(copy, repr(other))  # a second tab saved over what is seen here
        assert "does not show this plan" in door.asks(copy, typed, shown=shown.digest)
    assert not archive.Archive(outputs).approval(folder).exists()
    assert not (folder / "manifest.json").exists()
    refused = opskit("approve", folder.name, "--plan", other.digest, "--type", typed)
    assert (refused.exit_code, "another plan by now" in refused.output) == (4, True), refused.output
    assert opskit("approve", folder.name, "--plan", shown.digest, "--type", typed).exit_code == 0


def test_what_is_saved_over_it_at_the_last_moment_is_not_carried_out(
    offered: tuple[Path, Path, plan.Plan], repository: Path, outputs: Path
) -> None:
    from opskit.lab import server  # noqa: PLC0415  # JupyterLab takes its time

    folder, copy, shown = offered
    lab = server.Lab(repository, outputs, outputs, {}, (), investigate)
    shows(copy, repr(shown))
    asked = {"run": folder.name, "plan": shown.digest, "typed": "x 1", "removals": False, "since": 0}
    commands = server._commands(lab, asked)
    assert [next(commands)[0], next(commands)[0]] == ["approve", "seal"]
    (folder / record.NOTEBOOK).write_bytes(copy.read_bytes())
    shows(folder / record.NOTEBOOK, "another plan")
    with pytest.raises(Refused, match="as it was sealed does not show this plan"):
        next(commands)


def asked(folder: Path, answer: str, cause: str | None = None) -> None:
    note(folder, "check", name="enabled", question="Enabled?", answer=answer, cause=cause, because="", required=True)


def planned_now(folder: Path, proposed: plan.Plan, *causes: str) -> None:
    """What `run.apply()` leaves behind."""
    told = {"actions": len(proposed), "removals": 0, "manual": len(proposed), "causes": causes}
    note(folder, "plan", digest=proposed.digest, **told)
    proposed.save(folder / "plan.json")


FOUND = ("no", "endpoint-disabled")


@pytest.mark.parametrize(
    ("sessions", "code", "told"),
    [
        ([("healthy",), FOUND], 6, "`run.apply()` was not run; an earlier plan is set aside"),
        ([("plan", *FOUND), ("yes",)], 6, "`run.apply()` was not run; an earlier plan is set aside"),
        ([("healthy", "then", *FOUND)], 6, "what was seen, or planned, changed after `run.apply()`"),
        ([("plan", *FOUND, "then", "yes")], 6, "what was seen, or planned, changed after `run.apply()`"),
        ([("plan", *FOUND, "spoilt")], 6, "what was seen, or planned, changed after `run.apply()`"),
        ([("yes",)], 6, "no plan to approve: `run.apply()` was not run"),
        ([("refused",), ("healthy",)], 0, ""),
        ([("refused",), ("plan", *FOUND)], 6, ""),  # only people can: it is a person's step
        ([FOUND, ("healthy",)], 0, ""),
        ([("healthy",), ("refused",)], 6, "`run.apply()` was not run; an earlier plan is set aside"),
    ],
)
def test_only_what_was_seen_since_it_was_last_begun_counts(
    copy: Path, outputs: Path, opskit: Opskit, sessions: list[tuple[str, ...]], code: int, told: str
) -> None:
    folder = copies.record_of(copy, outputs)
    assert folder
    action = Action("t.none", {"id": "1"}, None, "Look at it", manual=True)
    for number, words in enumerate(sessions):
        made_for = {"session": number, "environment": "x", "operator": "ana"}
        note(folder, "run.begun", kernel=number)
        match words:
            case ["refused"]:
                note(folder, "refused", why="another target")
            case ["healthy", *rest]:
                asked(folder, "yes")
                planned_now(folder, plan.Plan(made_for), "healthy")
                if rest:
                    asked(folder, *rest[1:])
            case ["plan", answer, cause, *rest]:
                asked(folder, answer, cause)
                planned_now(folder, plan.Plan(made_for, [action]), cause)
                if rest[:1] == ["then"]:
                    asked(folder, *rest[1:])
                elif rest:
                    (folder / "plan.json").write_text('{"half": ')
            case _:
                asked(folder, *words)
    sealed = opskit("seal", folder.name)
    assert (sealed.exit_code, told in sealed.output) == (code, True), sealed.output
    assert ("Mind: no plan to approve" in sealed.output) == bool(told)
    assert ("another target" in sealed.output) == (sessions[-1] == ("refused",))
    assert (folder / "plan.json").exists() == (not told)
    assert wrong(folder) == ()
    shown = nbformat.read(folder / "notebook.ipynb", as_version=4).cells[1].source
    assert told in shown
    if told:
        for refused in (opskit("plan", folder.name), opskit("approve", folder.name, "--type", "x 1")):
            assert (refused.exit_code, told in refused.output) == (2, True), refused.output
            assert f"opskit lab small --incident {folder.parent.name}" in refused.output
        assert (archive.summary(folder)["actions"], "healthy" in shown) == (0, False)


def test_yesterdays_plan_is_not_approved_while_today_has_none(
    offered: tuple[Path, Path, plan.Plan], opskit: Opskit
) -> None:
    folder, _, _ = offered
    assert opskit("plan", folder.name).exit_code == 0
    note(folder, "run.begun")
    refused = opskit("approve", folder.name, "--type", "x 1")
    assert (refused.exit_code, "Go on, and run that cell" in refused.output) == (2, True), refused.output


@pytest.mark.deep
def test_an_investigation_that_went_on_another_day_is_what_that_day_found(
    firm: Sandbox, repository: Path, outputs: Path, opskit: Opskit
) -> None:
    keep(repository, *PLANNING)
    copy = investigate("small", {"environment": firm.name})
    executed(copy, outputs, repository)  # yesterday all was well
    firm.break_with("endpoint-disabled")
    nb = nbformat.read(copy, as_version=4)
    nb.cells[-2].source = nb.cells[-1].source = ""  # not come to the plan yet
    nbformat.write(nb, copy)
    executed(copy, outputs, repository)
    sealed = opskit("seal", copy.parent.name)
    assert (sealed.exit_code, "unknown: endpoint-disabled" in sealed.output) == (6, True), sealed.output


def test_what_would_be_lost_by_closing_is_said_before(offered: tuple[Path, Path, plan.Plan]) -> None:
    from opskit.lab import index  # noqa: PLC0415  # JupyterLab takes its time

    folder, copy, shown = offered
    shows(copy, repr(shown))
    index._require_finished(folder, copy, ["idle"])
    with pytest.raises(Refused, match="is still running"):
        index._require_finished(folder, copy, ["idle", "busy"])
    note(folder, "cell.started", cell="x", count=1, source="")
    note(folder, "cell.ended", count=1)
    copy.touch()
    index._require_finished(folder, copy, ["idle"])
    note(folder, "run.begun")
    with pytest.raises(Refused, match="was not run, so there would be none to approve"):
        index._require_finished(folder, copy, ["idle"])


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
