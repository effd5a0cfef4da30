"""Records: written whole or not at all, and any later change to one is found."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, allow, wrong

from opskit import record, scrub
from opskit.errors import BadInput, Refused
from opskit.redaction import Redactor

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


# Mailed to an auditor.


def test_an_auditor_needs_nothing_of_ours(folder: Path, ana: Path) -> None:
    """The commands are those of the documentation."""
    record.seal(folder, "ana")
    allow(folder.parent / "allowed_signers", ("ana", ana))
    page = (REPOSITORY / "docs" / "evidence.md").read_text()
    (commands,) = re.findall(r"```bash\n(python3 -c .*?)```", page, re.S)

    def checked() -> int:
        script = f"set -e -o pipefail\n{commands}"
        return subprocess.run(["bash", "-c", script], cwd=folder, check=False, capture_output=True).returncode

    assert checked() == 0
    (folder / "evidence" / "table.csv").write_text("a,b\n1,3\n")
    assert checked() != 0
    (folder / "manifest.json").unlink()
    (folder / "manifest.json.sig").rename(folder.parent / "kept")
    record.seal(folder, "ana")
    (folder.parent / "kept").replace(folder / "manifest.json.sig")
    assert checked() != 0


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


# Files that a notebook wrote itself.

SECRET = "sk_test_Quo\"te'/slash é"
redactor = Redactor({"token": SECRET})

WRITTEN = {
    "text": SECRET.encode(),
    "in the middle of much": b"x" * (scrub.PIECE - 9) + SECRET.encode() + b"y" * scrub.PIECE,
    "other bytes around": b"\xff\xfe caf\xe9 \r\n" + SECRET.encode() + b"\0\x80\r\r\n",
    "JSON": json.dumps({"key": [SECRET]}).encode(),
    "UTF-16": f"\ufeff{SECRET}\r\n".encode("utf-16-le"),
    "UTF-16, the other way round": f"\ufeff{SECRET}".encode("utf-16-be"),
    "an environment": b"A=1\0TOKEN=" + SECRET.encode() + b"\0B=2\0",
}


@pytest.mark.parametrize("raw", WRITTEN.values(), ids=WRITTEN.keys())
def test_a_secret_is_taken_out_of_a_file(folder: Path, raw: bytes) -> None:
    path = folder / "evidence" / "mine.txt"
    path.write_bytes(raw)
    path.chmod(0o600)
    assert scrub.redact_files(folder, redactor) == ["evidence/mine.txt"]
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        raw = raw.replace(SECRET.encode(encoding), "[secret token]".encode(encoding))
    assert path.read_bytes() == raw.replace(json.dumps(SECRET)[1:-1].encode(), b"[secret token]")
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(folder.rglob("*.part"))
    assert scrub.redact_files(folder, redactor) == []


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xfe", b"\xff\xfea", b"\xfe\xff\xd8\0", bytes(range(256)) * 50, b"a\r\nb\rc\n"]
)
def test_a_file_without_secrets_is_not_touched(folder: Path, raw: bytes) -> None:
    path = folder / "evidence" / "mine.bin"
    path.write_bytes(raw)
    before = path.stat()
    assert scrub.redact_files(folder, redactor) == []
    assert path.read_bytes() == raw
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_names_of_files_and_folders_are_redacted_too(folder: Path) -> None:
    named = Redactor({"token": "sk_test_abcdefgh"})
    for place in ("sk_test_abcdefgh/sk_test_abcdefgh.txt", "[secret token]/other.txt"):
        (folder / place).parent.mkdir()
        (folder / place).write_text("fine")
    scrub.redact_files(folder, named)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.txt")}
    assert found == {"[secret token]1/[secret token].txt", "[secret token]/other.txt"}


def test_a_link_is_left_alone(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "password-file"
    elsewhere.write_text(SECRET)
    (folder / "link").symlink_to(elsewhere)
    (folder / "nowhere").symlink_to(tmp_path / "nowhere")
    assert scrub.redact_files(folder, redactor) == []
    assert elsewhere.read_text() == SECRET
