"""Whatever is done to an archive's history is seen, or it is said that nobody could; nothing in it is obeyed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sealed_archive import forge, git
from support import Opskit, data

from opskit import commits
from opskit.archive import Archive


def roll_back(place: Path) -> None:
    git(place, "reset", "-q", "--hard", "HEAD~1")


def amend(place: Path) -> None:
    forge(Archive(place).runs()[0])
    git(place, "commit", "-q", "--amend", "--all", "-m", "as it was")


def drop_one(place: Path) -> None:
    git(place, "rebase", "-q", "--onto", "HEAD~2", "HEAD~1")


def remove_openly(place: Path) -> None:
    git(place, "rm", "-q", "-r", "INC-2")
    git(place, "commit", "-q", "-m", "tidied up")
    shutil.rmtree(place / "INC-2", ignore_errors=True)


def remove_and_cut(place: Path) -> None:
    remove_openly(place)
    (place / ".git" / "shallow").write_text(git(place, "rev-parse", "HEAD") + "\n")


def alter_openly(place: Path) -> None:
    folder = Archive(place).runs()[0]
    forge(folder)
    git(place, "commit", "-q", "--all", "-m", "corrected")


def alter_in_a_merge(place: Path) -> None:
    side = git(place, "commit-tree", "HEAD^{tree}", "-p", "HEAD~1", "-m", "aside")
    alter_openly(place)
    merged = git(place, "commit-tree", "HEAD^{tree}", "-p", "HEAD~1", "-p", side, "-m", "merged")
    git(place, "reset", "-q", "--hard", merged)


def replace(place: Path) -> None:
    newest = git(place, "rev-parse", "HEAD")
    alter_openly(place)
    forged = git(place, "rev-parse", "HEAD")
    git(place, "reset", "-q", "--soft", newest)
    git(place, "replace", newest, forged)


def begin_anew(place: Path) -> None:
    shutil.rmtree(place / ".git")
    forge(Archive(place).runs()[0])
    git(place, "init", "-q", "--initial-branch=main")
    git(place, "add", "--all")
    git(place, "commit", "-q", "-m", "An archive begins")


def forget(place: Path) -> None:
    shutil.rmtree(place / ".git")


def remove_an_approval_openly(place: Path) -> None:
    git(place, "rm", "-q", "-r", "INC-1/approvals")
    git(place, "commit", "-q", "-m", "tidied up")


def switch_the_branch(place: Path) -> None:
    git(place, "checkout", "-q", "-b", "other")


def move_the_branch(place: Path) -> None:
    git(place, "update-ref", "refs/heads/main", "HEAD~1")


def rename_the_branch(place: Path) -> None:
    git(place, "branch", "-q", "-m", "main", "other")


@pytest.mark.parametrize(
    "how",
    [roll_back, amend, drop_one, remove_openly, remove_and_cut, alter_openly, alter_in_a_merge, replace, begin_anew,
     forget, remove_an_approval_openly, switch_the_branch, move_the_branch, rename_the_branch],
    ids=lambda how: how.__name__,
)  # fmt: skip
def test_whatever_is_done_to_the_history(
    place: Path, verified: Callable[[], list[str]], how: Callable[[Path], None]
) -> None:
    assert verified() == []
    how(place)
    found = verified()
    print(f"\n{how.__name__}: {'; '.join(line.replace(str(place), '…') for line in found[:3])}")
    assert found


@pytest.mark.parametrize("how", [roll_back, begin_anew, drop_one], ids=lambda how: how.__name__)
def test_what_nobody_could_notice_is_said(
    place: Path, opskit: Opskit, allowed: Path, how: Callable[[Path], None]
) -> None:
    """A forger who finds the note outside the archive too: only a copy elsewhere would tell."""
    how(place)
    commits._anchor(place).unlink()
    found: dict[str, Any] = data(opskit("verify", place, "--json"))
    assert "the archive was never pushed anywhere: nobody could notice that it was rolled back" in found["unproven"]
    if how is not roll_back:  # what he made himself he could not sign
        assert any("commits of the archive: not signed: " in doubt for doubt in found["unproven"])


def test_what_was_pushed_proves_it(
    place: Path, opskit: Opskit, verified: Callable[[], list[str]], tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(tmp_path / "origin")], check=True)
    git(place, "remote", "add", "origin", str(tmp_path / "origin"))
    git(place, "push", "-q", "origin", "main")
    commits._anchor(place).unlink()
    assert verified() == []
    roll_back(place)
    (line,) = [line for line in verified() if "rolled back" in line]
    assert "known to origin/main" in line


def test_an_archive_that_somebody_sent_starts_no_program_of_theirs(
    place: Path, verified: Callable[[], list[str]], tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for name in ("core.fsmonitor", "core.pager", "diff.external", "gpg.program", "gpg.ssh.program", "core.sshCommand",
                 "core.editor", "filter.x.clean", "diff.x.textconv", "uploadpack.packObjectsHook"):  # fmt: skip
        git(place, "config", name, str(trap))
    git(place, "config", "log.showSignature", "true")
    git(place, "config", "log.diffMerges", "off")
    (place / ".git" / "info" / "attributes").write_text("* filter=x diff=x\n")
    hooks = place / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-index-change", "reference-transaction", "fsmonitor-watchman"):
        shutil.copy(trap, hooks / hook)
    assert verified() == []
    assert not (tmp_path / "sprung").exists()


PROMISES = """[core]
\trepositoryformatversion = 1
[extensions]
\tpartialClone = origin
[remote "origin"]
\tpromisor = true
\turl = ext::{trap} %S
[protocol "ext"]
\tallow = always
"""


@pytest.mark.parametrize(
    "settings",
    [
        PROMISES,
        PROMISES.replace("\n\t", " ").replace('[protocol "ext"] allow', '[core] [protocol "ext"]\n allow'),
        "[include] path = {trap}\n",
    ],
    ids=["a remote to fetch from", "the same on fewer lines", "another file of settings"],
)
def test_an_archives_own_settings_are_not_used(place: Path, opskit: Opskit, tmp_path: Path, settings: str) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    tree = git(place, "rev-parse", "main^{tree}")
    (place / ".git" / "config").write_text(settings.format(trap=trap))
    (place / ".git" / "objects" / tree[:2] / tree[2:]).unlink()  # so that git would have to fetch it
    assert opskit("verify", place).exit_code == 1
    assert not (tmp_path / "sprung").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["config", "HEAD", "packed-refs", "shallow", "refs/heads/main", "objects/ab/pipe"])
def test_a_pipe_in_the_history_is_not_waited_for(place: Path, opskit: Opskit, name: str) -> None:
    (place / ".git" / name).parent.mkdir(exist_ok=True)
    (place / ".git" / name).unlink(missing_ok=True)
    os.mkfifo(place / ".git" / name)
    assert opskit("verify", place).exit_code == (0 if name == "config" else 1)
