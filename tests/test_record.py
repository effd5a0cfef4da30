"""Records: written whole or not at all, and any later change to one is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import wrong

from opskit import record
from opskit.errors import BadInput, Refused

ABOUT = {"incident": "INC-1", "run": "20261123T000000-abcd", "runbook": "r"}


@pytest.fixture
def folder(outputs: Path) -> Path:
    made = record.prepare(outputs, ABOUT)
    (made / "evidence").mkdir()
    (made / "evidence" / "table.csv").write_text("a,b\n1,2\n")
    (made / "journal.jsonl").write_text('{"event": "run.accepted"}\n')
    return made


def test_a_record_lies_under_incident_and_run(folder: Path, outputs: Path) -> None:
    assert folder == outputs / "INC-1" / "20261123T000000-abcd"
    assert json.loads((folder / "run.json").read_text()) == ABOUT


def test_a_run_has_a_folder_of_its_own(folder: Path, outputs: Path) -> None:
    with pytest.raises(BadInput):
        record.prepare(outputs, ABOUT)


def test_what_was_sealed_is_as_it_was(folder: Path) -> None:
    record.seal(folder, "ana")
    assert wrong(folder) == ()


def test_a_record_is_sealed_once(folder: Path) -> None:
    record.seal(folder, "ana")
    with pytest.raises(Refused, match="sealed already"):
        record.seal(folder, "ana")


def test_an_unsealed_record_proves_nothing(folder: Path) -> None:
    assert wrong(folder) == ("not sealed: there is no manifest",)


TAMPERING: dict[str, tuple[Any, list[str]]] = {
    "altered": (lambda f: (f / "run.json").write_text("{}"), ["altered: run.json"]),
    "one byte more": (lambda f: (f / "journal.jsonl").open("a").write(" "), ["altered: journal.jsonl"]),
    "altered below": (lambda f: (f / "evidence/table.csv").write_text("a,b\n1,3\n"), ["altered: evidence/table.csv"]),
    "removed": (lambda f: (f / "run.json").unlink(), ["removed: run.json"]),
    "emptied": (lambda f: (f / "run.json").write_text(""), ["altered: run.json"]),
    "added": (lambda f: (f / "new.txt").write_text(""), ["added: new.txt"]),
    "added and hidden": (lambda f: (f / "evidence/.new").write_text(""), ["added: evidence/.new"]),
    "added under the manifest's name": (
        lambda f: (f / "evidence/manifest.json").write_text("{}"),
        ["added: evidence/manifest.json"],
    ),
    "renamed": (lambda f: (f / "run.json").rename(f / "ran.json"), ["removed: run.json", "added: ran.json"]),
    "swapped": (
        lambda f: (
            (f / "run.json").rename(f / "x"),
            (f / "journal.jsonl").rename(f / "run.json"),
            (f / "x").rename(f / "journal.jsonl"),
        ),
        ["altered: journal.jsonl", "altered: run.json"],
    ),
    "manifest gone": (lambda f: (f / "manifest.json").unlink(), ["not sealed: there is no manifest"]),
    "manifest cut": (lambda f: (f / "manifest.json").write_text('{"files": {'), ["the manifest itself is damaged"]),
    "manifest empty": (lambda f: (f / "manifest.json").write_text(""), ["the manifest itself is damaged"]),
    "manifest another thing": (lambda f: (f / "manifest.json").write_text("[]"), ["the manifest itself is damaged"]),
}


@pytest.mark.parametrize(("tamper", "found"), TAMPERING.values(), ids=TAMPERING.keys())
def test_any_later_change_is_found(folder: Path, tamper: Any, found: list[str]) -> None:
    record.seal(folder, "ana")
    tamper(folder)
    assert wrong(folder) == tuple(found)


# Writing.


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    record.write(path, "one")
    record.write(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    record.write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        record.write(path, "new" * 10000 + "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from opskit import record
path = Path(sys.argv[1])
record.write(path, "old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as full as a disk can be made without one
try:
    record.write(path, "x" * 100_000)
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "File too large\n", done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


ENDLESS = """
import sys
from pathlib import Path
from opskit import record
n = 0
while True:
    n += 1
    record.write(Path(sys.argv[1]), str(n % 10) * 200_000)
    if n == 3:
        print("writing", flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
    text = path.read_text()
    assert len(text) == 200_000
    assert len(set(text)) == 1


# Where it goes.


def test_outputs_need_not_exist_yet(tmp_path: Path) -> None:
    record.check_writable(tmp_path / "outputs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/outputs", "/proc/1/outputs", "{tmp}/file", "{tmp}/file/outputs"])
def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    where = Path(place.format(tmp=tmp_path))
    with pytest.raises(BadInput, match=f"cannot write to {where}"):
        record.check_writable(where)
    with pytest.raises(BadInput, match=f"cannot write to {where}"):
        record.prepare(where, ABOUT)
