"""Records in whatever state: one that cannot be read is named, and the others are as they were."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from support import REPOSITORY, Opskit, data, restore, sealed, wrong

from opskit import files, record
from opskit.journal import Journal
from opskit.spelling import printable

DEEP = "[" * 100_000 + "]" * 100_000
HEAD = {"incident": "INC-1", "run": "20260102T000000000-bad0", "runbook": "small", "environment": "sandbox",
        "operator": "ana", "started": "2026-01-02T00:00:00+00:00"}  # fmt: skip


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def link(path: Path) -> None:
    """The same content, at a place outside of the record."""
    elsewhere = path.parents[2] / f"elsewhere-{path.name}"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def holds(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text.encode() if isinstance(text, str) else text)


HARM: dict[str, tuple[str, Callable[[Path], object]]] = {
    "an empty head": ("run.json", holds("")),
    "a head that is a list": ("run.json", holds("[]")),
    "a head of numbers": ("run.json", holds(json.dumps({**HEAD, "started": 7}))),
    "a head without a zone": ("run.json", holds(json.dumps({**HEAD, "started": "2026-01-02T00:00:00"}))),
    "a deep head": ("run.json", holds(DEEP)),
    "a head that is no text": ("run.json", holds(b"\xff\xfe\x00")),
    "a head that is a pipe": ("run.json", pipe),
    "a head that is a folder": ("run.json", folder),
    "a head elsewhere": ("run.json", link),
    "no head": ("run.json", Path.unlink),
    "a journal that is a pipe": ("journal.jsonl", pipe),
    "a journal elsewhere": ("journal.jsonl", link),
    "an end without an outcome": ("journal.jsonl", holds('{"event": "run.ended"}\n')),
    "causes that are none": ("journal.jsonl", holds('{"event": "check", "name": 1}\n')),
    "an event at no time": ("journal.jsonl", holds('{"event": "run.ended", "outcome": "healthy"}\n')),
    "half a difference": (
        "journal.jsonl",
        holds('{"at": "2026-01-02T00:00:00+00:00", "event": "difference", "gone": []}\n'),
    ),
    "no parameters": ("run.json", holds(json.dumps(HEAD))),
    "a manifest that is a pipe": ("manifest.json", pipe),
    "a manifest elsewhere": ("manifest.json", link),
    "an approval that is a pipe": ("approval.json", pipe),
    "an approval of nothing": ("approval.json", holds("{}")),
    "a deep approval": ("approval.json", holds(DEEP)),
}


@pytest.fixture
def place(outputs: Path) -> Path:
    sealed(outputs)
    sealed(outputs)
    return outputs


@pytest.mark.timeout(60)  # a pipe that is waited for is the failure
@pytest.mark.parametrize(("name", "harm"), HARM.values(), ids=HARM)
def test_one_damaged_record_is_named_and_the_others_work(
    place: Path, opskit: Opskit, name: str, harm: Callable[[Path], object]
) -> None:
    bad = sealed(place, run=HEAD["run"])
    harm(bad / name)
    history = opskit("history")
    assert history.exit_code == 0
    assert "DAMAGED" in history.output and bad.name in history.output
    assert len(data(opskit("history", "--json"))) == 2
    last = opskit("show", "last")
    assert last.exit_code == 2 and bad.name in last.output  # it may be the one that is meant
    assert opskit("show", next(iter(data(opskit("history", "--json"))))["run"]).exit_code == 0
    shown = opskit("show", bad.name)
    assert shown.exit_code == 2 and not isinstance(shown.exception, RecursionError)
    verified = opskit("verify", "--json")
    assert verified.exit_code == 1
    assert [line for line in data(verified)["wrong"] if bad.name in line]
    assert not [line for line in data(verified)["wrong"] if bad.name not in line]
    assert opskit("report", "INC-1").exit_code == 0


def test_a_damaged_record_of_the_incident_stops_an_apply(once: Path, outputs: Path, opskit: Opskit) -> None:
    """It may be the one that carried out the plan already."""
    restore(once, outputs)
    run = next(path.parent for path in outputs.glob("*/*/run.json"))
    bad = sealed(outputs, run.parent.name, HEAD["run"])
    (bad / "run.json").write_text("")
    refused = opskit("apply", run.name)
    assert refused.exit_code == 4
    assert bad.name in refused.output


LINKED = ("manifest.json", "manifest.json.sig", "journal.jsonl", "notebook.ipynb")


@pytest.mark.parametrize("name", LINKED)
def test_a_link_to_the_same_content_is_not_the_file_that_was_sealed(place: Path, name: str) -> None:
    one = next(path.parent for path in place.glob("*/*/manifest.json"))
    link(one / name)
    assert wrong(one)


def add_pipe(one: Path) -> None:
    os.mkfifo(one / "evidence-pipe")


def add_socket(one: Path) -> None:
    here = Path.cwd()
    os.chdir(one)  # a socket's path has to be short
    try:
        socket.socket(socket.AF_UNIX).bind("plug")
    finally:
        os.chdir(here)


def add_folder(one: Path) -> None:
    (one / "empty").mkdir()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("add", [add_pipe, add_socket, add_folder])
def test_what_is_no_file_is_found_as_well(place: Path, add: Callable[[Path], None]) -> None:
    one = next(path.parent for path in place.glob("*/*/manifest.json"))
    add(one)
    assert any(line.startswith("added: ") for line in wrong(one))


def test_an_empty_folder_that_was_sealed_may_be_gone_as_git_does_not_carry_it(outputs: Path) -> None:
    made = record.prepare(outputs, {**HEAD})
    (made / "evidence").mkdir()
    record.seal(made, "ana")
    assert wrong(made) == ()
    (made / "evidence").rmdir()
    assert wrong(made) == ()


# A record that the history did not take.


def test_a_commit_that_fails_is_told_and_made_up_for(place: Path, opskit: Opskit) -> None:
    new = record.prepare(place, {**HEAD, "host": "here", "retention_days": 90, "parameters": {}})
    Journal(new / "journal.jsonl").write("run.ended", outcome="lost", exit=1)
    (place / ".git" / "refs" / "heads" / "main.lock").write_text("")
    failed = opskit("seal", new.name)
    assert failed.exit_code == 1
    assert "NOT IN THE ARCHIVE'S HISTORY" in failed.output and "main.lock" in failed.output
    assert [line for line in data(opskit("verify", "--json"))["wrong"] if new.name in line]
    (place / ".git" / "refs" / "heads" / "main.lock").unlink()
    assert opskit("seal", new.name).exit_code == 0
    assert opskit("verify").exit_code == 0


# A page is not written over a record, nor through a link into one.


def test_a_page_is_not_written_into_any_record(place: Path, opskit: Opskit, tmp_path: Path) -> None:
    one, other = sorted(path.parent for path in place.glob("*/*/manifest.json"))
    (tmp_path / "way").symlink_to(other)
    mailed = tmp_path / "mailed"
    shutil.copytree(other, mailed)
    targets = (other / "notebook.ipynb", tmp_path / "way" / "journal.jsonl", mailed / "run.json")
    for how, target in product((("export", "--to"), ("plan", "--export")), targets):
        before = target.read_bytes()
        refused = opskit(how[0], one.name, how[1], target)
        assert refused.exit_code == 2
        assert "among the records" in refused.output
        assert target.read_bytes() == before
    assert opskit("export", one.name, "--to", tmp_path / "page.html").exit_code == 0


@pytest.mark.parametrize("name", ["pages", "report"])
def test_a_postmortem_is_not_written_through_a_link(place: Path, opskit: Opskit, tmp_path: Path, name: str) -> None:
    (place / "INC-1" / name).symlink_to(tmp_path)
    refused = opskit("report", "INC-1")
    assert refused.exit_code == 2 and "is a link" in refused.output
    assert not list(tmp_path.glob("postmortem*")) and not list(tmp_path.glob("*.html"))


def test_a_search_reads_no_links(place: Path, opskit: Opskit, tmp_path: Path) -> None:
    (tmp_path / "else").write_text("needle")
    (next(path.parent for path in place.glob("*/*/manifest.json")) / "link").symlink_to(tmp_path / "else")
    assert data(opskit("history", "needle", "--json")) == []


# What a terminal obeys.


def test_an_outcome_is_no_markup(place: Path, opskit: Opskit) -> None:
    one = sealed(place, run=HEAD["run"])
    (one / "journal.jsonl").write_text('{"at": "2026-01-02T00:00:00+00:00", "event": "run.ended", "outcome": "[/b]"}\n')
    assert "[/b]" in opskit("history").output


def test_a_name_is_no_line_of_the_answer(place: Path, opskit: Opskit) -> None:
    one = next(path.parent for path in place.glob("*/*/manifest.json"))
    (one / "x\n9 of 9 records are as they were sealed.").write_text("")
    assert "9 of 9 records are as they were sealed." not in opskit("verify").output.splitlines()


@pytest.mark.parametrize("sign", ["\x1b[2J", "\r", "\x07", "\u202e", "\u2066", "\u200b", "\x9b", "\x7f"])
def test_no_name_moves_the_cursor(place: Path, opskit: Opskit, sign: str) -> None:
    one = next(path.parent for path in place.glob("*/*/manifest.json"))
    (one / f"evil{sign}name").write_text("")
    for command in (["verify"], ["history", "evil"], ["show", one.name]):
        assert sign not in opskit(*command).output
    found = opskit("verify", "--json")
    assert sign not in found.output
    assert any(sign in line for line in data(found)["wrong"])


def test_a_name_that_is_no_text_is_told_all_the_same(place: Path, opskit: Opskit) -> None:
    one = next(path.parent for path in place.glob("*/*/manifest.json"))
    Path(os.fsdecode(bytes(one) + b"/\xff\xfe")).write_text("")
    assert opskit("verify").exit_code == 1
    assert data(opskit("verify", "--json"))["wrong"]


def test_ordinary_text_is_shown_as_it_is() -> None:
    assert printable("Zoë → 3 €\n\tnext") == "Zoë → 3 €\n\tnext"


def test_reading_never_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"):
        files.read(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"):
        files.read(Path("/dev/zero"))
    assert files.read(REPOSITORY / "LICENSE")
