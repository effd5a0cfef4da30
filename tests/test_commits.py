"""The archive's history: every sealed record lands there, whatever goes on beside; machines merge with git alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support import Opskit, allow, data, sealed, wrong

from opskit import archive, commits, record
from opskit.archive import Archive


def git(place: Path, *arguments: str, check: bool = True) -> str:
    """Plain git, as an engineer would type it; with no settings but its own."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    who = {f"GIT_{role}_{part}": "cy@here" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    nobodys = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=place, env={**ours, **who, **nobodys}, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def verified(opskit: Opskit, place: Path) -> dict[str, Any]:
    found: dict[str, Any] = data(opskit("verify", place, "--json"))
    return found


def inside(place: Path) -> list[str]:
    return git(place, "-c", "core.quotePath=false", "ls-tree", "-r", "--name-only", "main").splitlines()


# Sealing.


def test_a_sealed_record_is_a_signed_commit(outputs: Path, ana: Path, opskit: Opskit) -> None:
    folder = sealed(outputs)
    assert git(outputs, "log", "--format=%an: %s", "main").splitlines() == [
        f"ana: {folder.name} small: healthy", "opskit: An archive begins",
    ]  # fmt: skip
    files = {f"INC-1/{folder.name}/{name}" for name in ("run.json", "journal.jsonl", "notebook.ipynb", "manifest.json",
                                                          "manifest.json.sig")}  # fmt: skip
    assert set(inside(outputs)) == files
    assert git(outputs, "status", "--porcelain") == ""
    allowed = allow(outputs.parent / "allowed", ("ana", ana))
    shown = git(outputs, "-c", f"gpg.ssh.allowedSignersFile={allowed}", "log", "-1", "--format=%G? %GS", "main")
    assert shown == "G ana"
    assert verified(opskit, outputs)["wrong"] == []


@pytest.mark.usefixtures("unsigned")
def test_without_a_key_the_commit_is_unsigned_and_that_is_said(outputs: Path, opskit: Opskit) -> None:
    sealed(outputs)
    assert "gpgsig" not in git(outputs, "cat-file", "commit", "main")
    found = verified(opskit, outputs)
    assert found["wrong"] == []
    assert "1 records: it is not signed" in found["unproven"]
    assert any(doubt.startswith("1 commits of the archive: not signed: ") for doubt in found["unproven"])


def test_who_signed_the_newest_commit_is_said(outputs: Path, repository: Path, ana: Path, bo: Path) -> None:
    sealed(outputs)
    pushed = "the archive was never pushed anywhere: only this machine could notice that it was rolled back"
    assert commits.unproven(outputs, allow(repository / "ana", ("ana", ana))) == [pushed]
    others, _ = commits.unproven(outputs, allow(repository / "bo", ("bo", bo)))
    assert others.startswith("1 commits of the archive: signed by key SHA256:")
    assert "and nobody says whose that is" in others


def test_a_record_may_be_in_any_language(outputs: Path, monkeypatch: pytest.MonkeyPatch, opskit: Opskit) -> None:
    monkeypatch.setenv("OPSKIT_OPERATOR", "Jürgen Grün")
    sealed(outputs, "INC-ö", **{"evidence/tåble “x”.csv": "ä\n", "evidence/line\nbreak": "x"})
    assert verified(opskit, outputs)["wrong"] == []
    assert git(outputs, "log", "-1", "--format=%an", "main") == "Jürgen Grün"


def test_sealing_twice_adds_nothing(outputs: Path) -> None:
    folder = sealed(outputs)
    before = commits.head(outputs)
    archive.seal(folder)
    assert commits.head(outputs) == before


def test_what_is_private_is_never_committed(outputs: Path, opskit: Opskit) -> None:
    folder = sealed(outputs, **{"private/image.json": "{}", "evidence/a.csv": "a"})
    names = inside(outputs)
    assert f"INC-1/{folder.name}/evidence/a.csv" in names
    assert not [name for name in names if "private" in name]
    git(outputs, "add", "--all")  # nor by an engineer who tidies up
    assert git(outputs, "status", "--porcelain") == ""
    assert (folder / "private").stat().st_mode & 0o777 == 0o700
    (folder / "private" / "image.json").write_text("[]")
    assert verified(opskit, outputs)["wrong"] == [f"{folder}: altered: private/image.json"]


