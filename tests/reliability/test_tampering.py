"""A sealed archive shows every change: of a byte, a file, a record, the history; or says what it cannot show."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from sealed_archive import forge, git
from support import allow, make_key

from opskit import record, signatures


@contextmanager
def holding(path: Path, content: bytes) -> Iterator[None]:
    """A file with another content, for a while."""
    before, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


@contextmanager
def away(place: Path, *paths: Path) -> Iterator[None]:
    """Files or folders that are gone from the archive, for a while."""
    drawer = place.parent / "drawer"
    drawer.mkdir(exist_ok=True)
    for number, path in enumerate(paths):
        path.rename(drawer / str(number))
    try:
        yield
    finally:
        for number, path in enumerate(paths):
            (drawer / str(number)).rename(path)


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def altered(content: bytes, place: int, dice: random.Random) -> bytes:
    return content[:place] + bytes([content[place] ^ dice.randrange(1, 256)]) + content[place + 1 :]


def tell(what: str, tried: int, found: int) -> None:
    print(f"\n{what}: {tried} tried, {found} detected")
    assert tried
    assert found == tried


# Bytes.


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.deep)])
def test_each_byte_of_an_unsigned_record(unsigned_one: Path, times: int) -> None:
    dice, tried, found = random.Random(1), 0, 0
    assert record.verify(unsigned_one).wrong == ()
    for path in files(unsigned_one):
        content = path.read_bytes()
        for byte in range(len(content)):
            for _ in range(times):
                with holding(path, altered(content, byte, dice)):
                    tried, found = tried + 1, found + bool(record.verify(unsigned_one).wrong)
    tell("Single bytes of an unsigned record", tried, found)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.deep)])
def test_each_byte_of_a_signed_record(signed: Path, allowed: Path, step: int) -> None:
    """Of manifest and signature; of the other files, what the manifest says is compared before."""
    dice, tried, found = random.Random(2), 0, 0
    assert record.verify(signed, allowed) == record.Finding(signer="ana")
    for path in (signed / record.MANIFEST, signed / record.SIGNATURE):
        content = path.read_bytes()
        for byte in range(0, len(content), step):
            with holding(path, altered(content, byte, dice)):
                tried, found = tried + 1, found + bool(record.verify(signed, allowed).wrong)
    tell("Single bytes of manifest and signature", tried, found)


@pytest.mark.parametrize("size", [300, pytest.param(6000, marks=pytest.mark.deep)])
def test_bytes_of_a_real_run(place: Path, size: int) -> None:
    (folder,) = (path.parent for path in place.glob("*-small/*/manifest.json"))
    (folder / record.SIGNATURE).unlink()  # the digests alone must show it
    dice, tried, found = random.Random(3), 0, 0
    paths = [path for path in files(folder) if path.stat().st_size]
    for path in dice.choices(paths, weights=[path.stat().st_size for path in paths], k=size):
        content = path.read_bytes()
        with holding(path, altered(content, dice.randrange(len(content)), dice)):
            tried, found = tried + 1, found + bool(record.verify(folder).wrong)
    tell("Single bytes of a real run's record", tried, found)


@pytest.mark.parametrize("size", [25, pytest.param(600, marks=pytest.mark.deep)])
def test_bytes_anywhere_in_the_archive(place: Path, verified: Callable[[], list[str]], size: int) -> None:
    """By the command itself: records, approvals, and what holds the history."""
    assert verified() == []
    newest = git(place, "rev-parse", "main")
    dice, tried, found, same = random.Random(4), 0, 0, 0
    kept = [path for path in files(place) if path.stat().st_size and ".git" not in path.parts]
    kept = [path for path in kept if ".locks" not in path.parts]
    history = [*files(place / ".git" / "objects"), place / ".git" / "refs" / "heads" / "main", place / ".git" / "HEAD"]
    for path in [*dice.choices(kept, k=size // 2), *dice.choices(history, k=size // 2)]:
        content = path.read_bytes()
        with holding(path, altered(content, dice.randrange(len(content)), dice)):
            seen = bool(verified())
            if not seen and ".git" in path.parts:  # such as bits that fill up the last byte of what is compressed
                git(place, "fsck", "--full", "--strict")
                assert git(place, "rev-parse", "main") == newest
                same += 1
                continue
            assert seen, path
            tried, found = tried + 1, found + seen
    print(f"\n{same} in the history meant the same as before.")
    assert same <= size // 20
    tell("Single bytes anywhere in the archive", tried, found)


@pytest.mark.parametrize("size", [6, pytest.param(200, marks=pytest.mark.deep)])
def test_bytes_of_a_packed_history(place: Path, verified: Callable[[], list[str]], size: int) -> None:
    subprocess.run(["git", "gc", "-q"], cwd=place, check=True)
    assert verified() == []
    dice, tried, found = random.Random(5), 0, 0
    packs = [path for path in files(place / ".git" / "objects" / "pack") if path.suffix in (".pack", ".idx")]
    assert len(packs) == 2
    for path in dice.choices(packs, k=size):
        content = path.read_bytes()
        with holding(path, altered(content, dice.randrange(len(content)), dice)):
            tried, found = tried + 1, found + bool(verified())
    tell("Single bytes of a packed history", tried, found)


# Files.


def test_each_deletion(place: Path, signed: Path, unsigned_one: Path, verified: Callable[[], list[str]]) -> None:
    tried, found = 0, 0
    for folder in (signed, unsigned_one):
        for path in files(folder):
            with away(place, path):
                gone = record.verify(folder)
                seen = bool(gone.wrong) or (path.name == record.SIGNATURE and "it is not signed" in gone.unproven)
                tried, found = tried + 1, found + seen
    tell("Files of a record deleted", tried, found)


def test_each_deletion_in_the_archive(
    place: Path, signed: Path, unsigned_one: Path, verified: Callable[[], list[str]]
) -> None:
    tried, found = 0, 0
    approvals = place / "INC-1" / "approvals"
    several: list[list[Path]] = [
        [signed / record.SIGNATURE], [signed / record.MANIFEST], [signed / record.MANIFEST, signed / record.SIGNATURE],
        [signed / "run.json"], [signed], [unsigned_one], [place / "INC-1"], [place / "INC-2"], [approvals],
        files(approvals), [place / ".git"], [place / ".git" / "objects"], [place / ".git" / "refs" / "heads" / "main"],
    ]  # fmt: skip
    for paths in several:
        with away(place, *paths):
            tried, found = tried + 1, found + bool(verified())
    tell("Files, records and parts of the history deleted", tried, found)


def test_each_pair_of_files_and_lines_swapped(unsigned_one: Path) -> None:
    tried, found = 0, 0
    for one, other in combinations(files(unsigned_one), 2):
        first, second = one.read_bytes(), other.read_bytes()
        with holding(one, second), holding(other, first):
            tried, found = tried + 1, found + bool(record.verify(unsigned_one).wrong)
    for path in files(unsigned_one):
        lines = path.read_bytes().splitlines(keepends=True)
        for one_line, other_line in pairwise(range(len(lines))):
            swapped = lines.copy()
            swapped[one_line], swapped[other_line] = lines[other_line], lines[one_line]
            if swapped != lines:
                with holding(path, b"".join(swapped)):
                    tried, found = tried + 1, found + bool(record.verify(unsigned_one).wrong)
    tell("Files and lines swapped", tried, found)


def test_records_swapped_copied_and_added(
    place: Path, signed: Path, unsigned_one: Path, verified: Callable[[], list[str]]
) -> None:
    spare = place / "INC-1" / "spare"
    signed.rename(spare)
    unsigned_one.rename(signed)
    spare.rename(unsigned_one)
    assert [line for line in verified() if "altered: manifest.json" in line]
    unsigned_one.rename(spare)
    signed.rename(unsigned_one)
    spare.rename(signed)
    assert verified() == []
    shutil.copytree(signed, place / "INC-2" / "20270101T000000-copy")
    misnamed, added = verified()
    assert f"20270101T000000-copy: it is INC-1/{signed.name}, under another name" in misnamed
    assert "20270101T000000-copy: added: it is not in the archive's history" in added
    shutil.rmtree(place / "INC-2" / "20270101T000000-copy")
    (place / "INC-2" / "approvals").mkdir()
    (place / "INC-2" / "approvals" / "forged.json").write_text("{}")
    (line,) = verified()
    assert "approvals/forged.json: added: " in line


@pytest.mark.parametrize("name", ["new.txt", "evidence/.hidden", "private/new", "sub/manifest.json", "run.json.link"])
def test_a_file_added_to_a_record(signed: Path, name: str) -> None:
    (signed / name).parent.mkdir(exist_ok=True)
    if name.endswith(".link"):
        (signed / name).symlink_to("run.json")
    else:
        (signed / name).write_text("")
    assert record.verify(signed).wrong == (f"added: {name}",)


def test_a_file_replaced_by_a_link_to_its_content(signed: Path, tmp_path: Path) -> None:
    shutil.move(signed / "run.json", tmp_path / "run.json")
    (signed / "run.json").symlink_to(tmp_path / "run.json")
    assert record.verify(signed).wrong == ("altered: run.json",)


# Forgers, who know how a record is made.


def test_a_forged_record_with_the_old_signature_is_wrong(signed: Path, allowed: Path) -> None:
    signature = (signed / record.SIGNATURE).read_bytes()
    forge(signed)
    (signed / record.SIGNATURE).write_bytes(signature)
    (line,) = record.verify(signed, allowed).wrong
    assert line.startswith("the signature is not good: ")


def test_a_forged_record_mailed_alone_is_not_proven(
    signed: Path, allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the archive, only a signature tells: a record that has none proves nothing against a forger."""
    mailed = tmp_path / "mailed"
    shutil.copytree(signed, mailed)
    assert record.verify(mailed, allowed) == record.Finding(signer="ana")
    forge(mailed)
    assert record.verify(mailed, allowed) == record.Finding(unproven=("it is not signed",))
    for name, said in (("mallory", "it is signed by key SHA256:"), ("ana", "it is signed by key SHA256:")):
        (mailed / record.SIGNATURE).unlink(missing_ok=True)
        forge(mailed, name)
        monkeypatch.setenv("OPSKIT_SIGNING_KEY", str(make_key(tmp_path / f"key of {name}")))
        text = (mailed / record.MANIFEST).read_text()
        (mailed / record.SIGNATURE).write_text(signatures.sign(text, signatures.RECORD)[0])
        found = record.verify(mailed, allowed)
        assert (found.wrong, found.signer) == ((), "")
        assert found.unproven[0].startswith(said)
    allow(allowed, ("mallory", tmp_path / "key of ana"))  # a colleague who signs in another's name
    assert record.verify(mailed, allowed).unproven == ("it was sealed in the name of ana and signed by mallory",)


@pytest.mark.parametrize("which", ["signed", "unsigned_one"])
def test_a_forged_record_in_the_archive_is_wrong(
    request: pytest.FixtureRequest, which: str, verified: Callable[[], list[str]]
) -> None:
    folder = request.getfixturevalue(which)
    forge(folder)
    assert f"{folder}: altered: manifest.json is not the one in the archive's history" in verified()
