"""The journal: on disk before anything else happens, readable after any crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.journal import Journal, read
from opskit.redaction import Redactor

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def test_what_is_written_is_read_back_in_order(journal: Journal) -> None:
    journal.write("one", value=1)
    journal.write("two", value={"deep": [None, True, "ü"]})
    assert [(e["event"], e["value"]) for e in journal.read()] == [("one", 1), ("two", {"deep": [None, True, "ü"]})]


def test_every_entry_says_when_in_utc(journal: Journal) -> None:
    journal.write("one")
    assert journal.read()[0]["at"].endswith("+00:00")


def test_no_journal_has_no_events(tmp_path: Path) -> None:
    assert list(read(tmp_path / "none")) == []


def test_nobody_else_may_read_it(journal: Journal) -> None:
    journal.write("one")
    assert journal.path.stat().st_mode & 0o077 == 0


@given(value=json_values)
def test_any_value_survives(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "j")
    journal.write("one", value=value)
    assert journal.read()[0]["value"] == value


@pytest.mark.parametrize(
    "text", ["a\u2028b", "a\u2029b", "a\x85b", "a\nb", "a\r\nb", "a\x0bb\x0c\x1c", "half \ud800 pair", "\0"]
)
def test_no_character_ends_a_line_but_a_line_break(journal: Journal, text: str) -> None:
    journal.write("one", text=text)
    journal.write("two")
    assert [e.get("text") for e in journal.read()] == [text, None]


def test_secrets_are_gone_before_the_disk_sees_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", Redactor({"token": "correct horse"}))
    journal.write("one", said={"correct horse": ["the correct horse."]})
    assert b"correct horse" not in journal.path.read_bytes()
    assert journal.read()[0]["said"] == {"[secret token]": ["the [secret token]."]}


def test_a_torn_line_is_no_event_and_spoils_no_later_one(journal: Journal) -> None:
    journal.write("one")
    with journal.path.open("ab") as file:
        file.write(b'{"at": "2026-11-23T00:00:00+00:00", "event": "to')
    assert [e["event"] for e in journal.read()] == ["one"]
    journal.write("two")
    journal.write("three")
    assert [e["event"] for e in journal.read()] == ["one", "two", "three"]


@given(data=st.data())
def test_cut_anywhere_it_gives_the_events_before(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "j")
    written = data.draw(st.lists(st.text(max_size=12), min_size=1, max_size=5))
    for text in written:
        journal.write("said", text=text)
    raw = journal.path.read_bytes()
    size = data.draw(st.integers(0, len(raw)))
    journal.path.write_bytes(raw[:size])
    whole = raw[:size].count(b"\n")
    texts = [e["text"] for e in journal.read()]
    assert texts in (written[:whole], written[: whole + 1])  # a line may lack nothing but its end
    journal.write("said", text="later")
    assert [e["text"] for e in journal.read()] == [*texts, "later"]


@given(st.binary(max_size=200))
def test_reading_garbage_raises_nothing(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    path.write_bytes(raw)
    assert all("event" in entry for entry in read(path))


class Sulking:
    def __str__(self) -> str:
        raise ValueError("no")


def test_no_value_keeps_an_event_from_being_written(journal: Journal) -> None:
    itself: list[Any] = []
    itself.append(itself)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    strange = {(1, 2): {3}, None: b"raw", "number": 10**5000, "nan": float("nan"), "sulking": Sulking()}
    journal.write("one", strange=strange, itself=itself, deep=deep, big="x" * 5_000_000)
    (found,) = journal.read()
    assert found["strange"] | {"number": 0} == {
        "[1, 2]": [3], "None": "b'raw'", "number": 0, "nan": "nan", "sulking": "(Sulking)",
    }  # fmt: skip
    assert found["itself"] == ["(nested too deeply, or within itself)"]
    assert len(found["big"]) == 5_000_000
    assert "NaN" not in journal.path.read_text()


def test_secrets_within_objects_are_gone_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", Redactor({"token": "correct horse"}))
    journal.write("one", error=ValueError("correct horse"), path=Path("/correct horse"), raw=b"correct horse")
    assert b"correct horse" not in journal.path.read_bytes()
    assert len(journal.read()) == 1


def test_a_full_disk_is_told_and_leaves_no_event(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.write("one")
    plain, took = os.write, []

    def almost_full(handle: int, raw: bytes) -> int:
        if took:
            raise OSError(28, "No space left on device")
        took.append(True)
        return plain(handle, raw[:30])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", almost_full)
        with pytest.raises(OSError, match="No space left"):
            journal.write("two")
    assert [e["event"] for e in journal.read()] == ["one"]
    journal.write("three")
    assert [e["event"] for e in journal.read()] == ["one", "three"]


LINE = b'{"at": "2026-11-23T00:00:00+00:00", "event": "said", "n": 1}'


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (LINE + b"\n" + LINE + b"\n", 2),  # twice is twice: what it means twice, its readers know
        (b"\0" * 4096 + LINE + b"\n", 1),  # a machine that lost power
        (LINE + b"\n" + b"\0" * 100, 1),
        (LINE[:30] + LINE + b"\n" + LINE + b"\n", 1),  # torn, and the next one glued to it
        (LINE[:20] + b"\n" + LINE, 1),
        (b'{"x": {"at": "", "event": "inner"}\n', 0),  # what stands inside a torn event is none
        (LINE.replace(b"said", b"s\xffid"), 0),
        (b"[" * 100_000 + b"\n" + LINE, 1),
        (b'{"event": ' + b"9" * 5000 + b"}\n" + LINE, 1),
        (b'{"event": ["said"]}\n["event"]\n"event"\nnull\n\n' + LINE, 1),
        (LINE + b"\r\n", 1),
        (b"\xef\xbb\xbf" + LINE, 0),
    ],
)
def test_a_damaged_journal_gives_its_whole_lines(journal: Journal, raw: bytes, events: int) -> None:
    journal.path.write_bytes(raw)
    assert [e["event"] for e in journal.read()] == ["said"] * events


WRITER = """
import sys
from pathlib import Path
from opskit.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(200):
    journal.write("said", writer=sys.argv[2], number=number, text="x" * (number * 7 % 5000))
"""


def test_two_processes_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    events = list(read(path))
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    assert len(lines) == len(events) == 400
    for name in "ab":
        assert [e["number"] for e in events if e["writer"] == name] == list(range(200))


KILLED = """
import os, signal, sys
from pathlib import Path
from opskit.journal import Journal
journal = Journal(Path(sys.argv[1]))
journal.write("one")
print("written", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_written_is_there_after_a_kill(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "j")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-9, "written\n")
    assert [e["event"] for e in read(tmp_path / "j")] == ["one"]


def test_a_line_is_one_json_object(journal: Journal) -> None:
    journal.write("one", path=Path("/x"))
    assert json.loads(journal.path.read_text())["path"] == os.fspath(Path("/x"))