def test_without_git_the_record_stands_and_verify_says_that_it_is_not_in_the_history(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opskit: Opskit
) -> None:
    first = sealed(outputs)
    path = os.environ["PATH"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh-keygen").symlink_to(shutil.which("ssh-keygen") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    second = sealed(outputs)
    assert (second / record.SIGNATURE).exists()
    assert opskit("verify", second).exit_code == 0
    answer = opskit("verify", outputs)
    assert answer.exit_code == 1
    assert "there is no git on this machine" in answer.stderr
    monkeypatch.setenv("PATH", path)
    (line,) = verified(opskit, outputs)["wrong"]
    assert line == f"{second}: added: it is not in the archive's history; `opskit seal {second.name}` puts it there"
    assert opskit("seal", second.name).exit_code == 0
    assert verified(opskit, outputs)["wrong"] == []
    assert first.exists()


# Beside others.

SEALING = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from support import sealed
for n in range(int(sys.argv[3])):
    sealed(Path(sys.argv[1]), run=f"20260101T000000{{n:03}}-{{sys.argv[2]}}", by=sys.argv[2])
"""


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.deep)])
def test_all_that_seal_at_once_land(outputs: Path, opskit: Opskit, rounds: int) -> None:
    people = ("anna", "bert", "cleo")
    command = [sys.executable, "-c", SEALING, str(outputs)]
    running = [subprocess.Popen([*command, who, str(rounds)]) for who in people]
    assert [process.wait(900) for process in running] == [0, 0, 0]
    assert len([name for name in inside(outputs) if name.endswith("/manifest.json")]) == rounds * len(people)
    assert int(git(outputs, "rev-list", "--count", "main")) == rounds * len(people) + 1
    found = verified(opskit, outputs)
    assert (found["wrong"], found["verified"]) == ([], rounds * len(people))


def test_one_that_is_killed_while_sealing_stops_nobody(outputs: Path, opskit: Opskit) -> None:
    for delay in (0.3, 0.5, 0.7, 0.9):
        process = subprocess.Popen([sys.executable, "-c", SEALING, str(outputs / str(delay)), "anna", "500"])
        threading.Timer(delay, process.kill).start()
        process.wait(60)
        sealed(outputs / str(delay), "INC-2")
        for folder in Archive(outputs / str(delay)).runs():  # what was cut off can be put right
            archive.seal(folder)
        assert verified(opskit, outputs / str(delay))["wrong"] == []


# Two machines.


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """The archives of two machines, begun apart, with records of the same incident."""
    here, there = tmp_path / "here" / "outputs", tmp_path / "there" / "outputs"
    for place, who in ((here, "anna"), (there, "bert")):
        sealed(place, "INC-7", by=who)
        sealed(place, f"INC-{who}", by=who)
    return here, there


@pytest.mark.parametrize("how", [("pull", "--no-rebase"), ("merge",)])
def test_archives_of_two_machines_merge_with_plain_git(
    two: tuple[Path, Path], opskit: Opskit, how: tuple[str, ...]
) -> None:
    here, there = two
    git(here, "remote", "add", "there", str(there))
    git(here, "fetch", "-q", "there")
    git(here, how[0], "-q", "--no-edit", *how[1:], *(["there", "main"] if how[0] == "pull" else ["there/main"]))
    assert len(Archive(here).runs()) == 4
    found = verified(opskit, here)
    assert (found["wrong"], found["verified"]) == ([], 4)
    sealed(here, "INC-8")
    assert verified(opskit, here)["wrong"] == []
    git(there, "pull", "-q", str(here), "main")
    assert verified(opskit, there)["wrong"] == []


def test_an_archive_that_was_pushed_is_anchored(two: tuple[Path, Path], tmp_path: Path, opskit: Opskit) -> None:
    here, _ = two
    git(tmp_path, "init", "-q", "--bare", "--initial-branch=main", "origin.git")
    git(here, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(here, "push", "-q", "-u", "origin", "main")
    assert not [line for line in verified(opskit, here)["unproven"] if "push" in line]
    sealed(here, "INC-9")
    assert "the newest records are not pushed yet" in verified(opskit, here)["unproven"]
    git(tmp_path, "clone", "-q", "origin.git", "elsewhere")
    assert verified(opskit, tmp_path / "elsewhere")["wrong"] == []
    git(here, "push", "-q")
    git(here, "reset", "-q", "--hard", "HEAD~2")
    shutil.rmtree(Path(os.environ["OPSKIT_STATE"]) / "archives", ignore_errors=True)
    commits._anchor(here).unlink(missing_ok=True)
    assert any("known to origin/main" in line for line in verified(opskit, here)["wrong"])


# Other people's settings.

NASTY = """
[core]
    autocrlf = true
    eol = crlf
    safecrlf = true
    hooksPath = {hooks}
    attributesFile = {attributes}
    excludesFile = {excludes}
    quotePath = true
    fsmonitor = {hooks}/post-commit
[commit]
    gpgsign = true
[gpg]
    format = openpgp
    program = /bin/false
[user]
    useConfigOnly = true
[log]
    showSignature = true
[diff]
    renames = copies
    noprefix = true
[color]
    ui = always
[init]
    defaultBranch = trunk
    defaultObjectFormat = sha256
    templateDir = {hooks}
[filter "loud"]
    clean = tr a-z A-Z
    smudge = tr A-Z a-z
    required = true
[i18n]
    commitEncoding = latin1
"""


def test_an_engineers_own_settings_change_nothing(
    outputs: Path, opskit: Opskit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, hooks = tmp_path / "home", tmp_path / "home" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("pre-commit", "post-commit", "reference-transaction", "post-index-change", "post-checkout"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {home}/hooked\nexit 1\n")
        (hooks / name).chmod(0o755)
    (home / "attributes").write_text("* text=auto eol=crlf filter=loud working-tree-encoding=UTF-16 ident\n")
    (home / "excludes").write_text("*.json\nINC-*\n")
    settings = NASTY.format(hooks=hooks, attributes=home / "attributes", excludes=home / "excludes")
    (home / ".gitconfig").write_text(settings)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("OPSKIT_OPERATOR", "Jürgen")
    folder = sealed(outputs, **{"evidence/crlf.txt": "a\r\nb\n$Id$\n", "evidence/bytes": "\x00ÿ\r\n"})
    sealed(outputs, "INC-2")
    assert not (home / "hooked").exists()
    assert verified(opskit, outputs)["wrong"] == []
    assert f"INC-1/{folder.name}/evidence/crlf.txt" in inside(outputs)
    git(tmp_path, "clone", "-q", str(outputs), "clone")
    assert verified(opskit, tmp_path / "clone")["wrong"] == []


@pytest.mark.parametrize("ignored", [True, False])
def test_a_repository_around_the_archive_is_left_alone(
    tmp_path: Path, opskit: Opskit, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    git(tmp_path, "init", "-q", "around")
    around = tmp_path / "around"
    (around / ".gitignore").write_text("outputs/\n" if ignored else "")
    git(around, "add", ".gitignore")
    git(around, "commit", "-q", "-m", "around")
    for name, value in {"GIT_DIR": around / ".git", "GIT_WORK_TREE": around, "GIT_INDEX_FILE": around / "x",
                        "GIT_OBJECT_DIRECTORY": around / "y", "GIT_AUTHOR_NAME": "mallory"}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))  # as inside a hook of the repository around
    sealed(around / "outputs")
    assert verified(opskit, around / "outputs")["wrong"] == []
    assert git(around, "rev-list", "--all", "--count") == "1"
    assert git(around, "diff", "--cached", "--name-only") == ""
    assert not (around / "x").exists()
    assert git(around / "outputs", "log", "-1", "--format=%an", "main") == "ana"


# Purging.


def test_what_is_private_is_purged_by_policy(outputs: Path, opskit: Opskit) -> None:
    young = sealed(outputs, **{"private/image.json": "{}"})
    assert data(opskit("purge", "--json")) == {}
    old = record.prepare(outputs, {**json.loads((young / "run.json").read_text()), "run": "old", "retention_days": -1})
    (old / "private").mkdir(mode=0o700)
    (old / "private" / "image.json").write_text("{}")
    archive.seal(old)
    assert verified(opskit, outputs)["wrong"] == []  # overdue, and still there
    assert data(opskit("purge", "--json")) == {"old": ["private/image.json"]}
    assert not (old / "private").exists()
    found = verified(opskit, outputs)
    assert (found["wrong"], found["purged"]) == ([], 1)
    assert "1 private files were purged by policy." in opskit("verify", outputs).stdout
    (young / "private" / "image.json").unlink()  # before its time
    assert verified(opskit, outputs)["wrong"] == [f"{young}: removed: private/image.json"]


def test_what_is_private_does_not_travel_with_git(outputs: Path, opskit: Opskit, tmp_path: Path) -> None:
    sealed(outputs, **{"private/image.json": "{}"})
    git(tmp_path, "clone", "-q", str(outputs), "clone")
    found = verified(opskit, tmp_path / "clone")
    assert found["wrong"] == []
    assert "1 records: what is private in it is not here: it does not travel with git" in found["unproven"]


def test_only_what_is_private_may_be_purged(outputs: Path) -> None:
    folder = record.prepare(outputs, {"incident": "i", "run": "r", "retention_days": -1})
    (folder / "evidence.csv").write_text("a")
    record.seal(folder, "ana")
    (folder / "evidence.csv").unlink()
    assert wrong(folder) == ("removed: evidence.csv",)


def test_names_of_blanks_alone_are_names_too(outputs: Path, opskit: Opskit) -> None:
    sealed(outputs)
    blank, line, moved = outputs / " ", outputs / "\n", outputs / "moved"

    def by_hand() -> None:
        git(outputs, "add", "--all")
        git(outputs, "commit", "-q", "-m", "by hand")

    blank.write_text("1")
    line.write_text("1")
    by_hand()
    line.write_text("2")
    by_hand()
    blank.rename(moved)
    by_hand()
    moved.write_text("2")
    by_hand()
    assert {line for line in verified(opskit, outputs)["wrong"] if "later commit" in line} == {
        "changed in a later commit: \n", "removed in a later commit:  ", "changed in a later commit: moved",
    }  # fmt: skip


def test_what_a_killed_git_left_behind_stops_nobody(outputs: Path) -> None:
    sealed(outputs)
    for name in ("refs/heads/main.lock", "index.lock"):
        left = outputs / ".git" / name
        left.write_text("")
        os.utime(left, (0, 0))
    sealed(outputs)
    assert sum(name.endswith("/manifest.json") for name in inside(outputs)) == 2
